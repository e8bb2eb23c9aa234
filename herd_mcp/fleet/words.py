"""What people are told of invites, of joining and of leaving."""

from __future__ import annotations

from typing import Literal

from herd_mcp.state import Told

State = Literal["open", "granted", "joined", "unconfirmed", "expired", "tries", "closed"]
"""Of an invite. `granted`: the other was given the keys, and has not said yet that it is in; `unconfirmed`: it never
did; `tries`: too many codes were wrong; `closed`: by who made it, or for another."""


class InviteInfo(Told):
    """An invite that is open."""

    id: str
    code: str
    expires_at: float
    """Unix seconds."""
    expires_s: float
    herd_id: str


class Member(Told):
    node_id: str
    name: str
    reached: bool
    """Whether it was heard of since this Mac joined."""


class Joined(Told):
    herd_id: str
    members: tuple[Member, ...]
    """The others."""


class Left(Told):
    herd_id: str
    """Of the herd that this Mac left, or that a member was taken out of."""
    members: tuple[str, ...] = ()
    """Names of the others."""
    revoked: str = ""
    """Name of the member that was taken out."""
    invite: InviteInfo | None = None
    """Into the herd that was made instead."""


class Invitation(Told):
    """How it stands with an invite."""

    id: str
    state: State
    expires_s: float
    """Seconds until it ends by itself."""
    wrong_tries: int = 0
    node_id: str = ""
    name: str = ""
    """Of the node that joined."""


class PeerCheck(Told):
    """What came of asking another member, from this node's own process."""

    node_id: str
    name: str
    addresses: tuple[str, ...] = ()
    took_s: float | None = None
    """Until its answer; None where there was none."""
    version: str = ""
    """Of its program."""
    ahead_s: float = 0.0
    """Its clock is at least so much ahead of this Mac's, as far as that shows."""
    stopped: bool = False
    """It said itself that it ends."""
    reason: str = ""
    """One word for programs, where it was not reached."""
    problem: str = ""
    hint: str = ""
