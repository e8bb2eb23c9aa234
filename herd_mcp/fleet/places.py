"""Where nodes are reached: `host:port` as text, checked before it is used."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from herd_mcp.state import MAX_ADDRESSES

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*\.?")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9]{1,15})?)\]|([A-Za-z0-9.-]{1,253})):([0-9]{1,5})")


def parts_of(address: str) -> tuple[str, int] | None:
    """Host and port of `host:port` or `[IPv6]:port`; None if it is neither."""
    found = _ADDRESS.fullmatch(address)
    if not found or not 1 <= int(found[3]) <= 65535:
        return None
    if found[1]:
        try:
            return str(ipaddress.IPv6Address(found[1])), int(found[3])
        except ValueError:
            return None
    return (found[2], int(found[3])) if _NAME.fullmatch(found[2]) else None


def address_of(host: str, port: int) -> str:
    """The text for a host, an IPv4 or an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def merged(*groups: Iterable[str]) -> tuple[str, ...]:
    """All that are addresses, each once, the first groups first, at most MAX_ADDRESSES."""
    every = dict.fromkeys(address for group in groups for address in group if parts_of(address))
    return tuple(every)[:MAX_ADDRESSES]
