"""The other nodes, for people: who they are, what they have, what they count, and what is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from herd_mcp.fleet import placement
from herd_mcp.fleet.ask import model_of
from herd_mcp.fleet.questions import checked, figures_of, unheard
from herd_mcp.fleet.trust import Trust
from herd_mcp.fleet.words import PeerCheck
from herd_mcp.jobs import HerdError, Kind, Request
from herd_mcp.orders import PeerApi
from herd_mcp.state import NodeState, OwnStats


class Others:
    """`own` and `views` give the states of this node and of the others as they are known now; `api` the way to another
    node, None where there is none; `preferred` the models for requests that name none."""

    def __init__(
        self,
        trust: Trust,
        own: Callable[[], NodeState],
        views: Callable[[], list[NodeState]],
        api: Callable[[str], PeerApi | None],
        preferred: Callable[[Kind], str | None],
    ) -> None:
        self._trust = trust
        self._own = own
        self._views = views
        self._api = api
        self._preferred = preferred

    def everyone(self) -> list[NodeState]:
        """The other members of the herd, those too that were not heard of since this node started."""
        views = self._views()
        heard = {view.node_id for view in views} | self._trust.revoked
        known = self._trust.known.items()
        return [*views, *(unheard(node_id, one.name) for node_id, one in known if node_id not in heard)]

    def default(self, kind: Kind) -> str | None:
        """The model that serves requests which name none."""
        with contextlib.suppress(HerdError):
            return placement.resolved(kind, self._preferred(kind), (self._own(), *self._views()))
        return None

    def warm(self, request: Request) -> bool:
        """Whether other nodes have the request's model loaded, or they alone have it."""
        with contextlib.suppress(HerdError):
            states, preferred = (self._own(), *self._views()), self._preferred(request.kind)
            name = placement.resolve(request, states, preferred)
            there = [model_of(state, name) for state in states[1:] if state.status == "online"]
            known = [model for model in there if model is not None]
            return any(model.loaded for model in known) or (bool(known) and model_of(states[0], name) is None)
        return False

    async def figures(self) -> tuple[list[OwnStats], list[str]]:
        """What the other nodes count, and the names of those that did not tell in time."""
        others = self.everyone()
        told = await asyncio.gather(*(figures_of(state, self._api(state.node_id)) for state in others))
        absent = [state.name for state, stats in zip(others, told, strict=True) if stats is None]
        return [stats for stats in told if stats is not None], absent

    async def check(self) -> list[PeerCheck]:
        """Ask each other member now, and say what is wrong with those that do not answer."""

        def addresses(state: NodeState) -> tuple[str, ...]:
            known = self._trust.known.get(state.node_id)
            return state.addresses or (known.addresses if known else ())

        return list(
            await asyncio.gather(
                *(checked(state, self._api(state.node_id), addresses(state), self._own) for state in self.everyone())
            )
        )
