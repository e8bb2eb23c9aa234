"""What a node tells of itself: when a change is worth telling at once, how figures are rounded, how long it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from herd_mcp.state import ChatRates, EngineState, Estimate, ImageRates, ModelState, NodeState

MIB = 1024 * 1024
LONGEST_BYTES = 63 * 1024
"""Of a told state as JSON, without who is shut out and its stamp, which come later: `wire.STATE_BYTES` has room for
them. One of 20 models has about a sixth of it."""
NOISE = 0.25
"""A figure that is off by less than this part of itself is told with the next report and not sooner."""
NOISE_S = 2.0
"""The same for seconds of work."""


def rounded(state: NodeState) -> NodeState:
    """The state as it is told to others: figures no finer than anybody needs, so that equal states stay equal; nothing
    that means something on this Mac alone."""
    memory = state.memory
    here = {model.name for model in state.models}
    return state.model_copy(
        update={
            "memory": memory.model_copy(update={"available_bytes": _coarse(memory.available_bytes, 64 * MIB)}),
            "engines": tuple(_engine(engine) for engine in state.engines),
            "estimates": tuple(_estimate(one) for one in state.estimates if one.model in here),
            "models": tuple(_model(model) for model in state.models),
            "work": state.work.model_copy(
                update={name: round(value, 1) for name, value in state.work.__dict__.items()},
            ),
            "disk_free_bytes": None if state.disk_free_bytes is None else _coarse(state.disk_free_bytes, 256 * MIB),
            "heard_s": None,
            "started_at": round(state.started_at),
        }
    )


def matters(before: NodeState, now: NodeState) -> bool:
    """Whether others place work differently, or people see something new, because of what changed in between.

    Work that is done as time goes on does not matter: who was told of it counts with that. Beginning and ending jobs
    change the counts beside it.
    """
    if _skeleton(before) != _skeleton(now):
        return True
    was, is_ = before.memory, now.memory
    return (
        any(
            getattr(now.work, name) > max(value * (1 + NOISE), value + NOISE_S)
            for name, value in before.work.__dict__.items()
        )
        or abs(is_.available_bytes - was.available_bytes) > is_.total_bytes / 8
        or abs(is_.reserved_bytes - was.reserved_bytes) > is_.budget_bytes / 8
        or _off(before.disk_free_bytes or 0, now.disk_free_bytes or 0)
        or abs((now.power.battery_percent or 0) - (before.power.battery_percent or 0)) >= 5
        or any(
            _off(a, b)
            for first, second in zip(before.models, now.models, strict=True)
            for a, b in zip(_rates(first), _rates(second), strict=True)
        )
    )


def bounded(state: NodeState) -> NodeState:
    """The state cut to LONGEST_BYTES of JSON: what helps least goes first."""
    for cut in _CUTS:
        if len(state.model_dump_json(exclude_defaults=True).encode()) <= LONGEST_BYTES:
            break
        state = state.model_copy(update=cut(state))
    return state


class Reporter:
    """The newest state of this node, stamped: (incarnation, revision), revision + 1 with each change."""

    def __init__(self, read: Callable[[], NodeState], incarnation: int) -> None:
        self._read = read
        self._incarnation = incarnation
        self.state = self._stamped(bounded(rounded(read())), 1)
        """The last that was read."""
        self.matter = self.state
        """The last of which a change was worth telling at once."""

    def look(self, **update: Any) -> bool:
        """Read the state anew, with `update` in it. Whether something that matters changed since it last did."""
        before = self.state
        fresh = rounded(self._read().model_copy(update=update))
        self.state = self._after(fresh)
        if self.state is before or not matters(self.matter, self.state):
            return False
        self.matter = self.state
        return True

    def _after(self, fresh: NodeState) -> NodeState:
        same = self._stamped(fresh, self.state.revision)
        if same == self.state:
            return self.state
        return self._stamped(bounded(fresh), self.state.revision + 1)

    def _stamped(self, state: NodeState, revision: int) -> NodeState:
        return state.model_copy(update={"incarnation": self._incarnation, "revision": revision})


def _coarse(bytes_: int, step: int) -> int:
    return bytes_ // step * step


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def _shown(bytes_: int) -> int:
    """Of what nobody computes with: zeros compress, other digits do not."""
    return int(_digits(bytes_))


def _off(before: float, now: float) -> bool:
    return abs(now - before) > NOISE * max(abs(before), abs(now))


def _engine(engine: EngineState) -> EngineState:
    resident = None if engine.resident_bytes is None else _shown(_coarse(engine.resident_bytes, 64 * MIB))
    reserved = _shown(engine.reserved_bytes)
    loading = None if engine.loading is None else round(engine.loading, 1)
    idle_s = round(engine.idle_s, -1)
    return engine.model_copy(
        update={
            "pid": None,
            "reserved_bytes": reserved,
            "resident_bytes": resident,
            "loading": loading,
            "idle_s": idle_s,
        },
    )


def _estimate(estimate: Estimate) -> Estimate:
    return estimate.model_copy(
        update={
            "factor": _digits(estimate.factor),
            "by_work_mib": {},
            "held_bytes": _shown(estimate.held_bytes),
            "measured_at": round(estimate.measured_at, -1),
        },
    )


def _model(model: ModelState) -> ModelState:
    image = model.image and ImageRates(**{name: _digits(value) for name, value in model.image.__dict__.items()})
    chat = model.chat and ChatRates(**{name: _digits(value) for name, value in model.chat.__dict__.items()})
    loading = None if model.loading is None else round(model.loading, 1)
    return model.model_copy(
        update={"image": image, "chat": chat, "load_s": _digits(model.load_s), "loading": loading},
    )


def _rates(model: ModelState) -> list[float]:
    return [
        *(model.image.__dict__.values() if model.image else ()),
        *(model.chat.__dict__.values() if model.chat else ()),
        max(model.load_s, NOISE_S),
    ]


def _skeleton(state: NodeState) -> NodeState:
    """The state without what is measured and never stands still."""
    memory = state.memory.model_copy(update={"available_bytes": 0, "reserved_bytes": 0})
    engines = tuple(
        engine.model_copy(update={"resident_bytes": None, "reserved_bytes": 0, "idle_s": 0, "loading": None})
        for engine in state.engines
    )
    models = tuple(
        model.model_copy(
            update={
                "image": model.image is None,
                "chat": model.chat is None,
                "load_s": 0,
                "loading": model.loading is None,
            }
        )
        for model in state.models
    )
    return state.model_copy(
        update={
            "memory": memory,
            "engines": engines,
            "estimates": (),
            "models": models,
            "work": None,
            "disk_free_bytes": None,
            "power": state.power.model_copy(update={"battery_percent": None}),
            "prefixes": (),
            "revision": 0,
        }
    )


_CUTS: tuple[Callable[[NodeState], dict[str, Any]], ...] = (
    lambda state: {"prefixes": (), "estimates": ()},
    lambda state: {"models": tuple(m.model_copy(update={"reason": m.reason[:120]}) for m in state.models)},
    lambda state: {"models": tuple(m.model_copy(update={"aliases": m.aliases[:2]}) for m in state.models)},
    lambda state: {"models": tuple(sorted(state.models, key=lambda m: not (m.loaded or m.running))[:20])},
    lambda state: {"engines": state.engines[:20], "reason": state.reason[:120], "paused": state.paused[:120]},
)
