"""The world of the pictures: twelve colours, four shapes, three sizes, nine places, and how code draws them.

Lengths are fractions of the picture's shorter side, positions of each side; a shape of size r covers the area of a
circle of radius r. `outline` takes numpy or jax.numpy, so that training and judging mean the same shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 70, 220),
    "yellow": (245, 220, 30),
    "orange": (250, 140, 20),
    "purple": (130, 40, 170),
    "pink": (250, 140, 190),
    "cyan": (40, 210, 220),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "brown": (115, 70, 35),
}
COLOURS = tuple(PALETTE)
FOREGROUNDS = COLOURS[:10]
SHAPES = ("circle", "square", "triangle", "star")
SIZES = {"small": 0.115, "medium": 0.19, "large": 0.29}
_REACH = {"small": 0.22, "medium": 0.18, "large": 0.15}
"""How far from the centre a place is: less for larger shapes, which would leave the picture."""
PLACES: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
SIZE_PLAY = 0.09
"""A seed makes the shape up to this much larger or smaller."""
PLACE_PLAY = {"": 0.065, "centre": 0.03}
_OTHER_PLACE_PLAY = 0.03


@dataclass(frozen=True)
class Scene:
    """What a caption asks for. Empty size or place: the caption does not say, so medium or about the centre."""

    shape: str
    foreground: str
    background: str
    size: str = ""
    place: str = ""

    @property
    def combination(self) -> tuple[str, str, str]:
        return self.foreground, self.shape, self.background

    def numbers(self) -> tuple[float, ...]:
        """For `place_shapes`: shape, radius, centre, play of the centre, foreground and background in -1…1."""
        size = self.size or "medium"
        x, y = PLACES[self.place or "centre"]
        colours = (channel / 127.5 - 1 for name in (self.foreground, self.background) for channel in PALETTE[name])
        play = PLACE_PLAY.get(self.place, _OTHER_PLACE_PLAY)
        return (SHAPES.index(self.shape), SIZES[size], x * _REACH[size], y * _REACH[size], play, *colours)


COMBINATIONS = [
    (foreground, shape, background)
    for foreground in FOREGROUNDS
    for shape in SHAPES
    for background in COLOURS
    if foreground != background
]


def outline(xp: Any, shape: str, r: Any, x: Any, y: Any) -> Any:
    """The distance of the point (x, y) to the edge of a shape of size `r` around 0; positive inside."""
    if shape == "circle":
        return r - xp.sqrt(x * x + y * y + 1e-9)
    if shape == "square":
        return math.sqrt(math.pi) / 2 * r - xp.maximum(xp.abs(x), xp.abs(y))
    if shape == "triangle":
        corner = math.sqrt(4 * math.pi / (3 * math.sqrt(3))) * r  # from the centroid, which lies below the middle
        down = y - corner / 4
        slope = corner / 2 + down / 2
        return xp.minimum(corner / 2 - down, slope - math.sqrt(3) / 2 * xp.abs(x))
    fifth, inner = 2 * math.pi / 5, 0.42
    tip = math.sqrt(math.pi / (5 * inner * math.sin(fifth / 2))) * r
    angle = xp.arctan2(x, -y + 1e-9)
    distance = xp.sqrt(x * x + y * y + 1e-9)
    folded = xp.abs(xp.mod(angle + fifth / 2, fifth) - fifth / 2)
    along, across = distance * xp.cos(folded), distance * xp.sin(folded)
    edge_x, edge_y = inner * math.cos(fifth / 2) - 1, inner * math.sin(fifth / 2)
    return -((along - tip) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


def grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of every pixel's middle, 0 in the centre, in shorter sides."""
    side = min(height, width)
    y = ((np.arange(height) + 0.5 - height / 2) / side).astype(np.float32)
    x = ((np.arange(width) + 0.5 - width / 2) / side).astype(np.float32)
    return np.broadcast_to(x[None], (height, width)), np.broadcast_to(y[:, None], (height, width))


def place_shapes(numbers: Any, play: Any) -> Any:
    """Scenes' numbers with a seed's play (radius, x, y in -1…1) applied: shape, radius, x, y, six colour channels."""
    import jax.numpy as jnp

    radius = numbers[:, 1] * (1 + SIZE_PLAY * play[:, 0])
    centre = numbers[:, 2:4] + numbers[:, 4:5] * play[:, 1:3]
    return jnp.concatenate([numbers[:, :1], radius[:, None], centre, numbers[:, 5:]], axis=1)


def render(placed: Any, height: int, width: int) -> Any:
    """Pictures [batch, height, width, 3] in -1…1 with smooth edges, from what `place_shapes` gives."""
    import jax.numpy as jnp

    side = min(height, width)
    across, down = grid(height, width)
    x = across[None] - (placed[:, 2] * width / side)[:, None, None]
    y = down[None] - (placed[:, 3] * height / side)[:, None, None]
    r = placed[:, 1][:, None, None]
    inside = jnp.stack([outline(jnp, shape, r, x, y) for shape in SHAPES], axis=1)
    which = jnp.eye(len(SHAPES))[placed[:, 0].astype(jnp.int32)]
    cover = jnp.clip((inside * which[:, :, None, None]).sum(1) * side + 0.5, 0, 1)[..., None]
    return cover * placed[:, None, None, 4:7] + (1 - cover) * placed[:, None, None, 7:10]


def picture(scene: Scene, px: int, play: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.uint8]:
    """One scene as numpy draws it, for references in tests and for the judge's own check."""
    shape, radius, x, y, room, *colours = scene.numbers()
    across, down = grid(px, px)
    inside = outline(
        np,
        SHAPES[int(shape)],
        radius * (1 + SIZE_PLAY * play[0]),
        across - (x + room * play[1]),
        down - (y + room * play[2]),
    )
    cover = np.clip(inside * px + 0.5, 0, 1)[..., None]
    values = cover * np.array(colours[:3]) + (1 - cover) * np.array(colours[3:])
    pixels: NDArray[np.uint8] = np.round((values + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return pixels
