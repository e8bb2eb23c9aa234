"""Which node ends a job soonest, in seconds. Pure: states come in, a table comes out.

`finish = work ahead there + what was sent and its report does not contain yet + load if cold + service`

A Mac has one GPU. Images are drawn one after the other. Chats share a batch, which slows each a little. A chat beside
an image takes turns with it at the GPU, which costs both, so work is mixed only where that still ends it sooner.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from herd_mcp.fleet.able import put_off, unable
from herd_mcp.fleet.ask import SLOW_CHAT, SLOW_IMAGE, Ask, model_of, size_of
from herd_mcp.fleet.prefixes import prefixes_of
from herd_mcp.fleet.sent import Addition
from herd_mcp.jobs import (
    USUAL_STEPS,
    USUAL_STRENGTH,
    ChatRequest,
    ErrorCode,
    HerdError,
    ImageRequest,
    Kind,
    NodeEstimate,
)
from herd_mcp.state import ModelState, NodeState, by_default, by_name, decode_slowdown, means, reluctant

IMAGE_BESIDE_CHAT = 1.6
"""How many times longer an image takes while a chat is answered beside it (docs/benchmarks.md, turns)."""
CHAT_BESIDE_IMAGE = 1 / 0.35
"""The same of a chat while an image is drawn."""
TWO_CHATS = 2.0
"""The same of a chat while another model's engine answers chats: their turns are equally long."""
NEAR = 0.10
"""Nodes whose finish is within this part of the best one's are as good."""
LATER_SHARE, LATER_S = 0.10, 0.5
"""A target that is later than expected by more than the larger of the two says so instead of taking the job."""
MUCH_SOONER, MUCH_SOONER_S = 0.3, 2.0
"""What a job that waits must gain to be moved: this part of what it has to wait here, and so many seconds."""
MOVE_S = 0.5
"""What moving costs: asking for it back and placing it again."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row of the table."""

    state: NodeState
    estimate: NodeEstimate
    choice_s: float = 0.0
    """The finish with what speaks against the node besides."""
    last: int = 0
    """Above 0, taken only if no other is able; above 1, only if none of those is either: the job died there."""
    put_off: bool = False
    """Taken only if all are so: it refuses this for now, or lets it wait until its memory is back."""

    @property
    def able(self) -> bool:
        return self.estimate.finish_s is not None


def ask_of(request: ChatRequest | ImageRequest, model: str, key: bytes | None = None) -> Ask:
    """`model`: as `resolve` found it. `key`: of the herd's hashes of conversations; None looks for none."""
    if isinstance(request, ImageRequest):
        strength = (request.image_strength or USUAL_STRENGTH) if request.image else 0.0
        return Ask("image", model, request.width, request.height, request.steps, 1 - strength)
    prefixes = prefixes_of(request, model, key or b"")
    return Ask(
        "chat",
        model,
        prompt_bytes=prefixes[-1].bytes,
        max_tokens=request.max_tokens,
        prefixes=prefixes if key else (),
    )


def resolve(request: ChatRequest | ImageRequest, states: Iterable[NodeState], preferred: str | None = None) -> str:
    """The name of the model that serves a request, of all that the herd has. `preferred`: for requests that name none.
    Raises HerdError as `resolved`."""
    return resolved(request.kind, request.model or preferred, states)


def resolved(kind: Kind, name: str | None, states: Iterable[NodeState]) -> str:
    """The model that serves requests of this kind by this name, or by none.

    Raises HerdError: model_not_found, or kind_not_supported where the name is of another kind.
    """
    every = [(state, model) for state in states for model in state.models]
    models = [model for _, model in every]
    if name is not None:
        exact = [model for model in models if model.name == name]
        models = exact or [model for model in models if means(model, name)]
    right = [model for model in models if model.kind == kind]
    if models and not right and name is not None:
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            f"{models[0].name} serves {models[0].kind} and not {kind} requests.",
            f"`herd-mcp models` lists the {kind} models.",
            details={"kind": models[0].kind},
        )
    if not right:
        raise HerdError(
            ErrorCode.MODEL_NOT_FOUND,
            f"No Mac of the herd has {'that' if name else 'a'} {kind} model.",
            "`herd-mcp models` lists what there is.",
        )
    up = {id(model) for state, model in every if state.status != "offline" and model.fits}
    able = [model for model in right if id(model) in up] or right
    return max(able, key=by_default if name is None else lambda model: by_name(model, name)).name


def finish(ask: Ask, state: NodeState, sent: Iterable[Addition] = ()) -> NodeEstimate:
    """When a node that can run it would be done: seconds from now. `sent`: what its report does not contain."""
    model = model_of(state, ask.model)
    assert model is not None
    sent = tuple(sent)
    image_s, chat_s = _ahead(state, sent)
    load_s = _load_s(model, state, sent)
    if ask.kind == "image":
        service_s = image_s_of(ask, model)
        alone_s = image_s + service_s
        done_s = _shared(alone_s, chat_s, IMAGE_BESIDE_CHAT, CHAT_BESIDE_IMAGE)
    else:
        sent_chats = sum(other.model == model.name for other in sent)
        service_s = chat_s_of(ask, model, state.prefixes, model.running + model.waiting + sent_chats)
        done_s = service_s + _seat_s(model, sent_chats, chat_s)
        if _other_chats(model, state, sent):
            done_s = _shared(done_s, chat_s, TWO_CHATS, TWO_CHATS)
        done_s = _shared(done_s, image_s, CHAT_BESIDE_IMAGE, IMAGE_BESIDE_CHAT)
    done_s += load_s
    return NodeEstimate(
        node=state.name,
        node_id=state.node_id,
        finish_s=round(done_s, 3),
        ahead_s=round(max(done_s - load_s - service_s, 0.0), 3),
        load_s=round(load_s, 3),
        service_s=round(service_s, 3),
    )


def image_s_of(ask: Ask, model: ModelState) -> float:
    """Seconds to draw it with the GPU for itself."""
    rates = model.image or SLOW_IMAGE
    width, height = size_of(ask, model)
    steps = (ask.steps or model.default_steps or USUAL_STEPS) * ask.drawn
    return width * height / 1e6 * (steps * rates.step_s_per_mpx + rates.fixed_s_per_mpx)


def chat_s_of(ask: Ask, model: ModelState, kept: Collection[str], streams: int) -> float:
    """Seconds to answer it beside so many other streams of the model."""
    rates = model.chat or SLOW_CHAT
    new_bytes = ask.prompt_bytes - _kept_bytes(ask, kept)
    answer = rates.answer_tokens if ask.max_tokens is None else min(ask.max_tokens, rates.answer_tokens)
    slower = decode_slowdown(1 + min(streams, model.capacity - 1))
    return (
        max(new_bytes, 0) * rates.tokens_per_byte / rates.prefill_tokens_per_s
        + answer * slower / rates.decode_tokens_per_s
    )


def _kept_bytes(ask: Ask, kept: Collection[str]) -> int:
    if not kept or not ask.prefixes:
        return 0
    known = set(kept)
    return next((prefix.bytes for prefix in reversed(ask.prefixes) if prefix.digest in known), 0)


def _shared(work_s: float, other_s: float, slower: float, other_slower: float) -> float:
    """How long `work_s` takes beside `other_s` on one GPU, each so many times slower while both are there."""
    together_s = min(work_s * slower, other_s * other_slower)
    return together_s + work_s - together_s / slower


def _ahead(state: NodeState, sent: Sequence[Addition]) -> tuple[float, float]:
    """Seconds of images and of chats, as they will be by now: a report is as old as it is, and work goes on."""
    image_s, chat_s, age_s = state.work.image_s, state.work.chat_s, state.heard_s or 0.0
    both = image_s > 0 and chat_s > 0
    image_s = max(image_s - age_s / (IMAGE_BESIDE_CHAT if both else 1), 0.0)
    chat_s = max(chat_s - age_s / (CHAT_BESIDE_IMAGE if both else 1), 0.0)
    for other in sent:
        if other.kind == "image":
            image_s += other.service_s + other.load_s
        else:
            chat_s = max(chat_s, other.service_s + other.load_s)
    return image_s, chat_s


def _load_s(model: ModelState, state: NodeState, sent: Sequence[Addition]) -> float:
    """Until the model can begin. One load serves all who wait for it; loads of different models follow each other."""
    if model.loaded:
        return 0.0
    if model.loading is not None:
        return max(model.load_s * (1 - model.loading) - (state.heard_s or 0.0), 0.0)
    if any(other.model == model.name for other in sent):
        return 0.0 if model.kind == "image" else model.load_s  # images wait for all that is ahead, this load too
    if model.waiting:  # it is among what is loaded for those who wait
        return max(model.load_s, state.work.load_s)
    return model.load_s + state.work.load_s


def _seat_s(model: ModelState, sent_chats: int, chat_s: float) -> float:
    """How long a chat waits for a seat in the batch: those who sit get up one after the other until `chat_s`."""
    others = model.running + model.waiting + sent_chats
    before = others - model.capacity + 1
    return chat_s * before / others if before > 0 else 0.0


def _other_chats(model: ModelState, state: NodeState, sent: Sequence[Addition]) -> bool:
    return any(
        other.kind == "chat" and other.name != model.name and (other.running or other.waiting) for other in state.models
    ) or any(other.kind == "chat" and other.model != model.name for other in sent)


# ── The choice ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rank(
    ask: Ask,
    states: Iterable[NodeState],
    *,
    local_id: str = "",
    sent: Mapping[str, Iterable[Addition]] | None = None,
    excluded: Mapping[str, str] | None = None,
    later_s: Mapping[str, float] | None = None,
    penalty_s: Mapping[str, float] | None = None,
    avoid: Collection[str] = (),
) -> list[Place]:
    """Every node, the best first, those that are not able last, each with its reason.

    `excluded`: why nodes are out for reasons of the caller's. `later_s`: what nodes said themselves that they would
    take at least. `penalty_s`: what speaks against nodes, without being part of when they would be done.
    """
    places = []
    for state in states:
        node_id = state.node_id
        reason = (excluded or {}).get(node_id) or unable(ask, state)
        hesitates = reluctant(state)
        if not reason and hesitates and node_id != local_id:
            reason = hesitates
        if reason:
            places.append(Place(state, NodeEstimate(node=state.name, node_id=state.node_id, reason=reason)))
            continue
        row = finish(ask, state, (sent or {}).get(node_id, ()))
        assert row.finish_s is not None
        assert row.ahead_s is not None
        more_s = max((later_s or {}).get(node_id, 0.0) - row.finish_s, 0.0)
        penalty = (penalty_s or {}).get(node_id, 0.0)
        waits = put_off(ask, state)
        notes = [
            hesitates,
            waits,
            "the job died there" if node_id in avoid else "",
            "it is silent" if state.status == "degraded" else "",
            f"it failed lately and counts as {penalty:.0f} s later" if penalty >= 0.5 else "",
        ]
        told = {"reason": "; ".join(filter(None, notes))}
        if more_s or told["reason"]:
            seconds = {"finish_s": round(row.finish_s + more_s, 3), "ahead_s": round(row.ahead_s + more_s, 3)}
            row = row.model_copy(update=seconds | told)
        places.append(
            Place(
                state,
                row,
                choice_s=(row.finish_s or 0.0) + penalty,
                last=2 if node_id in avoid else int(bool(hesitates) or state.status == "degraded"),
                put_off=bool(waits),
            )
        )
    return sorted(places, key=_order)


def _order(place: Place) -> tuple[bool, bool, int, float, str]:
    return not place.able, place.put_off, place.last, place.choice_s, place.state.node_id


def best(places: Sequence[Place], local_id: str, rng: random.Random) -> Place | None:
    """Of a table: the soonest; of those that are nearly as soon this node, else any. None where no node is able."""
    if not places or not places[0].able:
        return None
    first = places[0]
    load_s = first.estimate.load_s or 0.0  # what all wait for: equally cold nodes are told apart by the work alone
    near = [
        place
        for place in places
        if place.able
        and (place.put_off, place.last) == (first.put_off, first.last)
        and place.choice_s - load_s <= (first.choice_s - load_s) * (1 + NEAR)
        # A model is not loaded for a tie.
        and (not place.estimate.load_s or bool(first.estimate.load_s))
    ]
    return next((place for place in near if place.state.node_id == local_id), None) or rng.choice(near)


def later(mine_s: float, expects_s: float | None) -> bool:
    """Whether a node that would be done in `mine_s` turns away who expects it in `expects_s`."""
    return expects_s is not None and mine_s - expects_s > max(LATER_SHARE * expects_s, LATER_S)


def much_sooner(mine_s: float, there_s: float) -> bool:
    """Whether a job that would end here in `mine_s` is moved to where it would in `there_s`."""
    gain_s = mine_s - there_s - MOVE_S
    return gain_s >= max(MUCH_SOONER * mine_s, MUCH_SOONER_S)
