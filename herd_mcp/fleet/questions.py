"""What one node asks each other for people, in bounded time: figures, and whether it is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from herd_mcp.fleet.words import PeerCheck
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.orders import PeerApi
from herd_mcp.state import MemoryState, NodeState, OwnStats

log = logging.getLogger(__name__)

FIGURES_S = 2.5
"""How long another node has to tell its figures; who takes longer is absent."""
CHECK_S = 8.0
"""How long `checked` waits for an answer."""


async def figures_of(state: NodeState, api: PeerApi | None) -> OwnStats | None:
    """What a node counts; None where it does not tell in time. One that is offline is not asked."""
    if api is None or state.status == "offline":
        return None
    try:
        async with asyncio.timeout(FIGURES_S):
            return await api.stats()
    except (TimeoutError, HerdError) as error:
        log.info("%s does not tell its figures: %s", state.name, error)
        return None


async def checked(
    state: NodeState, api: PeerApi | None, addresses: tuple[str, ...], own: Callable[[], NodeState]
) -> PeerCheck:
    """Ask a node now, whatever is known of it, and say what is wrong. `own`: this node's state, which is told."""
    check = PeerCheck(node_id=state.node_id, name=state.name, addresses=addresses, version=state.version)
    began = asyncio.get_running_loop().time()
    try:
        if api is None:
            raise HerdError(ErrorCode.NODE_LOST, "There is no way to it now.", "`herd-mcp status` says why.")
        async with asyncio.timeout(CHECK_S):
            answer = await api.exchange(own())
    except TimeoutError:
        problem = {"reason": "silent", "problem": f"It did not answer within {CHECK_S:g} s."}
    except HerdError as error:
        info = error.info
        problem = {"reason": str(info.details.get("reason", info.code)), "problem": info.message, "hint": info.hint}
    else:
        took_s = round(asyncio.get_running_loop().time() - began, 4)
        ahead_s = max(answer.started_at - time.time(), 0.0)
        return check.model_copy(update={"took_s": took_s, "version": answer.version, "ahead_s": ahead_s})
    stopped = state.status == "offline" and state.reason == "it was stopped"
    return check.model_copy(update={**problem, "stopped": stopped})


def unheard(node_id: str, name: str) -> NodeState:
    """A member of which nothing is known but that there is one."""
    return NodeState(
        node_id=node_id,
        name=name,
        version="",
        status="offline",
        reason="not heard of since this Mac started",
        platform="",
        chip="",
        cpu_cores=0,
        memory=MemoryState(total_bytes=0, available_bytes=0, budget_bytes=0, reserved_bytes=0),
        started_at=0,
    )
