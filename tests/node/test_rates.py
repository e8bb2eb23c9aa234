"""How fast a Mac is taken to be: by its chip, by what was measured, and by what is usual once that is old."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.node import rates
from herd_mcp.node.rates import (
    CHIPS,
    FRESH_S,
    UNKNOWN,
    UNKNOWN_RATES,
    Place,
    Rates,
    Seen,
    chip_of,
    first_rates,
    seen_again,
    value_at,
)
from herd_mcp.settings import GIB
from herd_mcp.state import decode_slowdown

PLACE: Place = ("m", None, "decode")


def learned(guess: float, *values: float, every_s: float = 1.0) -> Seen:
    seen = None
    for number, value in enumerate(values):
        seen = seen_again(seen, guess, value, number * every_s)
    assert seen is not None
    return seen


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("Apple M1", CHIPS[1, ""]),
        ("Apple M3 Ultra", CHIPS[3, "Ultra"]),
        ("Apple M4 Pro", CHIPS[4, "Pro"]),
        ("Apple M9 Max", CHIPS[5, "Max"]),
        ("Apple M5 Ultra", CHIPS[3, "Ultra"]),
        ("Apple M0 Pro", UNKNOWN),
        ("VirtualApple @ 2.50GHz", UNKNOWN),
        ("AMD EPYC", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_chip_is_known_by_its_name_and_a_newer_one_is_as_the_newest_of_its_tier(name: str, chip: rates.Chip) -> None:
    assert chip_of(name) == chip


def test_within_a_generation_a_higher_tier_has_more_of_both_and_nothing_is_less_than_a_cpu() -> None:
    for generation in range(1, 6):
        tiers = [CHIPS[generation, tier] for tier in ("", "Pro", "Max", "Ultra") if (generation, tier) in CHIPS]
        assert tiers == sorted(tiers, key=lambda chip: chip.flops)
        assert tiers == sorted(tiers, key=lambda chip: chip.bytes_s)
    assert all(chip.bytes_s > UNKNOWN.bytes_s and chip.flops > UNKNOWN.flops for chip in CHIPS.values())


@pytest.mark.parametrize(
    ("chip", "file_gib", "bits", "active", "decode", "prefill"),
    [
        # Published: 8 billion weights of 4 bits on an M3 Max answer with about 60 tokens/s and read 500 to 700.
        ("Apple M3 Max", 4.2, 4, 1.0, 60, 500),
        # The same on an M1: about 10 and 80 to 100.
        ("Apple M1", 4.2, 4, 1.0, 11, 80),
        # 30 billion weights in experts, of which 3 are used, on an M4 Max: about 80 to 100 tokens/s.
        ("Apple M4 Max", 16.0, 4, 0.16, 90, 950),
    ],
)
def test_what_is_guessed_of_chats_is_within_double_and_half_of_what_people_report(
    chip: str, file_gib: float, bits: int, active: float, decode: float, prefill: float
) -> None:
    size = int(file_gib * GIB)
    first = first_rates(chip_of(chip), "chat", size, size, bits, active)
    assert decode / 2 < first.decode < decode * 2
    assert prefill / 2 < first.prefill < prefill * 2


def test_what_is_guessed_of_images_is_within_double_and_half_of_what_people_report() -> None:
    """FLUX.1 dev, 34 GB with its encoders, quantised to 8 bits, on an M3 Max: 5 to 6 s for a step of a megapixel."""
    first = first_rates(chip_of("Apple M3 Max"), "image", 34 * 10**9, 18 * 10**9, 8)
    assert 2.7 < first.step_s < 11
    assert first.load_s == pytest.approx(34)


def test_a_measurement_counts_at_once_and_several_settle() -> None:
    assert 30 < learned(10, 60).recent < 60
    assert learned(10, *[60] * 5).recent == pytest.approx(60, rel=0.1)
    assert learned(10, *[60] * 20).recent == pytest.approx(60, rel=0.01)


def test_one_bad_sample_is_not_for_ever() -> None:
    bad = learned(10, 1000)
    assert value_at(bad, 10, FRESH_S) == bad.recent
    later = [value_at(bad, 10, FRESH_S * times) for times in (1, 2, 3, 5, 9)]
    assert later == sorted(later, reverse=True)
    assert later[-1] < 20
    among_good = learned(10, *[50] * 20, 5000)
    assert value_at(among_good, 10, 20 + 9 * FRESH_S) == pytest.approx(50, rel=0.15)
    assert among_good.recent < 50 * rates.ODD**rates.LATEST * 1.01


def test_what_was_measured_often_is_still_known_after_a_night() -> None:
    assert value_at(learned(10, *[50] * 60), 10, 86_400) == pytest.approx(50, rel=0.05)


def test_a_clock_that_was_set_back_forgets_nothing() -> None:
    seen = seen_again(None, 10, 50, now=1e6)
    assert value_at(seen, 10, now=0) == seen.recent


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30), st.floats(1e-6, 1e8), st.floats(0, 1e9))
def test_no_measurement_makes_a_rate_that_is_no_rate(values: list[float], guess: float, now: float) -> None:
    value = value_at(learned(guess, *values), guess, now)
    assert math.isfinite(value)
    assert rates.LEAST * 0.99 <= value <= rates.MOST * 1.01


def test_rates_are_kept_and_bounded_and_what_makes_no_sense_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Rates()
    row = known.learn(PLACE, 10, 60, now=5)
    again = Rates()
    nonsense = [(PLACE, Seen(math.nan, 1, 1, 0)), (PLACE, Seen(-1, 1, 1, 0)), (PLACE, Seen(1, 1, 0, 0))]
    again.load([*nonsense, (PLACE, row)])
    assert again.seen == {PLACE: row}
    assert again.chat("m", None, UNKNOWN_RATES, 5).decode_tokens_per_s == pytest.approx(row.recent, rel=1e-3)
    monkeypatch.setattr(rates, "MAX_KEPT", 3)
    for number in range(9):
        known.learn((f"m{number}", None, "decode"), 10, 60, now=5)
    assert [model for model, _, _ in known.seen] == ["m6", "m7", "m8"]


def test_a_stream_of_a_batch_is_slower_than_a_lone_one_and_the_batch_is_faster_than_it() -> None:
    slower = [decode_slowdown(batch) for batch in range(1, 65)]
    assert slower[0] == 1
    assert slower == sorted(slower)
    together = [batch / decode_slowdown(batch) for batch in range(1, 65)]
    assert together == sorted(together)
    assert decode_slowdown(0) == 1
