"""`herd-mcp up` with estimates of memory that are half of what they should be."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from herd_mcp.__main__ import main
from herd_mcp.node.memory import Needs
from herd_mcp.node.node import Node
from herd_mcp.pipe import CacheShape


def halved(needs: Needs) -> Needs:
    """Half of it, all over."""
    cache = needs.cache and CacheShape(
        token_bytes=needs.cache.token_bytes // 2,
        window_token_bytes=needs.cache.window_token_bytes // 2,
        window_tokens=needs.cache.window_tokens,
        fixed_bytes=needs.cache.fixed_bytes // 2,
    )
    return Needs(needs.load_bytes // 2, needs.work_bytes // 2, cache, needs.px_bytes / 2)


def halve_estimates() -> None:
    node: Any = Node
    plan = node.plan

    async def planned(self: Node, *words: Any) -> Any:
        found = await plan(self, *words)
        return dataclasses.replace(found, needs=halved(found.needs))

    node.plan = planned


if __name__ == "__main__":
    halve_estimates()
    sys.argv = ["herd-mcp", "up"]
    sys.exit(main())
