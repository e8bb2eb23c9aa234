"""How fast this Mac does its work: first guessed from its hardware, then as measured. Pure; the clock is passed in.

A measurement moves a figure at once, and the next ones less and less. What is not confirmed for `FRESH_S` goes back to
what is usual here, which is the guess as long as little was measured: so one bad sample is not for ever, and neither
is what was learned of a model forgotten over a night.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from herd_mcp.jobs import Kind
from herd_mcp.state import ChatRates, ImageRates

Figure = Literal["step_s", "fixed_s", "prefill", "decode", "answer", "per_byte", "load_s"]
"""Of an image model: seconds per megapixel of a step, and of what is before the first and after the last. Of a chat
model: tokens per second of a prompt and of a lone answer, tokens of an answer, tokens per byte of a prompt. Of both:
seconds of a load."""
FIGURES: frozenset[str] = frozenset(get_args(Figure))

LATEST = 0.3
"""How much of a figure the latest measurement makes up, once there were several."""
FIRST = 1.5
"""The n-th of the first measurements makes up this part of n + 1: the guess counts as half a measurement."""
FRESH_S = 600.0
"""How long a figure stands unconfirmed; then it goes half of the way back in each further such time."""
TRUSTED = 3
"""After so many measurements what is usual counts as much as the guess; after one a tenth, after ten nine tenths."""
MOST_COUNTED = 50
"""Measurements that make up what is usual: older ones fade."""
ODD = 10.0
"""A measurement that differs by more than this factor from what several others say counts as one that differs by it."""
LEAST, MOST = 1e-6, 1e8
MAX_KEPT = 4096
"""Figures kept at most; beyond, those unconfirmed the longest are forgotten."""


# ── From the hardware ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Chip:
    """What a chip can do at most, by public figures of its largest variant."""

    bytes_s: float
    """Bytes per second out of memory."""
    flops: float
    """Operations per second of its GPU, in 32 bits."""


CHIPS: dict[tuple[int, str], Chip] = {
    (generation, tier): Chip(gb_s * 1e9, tflops * 1e12)
    for generation, tier, gb_s, tflops in (
        (1, "", 68, 2.6),
        (1, "Pro", 200, 5.2),
        (1, "Max", 400, 10.4),
        (1, "Ultra", 800, 20.8),
        (2, "", 100, 3.6),
        (2, "Pro", 200, 6.8),
        (2, "Max", 400, 13.5),
        (2, "Ultra", 800, 27.0),
        (3, "", 100, 3.5),
        (3, "Pro", 150, 6.4),
        (3, "Max", 400, 14.2),
        (3, "Ultra", 819, 28.4),
        (4, "", 120, 4.3),
        (4, "Pro", 273, 8.5),
        (4, "Max", 546, 17.0),
        (5, "", 153, 4.8),
        (5, "Pro", 307, 9.6),
        (5, "Max", 614, 19.2),
    )
}
"""Apple's chips by generation and tier. The neural accelerators from M5 on are not counted: measuring will tell."""
UNKNOWN = Chip(20e9, 0.2e12)
"""A machine of which nothing is known, as one that computes on its CPU: rather too slow than too fast."""
APPLE = re.compile(r"\bApple M(\d{1,3})(?: (Pro|Max|Ultra))?\b")


def chip_of(name: str) -> Chip:
    """By what the system calls it, `Apple M4 Pro`. One newer than the table is taken for the newest of its tier."""
    found = APPLE.search(name)
    if found is None:
        return UNKNOWN
    generation, tier = int(found[1]), found[2] or ""
    known = [other for other, its in CHIPS if its == tier and other <= generation]
    return CHIPS[max(known), tier] if known else UNKNOWN


READ_SHARE = 0.7
"""Of the bandwidth, while an answer's tokens are computed, which reads the weights once for each."""
PROMPT_SHARE = 0.5
"""Of the operations, while a prompt is computed: two for each weight and token."""
PX_PER_TOKEN = 256
"""A token of an image model stands for 16 × 16 pixels."""
IMAGE_OPERATIONS = 1.3
"""For each weight and token of a step, at the GPU's full figure: two, of the weights of which a third is used in a step
(the rest is text encoders, and the halves that text passes), at half of the full figure."""
ANSWER_TOKENS = 256.0
TOKENS_PER_BYTE = 0.25
READ_BYTES_PER_S = 1e9
"""How quickly weights are read, before a load was measured."""
MIN_LOAD_S = 1.0
"""The same for the smallest model: a process has to start."""


@dataclass(frozen=True, slots=True)
class FirstRates:
    """What is guessed of one model on this Mac, before anything was measured."""

    step_s: float = 10.0
    fixed_s: float = 10.0
    prefill: float = 50.0
    decode: float = 5.0
    answer: float = ANSWER_TOKENS
    per_byte: float = TOKENS_PER_BYTE
    load_s: float = 2.0

    def of(self, figure: Figure) -> float:
        value: float = getattr(self, figure)
        return value


UNKNOWN_RATES = FirstRates()


def first_rates(
    chip: Chip, kind: Kind, file_bytes: int, weights_bytes: int, bits: int | None, active: float = 1.0
) -> FirstRates:
    """For a model of `file_bytes` on disk that takes `weights_bytes` in memory at `bits` per weight (None: 16), of
    which one token passes the part `active`."""
    weights = max(weights_bytes, 1) * 8 / (16 if bits is None else bits + 0.5)
    load_s = _bounded(max(MIN_LOAD_S, file_bytes / READ_BYTES_PER_S))
    if kind == "image":
        step_s = _bounded(weights * 1e6 / PX_PER_TOKEN * IMAGE_OPERATIONS / chip.flops)
        return FirstRates(step_s=step_s, fixed_s=step_s, load_s=load_s)
    return FirstRates(
        prefill=_bounded(PROMPT_SHARE * chip.flops / (2 * weights * active)),
        decode=_bounded(READ_SHARE * chip.bytes_s / (max(weights_bytes, 1) * active)),
        load_s=load_s,
    )


# ── Measured ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured of one figure."""

    recent: float
    usual: float
    """The geometric mean of the last `MOST_COUNTED`."""
    count: int
    at: float
    """Unix time of the last."""


def seen_again(before: Seen | None, guess: float, value: float, now: float) -> Seen:
    """With one more measurement."""
    value = _bounded(value)
    if before is None:
        before = Seen(guess, value, 0, now)
    elif before.count >= 3:
        value = min(max(value, before.usual / ODD), before.usual * ODD)
    stands = value_at(before, guess, now) if before.count else guess
    count = min(before.count + 1, MOST_COUNTED)
    recent = _between(stands, value, max(LATEST, FIRST / (count + 1)))
    return Seen(recent, _between(before.usual, value, 1 / count), count, now)


def value_at(seen: Seen | None, guess: float, now: float) -> float:
    """The figure as it stands at `now` (Unix time)."""
    if seen is None:
        return guess
    stale_s = now - seen.at - FRESH_S
    if stale_s <= 0:
        return seen.recent
    usual = _between(guess, seen.usual, seen.count**2 / (seen.count**2 + TRUSTED**2))
    return _between(usual, seen.recent, 0.5 ** min(stale_s / FRESH_S, 60))


def _between(one: float, other: float, part: float) -> float:
    """`part` of the way from one to the other, by factors: half and double are equally wrong."""
    return one if one == other else one * math.exp(part * math.log(other / one))


def _bounded(value: float) -> float:
    return min(max(value, LEAST), MOST)


Place = tuple[str, int | None, Figure]
"""A model, the bits it is quantised to while loading, and what was measured of it."""


@dataclass(slots=True)
class Rates:
    """Of all models of this node."""

    seen: dict[Place, Seen] = field(default_factory=dict)

    def learn(self, place: Place, guess: float, value: float, now: float) -> Seen:
        """Note a measurement; returns the new row, to be stored."""
        row = self.seen[place] = seen_again(self.seen.pop(place, None), guess, value, now)
        if len(self.seen) > MAX_KEPT:
            del self.seen[next(iter(self.seen))]
        return row

    def load(self, rows: Iterable[tuple[Place, Seen]]) -> None:
        """What was stored, the last confirmed last. Rows that make no sense are left out."""
        for place, seen in rows:
            sound = all(math.isfinite(value) and value > 0 for value in (seen.recent, seen.usual))
            if sound and math.isfinite(seen.at) and seen.count > 0 and place[2] in FIGURES:
                self.seen[place] = replace(seen, recent=_bounded(seen.recent), usual=_bounded(seen.usual))

    def value(self, model: str, quantize: int | None, figure: Figure, first: FirstRates, now: float) -> float:
        """As it stands at `now`, to four digits: no rate is known better, and what is told stays short."""
        return float(f"{value_at(self.seen.get((model, quantize, figure)), first.of(figure), now):.4g}")

    def image(self, model: str, quantize: int | None, first: FirstRates, now: float) -> ImageRates:
        return ImageRates(
            step_s_per_mpx=self.value(model, quantize, "step_s", first, now),
            fixed_s_per_mpx=self.value(model, quantize, "fixed_s", first, now),
        )

    def chat(self, model: str, quantize: int | None, first: FirstRates, now: float) -> ChatRates:
        return ChatRates(
            prefill_tokens_per_s=self.value(model, quantize, "prefill", first, now),
            decode_tokens_per_s=self.value(model, quantize, "decode", first, now),
            answer_tokens=self.value(model, quantize, "answer", first, now),
            tokens_per_byte=self.value(model, quantize, "per_byte", first, now),
        )

    def load_s(self, model: str, quantize: int | None, first: FirstRates, now: float) -> float:
        return self.value(model, quantize, "load_s", first, now)
