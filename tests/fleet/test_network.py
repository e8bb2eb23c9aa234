"""Real networks that are cut, slow, and lose packets, between network namespaces of Linux."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from herd_mcp.fleet.peers import HttpPeer
from herd_mcp.jobs import Completed, ErrorCode, HerdError
from herd_mcp.orders import Line

from .namespaces import link
from .remote import remote
from .scripted import ALPHA, BETA, LIMIT_S, SHA256, Scripted, all_of, job_id_of, order_of, reason_of, state_of

T = TypeVar("T")
JOB = job_id_of(ALPHA)


@pytest.mark.slow  # silences are waited for
async def test_a_cut_link_is_noticed_on_both_sides_and_the_stream_goes_on_after_it(tmp_path: Path) -> None:
    with link() as cable:
        async with remote(tmp_path, host=cable.host, through=cable.through) as other:
            lines = other.beta.follow(JOB, 1)
            seq = (await anext(lines)).seq
            cable.cut()
            with pytest.raises(HerdError) as caught:
                await all_of(lines)
            assert caught.value.info.code == ErrorCode.NODE_LOST
            assert reason_of(caught.value) == "silent"
            with pytest.raises(HerdError) as caught:
                await other.beta.exchange(state_of(ALPHA))
            assert reason_of(caught.value) == "unreachable"
            await other.closed()  # the runner gave up on us, too
            cable.heal()

            async def goes_on() -> None:
                async with contextlib.aclosing(other.beta.follow(JOB, 1, seq)) as again:
                    assert (await anext(again)).seq == seq + 1

            async with asyncio.timeout(LIMIT_S):
                await in_the_end(goes_on)
            assert await other.beta.exchange(state_of(ALPHA)) == state_of(BETA)


async def in_the_end(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of a node to which a connection may not be made at once: packets of it are lost, too."""
    for _ in range(9):
        with contextlib.suppress(HerdError):
            return await ask()
    return await ask()


async def followed(beta: HttpPeer, job_id: str) -> list[Line]:
    """All events of an attempt, asked for again from where they broke off."""
    got: list[Line] = []

    async def rest() -> None:
        async with contextlib.aclosing(beta.follow(job_id, 1, got[-1].seq if got else 0)) as lines:
            async for line in lines:
                got.extend([line] if line.event is not None else [])

    await in_the_end(rest)
    return got


@pytest.mark.slow  # a link with 200 ms
async def test_a_link_that_is_slow_and_loses_packets_carries_everything(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        cable = stack.enter_context(link(delay_s=0.1, loss=0.05))  # each way
        node = remote(tmp_path, pace_s=0.02, count=500, lease_s=30, host=cable.host, through=cable.through)
        beta = (await stack.enter_async_context(node)).beta
        for lines in await asyncio.gather(*(followed(beta, job_id_of(ALPHA, number)) for number in range(4))):
            assert [line.seq for line in lines] == list(range(1, 502))
            assert isinstance(lines[-1].event, Completed)
        for _ in range(10):
            assert await in_the_end(lambda: beta.exchange(state_of(ALPHA))) == state_of(BETA)
        assert (await in_the_end(lambda: beta.submit(order_of(ALPHA)))).model == "m"

        picture = bytearray()

        async def fetched() -> None:
            async for part in beta.blob(SHA256, len(picture)):
                picture.extend(part)

        await in_the_end(fetched)
        assert picture == Scripted().picture
