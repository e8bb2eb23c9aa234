"""How far measured work is from what was computed, apart for small and large work. Pure.

A shape is how much was computed, up to a power of two: one number for pictures of all sizes, and for chats of all
lengths and batches. One factor for all of them was not enough: forty small pictures that take less than computed taught
that a large one does too.
"""

from __future__ import annotations

from herd_mcp.settings import MIB

SMALL_BYTES = 64 * MIB
"""So little work has one shape, and its peak says nothing of more: added to both sides of what is compared."""
LARGEST = 43
"""The shape of all work from 4 TiB on: so there are at most 17."""

Factors = tuple[tuple[int, float], ...]
"""Shape and measured by computed, the smallest shape first."""


def shape_of(work_bytes: int) -> int:
    """Of so much computed work, it is less than 2 to the power of its shape."""
    return min(max(work_bytes, SMALL_BYTES).bit_length(), LARGEST)


def factor_at(factors: Factors, shape: int) -> float:
    """As measured for the shape, else for the next larger one. Beyond all that was measured: no less than computed, and
    no less than the largest that was."""
    beyond = 1.0
    for known, factor in factors:
        if known >= shape:
            return factor
        beyond = max(1.0, factor)
    return beyond


def corrected(factors: Factors, work_bytes: int) -> int:
    """What so much computed work is expected to take. More work never takes less, whatever was measured of it."""
    shape = shape_of(work_bytes)
    smaller = [int(factor * 2**known) for known, factor in factors if known < shape]
    return max([int(factor_at(factors, shape) * work_bytes), *smaller])


def with_factor(factors: Factors, shape: int, factor: float) -> Factors:
    """The same with what is known of one shape now."""
    return tuple(sorted({**dict(factors), shape: factor}.items()))
