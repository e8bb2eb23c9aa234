"""`herd-mcp up` with estimates of memory that are half of what they should be."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from herd_mcp.__main__ import main
from herd_mcp.node import memory
from herd_mcp.node.memory import Needs


def halve_estimates() -> None:
    """What is computed comes out at half, whatever was learned of its parts."""
    arithmetic: Any = memory
    for name in ("chat_needs", "image_needs"):
        setattr(arithmetic, name, halved(getattr(arithmetic, name)))


def halved(needs_of: Callable[..., Needs]) -> Callable[..., Needs]:
    def half(*facts: Any, **more: Any) -> Needs:
        needs = needs_of(*facts, **more)
        parts = ("px_bytes", "strip_bytes", "row_bytes", "token_bytes", "pair_bytes", "copies")
        return dataclasses.replace(
            needs,
            load_bytes=needs.load_bytes // 2,
            work_bytes=needs.work_bytes // 2,
            proof_bytes=needs.proof_bytes // 2,
            states=needs.states and type(needs.states)(*(part / 2 for part in dataclasses.astuple(needs.states))),
            **{part: getattr(needs, part) / 2 for part in parts},
        )

    return half


if __name__ == "__main__":
    halve_estimates()
    sys.argv = ["herd-mcp", "up"]
    sys.exit(main())
