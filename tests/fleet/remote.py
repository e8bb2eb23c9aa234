"""Beta as a process, and alpha in the test that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from herd_mcp.fleet.peers import HttpPeer, Peers

from .certificates import Authority
from .scripted import ALPHA, BETA, LEASE_S, LIMIT_S

ROOT = Path(__file__).parents[2]


@dataclass
class Remote:
    process: asyncio.subprocess.Process
    beta: HttpPeer
    address: str

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def closed(self) -> None:
        """Wait until a stream has ended at its source."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            assert await self.process.stdout.readline() == b"closed\n"


@contextlib.asynccontextmanager
async def remote(
    folder: Path,
    *,
    pace_s: float = 0.05,
    count: int = 10_000,
    lease_s: float = LEASE_S,
    host: str = "127.0.0.1",
    through: tuple[str, ...] = (),
) -> AsyncIterator[Remote]:
    """`through`: the beginning of the command line that puts it elsewhere."""
    authority = Authority()
    (folder / "authority.pem").write_text(authority.pem)
    (folder / "beta.pem").write_bytes(authority.member(BETA).pem)
    words = (str(folder / "authority.pem"), str(folder / "beta.pem"), host, str(pace_s), str(count), str(lease_s))
    process = await asyncio.create_subprocess_exec(
        *through, sys.executable, "-m", "tests.fleet.peer_process", *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    peers = Peers(authority.member(ALPHA).client(), lease_s)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            port = int(await process.stdout.readline())
        address = f"{host}:{port}"
        yield Remote(process, peers.peer(BETA, [address]), address)
    finally:
        await peers.aclose()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
