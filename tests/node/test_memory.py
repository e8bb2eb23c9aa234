"""The ledger's arithmetic."""

from __future__ import annotations

import pytest

from herd_mcp.node.memory import budget_bytes, engine_bytes
from herd_mcp.settings import GIB, load_settings


@pytest.mark.parametrize(("total", "budget"), [(8, 6), (16, 12), (64, 48), (4, 2), (1, 0)])
def test_a_quarter_of_the_mac_and_at_least_two_gib_are_left_to_its_owner(total: int, budget: int) -> None:
    assert budget_bytes(load_settings(), total * GIB) == budget * GIB


def test_the_owners_floor_and_budget_stand_before_the_default() -> None:
    assert budget_bytes(load_settings(memory_floor_bytes=GIB), 8 * GIB) == 7 * GIB
    assert budget_bytes(load_settings(memory_budget_bytes=3 * GIB), 8 * GIB) == 3 * GIB


def test_quantising_while_loading_shrinks_the_weights_and_a_quantised_checkpoint_stays() -> None:
    full = engine_bytes("image", 16 * GIB, None, None, builtin=False)
    assert full - engine_bytes("image", 16 * GIB, None, 8, builtin=False) == int(7.5 * GIB)
    assert engine_bytes("image", 8 * GIB, 8, 4, builtin=False) == engine_bytes("image", 8 * GIB, 8, None, builtin=False)


def test_built_in_models_reserve_little() -> None:
    assert engine_bytes("image", 5_000_000, None, None, builtin=True) < GIB / 2
