"""Streams between nodes: batches, signs of life, and what happens when one side leaves or does not read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from herd_mcp.fleet import app, dial, wire
from herd_mcp.fleet.app import chunks
from herd_mcp.jobs import Delta, ErrorCode, HerdError
from herd_mcp.orders import Line
from tests.conftest import until

from .scripted import ALPHA, BETA, LIMIT_S, Scripted, all_of, completed, job_id_of, order_of, pair

BEAT = wire.pack_line(Line(attempt=1))


async def told(*steps: float | str | Exception) -> AsyncGenerator[Line, None]:
    for seq, step in enumerate(steps, 1):
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif isinstance(step, Exception):
            raise step
        else:
            yield Line(attempt=1, seq=seq, event=Delta(text=step))


async def test_what_comes_at_once_goes_out_at_once() -> None:
    got = [chunk async for chunk in chunks(told("a", "b", "c", 0.01, "d"), BEAT, 60)]
    assert [chunk.count(b"\n") for chunk in got] == [3, 1]


async def test_who_has_nothing_to_say_says_so() -> None:
    got = [chunk async for chunk in chunks(told("a", 0.3, "b"), BEAT, 0.02)]
    assert got[1] == got[-2] == BEAT
    assert [wire.unpack_line(chunk).event is None for chunk in (got[0], got[-1])] == [False, False]


async def test_an_error_is_the_last_line() -> None:
    error = HerdError(ErrorCode.BUSY, "No.")
    got = b"".join([chunk async for chunk in chunks(told("a", error), BEAT, 60)])
    first, last = got.splitlines()
    assert wire.unpack_line(first).seq == 1
    with pytest.raises(HerdError, match="No"):
        wire.unpack_line(last)


async def test_a_reader_that_is_behind_is_not_produced_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WAITING_BYTES", 1000)
    produced = 0

    async def many() -> AsyncGenerator[Line, None]:
        nonlocal produced
        for seq in range(1, 10_000):
            produced = seq
            yield Line(attempt=1, seq=seq, event=Delta(text="a" * 100))

    source = chunks(many(), BEAT, 60)
    first = await anext(source)
    await asyncio.sleep(0)
    assert len(first) < 1300
    assert produced < 50
    rest = b"".join([chunk async for chunk in source])
    assert (first + rest).count(b"\n") == 9_999
    assert [wire.unpack_line(raw).seq for raw in (first + rest).splitlines()] == list(range(1, 10_000))


async def test_signs_of_life_come_over_and_keep_a_silent_stream_alive() -> None:
    async with pair() as herd:
        herd.api.script = [Delta(text="a"), 2.0, completed("a")]  # longer than the silence that is put up with
        lines = await all_of(herd.beta.follow(job_id_of(ALPHA), 1))
        beats = [line for line in lines if line.event is None]
        assert len(beats) >= 3
        assert {line.attempt for line in beats} == {1}


async def test_who_leaves_ends_the_stream_at_its_source() -> None:
    async with pair() as herd:
        herd.api.script = [Delta(text="a"), 600.0]
        lines = herd.beta.follow(job_id_of(ALPHA), 1)
        await anext(lines)
        await lines.aclose()
        await until(lambda: herd.api.closed == 1, "the source is closed")
        task = asyncio.create_task(all_of(herd.beta.follow(job_id_of(ALPHA), 1)))
        await until(lambda: [call[0] for call in herd.api.calls] == ["follow", "follow"], "it is asked again")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await until(lambda: herd.api.closed == 2, "the source is closed")


async def test_many_streams_run_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECT_S", LIMIT_S)  # all shake hands at once, on the cores of this machine
    async with pair(lease_s=LIMIT_S) as herd:
        herd.api.script = [Delta(text="a"), 0.2, Delta(text="b"), completed("ab")]
        async with asyncio.timeout(LIMIT_S):
            streams = [all_of(herd.beta.follow(job_id_of(ALPHA, number), 1)) for number in range(150)]
            ended = await asyncio.gather(*streams)
        assert all([line.seq for line in lines if line.event] == [1, 2, 3] for lines in ended)


async def test_the_end_of_the_node_ends_open_streams() -> None:
    async with pair() as herd:
        herd.api.script = [Delta(text="a"), 600.0]
        lines = herd.beta.follow(job_id_of(ALPHA), 1)
        await anext(lines)
        herd.listener.config.timeout_graceful_shutdown = 1
        herd.listener.should_exit = True
        with pytest.raises(HerdError) as caught:
            await all_of(lines)
        assert caught.value.info.code == ErrorCode.NODE_LOST
        await until(lambda: herd.api.closed == 1, "the source is closed")


async def test_lines_that_come_together_count_their_bytes_once() -> None:
    async with pair(Scripted(script=[*(Delta(text="word") for _ in range(50)), completed("all")])) as herd:
        lines = await all_of(herd.beta.follow(job_id_of(ALPHA), 1))
    assert sum(line.size for line in lines) == sum(len(wire.pack_line(line)) for line in lines)


async def test_the_connection_of_a_stream_that_ended_serves_the_next_question() -> None:
    async with pair() as herd:
        await herd.beta.stats()
        first = set(herd.listener.server_state.connections)
        for number in range(3):
            await herd.beta.submit(order_of(ALPHA, number))
            await all_of(herd.beta.follow(job_id_of(ALPHA, number), 1))
            assert len(await all_of(herd.beta.watch(job_id_of(BETA)))) == 3
        assert herd.listener.server_state.total_requests == 10
        assert herd.listener.server_state.connections == first
