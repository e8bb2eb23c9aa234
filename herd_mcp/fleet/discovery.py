"""Bonjour: says on the local network that this node is there, and hears of others. What it hears is a hint and nothing
more: who is of the herd shows only when the node proves it.

Imported only when there is a herd (zeroconf).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from herd_mcp.fleet.found import HERD_DIGITS, Found
from herd_mcp.fleet.places import address_of, merged, parts_of
from herd_mcp.jobs import NODE_ID
from herd_mcp.state import WIRE_MAJOR, WIRE_MINOR

log = logging.getLogger(__name__)

SERVICE = "_herd-mcp._tcp.local."
RESOLVE_S = 3.0
"""How long a node that was announced is asked where it is."""
MOST_RESOLVING = 16
"""At the same time; more that come meanwhile wait."""
MOST_WAITING = 256
"""Then the oldest is dropped."""
LOOK_S = 2.0
"""Between two looks whether something else is to be announced."""
AGAIN_S = 60.0
"""Until the next try where the system did not let it announce or look."""


def id_of(name: str) -> str | None:
    """The node's id out of the name of a service, which is nothing else; None for any other name."""
    label = name.removesuffix("." + SERVICE)
    return label if re.fullmatch(NODE_ID, label) else None


def read_service(
    name: str, properties: Mapping[str, str | None], addresses: Sequence[str], port: int | None
) -> Found | None:
    """What a node says of itself in an announcement; None unless all of it is well formed."""
    node_id, herd, wire = id_of(name), properties.get("herd") or "", properties.get("wire") or ""
    major, dot, minor = wire.partition(".")
    well_formed = (
        node_id is not None
        and properties.get("id") == node_id
        and len(herd) == HERD_DIGITS
        and set(herd) <= set("0123456789abcdef")
        and dot
        and all(part.isascii() and part.isdigit() and len(part) <= 4 for part in (major, minor))
    )
    if not well_formed or node_id is None or port is None:
        return None
    there = merged(address_of(host, port) for host in addresses[:8])
    return Found(node_id, herd, (int(major), int(minor)), there) if there else None


@dataclass(frozen=True, slots=True)
class Announced:
    """What this node says of itself. Nothing of it is secret."""

    node_id: str
    herd: str
    """The first digits of the herd's id."""
    addresses: tuple[str, ...]
    """`host:port`, all with the same port."""


class Bonjour:
    """Announces and browses. `found` is told of every well-formed announcement but one's own; it must not block."""

    def __init__(self, node_id: str, bind: str, found: Callable[[Found], None]) -> None:
        self.stale = False
        """Whether the interfaces of this Mac may be others by now."""
        self._node_id = node_id
        self._found = found
        everywhere = bind in ("0.0.0.0", "::", "")  # noqa: S104
        self._interfaces: InterfaceChoice | list[str | int | tuple[tuple[str, int, int], int]] = (
            InterfaceChoice.All if everywhere else [bind]
        )
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._told: AsyncServiceInfo | None = None
        self._announced: Announced | None = None
        self._waiting: dict[str, None] = {}
        self._resolving: set[asyncio.Task[None]] = set()

    async def keep(self, wanted: Callable[[], Announced | None]) -> None:
        """Look for others and announce what is `wanted`, until it is cancelled."""
        told = False
        while True:
            try:
                if self._zeroconf is None:
                    await self.start()
                if self.stale:
                    self.stale = False
                    await self.refresh()
                await self.announce(wanted())
                told = False
                await asyncio.sleep(LOOK_S)
            except (OSError, ZeroconfError) as error:
                if not told:
                    log.warning("Bonjour does not work here now (%s): name the other Macs in `peers`", error)
                told = True
                await asyncio.sleep(AGAIN_S)

    async def start(self) -> None:
        """Look for others. Raises OSError where the system allows no multicast."""
        opened = AsyncZeroconf(interfaces=self._interfaces, ip_version=IPVersion.V4Only)
        starting = asyncio.create_task(opened.zeroconf.async_wait_for_start())
        try:
            await asyncio.shield(starting)
        except BaseException:
            # Closed before it has begun, it would leave its sockets open.
            await asyncio.gather(starting, return_exceptions=True)
            await _close(opened)
            raise
        self._zeroconf = opened
        self._browser = AsyncServiceBrowser(opened.zeroconf, [SERVICE], handlers=[self._changed])

    async def announce(self, what: Announced | None) -> None:
        """Say that this node is there, where it is now, or with None that it is not."""
        if self._zeroconf is None or what == self._announced:
            return
        info = _info(what) if what else None
        if self._told and info:
            done = await self._zeroconf.async_update_service(info)
        elif info:
            # Ids are random, so no other node has the name; but caches on the network still have it after a crash.
            done = await self._zeroconf.async_register_service(info, cooperating_responders=True)
        elif self._told:
            done = await self._zeroconf.async_unregister_service(self._told)
        else:
            return
        self._told, self._announced = info, what
        await done

    async def refresh(self) -> None:
        """Follow the interfaces of this Mac, which change while it sleeps, and ask again who is there."""
        if self._zeroconf is None:
            return
        await self._zeroconf.zeroconf.async_update_interfaces()
        if self._browser:
            await self._browser.async_cancel()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, [SERVICE], handlers=[self._changed])

    async def close(self) -> None:
        """Say good-bye and end."""
        for task in self._resolving:
            task.cancel()
        if self._zeroconf is None:
            return
        if self._browser:
            await self._browser.async_cancel()
        with contextlib.suppress(OSError, ZeroconfError):
            await self.announce(None)
        await _close(self._zeroconf)
        self._zeroconf = None

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:  # by these names
        if state_change is ServiceStateChange.Removed or (node_id := id_of(name)) in (None, self._node_id):
            return
        self._waiting.pop(name, None)
        self._waiting[name] = None
        while len(self._waiting) > MOST_WAITING:
            dropped = next(iter(self._waiting))
            del self._waiting[dropped]
        if len(self._resolving) < MOST_RESOLVING:
            task = asyncio.create_task(self._resolve(zeroconf), name=f"bonjour {node_id}")
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf) -> None:
        while self._waiting:
            name, _ = self._waiting.popitem()
            info = AsyncServiceInfo(SERVICE, name)
            try:
                complete = await info.async_request(zeroconf, RESOLVE_S * 1000)
            except Exception:  # zeroconf's own, for what it cannot read
                log.debug("an announcement could not be read", exc_info=True)
                continue
            addresses = info.parsed_addresses(IPVersion.V4Only) if complete else []
            if found := read_service(name, info.decoded_properties, addresses, info.port):
                self._found(found)


def _info(what: Announced) -> AsyncServiceInfo:
    places = [place for address in what.addresses if (place := parts_of(address))]
    return AsyncServiceInfo(
        SERVICE,
        f"{what.node_id}.{SERVICE}",
        port=places[0][1],
        parsed_addresses=[host for host, _ in places],
        properties={"id": what.node_id, "herd": what.herd, "wire": f"{WIRE_MAJOR}.{WIRE_MINOR}"},
        server=f"herd-{what.node_id}.local.",
    )


async def _close(zeroconf: AsyncZeroconf) -> None:
    await zeroconf.async_close()
    await asyncio.sleep(0)  # the loop closes the sockets in its next turn
