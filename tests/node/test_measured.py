"""What was measured corrects the next plan, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from herd_mcp.herd import open_herd
from herd_mcp.node.history import History
from herd_mcp.node.measured import LEAST, MOST, Known, Measurements
from herd_mcp.node.memory import Needs, chat_needs, image_needs
from herd_mcp.node.needs import needs_of
from herd_mcp.node.shapes import LARGEST
from herd_mcp.pipe import CacheShape, ChatFacts, ImageFacts, Peak, Ready
from herd_mcp.settings import GIB, MIB, load_settings
from herd_mcp.state import MAX_ESTIMATES_TOLD, ModelInfo
from tests.node.test_memory import QWEN3_8B

SHAPE = CacheShape(token_bytes=1000)


def plan(measured: Measurements) -> Needs:
    known = measured.get("m", None)
    return chat_needs(QWEN3_8B, 5 * GIB, prompt_cache_bytes=0, fused=True, cache=known.cache, factors=known.factors)


def ended(needs: Needs, times: float, rows: int = 4, tokens: int = 4096) -> ChatFacts:
    """A batch that took so many times the work that was computed at first."""
    sizes = [tokens] * rows
    work = needs.computed_for(sizes)
    peak = 5 * GIB + needs.caches_for(sizes) + int(times * work)
    return ChatFacts(
        finish_reason="stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1, prefill_s=0, decode_s=0,
        peak=Peak(active_bytes=peak, peak_bytes=peak, rows=rows, tokens=tokens),
    )  # fmt: skip


def factor(measured: Measurements) -> float:
    """Of the one shape that was measured."""
    ((_, factor),) = measured.get("m", None).factors
    return factor


def learned() -> Measurements:
    measured = Measurements()
    measured.ready("m", None, Ready(weights_bytes=5 * GIB, active_bytes=1, peak_bytes=1), 1.0)
    return measured


def test_a_peak_above_the_plan_raises_the_next_plan_at_once_and_one_below_lowers_it_slowly() -> None:
    measured = learned()
    measured.done("m", None, plan(measured), ended(plan(measured), 2.0), 2.0)
    assert factor(measured) == pytest.approx(2.0, rel=0.2)
    assert plan(measured).work_for([4096]) > 1.6 * plan(learned()).work_for([4096])
    high = factor(measured)
    measured.done("m", None, plan(measured), ended(plan(measured), 1.0), 3.0)
    assert 0.75 * high < factor(measured) < high
    for _ in range(40):
        measured.done("m", None, plan(measured), ended(plan(measured), 1.0), 4.0)
    assert factor(measured) == pytest.approx(1.0, abs=0.06)


def test_a_short_chat_says_little_of_a_long_one() -> None:
    measured = learned()
    measured.done("m", None, plan(measured), ended(plan(measured), 3.0, rows=1, tokens=20), 2.0)
    assert factor(measured) < 1.2


def test_the_death_of_a_working_engine_raises_and_never_over_the_bound() -> None:
    measured = learned()
    measured.died("m", None, plan(measured), [4096] * 4, 2.0)
    assert factor(measured) == 1.5
    for _ in range(9):
        measured.died("m", None, plan(measured), [4096] * 4, 3.0)
    assert factor(measured) == MOST
    for _ in range(99):
        measured.done("m", None, plan(measured), ended(plan(measured), 0.0), 4.0)
    assert factor(measured) >= LEAST


def test_the_measured_cache_stands_before_the_computed_one() -> None:
    measured = learned()
    ready = Ready(weights_bytes=GIB, active_bytes=1, peak_bytes=1, cache=SHAPE)
    assert measured.ready("m", None, ready, 2.0) is not None
    assert plan(measured).caches_for([256]) == 512_000
    assert measured.ready("m", None, ready, 3.0) is None, "nothing new"


def test_an_image_is_corrected_by_its_pixels() -> None:
    measured = learned()
    needs = image_needs("dev", 5 * GIB, builtin=False)
    px = 1024 * 1024
    peak = 5 * GIB + 3 * needs.work_for([px])
    facts = ImageFacts(
        width=1024, height=1024, steps=4, seed=1, guidance=None, quantize=8, run_s=1,
        peak=Peak(active_bytes=1, peak_bytes=peak),
    )  # fmt: skip
    measured.done("m", None, needs, facts, 2.0)
    assert factor(measured) == pytest.approx(3.0, rel=0.1)


def test_what_says_nothing_changes_nothing() -> None:
    measured = learned()
    silent = ended(plan(measured), 1.0).model_copy(update={"peak": None})
    assert measured.done("m", None, plan(measured), silent, 2.0) is None
    empty = ended(plan(measured), 1.0).model_copy(update={"peak": Peak(active_bytes=1, peak_bytes=9, rows=0)})
    assert measured.done("m", None, plan(measured), empty, 2.0) is None


async def test_what_was_measured_survives_a_restart(tmp_path: Path) -> None:
    known = Known(
        factors=((28, 0.9), (33, 1.7)), weights_bytes=5 * MIB, cache=SHAPE, held_bytes=7 * MIB, measured_at=3.0
    )
    history = await History.open(tmp_path / "herd.db")
    history.write_measured("m", None, Known(factors=((33, 3.0),)))
    history.write_measured("m", None, known)
    history.write_measured("m", 8, Known(factors=((33, 1.2),), measured_at=4.0))
    await history.close()
    again = await History.open(tmp_path / "herd.db")
    measured = Measurements()
    measured.load(await again.measured())
    await again.close()
    assert measured.get("m", None) == known
    told = [(each.quantize, each.factor, each.by_work_mib) for each in measured.estimates()]
    assert told == [(None, 1.7, {256: 0.9, 8192: 1.7}), (8, 1.2, {8192: 1.2})]


def test_of_all_that_was_ever_measured_the_newest_fits_into_a_nodes_state() -> None:
    measured = Measurements()
    measured.load((f"m{n}", None, Known(factors=((33, 1.2),), measured_at=n)) for n in range(2 * MAX_ESTIMATES_TOLD))
    told = {estimate.measured_at for estimate in measured.estimates()}
    assert told == set(range(MAX_ESTIMATES_TOLD, 2 * MAX_ESTIMATES_TOLD))


async def test_a_node_starts_with_what_was_measured_and_plans_with_it(herd_home: Path) -> None:
    from tests.engines.pipe_client import ask_chat

    herd_home.mkdir()
    history = await History.open(herd_home / "herd.db")
    history.write_measured("herd-tiny-chat", None, Known(factors=((LARGEST, 3.0),), measured_at=4.0))
    await history.close()
    async with open_herd(load_settings()) as herd:
        (told,) = herd._node.state().estimates
        assert (told.model, told.factor) == ("herd-tiny-chat", 3.0)
        planned = await herd._node.plan(ask_chat("Hi", model="herd-tiny-chat"))
        assert planned.needs.factors == ((LARGEST, 3.0),)
        assert planned.spec.cache_limit_bytes
        assert planned.spec.prompt_cache_bytes == 16 * MIB


def test_an_engine_that_was_ended_for_what_it_held_gets_it_from_the_beginning_and_the_largest_counts() -> None:
    measured = Measurements()
    for held_bytes in (3 * GIB, 7 * GIB, 5 * GIB):
        measured.outgrown("m", None, held_bytes, 1.0)
    assert measured.get("m", None).held_bytes == 7 * GIB
    assert [estimate.held_bytes for estimate in measured.estimates()] == [7 * GIB]


def test_what_an_engine_was_ended_for_is_forgotten_when_others_hold_less() -> None:
    measured = Measurements()
    measured.outgrown("m", None, 4 * GIB, 1.0)
    told = [known.held_bytes for _ in range(20) if (known := measured.held_less("m", None, GIB, 2.0))]
    assert told == sorted(told, reverse=True)
    assert told[-1] == 0


def test_weights_measured_of_other_files_under_the_same_name_do_not_count() -> None:
    model = ModelInfo(
        name="m", kind="chat", family="qwen3", source="herd", path="/nowhere", bytes=4 * GIB, complete=True, bits=4
    )
    settings = load_settings()
    plain = needs_of(model, None, settings, 16 * GIB)
    assert needs_of(model, None, settings, 16 * GIB, Known(weights_bytes=9 * GIB)) == plain
    assert needs_of(model, None, settings, 16 * GIB, Known(weights_bytes=5 * GIB - 1)).load_bytes > plain.load_bytes
