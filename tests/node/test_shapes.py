"""Corrections of small and large work apart: what was seen of one is not believed of the other."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from herd_mcp.node.measured import LEAST, MOST, Measurements
from herd_mcp.node.memory import Needs, image_needs
from herd_mcp.node.shapes import LARGEST, SMALL_BYTES, Factors, corrected, factor_at, shape_of, with_factor
from herd_mcp.pipe import ImageFacts, Peak, Ready
from herd_mcp.settings import GIB, MIB

MEASURED = ((30, 1.5), (33, 0.6))
FACTORS = st.dictionaries(st.integers(27, LARGEST), st.floats(LEAST, MOST)).map(
    lambda some: tuple(sorted(some.items()))
)
WORK = st.builds(lambda shape, part: int(2**shape * part), st.integers(24, 44), st.floats(0.5, 1.0))


def test_a_shape_is_a_power_of_two_of_what_was_computed_and_the_small_ones_are_one() -> None:
    assert [shape_of(work) for work in (0, SMALL_BYTES, GIB - 1, GIB, 2 * GIB - 1)] == [27, 27, 30, 31, 31]
    assert shape_of(2**60) == LARGEST


def test_what_was_not_measured_is_as_the_next_larger_and_beyond_all_no_less_than_computed() -> None:
    assert [factor_at(MEASURED, shape) for shape in (27, 30, 31, 33, 34)] == [1.5, 1.5, 0.6, 0.6, 1.0]
    assert factor_at(((30, 1.5),), 31) == 1.5
    assert factor_at((), 31) == 1.0


@example(MEASURED, 2**30 - 1, 2**30)
@given(FACTORS, WORK, WORK)
def test_more_work_never_takes_less(factors: Factors, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert corrected(factors, less) <= corrected(factors, more)


@given(FACTORS, WORK)
def test_a_correction_stays_within_its_bounds(factors: Factors, work: int) -> None:
    assert corrected(factors, work) <= MOST * max(work, SMALL_BYTES * 2)
    assert corrected((), work) == work


def drawn(side: int, work: float) -> ImageFacts:
    peak = Peak(active_bytes=1, peak_bytes=5 * GIB + int(work))
    return ImageFacts(width=side, height=side, steps=4, seed=1, guidance=None, quantize=8, run_s=1, peak=peak)


def test_small_pictures_that_take_little_teach_nothing_of_a_large_one_nor_large_ones_of_small() -> None:
    measured = Measurements()
    measured.ready("m", 8, Ready(weights_bytes=5 * GIB, active_bytes=1, peak_bytes=1), 1.0)

    def plan() -> Needs:
        return image_needs("dev", 5 * GIB, builtin=False, factors=measured.get("m", 8).factors)

    computed = {side: plan().work_for([side * side]) for side in (512, 2048)}
    for _ in range(40):
        measured.done("m", 8, plan(), drawn(512, 0.5 * computed[512]), 2.0)
    assert plan().work_for([512 * 512]) < 0.65 * computed[512]
    assert plan().work_for([2048 * 2048]) == computed[2048]
    measured.done("m", 8, plan(), drawn(2048, 1.5 * computed[2048]), 3.0)
    assert plan().work_for([2048 * 2048]) > 1.45 * computed[2048]
    assert plan().work_for([512 * 512]) < 0.65 * computed[512]


def test_the_death_of_an_engine_raises_what_it_worked_on_and_what_is_larger() -> None:
    measured = Measurements()
    needs = image_needs("dev", 5 * GIB, builtin=False)
    measured.died("m", 8, needs, [1024 * 1024], 2.0)
    after = image_needs("dev", 5 * GIB, builtin=False, factors=measured.get("m", 8).factors)
    for side in (1024, 2048):
        assert after.work_for([side * side]) == int(1.5 * needs.work_for([side * side]))


def test_however_much_is_measured_little_is_kept() -> None:
    factors: Factors = ()
    for megabytes in range(1, 100_000, 7):
        factors = with_factor(factors, shape_of(megabytes * MIB), 1.1)
    assert len(factors) <= 17
