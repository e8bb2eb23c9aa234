"""The models of the whole herd: one row for each, with the nodes that have it. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from herd_mcp.state import ModelInfo, ModelPlace, ModelState, NodeState


def of_herd(
    local: Sequence[ModelInfo], here: NodeState, others: Sequence[NodeState], defaults: Collection[str]
) -> list[ModelInfo]:
    """The models of this node first, then those that only others have. Of nodes that are offline none is told.

    `defaults`: the models that requests get which name none. A model that only others have is shown as they tell it.
    """
    there: dict[str, list[tuple[NodeState, ModelState]]] = {}
    for state in others:
        if state.status != "offline":
            for model in state.models:
                there.setdefault(model.name, []).append((state, model))
    mine = {model.name: model for model in here.models}
    rows = []
    for known in local:
        first = _place(here, mine[known.name]) if known.name in mine else _unusable(here, known)
        rows.append(_row(known, (first, *(_place(*one) for one in there.pop(known.name, ()))), known.name in defaults))
    for name in sorted(there):
        places = tuple(_place(*one) for one in there[name])
        rows.append(_row(_of_peer(there[name][0][1]), places, name in defaults))
    return rows


def _row(model: ModelInfo, places: tuple[ModelPlace, ...], default: bool) -> ModelInfo:
    elsewhere = places[1:] if model.source != "peer" else places
    able = model.can_load_now or any(place.loaded or place.fits for place in elsewhere)
    reason = model.reason if able == model.can_load_now else ""
    if not able and not reason:
        reason = "; ".join(f"{place.node}: {place.reason}" for place in places if place.reason)
    whole = bool(elsewhere) and not model.usable  # not here, but there
    mended = {"complete": True, "supported": True, "problem": ""} if whole else {}
    return model.model_copy(
        update={
            **mended,
            "nodes": places,
            "loaded": model.loaded or any(place.loaded for place in elsewhere),
            "can_load_now": able,
            "reason": reason,
            "default": default,
        }
    )


def _place(state: NodeState, model: ModelState) -> ModelPlace:
    return ModelPlace(node=state.name, node_id=state.node_id, loaded=model.loaded, fits=model.fits, reason=model.reason)


def _unusable(here: NodeState, model: ModelInfo) -> ModelPlace:
    return ModelPlace(node=here.name, node_id=here.node_id, fits=False, reason=model.problem)


def _of_peer(model: ModelState) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        aliases=model.aliases,
        kind=model.kind,
        family="",
        source="peer",
        path="",
        bytes=model.bytes,
        complete=True,
        context_tokens=model.context_tokens,
    )
