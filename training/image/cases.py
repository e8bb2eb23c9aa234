"""The held-out list: prompts of combinations that no training caption has, with the seed of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.image import captions
from training.image.shapes import PLACES, Scene

SEED = 90210


@dataclass(frozen=True)
class Case:
    prompt: str
    scene: Scene
    seed: int


def held_out(each: int = 32) -> dict[str, list[Case]]:
    """`each` cases of every form, always the same."""
    every = sorted(captions.HELD_OUT)
    scenes = [Scene(shape, foreground, background) for foreground, shape, background in every]
    implied = [scene for scene in scenes if scene.background == captions.implied_background(scene.foreground)]
    swapped = [scene for scene in scenes if captions.is_swapped(scene)]
    plain = [scene for scene in scenes if not captions.is_swapped(scene)]
    forms: dict[str, list[Case]] = {}
    for number, (form, suited) in enumerate(
        {
            "plain": plain,
            "no background": implied,
            "swapped colours": swapped,
            "size": scenes,
            "position": scenes,
            "extra words": scenes,
            "unknown words": scenes,
        }.items()
    ):
        rng = np.random.default_rng([SEED, number])
        order = [suited[i % len(suited)] for i in rng.permutation(-(-each // len(suited)) * len(suited))[:each]]
        forms[form] = [_case(rng, form, i, scene) for i, scene in enumerate(order)]
    return forms


def _case(rng: np.random.Generator, form: str, number: int, scene: Scene) -> Case:
    foreground, shape, background = scene.combination
    if form == "size":
        scene = Scene(shape, foreground, background, size=("small", "large")[number % 2])
    elif form == "position":
        scene = Scene(shape, foreground, background, place=tuple(PLACES)[number % len(PLACES)])
    prompt = captions.write(rng, scene, name_background=form != "no background")
    if form == "extra words":
        prompt = captions.wrap(rng, prompt, scene)
    elif form == "unknown words":
        prompt = captions.disturb(rng, prompt)
    return Case(prompt, scene, int(rng.integers(1, 2**31)))
