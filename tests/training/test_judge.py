"""The judge of the built-in image model's pictures: right on what code draws, and no judge that sees what is asked in
anything."""

from __future__ import annotations

import numpy as np
import pytest

from training.image.judge import Verdict, judge
from training.image.shapes import COMBINATIONS, PLACES, SIZES, Scene, picture


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(1)
    sizes, places = tuple(SIZES), tuple(PLACES)
    chosen = [COMBINATIONS[i] for i in rng.permutation(len(COMBINATIONS))[:count]]
    return [
        Scene(shape, foreground, background, sizes[i % len(sizes)], places[i % len(places)])
        for i, (foreground, shape, background) in enumerate(chosen)
    ]


@pytest.mark.parametrize("px", [64, 128])
def test_it_is_right_on_pictures_that_code_draws(px: int) -> None:
    rng = np.random.default_rng(2)
    for scene in scenes(120):
        drawn = picture(scene, px, tuple(rng.uniform(-1, 1, 3)))
        blurred = (drawn + rng.normal(0, 8, drawn.shape)).clip(0, 255).astype(np.uint8)
        for seen in (drawn, blurred):
            verdict = judge(seen)
            assert all(verdict.right(scene).values()), (scene, verdict)


@pytest.mark.parametrize("scale", [64, 8, 4])
def test_it_sees_nothing_in_noise(scale: int) -> None:
    """Noise of single pixels, and of blocks as large as an untrained model draws."""
    rng = np.random.default_rng(3)
    right = 0
    asked = scenes(100)
    for scene in asked:
        blocks = rng.integers(0, 256, (scale, scale, 3)).astype(np.uint8)
        verdict = judge(np.kron(blocks, np.ones((64 // scale, 64 // scale, 1), np.uint8)))
        right += all(verdict.right(scene).values())
    assert right == 0


def test_it_does_not_take_one_thing_for_another() -> None:
    asked = Scene("circle", "red", "white", "medium", "centre")
    for shown, wrong in (
        (Scene("square", "red", "white", "medium", "centre"), "shape"),
        (Scene("circle", "pink", "white", "medium", "centre"), "foreground"),
        (Scene("circle", "red", "gray", "medium", "centre"), "background"),
        (Scene("circle", "red", "white", "small", "centre"), "size"),
        (Scene("circle", "red", "white", "medium", "top left"), "place"),
    ):
        answers = judge(picture(shown, 64)).right(asked)
        assert [thing for thing, right in answers.items() if not right] == [wrong]
    swapped = judge(picture(Scene("circle", "white", "red"), 64)).right(asked)
    assert not swapped["foreground"]
    assert not swapped["background"]


def test_an_empty_picture_has_only_a_background() -> None:
    assert judge(np.full((64, 64, 3), 255, np.uint8)) == Verdict("white")
    assert judge(np.full((128, 128, 3), (70, 200, 70), np.uint8)).foreground is None
