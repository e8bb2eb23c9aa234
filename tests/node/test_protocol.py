"""What the node makes of an engine that says that it waits for its turn at the GPU."""

from __future__ import annotations

from typing import Literal

import pytest

from herd_mcp import pipe
from herd_mcp.node.lanes import Engine
from herd_mcp.node.protocol import MAX_VAIN_MESSAGES, check


@pytest.mark.parametrize("phase", ["starting", "ready"])
def test_waiting_for_a_turn_is_life_for_a_time_and_not_for_ever(phase: Literal["starting", "ready"]) -> None:
    engine = Engine(generation=1, reserved_bytes=0, started_at=0.0, phase=phase)
    for second in range(1, MAX_VAIN_MESSAGES + 1):
        assert check(engine, "chat", pipe.WaitingForTurn(waited_s=second), float(second)) is None
        assert engine.last_progress_at == second
    wrong = check(engine, "chat", pipe.WaitingForTurn(waited_s=1.0), 2000.0)
    assert wrong is not None
    assert "without progress" in wrong
