"""The arithmetic: samples in turn, quartiles, ratios, goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The middle of some samples and how far they lie apart."""

    q1: float
    median: float
    q3: float
    count: int


def quartiles(samples: Sequence[float]) -> Quartiles:
    """By linear interpolation between samples. Raises ValueError without any."""
    if not samples:
        raise ValueError("no samples")
    if len(samples) == 1:
        return Quartiles(samples[0], samples[0], samples[0], 1)
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Quartiles(q1, median, q3, len(samples))


def interleave(sides: Sequence[Callable[[int], T]], pairs: int) -> list[list[T]]:
    """What each side gave, called in turn (A B A B …), so that a slow minute of the machine falls on all alike.

    Every side gets the number of the pair.
    """
    given: list[list[T]] = [[] for _ in sides]
    for pair in range(pairs):
        for side, results in zip(sides, given, strict=True):
            results.append(side(pair))
    return given


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row should reach: its ratio of medians, or our median itself when it is of the `value`."""

    sign: Literal["<=", ">=", "within"]
    """`within`: off by no more than this factor, either way."""
    bound: float
    of: Literal["ratio", "value"] = "ratio"

    def met(self, ratio: float | None, value: float) -> bool:
        """False for a ratio that there is none of."""
        measured = value if self.of == "value" else ratio
        if measured is None or math.isnan(measured):
            return False
        if self.sign == "within":
            return 1 / self.bound <= measured <= self.bound
        return measured <= self.bound if self.sign == "<=" else measured >= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured, on our side and on the peer's."""

    what: str
    unit: str
    ours: Quartiles
    peer: Quartiles | None = None
    goals: tuple[Goal, ...] = ()
    """More than one are alternatives: to reach any of them is enough."""
    peer_name: str = ""

    @property
    def ratio(self) -> float | None:
        """Our median in the peer's; None without a peer, or with a median of 0 there."""
        return self.ours.median / self.peer.median if self.peer is not None and self.peer.median else None

    @property
    def met(self) -> bool | None:
        """None where there is no goal."""
        if not self.goals:
            return None
        return any(goal.met(self.ratio, self.ours.median) for goal in self.goals)


def row(
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float] = (),
    *goals: Goal,
    peer_name: str = "",
) -> Row:
    """A row of samples."""
    return Row(what, unit, quartiles(ours), quartiles(peer) if peer else None, goals, peer_name)


def growth_per(samples: Sequence[tuple[float, float]], count: float) -> float:
    """The slope of (number, value) by least squares, said per `count`; 0 for fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in samples], [y for _, y in samples]).slope * count
