"""The placer of a Mac without others: everything runs here."""

from __future__ import annotations

from herd_mcp.jobs import NodeEstimate
from herd_mcp.orders import Order, Placed, Runner


class Alone:
    """`orders.Placer` with one runner."""

    patience_s = 0.0

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def place(self, order: Order, *, avoid: frozenset[str] = frozenset()) -> Placed:
        """Raises HerdError as the runner."""
        accepted = await self._runner.reserve(order)
        return Placed(
            order, self._runner, accepted, (NodeEstimate(node=self._runner.name, node_id=self._runner.node_id),)
        )

    def runner(self, node_id: str) -> Runner | None:
        return self._runner if node_id == self._runner.node_id else None

    def note_failure(self, node_id: str) -> None: ...

    def elsewhere(self, placed: Placed, *, avoid: frozenset[str] = frozenset()) -> bool:
        return False
