"""One node asks another over TLS: each question, and what its answer may not do."""

from __future__ import annotations

import pytest

from herd_mcp.jobs import Completed, Delta, ErrorCode, HerdError
from herd_mcp.orders import Later

from .scripted import ALPHA, BETA, IMAGE_ID, NO_STATS, SHA256, all_of, job_id_of, order_of, pair, state_of


async def test_every_question_is_answered_by_the_api_for_its_caller() -> None:
    async with pair() as herd:
        mine, theirs = job_id_of(ALPHA), job_id_of(BETA)
        assert await herd.beta.exchange(state_of(ALPHA)) == state_of(BETA)
        accepted = await herd.beta.submit(order_of(ALPHA, spool="/tmp/x", expects_s=2.5))
        assert (accepted.model, accepted.incarnation, accepted.revision) == ("m", 1, 2)
        await herd.beta.cancel(mine, 1)
        assert await herd.beta.take_back(mine, 1) is True
        assert (await herd.beta.job(theirs)).id == theirs
        assert (await herd.beta.cancel_job(theirs)).status == "cancelled"
        assert await herd.beta.stats() == NO_STATS
        assert await herd.beta.image(IMAGE_ID) == herd.api.picture
        assert b"".join([part async for part in herd.beta.blob(SHA256)]) == herd.api.picture
        assert b"".join([part async for part in herd.beta.blob(SHA256, 1000)]) == herd.api.picture[1000:]
        assert set(herd.callers) == {ALPHA}
        assert [call[0] for call in herd.api.calls][:4] == ["exchange", "submit", "cancel", "take_back"]
        order = herd.api.calls[1][1]
        assert order == order_of(ALPHA, expects_s=2.5), "all of it but the path came over"


async def test_the_events_of_an_attempt_come_in_order_from_where_it_was_left() -> None:
    async with pair() as herd:
        lines = await all_of(herd.beta.follow(job_id_of(ALPHA), 1))
        assert [line.seq for line in lines] == [1, 2, 3]
        assert isinstance(lines[-1].event, Completed)
        assert [line.seq for line in await all_of(herd.beta.follow(job_id_of(ALPHA), 1, after_seq=2))] == [3]
        assert [line.seq for line in await all_of(herd.beta.watch(job_id_of(BETA), 1))] == [2, 3]


async def test_text_that_looks_like_the_end_of_a_line_comes_over() -> None:
    text = "a\u2028b\x85c\nd\r\ne\x0b\x0c\x1c\x1d\x1e\u2029🐑 é"
    async with pair() as herd:
        herd.api.script = [Delta(text=text), Delta(text=text[::-1]), herd.api.script[-1]]
        lines = await all_of(herd.beta.follow(job_id_of(ALPHA), 1))
        assert [line.event.text for line in lines if isinstance(line.event, Delta)] == [text, text[::-1]]


async def test_a_path_of_another_mac_is_not_told() -> None:
    async with pair() as herd:
        job = await herd.beta.job(job_id_of(BETA))
        assert job.result is not None
        assert job.result.kind == "image"
        assert job.result.path == ""
        assert job.result.image_id == IMAGE_ID


async def test_an_error_comes_over_as_it_was_raised() -> None:
    said = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "Too big.", "Less.", retryable=True, details={"needs": 3})
    async with pair() as herd:
        herd.api.error = said
        with pytest.raises(HerdError) as caught:
            await herd.beta.submit(order_of(ALPHA))
        assert caught.value.info == said.info
        with pytest.raises(HerdError) as caught:
            await all_of(herd.beta.follow(job_id_of(ALPHA), 1))
        assert caught.value.info == said.info
        with pytest.raises(HerdError) as caught:
            [part async for part in herd.beta.blob(SHA256)]
        assert caught.value.info == said.info


async def test_who_would_be_later_says_when_and_how_it_is() -> None:
    async with pair() as herd:
        herd.api.error = Later(12.5, state_of(BETA, queued=7))
        with pytest.raises(Later) as caught:
            await herd.beta.submit(order_of(ALPHA))
        assert caught.value.finish_s == 12.5
        assert caught.value.state == state_of(BETA, queued=7)


async def test_a_failure_of_the_other_node_is_an_error_without_its_inner_matters() -> None:
    async with pair() as herd:
        herd.api.error = ZeroDivisionError("secret")
        with pytest.raises(HerdError) as caught:
            await herd.beta.stats()
        assert caught.value.info.code == ErrorCode.INTERNAL
        assert "secret" not in str(caught.value)


async def test_an_error_after_lines_comes_after_them() -> None:
    async with pair() as herd:
        herd.api.script = [Delta(text="a"), Delta(text="b")]
        lines = herd.beta.follow(job_id_of(ALPHA), 1)
        assert [(await anext(lines)).seq, (await anext(lines)).seq] == [1, 2]
        with pytest.raises(HerdError) as caught:
            await anext(lines)
        assert caught.value.info.code == ErrorCode.NODE_LOST, "it ended without an end"
        assert caught.value.info.retryable
