"""What makes a Mac a member of a herd, as data: on its disk, and on the way to one that joins."""

from __future__ import annotations

import ssl
from typing import Annotated

from pydantic import Field, TypeAdapter

from herd_mcp.jobs import NodeId
from herd_mcp.state import MAX_ADDRESSES, MAX_REVOKED, Told

MAX_MEMBERS = 32
"""Nodes of a herd, this one included."""
PREFIX_KEY_BYTES = 32

Pem = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Addresses = Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=MAX_ADDRESSES)]
"""`host:port` each."""


class Known(Told):
    """A member that was met, for finding it again after a restart."""

    name: Name
    addresses: Addresses = ()


Members = Annotated[dict[NodeId, Known], Field(max_length=MAX_MEMBERS)]
MEMBERS: TypeAdapter[dict[str, Known]] = TypeAdapter(Members)


class Secrets(Told):
    """What makes a Mac a member. It is in `herd.json`, and goes to who joins."""

    authority_key: Pem = Field(repr=False)
    authority: Pem
    prefix_key: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * PREFIX_KEY_BYTES}}}$")] = Field(repr=False)
    """Under which beginnings of conversations are hashed, in hex."""
    revoked: Annotated[tuple[NodeId, ...], Field(max_length=MAX_REVOKED)] = ()

    @property
    def authority_der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.authority)


class Grant(Secrets):
    """What a Mac that joins is given."""

    members: Members = Field(default_factory=dict)
