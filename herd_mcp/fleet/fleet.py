"""The other Macs of the herd, kept in touch with: who they are, how they are, and that they know how this one is.

Every node tells every other. A call is an exchange, so both sides learn at once and one call serves both. Times are the
running loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from herd_mcp.clock import steady_s
from herd_mcp.fleet.door import Door
from herd_mcp.fleet.found import HERD_DIGITS, Found, Identify, Seeker
from herd_mcp.fleet.link import Link, MakePeer
from herd_mcp.fleet.links import Links
from herd_mcp.fleet.membership import LONGEST_BACKOFF_S, Members, Status, backoff_s, silent_s, wire_problem
from herd_mcp.fleet.places import merged, parts_of
from herd_mcp.fleet.reports import Reporter
from herd_mcp.fleet.sleep import LOOK_S, SleepWatch
from herd_mcp.fleet.strangers import Stranger, Strangers
from herd_mcp.fleet.telling import GAP_S, Telling
from herd_mcp.fleet.trusted import Trusted
from herd_mcp.jobs import HerdError
from herd_mcp.orders import PeerApi
from herd_mcp.settings import Settings
from herd_mcp.state import NodeState

if TYPE_CHECKING:
    from herd_mcp.fleet.discovery import Announced, Bonjour

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""Between two exchanges of two nodes when nothing changes, whoever begins them; less where a short lease needs it."""
CONTACT_S = 8.0
"""Limit of one exchange; the way there has a shorter one, which tells more."""
RETURNS_S = 1.0
"""At the earliest after a failed call, a node that is heard of is called again at once."""
REACH_S = 30.0
"""Each calls each at least this often, however often the other calls: so it knows whether work can be brought there."""
PARTING_S = 2.0
"""Limit of the last word."""
OWN_ADDRESSES_EVERY_S = 30.0
MOST_GIVEN = 64


class Fleet:
    """The other nodes. `start` when this node's listener is there, `close` before it goes."""

    def __init__(
        self,
        settings: Settings,
        trust: Trusted,
        local_state: Callable[[], NodeState],
        peer: MakePeer,
        on_change: Callable[[], None],
        *,
        identify: Identify | None = None,
        incarnation: int | None = None,
        steady: Callable[[], float] = steady_s,
        chance: random.Random | None = None,
    ) -> None:
        """`peer` makes the way to a node by id and addresses. `on_change`: another node, or how it is, changed.
        `identify` tells who is at a `host:port`, or raises HerdError; without it `settings.peers` are not asked."""
        self.settings = settings
        self.inviting = False
        """Whether this node is announced although it knows no other."""
        self._trust = trust
        self._on_change = on_change
        self._identify = identify
        self._chance = chance or random.Random()  # noqa: S311
        self._loop = asyncio.get_running_loop()
        self._members = Members()
        self._strangers = Strangers()
        self._links = Links(peer, self._keep, self._member)
        self._seekers: list[Seeker] = []
        self._bonjour: Bonjour | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._statuses: dict[str, Status] = {}
        self._own_addresses: Callable[[], tuple[str, ...]] = tuple
        self._sleep = SleepWatch(steady)
        reporter = Reporter(local_state, int(time.time() * 1000) if incarnation is None else incarnation)
        self.node_id = reporter.state.node_id
        self.name = reporter.state.name
        self._door = Door(
            self.node_id,
            trust,
            self._members,
            self._links,
            self._strangers,
            on_shed=self._look_around,
            on_revoked=self.changed,
        )
        self._telling = Telling(reporter, self._links, trust, self._door.shed)

    # ── what others ask ──

    @property
    def refused(self) -> list[Stranger]:
        """Those who were not let in of late, with the reason."""
        return self._strangers.shown(self._loop.time())

    def views(self) -> list[NodeState]:
        """All other nodes of the herd, with status, reason and heard_s as seen from here. Those with one name are told
        apart by their ids."""
        self._notice()
        return self._members.shown(self._loop.time(), self.name)

    def peer(self, node_id: str) -> PeerApi | None:
        """The way to a node of the herd, be it reached or not; None where there is no such node."""
        link = self._links.get(node_id)
        member = node_id in self._members.views or node_id in self._trust.known
        return link.peer if link and member and node_id not in self._trust.revoked else None

    def silent_s(self, node_id: str) -> float:
        """For how long this Mac, awake, has heard nothing of another node; seconds."""
        self._notice()
        view = self._members.views.get(node_id)
        return silent_s(view, self._loop.time()) if view else math.inf

    def state(self) -> NodeState:
        """This node's state, read and stamped now."""
        return self._telling.state()

    def changed(self) -> None:
        """Something changed here, or may have: what matters of it is told within 0.1 s, in a large herd that changes
        all the time within 0.5 s."""
        self._telling.changed()

    def ask(self, node_id: str) -> None:
        """Call a node now, since there is doubt whether it is there."""
        if link := self._links.get(node_id):
            link.alarm.hurry(max(self._loop.time(), link.tried_at + GAP_S))

    def heard(self, caller_id: str, state: NodeState) -> NodeState:
        """Another node told its state; the answer is this one's. `caller_id` is of its certificate. Raises HerdError:
        forbidden or unauthorized where it is not let in, and why."""
        self._notice()
        self._take(caller_id, state)
        link, now = self._links.to(caller_id), self._loop.time()
        if link.failures:
            link.alarm.hurry(max(now, link.tried_at + RETURNS_S))
        else:  # the answer tells it as well as a call
            link.alarm.set(min(now + self._beat_s(), max(now, link.tried_at + REACH_S)))
        answer = self._telling.state_for(link)
        link.told = answer.revision
        link.offered(answer.revoked)
        return answer

    def found(self, found: Found) -> None:
        """Somebody was announced on the network."""
        if found.node_id == self.node_id or found.node_id in self._trust.revoked:
            return
        if found.herd != self._trust.herd_id[:HERD_DIGITS]:
            self._strangers.add(found.node_id, "it is of another herd", self._loop.time())
        elif problem := wire_problem(found.wire):
            self._strangers.add(found.node_id, problem, self._loop.time())
        elif link := self._links.get(found.node_id):
            if link.told_of(found.addresses, sure=False) and link.failures:
                self.ask(found.node_id)
        else:
            self._links.hint(found.node_id, found.addresses)

    def slept(self, unseen_s: float) -> None:
        """This Mac slept, or did not run; `unseen_s` of it are not on the loop's clock."""
        now = self._loop.time()
        log.info("this Mac slept, or did not run: every other node is asked anew")
        self._members.slept(now, unseen_s)
        for link in self._links:
            link.failures = 0
            link.alarm.set(now)
        for seeker in self._seekers:
            seeker.hurry()
        if self._bonjour:
            self._bonjour.stale = True
        self._look_around()

    # ── life ──

    async def start(self, own_addresses: Callable[[], tuple[str, ...]]) -> None:
        """Begin to tell and to listen for others. `own_addresses`: `host:port` where others reach this node now."""
        self._own_addresses = own_addresses
        self._telling.addresses = merged(own_addresses())
        self._telling.state()
        self._meet_known()
        self._tasks = [asyncio.create_task(self._tick(), name="fleet")]
        if self._identify:
            for address in dict.fromkeys(self.settings.peers[:MOST_GIVEN]):
                if parts_of(address) is None:
                    self._turned_away(address, "it is not `host:port`: correct the setting `peers`")
                elif address not in self._telling.addresses:  # a list for all Macs names this one too
                    seeker = Seeker(
                        address, self._identify, reached=self._reached, met=self._met, refused=self._turned_away
                    )
                    self._seekers.append(seeker)
                    self._tasks.append(asyncio.create_task(seeker.run(), name=f"peer {address}"))
        if self.settings.bonjour:
            from herd_mcp.fleet.discovery import Bonjour

            self._bonjour = Bonjour(self.node_id, self.settings.peer_bind, self.found)
            self._tasks.append(asyncio.create_task(self._bonjour.keep(self._announced), name="bonjour"))

    async def close(self, reason: str = "it was stopped") -> None:
        """Tell the others that this node goes, and why; end."""
        self._telling.part(reason)
        words = [(link, self._telling.state_for(link)) for link in self._links]
        tasks = [*self._tasks, *(link.task for link in self._links if link.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING_S):
                last = (link.peer.exchange(state) for link, state in words if not link.failures)
                await asyncio.gather(*last, return_exceptions=True)
        if self._bonjour:
            await self._bonjour.close()

    # ── the others ──

    def _take(self, caller_id: str, state: NodeState) -> None:
        """Believe what a node tells of itself. Raises HerdError where it is not let in."""
        link, new = self._door.take(caller_id, state)
        if link.told_of(state.addresses, sure=True) and link.failures:
            self.ask(caller_id)
        if new:
            self._look_around(always=True)

    def _beat_s(self) -> float:
        return min(BEAT_S, max(self.settings.lease_s / 3, GAP_S)) * self._chance.uniform(0.8, 1.0)

    def _meet_known(self) -> None:
        for node_id, met in list(self._trust.known.items()):
            if node_id != self.node_id and node_id not in self._trust.revoked:
                self._links.meet(node_id, met.addresses)

    def _member(self, node_id: str) -> bool:
        return node_id in self._members.views or node_id in self._trust.known

    # ── loops ──

    async def _keep(self, link: Link) -> None:
        """Exchange states with one node for as long as it may be of the herd."""
        while True:
            await link.alarm.rings()
            problem = await self._exchange(link)
            if not problem:
                link.alarm.set(self._loop.time() + self._beat_s())
                if self._telling.owes(link):
                    self._telling.soon()
                continue
            self._members.failed(link.node_id, problem)
            self._look_around()
            if self._links.given_up(link):
                return
            view = self._members.views.get(link.node_id)
            parted = view is not None and view.state.status == "offline"
            wait_s = LONGEST_BACKOFF_S if parted else backoff_s(link.failures)
            link.alarm.set(self._loop.time() + wait_s * self._chance.uniform(0.8, 1.0))

    async def _exchange(self, link: Link) -> str:
        """One call. What was wrong with it; empty if nothing was."""
        if not link.addresses:
            link.failures += 1
            return "its address is not known"
        link.tried_at = self._loop.time()
        try:
            state = self._telling.state_for(link)
            async with asyncio.timeout(CONTACT_S):
                answer = await link.peer.exchange(state)
            self._take(link.node_id, answer)
        except TimeoutError:
            problem = f"no answer within {CONTACT_S:g} s"
        except HerdError as error:
            problem = error.info.sentence
        except Exception:
            log.exception("the exchange with %s went wrong", link.node_id)
            problem = "internal error of this Mac, see logs/node.log"
        else:
            link.told = max(link.told, state.revision)
            link.knows(state.revoked)
            link.reached()
            self._members.reached(link.node_id)
            self._look_around()
            return ""
        link.missed()
        return problem

    async def _tick(self) -> None:
        looked_at = self._loop.time()
        failed = False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._notice()
                self._members.forget(self._loop.time())
                self._look_around()
                self._meet_known()
                self._links.follow_hints()
                if self._loop.time() - looked_at > OWN_ADDRESSES_EVERY_S:
                    looked_at = self._loop.time()
                    self._find_own_addresses()
                failed = False
            except Exception:  # what goes wrong once must not end the watch for good
                if not failed:
                    log.exception("the look at the herd went wrong")
                failed = True

    def _find_own_addresses(self) -> None:
        now = merged(self._own_addresses())
        if now != self._telling.addresses:
            self._telling.addresses = now
            self.changed()
            if self._bonjour:
                self._bonjour.stale = True

    def _notice(self) -> None:
        """Whether this Mac slept since the last look."""
        unseen_s = self._sleep.slept()
        if unseen_s is not None:
            self.slept(unseen_s)

    def _look_around(self, *, always: bool = False) -> None:
        """Tell those who want to know if the others changed."""
        now = self._members.statuses(self._loop.time())
        if always or now != self._statuses:
            self._statuses = now
            self._on_change()

    # ── finding others ──

    def _announced(self) -> Announced | None:
        from herd_mcp.fleet.discovery import Announced

        others = self._members.views.keys() | (self._trust.known.keys() - {self.node_id})
        if not self._telling.addresses or not (others or self.inviting):
            return None
        return Announced(self.node_id, self._trust.herd_id[:HERD_DIGITS], self._telling.addresses)

    def _reached(self, node_id: str) -> bool:
        link = self._links.get(node_id)
        return node_id == self.node_id or (link is not None and not link.failures)

    def _met(self, node_id: str, address: str) -> None:
        if node_id != self.node_id and node_id not in self._trust.revoked:
            self._links.to(node_id).told_of((address,), sure=False)
            self.ask(node_id)

    def _turned_away(self, who: str, reason: str) -> None:
        self._strangers.add(who, reason, self._loop.time())
