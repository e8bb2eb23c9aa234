"""A node's port in a process of its own, that tests kill, stop and cut off: it counts, one number per pace.

`python -m tests.fleet.peer_process AUTHORITY MEMBER HOST PACE_S COUNT LEASE_S`: files with PEM; writes its port, then
a word for each stream that ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from herd_mcp.fleet.app import make_app
from herd_mcp.fleet.listener import Listener
from herd_mcp.jobs import Delta
from herd_mcp.orders import Line
from herd_mcp.serving.server import bind

from .certificates import Member, id_in
from .scripted import BETA, Scripted, completed


class Counting(Scripted):
    """Counts on whether somebody follows or not, as an attempt does."""

    def __init__(self, pace_s: float, count: int) -> None:
        super().__init__()
        self.pace_s, self.count = pace_s, count

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        try:
            for seq in range(after_seq + 1, self.count + 1):
                yield Line(attempt=attempt, seq=seq, event=Delta(text=str(seq)))
                await asyncio.sleep(self.pace_s)
            yield Line(attempt=attempt, seq=self.count + 1, event=completed("counted"))
        finally:
            print("closed", flush=True)


async def main(authority: str, member: str, host: str, pace_s: str, count: str, lease_s: str) -> None:
    me = Member(BETA, Path(authority).read_text(), Path(member).read_bytes())
    api = Counting(float(pace_s), int(count))
    listener = Listener(make_app(lambda _: api, id_in), me.server(), id_in, float(lease_s))
    sock = bind(0, host, setting="peer_port")
    print(sock.getsockname()[1], flush=True)
    await listener.run_on(sock)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
