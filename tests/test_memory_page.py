"""docs/memory.md: its table is what the node's arithmetic says."""

from __future__ import annotations

from benchmarks.parts import fits
from benchmarks.parts.known_models import CHATS, MACS_GIB
from herd_mcp.node.memory import longest_tokens


def test_the_table_of_what_fits_is_made_from_the_arithmetic() -> None:
    page = fits.PAGE.read_text("utf-8")
    assert fits.page_with(page) == page, "make it anew: uv run python -m benchmarks.parts.fits"


def test_a_larger_mac_takes_at_least_as_long_a_conversation() -> None:
    for model in CHATS:
        budgets = [fits.budget_of(gib) for gib in MACS_GIB]
        fitting = [longest_tokens(fits.chat(model, budget), budget, model.context_tokens) for budget in budgets]
        assert fitting == sorted(fitting), model.name
