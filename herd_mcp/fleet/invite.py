"""Letting another Mac in: a listener that lives as long as its code, which opens it once.

It shows the authority's certificate, whose digest stands in the code, so who joins knows that it speaks with the right
Mac before it tells the secret; and the secret tells that it was given the code. Three lines of JSON over TLS: `Ask`,
`Answer`, `Confirmed` (`fleet/join.py` is the other side).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from herd_mcp.clock import steady_s
from herd_mcp.fleet import code as codes
from herd_mcp.fleet.grant import MAX_MEMBERS, Addresses, Grant, Known, Name
from herd_mcp.fleet.interfaces import own_addresses
from herd_mcp.fleet.trust import Trust
from herd_mcp.fleet.words import Invitation, State
from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError, NodeId
from herd_mcp.state import Told

log = logging.getLogger(__name__)

INVITE_S = 600.0
MAX_TRIES = 5
"""Wrong secrets, after which the code is good for nothing."""
MAX_CONNECTIONS = 8
"""At the same time; one more ends the oldest, so that those that only hold theirs keep nobody out."""
CONNECTION_S = 10.0
"""From the connection to the answer."""
CONFIRM_S = 30.0
"""From the answer to the other's word that it is in: it writes its files and opens its port meanwhile."""
MAX_ASK_BYTES = 16 * 1024
MAX_SKEW_S = 3 * 86_400.0
"""How far clocks may be apart; certificates are valid from some days before they are made."""


class Ask(Told):
    """Who wants in."""

    secret: Annotated[str, Field(max_length=64)] = Field(repr=False)
    """In hex."""
    node_id: NodeId
    name: Name
    now: Annotated[float, Field(ge=0, le=1e11)]
    """Its clock, Unix seconds."""


class Answer(Told):
    grant: Grant | None = None
    error: ErrorInfo | None = None


class Confirmed(Told):
    """It is a member now, and reached there."""

    addresses: Addresses = ()


REFUSED = ErrorInfo(
    code=ErrorCode.UNAUTHORIZED,
    message="This code is not valid any more: it was used, has expired, or a newer one replaced it.",
    hint="Run `herd-mcp invite` on the other Mac for a new one.",
)


def objection(ask: Ask, trust: Trust, online: frozenset[str], now: float) -> HerdError | None:
    """Why a Mac that has the code is not let in all the same. `online`: members that are heard; `now`: Unix seconds."""
    anew = "end the node, delete trust/node_id in its HERD_HOME, start it and join again"
    if ask.node_id == trust.node_id or ask.node_id in online:
        return HerdError(
            ErrorCode.FORBIDDEN,
            f"The id of {ask.name}, {ask.node_id}, is that of a Mac which is in the herd now.",
            f"If it has left a moment ago, try again in a minute. Else a home was copied: on {ask.name} {anew}; it "
            "gets an id of its own.",
        )
    if ask.node_id in trust.revoked:
        return HerdError(
            ErrorCode.FORBIDDEN,
            f"{ask.name} ({ask.node_id}) was taken out of this herd for good.",
            f"On {ask.name} {anew}: it gets a new id. Or make a new herd with `herd-mcp leave --rotate`.",
        )
    if len(trust.known.keys() - {ask.node_id}) + 1 >= MAX_MEMBERS:
        return HerdError(
            ErrorCode.FORBIDDEN,
            f"The herd is full: it has {MAX_MEMBERS} Macs.",
            "`herd-mcp leave` on one that is not needed, or `herd-mcp leave --node NAME` for one that is gone.",
        )
    if abs(ask.now - now) > MAX_SKEW_S:
        days = abs(ask.now - now) / 86_400
        return HerdError(
            ErrorCode.FORBIDDEN,
            f"The clocks of the two Macs are {days:.0f} days apart.",
            "Have both set by the network: System Settings, General, Date & Time.",
        )
    return None


class Invite:
    """One invite, open from `open` until somebody joined, it expired, too many tries were wrong, or `close`."""

    def __init__(
        self,
        trust: Trust,
        me: Callable[[], Known],
        *,
        online: Callable[[], frozenset[str]] = frozenset,
        valid_s: float = INVITE_S,
    ) -> None:
        self.id = secrets.token_hex(4)
        self.code = ""
        self.expires_at = time.time() + valid_s
        """Unix seconds."""
        self._trust = trust
        self._me = me
        self._online = online
        self._until = steady_s() + valid_s
        self._secret = secrets.token_bytes(codes.SECRET_BYTES)
        self._state: State = "open"
        self._wrong_tries = 0
        self._holder: asyncio.Task[None] | None = None
        """The connection that was given the keys."""
        self._node_id = self._name = ""
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}
        """Oldest first."""
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self, bind: str) -> None:
        """Listen on a free port of the address `bind`. Raises HerdError(no_node)."""
        self._context = self._trust.invite_context()
        try:
            addresses = own_addresses(bind)
            self._server = await asyncio.start_server(self._connected, bind, 0, limit=MAX_ASK_BYTES)
        except OSError as error:
            raise HerdError(
                ErrorCode.NO_NODE,
                f"This Mac cannot listen on {bind} ({error.strerror}).",
                "Correct `peer_bind` in config.toml.",
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        digest = codes.digest_of(self._trust.grant().authority_der)
        self.code = codes.write(codes.Code(addresses, port, self._secret, digest))
        valid_s = self._until - steady_s()
        self._expiry = asyncio.get_running_loop().call_later(valid_s, self._shut, "expired")
        log.info("an invite is open on port %d for %.0f s", port, valid_s)

    @property
    def invitation(self) -> Invitation:
        return Invitation(
            id=self.id,
            state=self._state,
            expires_s=max(0.0, self._until - steady_s()),
            wrong_tries=self._wrong_tries,
            node_id=self._node_id,
            name=self._name,
        )

    async def close(self) -> None:
        """End it, whatever it does."""
        if self._state == "open":
            self._shut("closed")
        for task in (tasks := list(self._connections)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _shut(self, state: State) -> None:
        """No further connections, and an end to all but the one that led here."""
        self._state = state
        log.info("the invite is over: %s", state)
        if self._server is not None:
            self._server.close()
        if self._expiry is not None:
            self._expiry.cancel()
        for task in self._connections:
            if task is not asyncio.current_task():
                task.cancel()

    # ── a connection ──

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state != "open":
            writer.transport.abort()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            next(iter(self._connections)).cancel()
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = None
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECTION_S):
                await writer.start_tls(self._context)
                ask = Ask.model_validate_json(await reader.readline())
                answer = self._answer(ask, writer)
                writer.write(answer.model_dump_json().encode() + b"\n")
                await writer.drain()
                if answer.grant is None:
                    writer.close()
                    await writer.wait_closed()
                    return
            async with asyncio.timeout(CONFIRM_S):
                self._joined(ask, Confirmed.model_validate_json(await reader.readline()))
        except (OSError, ValueError, TimeoutError) as error:  # ValueError: too long, or not what is expected
            log.debug("a connection to the invite came to nothing: %s", type(error).__name__)
        finally:
            writer.transport.abort()
            if self._holder is asyncio.current_task() and self._state == "granted":
                self._state = "unconfirmed"
                log.warning("%s was given the keys of the herd and has not said that it joined", self._name)

    def _answer(self, ask: Ask, writer: asyncio.StreamWriter) -> Answer:
        """Decides in one step: two that come at once do not both get in."""
        if self._state != "open" or steady_s() >= self._until:
            return Answer(error=REFUSED)
        if not hmac.compare_digest(ask.secret.encode(), self._secret.hex().encode()):
            self._wrong_tries += 1
            host = (writer.get_extra_info("peername") or ("?",))[0]
            log.warning("a wrong code came from %s (%d of %d)", host, self._wrong_tries, MAX_TRIES)
            if self._wrong_tries >= MAX_TRIES:
                self._shut("tries")
            return Answer(error=REFUSED)
        if problem := objection(ask, self._trust, self._online(), time.time()):
            log.warning("%s was not let in: %s", ask.name, problem)
            return Answer(error=problem.info)
        grant = self._trust.grant()
        others = {node_id: known for node_id, known in grant.members.items() if node_id != ask.node_id}
        self._holder, self._node_id, self._name = asyncio.current_task(), ask.node_id, ask.name
        self._shut("granted")
        return Answer(grant=grant.model_copy(update={"members": {**others, self._trust.node_id: self._me()}}))

    def _joined(self, ask: Ask, confirmed: Confirmed) -> None:
        self._state = "joined"
        log.info("%s (%s) joined the herd", ask.name, ask.node_id)
        self._trust.remember(ask.node_id, ask.name, confirmed.addresses)
