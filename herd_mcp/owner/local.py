"""This Mac's node as a runner of attempts."""

from __future__ import annotations

from collections.abc import Callable

from herd_mcp.jobs import JobEvent
from herd_mcp.node.node import Node
from herd_mcp.orders import Accepted, Ending, Order


class LocalRunner:
    """`orders.Runner` over the node of this process. `check` looks at an order in the step that reserves its place, and
    raises Later where it is not to be taken."""

    def __init__(
        self,
        node: Node,
        check: Callable[[Order], None] = lambda order: None,
        on_end: Callable[[Order, Ending], None] = lambda order, ending: None,
    ) -> None:
        self._node = node
        self._check = check
        self.on_end = on_end
        """Called with each attempt's end."""
        self.node_id, self.name = node.node_id, node.name

    async def reserve(self, order: Order) -> Accepted:
        """Raises HerdError as `Node.plan` and `Node.reserve`, or Later."""
        assert order.job.request is not None
        plan = await self._node.plan(order.job.request)
        self._check(order)
        self._node.reserve(order.job, order.attempt, plan, spool=order.spool, forced=order.forced, alone=order.alone)
        return Accepted(model=plan.spec.model)

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        """As `Node.run`; the listener must return at once and ask nothing of the node."""
        ending = await self._node.run(order.job.id, order.attempt, listener)
        self.on_end(order, ending)
        return ending

    def give_back(self, job_id: str, attempt: int) -> None:
        """Undo `reserve` for an attempt that will not run."""
        self._node.give_back(job_id, attempt)

    def cancel(self, job_id: str, attempt: int) -> None:
        """End the attempt at its next token or step."""
        self._node.cancel(job_id, attempt)

    async def take_back(self, job_id: str, attempt: int) -> bool:
        """Whether the attempt had not begun and is undone."""
        return self._node.take_back(job_id, attempt)
