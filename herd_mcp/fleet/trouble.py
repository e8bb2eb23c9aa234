"""Why another node was not reached, in words: what a failed connection means."""

from __future__ import annotations

import errno
import ipaddress
import ssl
import sys
from collections.abc import Iterator

import httpx

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.orders import GONE

EXPIRED, NOT_YET, WRONG_NAME = 10, 9, 62
"""Numbers of OpenSSL's X509_V_ERR_*."""
UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}


def lost(reason: str, address: str, words: str, hint: str = "", code: ErrorCode = ErrorCode.NODE_LOST) -> HerdError:
    """The other node cannot be asked now. `details["reason"]` is one word for programs."""
    details = {"reason": reason, "address": address}
    return HerdError(code, f"The other node at {address} {words}.", hint, retryable=True, details=details)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        behind = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        error = behind or error.__context__


def of_tls(error: BaseException) -> ssl.SSLError | None:
    """What TLS has against it. Its wishes to read or write, which stand behind what came after them, are nothing."""
    found = [part for part in chain(error) if isinstance(part, ssl.SSLError)]
    return next((part for part in found if not isinstance(part, ssl.SSLWantReadError | ssl.SSLWantWriteError)), None)


def of_failure(error: BaseException, address: str, platform: str = sys.platform) -> HerdError:
    """What an error of httpx, TLS or the system means."""
    if isinstance(error, httpx.ConnectTimeout):
        return lost("unreachable", address, "did not answer: it is off, asleep, or behind a cut network")
    if isinstance(error, httpx.PoolTimeout):
        return lost("busy", address, "is asked as much at once as this node may ask")
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return lost("silent", address, "fell silent")
    tls = of_tls(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return _of_certificate(tls, address)
    if tls is not None and tls.reason == "UNEXPECTED_EOF_WHILE_READING":
        return lost("broken", address, "ended the connection before it was made")
    if tls is not None:
        return lost("tls", address, f"does not speak TLS as a node does ({tls.reason or tls})")
    for part in chain(error):
        if isinstance(part, OSError) and part.errno is not None and not isinstance(part, ssl.SSLError):
            return _of_system(part, address, platform)
    return lost("broken", address, "broke the connection off: it ended, or lost its network")


def _of_certificate(error: ssl.SSLCertVerificationError, address: str) -> HerdError:
    code = error.verify_code
    if code == WRONG_NAME:
        return lost("name", address, "is another one than was asked for", "It may have got the address of that one.")
    if code in (EXPIRED, NOT_YET):
        when = "has expired" if code == EXPIRED else "is not valid yet"
        return lost("expired", address, f"shows a certificate that {when}", "Look at the clocks of both Macs.")
    if code in UNKNOWN_AUTHORITY:
        return lost("another_herd", address, "is of another herd", "`herd-mcp join` brings it into this one.")
    return lost("tls", address, f"shows a certificate that is not valid ({error.verify_message})")


def _of_system(error: OSError, address: str, platform: str) -> HerdError:
    if error.errno == errno.ECONNREFUSED:
        return lost(GONE, address, "runs no herd-mcp there: the connection was refused")
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
        if platform == "darwin" and error.errno == errno.EHOSTUNREACH and is_private(address):
            return lost(
                "local_network",
                address,
                "cannot be reached from this program: it is off, or macOS does not let this program into the local "
                "network",
                "Allow it under System Settings > Privacy & Security > Local Network, or start the node from a "
                "terminal with `herd-mcp up`.",
                ErrorCode.LOCAL_NETWORK_DENIED,
            )
        return lost("unreachable", address, "cannot be reached: no way leads there")
    return lost("broken", address, f"broke the connection off ({error.strerror or error})")


def is_private(address: str) -> bool:
    """Whether `host:port` names an address of a local network."""
    try:
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_private
    except ValueError:
        return address.rpartition(":")[0].endswith(".local")


def refused(address: str) -> HerdError:
    """TLS 1.3 lets who is refused think that it got in: only the first read fails, without a reason."""
    return lost(
        "refused",
        address,
        "closes the connections of this node: it does not accept this node's certificate",
        "Its log says why. Look at the clocks of both Macs; a node that was put out of the herd joins again with "
        "`herd-mcp join`.",
    )
