"""Says what a picture shows, by code alone: both colours, the shape, its size and its place.

The background is what the rim has in common. What differs from it is compared with each shape, drawn where and as
large as that. A picture that fits nothing, such as noise, gets None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.image.shapes import COLOURS, PALETTE, PLACES, SHAPES, SIZES, Scene, grid, outline

COLOUR_BOUND = 75.0
"""A colour further than this from all twelve is none of them; 110 is the least between two of the twelve."""
RIM_ALIKE = 0.75
OVERLAP = 0.7
"""Least share of the common area in the joint area of what is seen and the best shape."""
PLACE_BOUND = 0.1


@dataclass(frozen=True)
class Verdict:
    background: str | None = None
    foreground: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None
    overlap: float = 0.0

    def right(self, scene: Scene) -> dict[str, bool]:
        """Each thing that the scene asks for, and whether it is there."""
        answers = {
            "foreground": self.foreground == scene.foreground,
            "background": self.background == scene.background,
            "shape": self.shape == scene.shape,
        }
        if scene.size:
            answers["size"] = self.size == scene.size
        if scene.place:
            answers["place"] = self.place == scene.place
        return answers


def judge(picture: NDArray[np.uint8]) -> Verdict:
    """`picture` is [height, width, 3]."""
    pixels = picture.astype(np.float64)
    height, width, _ = pixels.shape
    side = min(height, width)
    rim = _rim(pixels, max(2, side // 16))
    middle = np.median(rim, axis=0)
    if (_distance(rim, middle) < COLOUR_BOUND).mean() < RIM_ALIKE:
        return Verdict()
    background = _nearest(middle)
    different = _distance(pixels, middle)
    strongest = float(np.quantile(different, 0.99))
    if strongest < 30:
        return Verdict(background)
    seen = different > strongest / 2
    foreground = _nearest(np.median(pixels[different > 0.85 * strongest], axis=0))
    shape, x, y, overlap = _best_shape(seen)
    if overlap < OVERLAP:
        return Verdict(background, foreground, overlap=overlap)
    radius = math.sqrt(seen.sum() / math.pi) / side
    return Verdict(background, foreground, shape, _size(radius), _place(x * side / width, y * side / height), overlap)


def _rim(pixels: NDArray[np.float64], thick: int) -> NDArray[np.float64]:
    inner = np.zeros(pixels.shape[:2], bool)
    inner[thick:-thick, thick:-thick] = True
    return pixels[~inner]


def _distance(pixels: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.sqrt(((pixels - colour) ** 2).sum(-1))
    return distance


def _nearest(colour: NDArray[np.float64]) -> str | None:
    distances = [math.dist(colour, PALETTE[name]) for name in COLOURS]
    best = int(np.argmin(distances))
    return COLOURS[best] if distances[best] <= COLOUR_BOUND else None


def _centroid(mask: NDArray[np.bool_], across: NDArray[np.float32], down: NDArray[np.float32]) -> tuple[float, float]:
    return float(across[mask].mean()), float(down[mask].mean())


def _best_shape(seen: NDArray[np.bool_]) -> tuple[str, float, float, float]:
    """The shape that covers most of `seen` and little else, its centre, and how well it does."""
    height, width = seen.shape
    across, down = grid(height, width)
    at_x, at_y = _centroid(seen, across, down)
    radius = math.sqrt(seen.sum() / math.pi) / min(height, width)
    found = []
    for shape in SHAPES:
        # A shape's centre is not always its centroid: draw it once to learn the difference.
        first = outline(np, shape, radius, across - at_x, down - at_y) > 0
        x, y = at_x, at_y
        if first.any():
            drawn_x, drawn_y = _centroid(first, across, down)
            x, y = 2 * at_x - drawn_x, 2 * at_y - drawn_y
        drawn = outline(np, shape, radius, across - x, down - y) > 0
        found.append((float((drawn & seen).sum() / max(1, (drawn | seen).sum())), shape, x, y))
    overlap, shape, x, y = max(found)
    return shape, x, y, overlap


def _size(radius: float) -> str:
    return min(SIZES, key=lambda size: abs(math.log(max(radius, 1e-6) / SIZES[size])))


def _place(x: float, y: float) -> str:
    """By x and y in sides, 0 in the centre."""
    column, row = (0 if abs(value) < PLACE_BOUND else int(math.copysign(1, value)) for value in (x, y))
    return next(place for place, at in PLACES.items() if at == (column, row))
