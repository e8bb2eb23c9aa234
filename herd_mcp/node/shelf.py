"""The models on this Mac's disk as a node knows them: looked at now and then, beside what is done, never waited for by
who only tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from herd_mcp.jobs import HerdError, Kind
from herd_mcp.node import plans
from herd_mcp.node.choose import choose, recommend
from herd_mcp.node.fit import fit_of
from herd_mcp.node.lanes import EngineKey, State
from herd_mcp.node.measured import Known, Measurements
from herd_mcp.node.models import find_models
from herd_mcp.node.offers import Offer, look
from herd_mcp.settings import Settings
from herd_mcp.state import ModelInfo

log = logging.getLogger(__name__)

LIST_FRESH_S = 5.0
"""How long a look at the disk counts for a list of models; then the next question looks again."""
KNOWN_FRESH_S = 60.0
"""The same for a job whose model is known, which shall not wait for the disk, and for what other nodes are told."""


class Shelf:
    """Reads the node's state and what was measured, and changes neither."""

    def __init__(self, settings: Settings, home: Path, budget_bytes: int, state: State, measured: Measurements) -> None:
        self._settings = settings
        self._home = home
        self._budget_bytes = budget_bytes
        self._state = state
        self._measured = measured
        self._models: list[ModelInfo] = []
        self._models_at = float("-inf")
        self._looking = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._started = False
        self.offers: list[Offer] = []
        """What can be used, as of the last look."""
        self.on_look: Callable[[], None] = lambda: None
        """Called after each look at the disk."""

    async def known(self, pick: Callable[[Sequence[ModelInfo]], ModelInfo]) -> ModelInfo:
        """The model that `pick` chooses. Raises what it raises."""
        try:
            return pick(await self.models(fresh_s=KNOWN_FRESH_S))
        except HerdError:  # it may have come since the last look
            return pick(await self.models(fresh_s=0))

    def preferred(self, kind: Kind) -> str | None:
        """The model that the owner wants for requests that name none."""
        return self._settings.chat_model if kind == "chat" else self._settings.image_model

    async def models(self, fresh_s: float = LIST_FRESH_S) -> list[ModelInfo]:
        """What is on the disk, looked at no longer than `fresh_s` ago, with what is loaded and the default now."""
        async with self._looking:
            if _now() - self._models_at > fresh_s:
                known = self._measured.snapshot()
                before = {offer.model.path: offer.model.bytes for offer in self.offers}
                self._models, self.offers = await asyncio.to_thread(self._look, known)
                self._models_at = _now()
                self.on_look()
                if before != {offer.model.path: offer.model.bytes for offer in self.offers}:
                    self._on_change()
        loaded = {
            lane.plan.key.model
            for lane, engine in self._state.engines()
            if engine.phase == "ready" and not engine.condemned
        }
        models = [
            model.model_copy(update={"loaded": model.name in loaded, **self._fit(model)}) for model in self._models
        ]
        defaults = set()
        for kind in ("chat", "image"):
            try:
                defaults.add(choose(models, kind, None, self.preferred(kind)).name)
            except HerdError:
                continue
        recommended = recommend(models, self._budget_bytes)
        return [
            model.model_copy(update={"default": model.name in defaults, "recommended": model.name in recommended})
            for model in models
        ]

    def _look(self, known: Mapping[tuple[str, int | None], Known]) -> tuple[list[ModelInfo], list[Offer]]:
        found = find_models(self._settings, self._home)
        return look(found, self._settings, self._home, self._budget_bytes, known)

    def _fit(self, model: ModelInfo) -> dict[str, object]:
        """What the model takes here, and whether there is room for it."""
        fit = fit_of(self._state, EngineKey(model.name, plans.quantize_for(model, self._settings)), model.needs_bytes)
        return {
            "can_load_now": model.usable and fit.now,
            "reason": fit.reason if model.usable else model.problem,
        }

    # ── beside what is done ──

    def start(self, on_change: Callable[[], None]) -> None:
        """From now on `keep_fresh` looks, and `on_change` is called when models came or went."""
        self._started, self._on_change = True, on_change

    def keep_fresh(self) -> None:
        """Begin another look when it is time, and return at once."""
        stale = _now() - self._models_at > KNOWN_FRESH_S
        if stale and self._started and (self._again is None or self._again.done()):
            self._again = asyncio.create_task(self._look_again())

    async def looked(self, within_s: float) -> None:
        """Wait for the first look, where it goes on, for at most so many seconds."""
        if self._again is not None and self._models_at == float("-inf"):
            await asyncio.wait({self._again}, timeout=within_s)

    async def _look_again(self) -> None:
        try:
            await self.models(fresh_s=KNOWN_FRESH_S)
        except Exception:
            log.exception("the models on the disk could not be looked at")
            self._models_at = _now()  # not again at once

    async def close(self) -> None:
        self._started = False
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait({self._again})


def _now() -> float:
    """Seconds of the loop's clock."""
    return asyncio.get_running_loop().time()
