"""This node among the others: its port for them, who they are, the jobs they send here and those sent to them.

Without a herd there is nothing of it: nothing listens, nothing is announced, and the libraries for it are not loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from herd_mcp.answers import Answers
from herd_mcp.changes import Changes
from herd_mcp.fleet import placement
from herd_mcp.fleet.admin import HerdAdmin
from herd_mcp.fleet.alone import Alone
from herd_mcp.fleet.membership import backoff_s
from herd_mcp.fleet.others import Others
from herd_mcp.fleet.placer import HerdPlacer
from herd_mcp.fleet.port import Port
from herd_mcp.fleet.prefixes import Prefixes, kept_of
from herd_mcp.fleet.remote import RemoteRunner
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import ChatRequest, ChatResult, Completed, ErrorCode, ErrorInfo, HerdError, Kind
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.node import Node
from herd_mcp.node.words import draining
from herd_mcp.orders import Ending, Later, Order, PeerApi, Runner
from herd_mcp.owner.guests import Guests
from herd_mcp.owner.local import LocalRunner
from herd_mcp.owner.own import OwnJobs
from herd_mcp.owner.owner import Owner
from herd_mcp.settings import Settings
from herd_mcp.state import Change, NodeState, reluctant

if TYPE_CHECKING:
    from herd_mcp.fleet.fleet import Fleet
    from herd_mcp.fleet.peers import Peers

log = logging.getLogger(__name__)

FIRST_LOOK_S = 3.0
"""Seconds that a node which starts waits for the look at its disk: without its models it would be no use to the
others, and they would be asked in its place."""
MEET_S = 3.0
"""Seconds that a Mac that joins waits to hear of the members, to tell whom it reaches."""
REBALANCE_S = 0.5
"""At the earliest after a change elsewhere, and between two looks whether waiting jobs are better off there."""
REBALANCE_EVERY_S = 2.0


class Mesh:
    """Opened with the node; begins and ends with its herd."""

    def __init__(
        self,
        settings: Settings,
        trust: Trust,
        node: Node,
        local: LocalRunner,
        gallery: Gallery,
        owner: Owner,
        own: OwnJobs,
        changes: Changes,
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._node = node
        self._local = local
        self._owner = owner
        self._own = own
        self._changes = changes
        self._prefixes = Prefixes()
        self._rng = random.Random()  # noqa: S311
        self._remotes: dict[str, RemoteRunner] = {}
        self._fleet: Fleet | None = None
        self._peers: Peers | None = None
        self._port = Port(settings, trust, self._answers)
        self._beside: list[asyncio.Task[None]] = []
        self._partings: set[asyncio.Task[None]] = set()
        self.apart: ErrorInfo | None = None
        """Why this node is not among the others of its herd, where something keeps it from its port."""
        self._returning: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        """Set, and another in its place, when the others changed."""
        self.guests = Guests(
            LocalRunner(node, self._check, self._answered),
            gallery,
            settings.lease_s,
            silent_s=lambda node_id: self._fleet.silent_s(node_id) if self._fleet else math.inf,
            changed=self._touched,
        )
        local.on_end = self._answered
        node.on_decided = self.changed
        trust.on_revoked = self._revoked
        self.admin = HerdAdmin(
            trust,
            node.name,
            settings.peer_bind,
            on_joined=self._join,
            on_left=self._end,
            addresses=lambda: self.state().addresses,
            online=self._online,
            apart=lambda: self.apart,
        )
        self.others = Others(trust, self.state, self.views, self.api, self._preferred)

    # ── what there is ──

    def state(self) -> NodeState:
        """This node as it tells itself to the others."""
        return self._fleet.state() if self._fleet else self._read_state()

    def views(self) -> list[NodeState]:
        """The other nodes, as they are known here."""
        return self._fleet.views() if self._fleet else []

    @property
    def strangers(self) -> list[str]:
        """Who was not let in of late, and why, for people."""
        return [f"{one.who}: {one.reason}" for one in self._fleet.refused] if self._fleet else []

    def api(self, node_id: str) -> PeerApi | None:
        """The way to another node; None where it is not of the herd."""
        return self._fleet.peer(node_id) if self._fleet else None

    def changed(self) -> None:
        """Something changed here that the others may want to know."""
        if self._fleet:
            self._fleet.changed()

    def engines_changed(self) -> None:
        """An engine came or went here; what one that is gone kept of conversations is gone with it."""
        self._prefixes.keep({engine.model for engine in self._node.state().engines})
        self.changed()

    # ── life ──

    async def open(self) -> None:
        """Begin, if this node has a herd. Where its port is taken it does so later: who sits at this Mac shall have a
        node all the same."""
        if not self._trust.has_herd:
            return
        try:
            await self._begin()
        except HerdError as error:
            if error.info.code != ErrorCode.NO_NODE:
                raise
            log.warning("this Mac is not among the others of its herd, and tries again: %s", error)
            self.apart = error.info
            self._returning = asyncio.create_task(self._return(), name="return to the herd")

    async def drain(self, timeout_s: float) -> None:
        """Give back what has not begun, and let the others' jobs that run here come to their end."""
        await self._stay()
        await self.guests.drain()
        await self.guests.close(timeout_s)

    async def close(self) -> None:
        """Part from the others, without leaving the herd."""
        await self.admin.close()
        await self._end("it was stopped")

    def _online(self) -> frozenset[str]:
        return frozenset(view.node_id for view in self.views() if view.status == "online")

    async def _join(self) -> None:
        """Begin, and meet those who are known. Raises HerdError(no_node) where the port is taken."""
        try:
            await self._begin()
        except BaseException:
            await self._end()
            raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEET_S):
                while not self._trust.known.keys() <= self._online():
                    await self._news.wait()

    async def _return(self) -> None:
        """Begin as soon as the port is free."""
        for tries in itertools.count(1):
            await asyncio.sleep(backoff_s(tries))
            try:
                await self._port.try_out()
                await self._begin()
            except HerdError as error:
                self.apart = error.info
            except Exception:
                log.exception("this Mac comes back to its herd with its next start")
                return
            else:
                self.apart = None
                self._changes.tell(Change(kind="health"))
                return

    async def _stay(self) -> None:
        """Try no more to return."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait({self._returning})

    async def _begin(self) -> None:
        """Raises HerdError(no_node) where the port is taken. Jobs that were accepted wait for others then, too."""
        trust = self._trust
        self._owner.placer = HerdPlacer(
            self._local,
            self.state,
            self.views,
            self._remote,
            preferred=self._preferred,
            prefix_key=trust.prefix_key,
            rng=self._rng,
        )
        await self._node.looked(FIRST_LOOK_S)
        try:
            fleet = self._fleet = self._make_fleet()
            own_addresses = await self._open_port()
            self.guests.open()
            works = self.guests.run(), self._rebalance(), self.admin.keep()
            self._beside = [asyncio.create_task(work) for work in works]
            await fleet.start(own_addresses)
        except BaseException:
            await self._part("it was stopped")
            raise
        log.info("herd %s: port for the other Macs: %s", trust.herd_id, ", ".join(own_addresses()))

    def _make_fleet(self) -> Fleet:
        """The others, and the ways to them."""
        from herd_mcp.fleet.fleet import Fleet
        from herd_mcp.fleet.peers import Peers

        peers = self._peers = Peers(self._trust.client_context(), self._settings.lease_s)
        return Fleet(
            self._settings,
            self._trust,
            self._read_state,
            peers.peer,
            self._herd_changed,
            identify=self._who_answers,
        )

    async def _open_port(self) -> Callable[[], tuple[str, ...]]:
        """As `Port.open`."""
        return await self._port.open()

    async def _end(self, reason: str = "it left the herd") -> None:
        """Be alone from now on."""
        self._owner.placer, self.apart = Alone(self._local), None
        await self._stay()
        await self._part(reason)

    async def _part(self, reason: str) -> None:
        """Tell the others, and close all that is open between nodes."""
        self.guests.leave(reason)
        fleet, peers, beside = self._fleet, self._peers, self._beside
        self._fleet, self._peers, self._beside = None, None, []
        try:
            if fleet is not None:
                await fleet.close(reason)
            if peers is not None:
                await peers.aclose()
        finally:  # also where it took too long: the port is to be free
            for task in beside:
                task.cancel()
            self._remotes.clear()
            await asyncio.gather(self._port.close(), *beside, return_exceptions=True)

    # ── this node, to the others ──

    def _answers(self, caller_id: str) -> Answers:
        if self._fleet is None:  # it ends; what was asked before comes to its end
            raise HerdError.of(draining())
        return Answers(caller_id, self._fleet.heard, self.guests, self._own)

    def _read_state(self) -> NodeState:
        return self._node.state().model_copy(update={"prefixes": self._prefixes.told()})

    def _touched(self) -> tuple[int, int]:
        """The incarnation and revision of this node's state as it is at this moment."""
        self.changed()
        state = self.state()
        return state.incarnation, state.revision

    def _check(self, order: Order) -> None:
        """Whether an order of another node is done here, about when it expects that. Raises HerdError(busy), Later."""
        if hesitates := reluctant(self._node.state()):  # the other has not heard of it yet
            raise HerdError(
                ErrorCode.BUSY,
                f"{self._node.name} does nothing for other Macs now: {hesitates}.",
                "`herd-mcp status` shows who does.",
                retryable=True,
            )
        if order.must or order.expects_s is None or self._fleet is None:
            return
        request, state = order.job.request, self.state()
        assert request is not None
        try:
            ask = placement.ask_of(request, placement.resolve(request, (state,)), self._trust.prefix_key)
        except HerdError:
            return  # what it is, the reservation says
        finish_s = placement.finish(ask, state).finish_s
        if finish_s is not None and placement.later(finish_s, order.expects_s):
            raise Later(finish_s, state)

    def _answered(self, order: Order, ending: Ending) -> None:
        """A conversation that an engine here keeps from now on."""
        request = order.job.request
        if self._fleet and isinstance(request, ChatRequest) and isinstance(ending, Completed):
            result = ending.result
            if isinstance(result, ChatResult):
                self._prefixes.add(result.model, kept_of(request, result, result.model, self._trust.prefix_key))
                self.changed()

    def _preferred(self, kind: Kind) -> str | None:
        return self._settings.chat_model if kind == "chat" else self._settings.image_model

    # ── the others ──

    def _remote(self, node_id: str) -> Runner | None:
        api = self.api(node_id)
        if api is None:
            return None
        remote = self._remotes.get(node_id)
        if remote is None or remote.api is not api:
            view = next((view for view in self.views() if view.node_id == node_id), None)
            known = self._trust.known.get(node_id)
            name = view.name if view else known.name if known else node_id
            lease_s = self._settings.lease_s
            limit_s = self._settings.job_timeout_s + lease_s  # the node there keeps its own, which is told better
            remote = self._remotes[node_id] = RemoteRunner(node_id, name, api, lease_s, limit_s)
        return remote

    async def _who_answers(self, address: str) -> str:
        from herd_mcp.fleet.dial import who_answers

        return await who_answers(address, self._trust.asking_context(), self._trust.caller)

    def _revoked(self, node_ids: frozenset[str]) -> None:
        self._port.recheck()
        self.guests.part(node_ids)
        for node_id in node_ids:
            self._remotes.pop(node_id, None)
            if self._peers is not None:
                parting = asyncio.create_task(self._peers.forget(node_id))
                self._partings.add(parting)
                parting.add_done_callback(self._partings.discard)
        self.changed()

    def _herd_changed(self) -> None:
        self._changes.tell(Change(kind="health"))
        self._changes.tell(Change(kind="models"))
        self._wake.set()
        self._news.set()
        self._news = asyncio.Event()

    async def _rebalance(self) -> None:
        """Look for ever whether jobs that wait are better off elsewhere by now."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REBALANCE_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._owner.rebalance()
            except Exception:
                log.exception("the waiting jobs could not be looked at")
            await asyncio.sleep(REBALANCE_S)
