"""What engines were seen to take, against what was computed: the factors that correct the next plan. Pure.

There is one for each shape of work (`shapes.py`). A peak above what was expected raises it at once, one below lowers it
by a part, so that one odd run is not for ever. The death of an engine that worked raises it too, since the system may
have ended it for its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from herd_mcp import pipe
from herd_mcp.node.memory import Needs
from herd_mcp.node.shapes import SMALL_BYTES, Factors, factor_at, shape_of, with_factor
from herd_mcp.pipe import CacheShape
from herd_mcp.settings import MIB
from herd_mcp.state import MAX_ESTIMATES_TOLD, Estimate

RAISE, MOST, LEAST = 1.5, 4.0, 0.25
"""By how much a death raises a factor, and its bounds."""
DRIFT_DOWN = 0.2
"""How far one measurement brings the factor down to it. Up it goes at once: too little is what kills."""

FORGOTTEN = 1.1
"""What an engine was ended for, by what later ones held: below that it is no longer kept."""


@dataclass(frozen=True, slots=True)
class Known:
    """Of one model, quantised to so many bits while loading."""

    factors: Factors = ()
    """Work by what was computed for it, of each shape that was measured."""
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
        """A run has ended and told a peak. `needs` as planned."""
        peak = facts.peak
        if peak is None:
            return None
        longest = facts.width * facts.height if isinstance(facts, pipe.ImageFacts) else peak.tokens
        if longest <= 0 or peak.rows <= 0:
            return None
        before = self.get(model, quantize)
        computed = needs.computed_for([longest] * peak.rows)
        # What stays is known and not corrected: weights, caches, kept conversations.
        stays = before.weights_bytes + needs.caches_for([longest] * peak.rows) + peak.prompt_cache_bytes
        seen = _bounded((max(peak.peak_bytes - stays, 0) + SMALL_BYTES) / (computed + SMALL_BYTES))
        shape = shape_of(computed)
        factor = factor_at(before.factors, shape)
        factor += (1.0 if seen > factor else DRIFT_DOWN) * (seen - factor)
        return self._put(model, quantize, before, _with(before, shape, factor), now)

    def died(self, model: str, quantize: int | None, needs: Needs, sizes: Sequence[int], now: float) -> Known | None:
        """An engine died while it worked on jobs of these sizes. `needs` as planned."""
        before = self.get(model, quantize)
        shape = shape_of(needs.computed_for(sizes))
        return self._put(model, quantize, before, _with(before, shape, RAISE * factor_at(before.factors, shape)), now)

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
            factors = tuple((shape, _bounded(factor)) for shape, factor in known.factors)
            self.known[model, quantize] = replace(known, factors=factors)

    def estimates(self) -> tuple[Estimate, ...]:
        """For whoever asks the node, the newest that are told."""
        newest = sorted(self.known.items(), key=lambda item: item[1].measured_at)[-MAX_ESTIMATES_TOLD:]
        return tuple(
            Estimate(
                model=model,
                quantize=quantize,
                factor=round(max((factor for _, factor in known.factors), default=1.0), 3),
                by_work_mib={2**shape // MIB: round(factor, 3) for shape, factor in known.factors},
                held_bytes=known.held_bytes,
                measured_at=known.measured_at,
            )
            for (model, quantize), known in sorted(newest, key=lambda item: (item[0][0], item[0][1] or 0))
        )

    def _put(self, model: str, quantize: int | None, before: Known, after: Known, now: float) -> Known | None:
        if after == before or (
            _near(after.factors, before.factors) and replace(after, factors=before.factors) == before
        ):
            return None
        self.known[model, quantize] = replace(after, measured_at=now)
        return self.known[model, quantize]


def _with(known: Known, shape: int, factor: float) -> Known:
    return replace(known, factors=with_factor(known.factors, shape, _bounded(factor)))


def _near(after: Factors, before: Factors) -> bool:
    """Whether nothing is known now that is worth keeping."""
    return len(after) == len(before) and all(
        abs(new - old) < 0.01 for (_, new), (_, old) in zip(after, before, strict=True)
    )


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST), MOST)
