"""What engines were seen to take, against what was computed: the factor that corrects the next plan. Pure.

A peak above what was computed raises the factor at once, one below lowers it by a part, so that one odd run is not for
ever. The death of an engine that worked raises it too, since the system may have ended it for its memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from herd_mcp import pipe
from herd_mcp.node.memory import Needs
from herd_mcp.pipe import CacheShape
from herd_mcp.settings import MIB
from herd_mcp.state import Estimate

RAISE, MOST, LEAST = 1.5, 4.0, 0.25
"""By how much a death raises the factor, and its bounds."""
DRIFT_DOWN = 0.2
"""How far one measurement brings the factor down to it. Up it goes at once: too little is what kills."""

FORGOTTEN = 1.1
"""What an engine was ended for, by what later ones held: below that it is no longer kept."""

SMALL_BYTES = 64 * MIB
"""Added to both sides: a short chat takes so little that its peak says nothing of a long one."""


@dataclass(frozen=True, slots=True)
class Known:
    """Of one model, quantised to so many bits while loading."""

    factor: float = 1.0
    """Work and what was computed for it: a multiple of 1 until something was measured."""
    weights_bytes: int = 0
    """As loaded; 0 while unknown."""
    cache: CacheShape | None = None
    held_bytes: int = 0
    """By an engine, its work not counted, that was ended for what it held; 0 if none was."""
    measured_at: float = 0.0


NOTHING = Known()


@dataclass(slots=True)
class Measurements:
    """Of all models of this node. What changes anything returns the new row, to be stored; else None."""

    known: dict[tuple[str, int | None], Known] = field(default_factory=dict)

    def get(self, model: str, quantize: int | None) -> Known:
        return self.known.get((model, quantize), NOTHING)

    def ready(self, model: str, quantize: int | None, ready: pipe.Ready, now: float) -> Known | None:
        """An engine has loaded."""
        before = self.get(model, quantize)
        after = replace(before, weights_bytes=ready.weights_bytes, cache=ready.cache or before.cache)
        return self._put(model, quantize, before, after, now)

    def done(
        self, model: str, quantize: int | None, needs: Needs, facts: pipe.ChatFacts | pipe.ImageFacts, now: float
    ) -> Known | None:
        """A run has ended and told a peak. `needs` as planned, with the factor of that time in it."""
        peak = facts.peak
        if peak is None:
            return None
        longest = facts.width * facts.height if isinstance(facts, pipe.ImageFacts) else peak.tokens
        if longest <= 0 or peak.rows <= 0:
            return None
        before = self.get(model, quantize)
        computed = needs.work_for([longest] * peak.rows) / needs.factor
        # What stays is known and not corrected: weights, caches, kept conversations.
        stays = before.weights_bytes + needs.caches_for([longest] * peak.rows) + peak.prompt_cache_bytes
        seen = _bounded((max(peak.peak_bytes - stays, 0) + SMALL_BYTES) / (computed + SMALL_BYTES))
        step = 1.0 if seen > before.factor else DRIFT_DOWN
        factor = before.factor + step * (seen - before.factor)
        return self._put(model, quantize, before, replace(before, factor=factor), now)

    def died(self, model: str, quantize: int | None, now: float) -> Known | None:
        """An engine died while it worked."""
        before = self.get(model, quantize)
        return self._put(model, quantize, before, replace(before, factor=_bounded(before.factor * RAISE)), now)

    def outgrown(self, model: str, quantize: int | None, held_bytes: int, now: float) -> Known | None:
        """An engine was ended for what it held: the next is given as much from the beginning. `held_bytes` without
        what was reserved for its work."""
        before = self.get(model, quantize)
        held_bytes = max(held_bytes, before.held_bytes)
        return self._put(model, quantize, before, replace(before, held_bytes=held_bytes), now)

    def held_less(self, model: str, quantize: int | None, most_bytes: int, now: float) -> Known | None:
        """An engine ended for another reason, and never held more than `most_bytes`. What is near that at last is
        forgotten: it is what is computed, or will be told again."""
        before = self.get(model, quantize)
        if not 0 < most_bytes < before.held_bytes:
            return None
        held_bytes = before.held_bytes - int(DRIFT_DOWN * (before.held_bytes - most_bytes))
        if held_bytes < FORGOTTEN * most_bytes:
            held_bytes = 0
        return self._put(model, quantize, before, replace(before, held_bytes=held_bytes), now)

    def snapshot(self) -> dict[tuple[str, int | None], Known]:
        """As it is now, for another thread."""
        return dict(self.known)

    def load(self, rows: Iterable[tuple[str, int | None, Known]]) -> None:
        """What was stored."""
        for model, quantize, known in rows:
            self.known[model, quantize] = replace(known, factor=_bounded(known.factor))

    def estimates(self) -> tuple[Estimate, ...]:
        """For whoever asks the node, those that say something."""
        return tuple(
            Estimate(
                model=model,
                quantize=quantize,
                factor=round(known.factor, 3),
                held_bytes=known.held_bytes,
                measured_at=known.measured_at,
            )
            for (model, quantize), known in sorted(self.known.items(), key=lambda item: (item[0][0], item[0][1] or 0))
        )

    def _put(self, model: str, quantize: int | None, before: Known, after: Known, now: float) -> Known | None:
        if after == before or (
            abs(after.factor - before.factor) < 0.01 and replace(after, factor=before.factor) == before
        ):
            return None
        self.known[model, quantize] = replace(after, measured_at=now)
        return self.known[model, quantize]


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST), MOST)
