"""What a person does with the herd of this Mac: invite, join, leave. One thing at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from herd_mcp.fleet import code as codes
from herd_mcp.fleet.grant import Grant, Known
from herd_mcp.fleet.invite import Invite
from herd_mcp.fleet.join import join
from herd_mcp.fleet.trust import Trust
from herd_mcp.fleet.words import Invitation, InviteInfo, Joined, Left, Member
from herd_mcp.jobs import SHOWN_CHARS, ErrorCode, ErrorInfo, HerdError
from herd_mcp.state import MAX_ADDRESSES

log = logging.getLogger(__name__)

RENEW_EVERY_S = 60.0
"""Between two looks whether the certificate is to be renewed. Often, since a Mac may have slept through its time."""
LEAVE_S = 5.0
"""Seconds that telling the others and closing the listeners may take."""


async def _nothing() -> None:
    pass


class HerdAdmin:
    """`on_joined`: this Mac has a herd from now on: listen, and meet the others. May raise HerdError, and then this Mac
    has none. `on_left`: it is about to have none: tell the others, and close what listens and what is
    connected. `addresses`: `host:port` where the others reach it. `online`: ids of members that are heard. `apart`: why
    this Mac is not among the others of its herd, if it is not."""

    def __init__(
        self,
        trust: Trust,
        name: str,
        bind: str,
        *,
        on_joined: Callable[[], Awaitable[None]] = _nothing,
        on_left: Callable[[], Awaitable[None]] = _nothing,
        addresses: Callable[[], tuple[str, ...]] = tuple,
        online: Callable[[], frozenset[str]] = frozenset,
        apart: Callable[[], ErrorInfo | None] = lambda: None,
    ) -> None:
        self.trust = trust
        self._name = name
        self._bind = bind
        self._on_joined = on_joined
        self._on_left = on_left
        self._addresses = addresses
        self._online = online
        self._apart = apart
        self._invite: Invite | None = None
        self._lock = asyncio.Lock()

    async def keep(self) -> None:
        """Renew this node's certificate in time, and write what the disk did not take before, for ever."""
        while True:
            try:
                self.trust.renew_when_due()
            except HerdError as error:
                log.error("the certificate of this node is not renewed: %s", error)
            with contextlib.suppress(HerdError):  # it was told when it failed first
                await self.trust.saved()
            await asyncio.sleep(RENEW_EVERY_S)

    async def close(self) -> None:
        """End what is open, without leaving the herd."""
        async with self._lock:
            await self._close_invite()

    # ── invite ──

    async def invite(self) -> InviteInfo:
        """Let one Mac in by the code that is returned; makes a herd if there is none. It replaces an earlier invite.
        Raises HerdError: no_node where this Mac cannot listen, disk, unauthorized if it was shut out itself."""
        async with self._lock:
            return await self._invited()

    def invitation(self) -> Invitation | None:
        """How it stands with the last invite, if there was one."""
        return self._invite.invitation if self._invite else None

    async def close_invite(self) -> Invitation | None:
        """End the invite that is open."""
        async with self._lock:
            await self._close_invite()
            return self.invitation()

    async def _invited(self) -> InviteInfo:
        if self.trust.shut_out:
            raise HerdError(
                ErrorCode.UNAUTHORIZED,
                "This Mac was taken out of its herd and cannot invite others.",
                "`herd-mcp leave` forgets that herd.",
            )
        if not self.trust.has_herd:
            self.trust.make_herd()
            await self._begin()
        elif why := self._apart():
            raise HerdError.of(why)
        await self._close_invite()
        made = Invite(self.trust, self._me, online=self._online)
        await made.open(self._bind)
        self._invite = made
        return InviteInfo(
            id=made.id,
            code=made.code,
            expires_at=made.expires_at,
            expires_s=made.invitation.expires_s,
            herd_id=self.trust.herd_id,
        )

    async def _close_invite(self) -> None:
        if self._invite is not None:
            await self._invite.close()

    # ── join ──

    async def join(self, text: str) -> Joined:
        """Join the herd that a code is of. Raises HerdError with what stands in the way."""
        code = codes.read(text)
        async with self._lock:
            if self.trust.has_herd:
                others = ", ".join(sorted(known.name for known in self.trust.known.values()))
                raise HerdError(
                    ErrorCode.INVALID_REQUEST,
                    f"This Mac is in a herd already{f', with {others}' if others else ''}.",
                    "`herd-mcp leave` leaves that one; then join.",
                )
            grant = await join(code, self.trust.node_id, self._name, self._adopt)
            heard = self._online()
            members = {node_id: known for node_id, known in grant.members.items() if node_id != self.trust.node_id}
            return Joined(
                herd_id=self.trust.herd_id,
                members=tuple(
                    Member(node_id=node_id, name=known.name, reached=node_id in heard)
                    for node_id, known in sorted(members.items(), key=lambda row: row[1].name)
                ),
            )

    async def _adopt(self, grant: Grant) -> tuple[str, ...]:
        self.trust.adopt(grant)
        await self._begin()
        return self._me().addresses

    # ── leave ──

    async def leave(self, *, rotate: bool = False) -> Left:
        """Forget the herd; with `rotate` make another and invite into it. Raises HerdError: invalid_request without a
        herd, no_node where this Mac cannot listen for another, disk."""
        async with self._lock:
            left = self._told()
            if rotate and (why := self._apart()):
                raise HerdError.of(why)
            await self._close_invite()
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._on_left()
            except Exception:
                log.exception("the others may not have been told that this Mac left")
            self.trust.forget()
            log.info("this Mac left the herd %s", left.herd_id)
            return left.model_copy(update={"invite": await self._invited()}) if rotate else left

    async def take_out(self, name: str) -> Left:
        """Shut a member out for good, by its name or id. Raises HerdError: invalid_request when that means none or
        several, or the list of those is full; disk where it is shut out, but will not be after a restart."""
        async with self._lock:
            left = self._told()
            node_id = self._member(name)
            shown = self.trust.known[node_id].name if node_id in self.trust.known else node_id
            if not self.trust.revoke([node_id]) and node_id not in self.trust.revoked:
                raise HerdError(
                    ErrorCode.INVALID_REQUEST,
                    f"{len(self.trust.revoked)} Macs were taken out of this herd; there is no room for more.",
                    "`herd-mcp leave --rotate` makes a new herd.",
                )
            await self.trust.saved()  # also what an earlier try could not write
            log.warning("%s (%s) was taken out of the herd", shown, node_id)
            return left.model_copy(update={"revoked": shown})

    def _member(self, name: str) -> str:
        wanted = name.lower()
        if wanted in (self._name.lower(), self.trust.node_id):
            raise HerdError(ErrorCode.INVALID_REQUEST, f"{name} is this Mac.", "`herd-mcp leave` leaves the herd.")
        if wanted in self.trust.known or wanted in self.trust.revoked:
            return wanted
        found = [node_id for node_id, known in self.trust.known.items() if known.name.lower() == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise HerdError(
                ErrorCode.INVALID_REQUEST,
                f"{len(found)} Macs of this herd are called {name}.",
                f"Name one by its id: {', '.join(sorted(found))}.",
            )
        names = ", ".join(sorted(known.name for known in self.trust.known.values()))
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"No other Mac of this herd is called {name[:SHOWN_CHARS]}.",
            f"There are: {names}." if names else "It has no other.",
        )

    # ── within ──

    async def _begin(self) -> None:
        try:
            await self._on_joined()
        except BaseException:
            self.trust.forget()
            raise

    def _me(self) -> Known:
        return Known(name=self._name, addresses=self._addresses()[:MAX_ADDRESSES])

    def _told(self) -> Left:
        names = tuple(sorted(known.name for known in self.trust.known.values()))
        self.trust.grant()  # raises without a herd
        return Left(herd_id=self.trust.herd_id, members=names)
