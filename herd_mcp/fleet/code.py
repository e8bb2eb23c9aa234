"""The code of an invite: where to join, how to know that it is the right Mac, and what lets one in: one text."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import dataclass

from herd_mcp.jobs import ErrorCode, HerdError

VERSION = 1
SECRET_BYTES = 10
DIGEST_BYTES = 16
"""Of the digest of the authority's certificate: 128 bits, so that nobody can make another with the same."""
CHECK_BYTES = 3
MAX_ADDRESSES = 4
MAX_CHARS = 400
"""What is longer is no code and is not looked at."""
GROUP = 5

_READ = str.maketrans("018", "OIB")
"""Base32 has no such digits; who types them has taken a letter for one."""
_LEAST_BYTES = 2 + 2 + SECRET_BYTES + DIGEST_BYTES + CHECK_BYTES


@dataclass(frozen=True, slots=True)
class Code:
    addresses: tuple[str, ...]
    """IP addresses of the Mac that invites, those that most likely work first."""
    port: int
    secret: bytes
    digest: bytes
    """The first bytes of the SHA-256 of the authority's certificate."""

    def __repr__(self) -> str:  # a traceback must not tell the secret
        return f"Code({self.addresses}, {self.port})"


def digest_of(certificate_der: bytes) -> bytes:
    """What a code tells of an authority's certificate."""
    return hashlib.sha256(certificate_der).digest()[:DIGEST_BYTES]


def write(code: Code) -> str:
    """The text: groups of five letters and digits with dashes between."""
    packed = [ipaddress.ip_address(address).packed for address in code.addresses[:MAX_ADDRESSES]]
    packed.sort(key=len)  # IPv4 first, each in its order
    short = sum(len(address) == 4 for address in packed)
    head = bytes([VERSION, short << 4 | (len(packed) - short)]) + code.port.to_bytes(2, "big")
    body = head + b"".join(packed) + code.secret + code.digest
    text = base64.b32encode(body + _check(body)).decode().rstrip("=")
    return "-".join(text[at : at + GROUP] for at in range(0, len(text), GROUP))


def read(text: str) -> Code:
    """What a code says; case, spaces and dashes do not matter. Raises HerdError(invalid_request) that says whether it
    was mistyped or comes from another version."""
    letters = "".join(text[:MAX_CHARS].upper().split()).replace("-", "").translate(_READ)
    try:
        raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError:
        raise _mistyped() from None
    body, check = raw[:-CHECK_BYTES], raw[-CHECK_BYTES:]
    if (
        len(text) > MAX_CHARS
        or len(body) < 1
        or check != _check(body)
        or base64.b32encode(raw).decode().rstrip("=") != letters
    ):
        raise _mistyped()
    if body[0] != VERSION:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"This code is of version {body[0]}; this herd-mcp reads version {VERSION}.",
            "Install the same version of herd-mcp on both Macs (`herd-mcp --version`) and invite again.",
        )
    short, long = (body[1] >> 4, body[1] & 15) if len(raw) >= _LEAST_BYTES else (0, 0)
    if not 0 < short + long <= MAX_ADDRESSES or len(raw) != _LEAST_BYTES + 4 * short + 16 * long:
        raise _mistyped()
    addresses = []
    at = 4
    for size in [4] * short + [16] * long:
        addresses.append(str(ipaddress.ip_address(body[at : at + size])))
        at += size
    secret = body[at : at + SECRET_BYTES]
    return Code(tuple(addresses), int.from_bytes(body[2:4], "big"), secret, body[at + SECRET_BYTES :])


def _check(body: bytes) -> bytes:
    return hashlib.sha256(b"herd-mcp code" + body).digest()[:CHECK_BYTES]


def _mistyped() -> HerdError:
    return HerdError(
        ErrorCode.INVALID_REQUEST,
        "This is no code of an invite, or a letter of it is wrong or missing.",
        "Copy the whole line that `herd-mcp invite` printed on the other Mac.",
    )
