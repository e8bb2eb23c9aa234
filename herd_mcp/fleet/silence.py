"""When the system gives up on a connection whose other end does not answer any more.

A Mac that sleeps or is cut off says nothing: what is sent to it would wait for a quarter of an hour.
"""

from __future__ import annotations

import socket
import sys

_TCP_RXT_CONNDROPTIME = 0x80
"""macOS's <netinet/tcp.h>, which Python does not name. Whole seconds."""


def socket_options(silence_s: float, platform: str = sys.platform) -> list[tuple[int, int, int]]:
    """Options of a TCP socket with which it ends once what it sent is not taken for `silence_s`."""
    if platform == "darwin":
        return [(socket.IPPROTO_TCP, _TCP_RXT_CONNDROPTIME, max(1, round(silence_s)))]
    if platform == "linux":
        return [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence_s * 1000))]
    return []
