"""What a node tells the others of its models, by which they place work on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from herd_mcp.node import memory, plans
from herd_mcp.node.admission import largest_size, never
from herd_mcp.node.image_families import default_px, largest_px
from herd_mcp.node.lanes import Plan, State
from herd_mcp.node.measured import NOTHING, Known
from herd_mcp.node.needs import needs_of
from herd_mcp.node.rates import Rates
from herd_mcp.settings import Settings
from herd_mcp.state import MAX_MODELS_TOLD, ModelInfo, ModelState

MAX_NAME, MAX_ALIASES, MAX_CAPACITY = 256, 16, 1024
"""Bounds of `ModelState`: what is longer is not told."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be used here, and how it is loaded when no request asks for something else: what does not change
    until the disk is looked at again."""

    model: ModelInfo
    plan: Plan
    aliases: tuple[str, ...]
    default_px: int | None = None
    largest_px: int | None = None


def look(
    models: Sequence[ModelInfo],
    settings: Settings,
    home: Path,
    budget_bytes: int,
    known: Mapping[tuple[str, int | None], Known],
) -> tuple[list[ModelInfo], list[Offer]]:
    """The models, each with what it needs for a small job and the longest conversation that it gets, and those that are
    offered. Reads their configs."""
    told, offers = [], []
    for model in models:
        if not model.complete:
            told.append(model.model_copy(update={"context_tokens": plans.context_tokens(model, settings)}))
            continue
        quantize = plans.quantize_for(model, settings)
        needs = needs_of(model, quantize, settings, budget_bytes, known.get((model.name, quantize), NOTHING))
        plan = plans.plan_for(model, settings, home, quantize, needs, budget_bytes)
        facts = {"needs_bytes": needs.smallest_bytes, "context_tokens": plan.spec.context_tokens}
        told.append(model.model_copy(update=facts))
        if model.usable and len(model.name) <= MAX_NAME:
            offers.append(_offer(told[-1], plan, settings, budget_bytes))
    return told, offers


def _offer(model: ModelInfo, plan: Plan, settings: Settings, budget_bytes: int) -> Offer:
    aliases = tuple(alias for alias in model.aliases if len(alias) <= MAX_NAME)[:MAX_ALIASES]
    if model.kind == "chat":
        return Offer(model, plan, aliases)
    folder = Path(model.path)
    most = min(largest_px(folder, model.family) or settings.max_image_px, settings.max_image_px)
    if plan.needs.bytes_for([most * most]) > budget_bytes:
        most = math.isqrt(largest_size(plan.needs, budget_bytes, most * most)) // 16 * 16
    return Offer(model, plan, aliases, default_px(folder, model.family), most)


def told(offers: Sequence[Offer], state: State, rates: Rates, unix_now: float) -> tuple[ModelState, ...]:
    """As it is at `unix_now`: loaded ones first, then the largest, no more than may be told."""
    running: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    loading: dict[str, float] = {}
    loaded = set()
    for lane in state.lanes.values():
        name, engine = lane.plan.key.model, lane.engine
        waiting[name] += len(lane.waiting)
        if engine is None:
            continue
        running[name] += len(engine.running)
        if engine.phase == "ready" and not engine.condemned:
            loaded.add(name)
        elif engine.phase == "starting" and not engine.condemned:
            loading[name] = max(engine.loaded, 0.0)
    first = sorted(offers, key=lambda offer: (offer.model.name not in loaded, -offer.model.bytes))
    return tuple(
        _told(
            offer,
            state,
            rates,
            unix_now,
            loaded=offer.model.name in loaded,
            loading=loading.get(offer.model.name),
            running=running[offer.model.name],
            waiting=waiting[offer.model.name],
        )
        for offer in first[:MAX_MODELS_TOLD]
    )


def _told(
    offer: Offer,
    state: State,
    rates: Rates,
    unix_now: float,
    *,
    loaded: bool,
    loading: float | None,
    running: int,
    waiting: int,
) -> ModelState:
    model, plan = offer.model, offer.plan
    key, image = plan.key, model.kind == "image"
    refusal = never(state, plan, memory.SMALLEST_PX if image else memory.SMALLEST_TOKENS)
    return ModelState(
        name=model.name,
        aliases=offer.aliases,
        kind=model.kind,
        bytes=model.bytes,
        builtin=model.builtin,
        loaded=loaded,
        loading=loading,
        fits=refusal is None,
        reason=refusal.message[:1000] if refusal else "",
        load_s=rates.load_s(key.model, key.quantize, plan.first, unix_now),
        capacity=min(plan.capacity, MAX_CAPACITY),
        running=running,
        waiting=waiting,
        context_tokens=plan.spec.context_tokens,
        largest_px=offer.largest_px,
        default_px=offer.default_px,
        default_steps=plan.steps or None,
        image=rates.image(key.model, key.quantize, plan.first, unix_now) if image else None,
        chat=None if image else rates.chat(key.model, key.quantize, plan.first, unix_now),
    )
