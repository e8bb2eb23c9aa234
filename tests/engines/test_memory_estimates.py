"""What is computed from a config, against what MLX holds in real engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import CASES, QUICK, Case, Seen, chat, image


def check(seen: Seen) -> None:
    assert seen.computed_weights == pytest.approx(seen.weights, rel=0.1)
    assert seen.computed_peak == pytest.approx(seen.peak, rel=0.2)


@pytest.mark.parametrize("case", QUICK[2:3], ids=str)
def test_weights_are_within_a_tenth_and_peaks_within_a_fifth(tmp_path: Path, case: Case) -> None:
    check(chat(tmp_path, case))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK[2:3]], ids=str)
def test_so_they_are_in_larger_batches_and_longer_chats(tmp_path: Path, case: Case) -> None:
    check(chat(tmp_path, case))


@pytest.mark.parametrize(
    "px", [64, pytest.param(256, marks=pytest.mark.slow), pytest.param(512, marks=pytest.mark.slow)]
)
def test_images_are_within_a_fifth_at_every_size(px: int) -> None:
    check(image(px))
