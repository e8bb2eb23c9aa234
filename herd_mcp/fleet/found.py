"""What is found on the network before it is known who it is: announcements, and addresses that people gave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from herd_mcp.fleet.membership import backoff_s
from herd_mcp.jobs import ErrorCode, HerdError

HERD_DIGITS = 16
"""So much of a herd's id is announced."""
ASK_AGAIN_S = 60.0
"""How often it is asked who is at an address that people gave, while that node is not reached."""

Identify = Callable[[str], Awaitable[str]]
"""Tells the id of the node at a `host:port`, out of the certificate that it shows there: verified by the herd's
authority, its name not known before. Raises HerdError: node_lost where nobody answers."""


@dataclass(frozen=True, slots=True)
class Found:
    """A node that somebody announced. Nothing of it is proved."""

    node_id: str
    herd: str
    """The first HERD_DIGITS of its herd's id."""
    wire: tuple[int, int]
    addresses: tuple[str, ...]


class Seeker:
    """Finds out who is at an address that people gave, for as long as nobody there is reached."""

    def __init__(
        self,
        address: str,
        identify: Identify,
        *,
        reached: Callable[[str], bool],
        met: Callable[[str, str], None],
        refused: Callable[[str, str], None],
    ) -> None:
        """`met` gets a node's id and the address, `refused` the address and why."""
        self._address = address
        self._identify = identify
        self._reached = reached
        self._met = met
        self._refused = refused
        self._again = asyncio.Event()

    def hurry(self) -> None:
        """Ask now, whatever was before."""
        self._again.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        node_id, failures = "", 0
        while True:
            self._again.clear()
            if not self._reached(node_id):
                try:
                    node_id = await self._identify(self._address)
                    failures = 0
                    self._met(node_id, self._address)
                except HerdError as error:
                    failures += 1
                    if error.info.code is not ErrorCode.NODE_LOST:
                        self._refused(self._address, error.info.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s(failures) or ASK_AGAIN_S):
                    await self._again.wait()
