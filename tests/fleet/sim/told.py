"""What a simulated Mac tells of its models and its work, from what its scripted engines take."""

from __future__ import annotations

from herd_mcp.jobs import ImageRequest, Request, prompt_bytes
from herd_mcp.node.lanes import Lane, Run, State
from herd_mcp.state import ChatRates, ImageRates, ModelState, NodeState, Power, Work
from tests.fleet.sim.disk import PAINTER, TALKER
from tests.fleet.sim.engines import Speed

TOKENS = 8
"""Of an answer, where nobody says."""
CAPACITY = 8


def completed(state: NodeState, of: State, speed: Speed, has: frozenset[str], total_bytes: int) -> NodeState:
    """The state with models, rates and work; and without what the real machine under the simulation says."""
    memory = state.memory.model_copy(update={"total_bytes": total_bytes, "available_bytes": total_bytes})
    models = tuple(_model(name, of, speed) for name in (PAINTER, TALKER) if name in has)
    found = {"power": Power(), "paused": "", "disk_free_bytes": None}
    update = found | {"memory": memory, "models": models, "work": _work(of, speed), "estimates": (), "started_at": 0.0}
    return state.model_copy(update=update)


def _model(name: str, state: State, speed: Speed) -> ModelState:
    lanes = [lane for lane in state.lanes.values() if lane.plan.key.model == name]
    engines = [lane.engine for lane in lanes if lane.engine and not lane.engine.condemned]
    image = name == PAINTER
    return ModelState(
        name=name,
        kind="image" if image else "chat",
        bytes=1,
        loaded=any(engine.phase == "ready" for engine in engines),
        loading=next((max(engine.loaded, 0.0) for engine in engines if engine.phase == "starting"), None),
        load_s=speed.load_s,
        capacity=1 if image else CAPACITY,
        running=sum(len(engine.running) for engine in engines),
        waiting=sum(len(lane.waiting) for lane in lanes),
        default_px=512 if image else None,
        default_steps=8 if image else None,
        image=ImageRates(step_s_per_mpx=speed.step_s_per_mpx) if image else None,
        chat=None
        if image
        else ChatRates(
            prefill_tokens_per_s=speed.prefill_tokens_per_s,
            decode_tokens_per_s=speed.decode_tokens_per_s,
            answer_tokens=TOKENS,
        ),
    )


def _work(state: State, speed: Speed) -> Work:
    image_s = chat_s = load_s = 0.0
    for lane in state.lanes.values():
        runs = [*lane.waiting, *(lane.engine.running.values() if lane.engine else ())]
        load_s += _load_s(lane, speed)
        if lane.plan.spec.kind == "image":
            image_s += sum(left_s(run, speed) for run in runs)
        else:
            chat_s = max([chat_s, *(left_s(run, speed) for run in runs)])
    return Work(image_s=round(image_s, 2), chat_s=round(chat_s, 2), load_s=round(load_s, 2))


def left_s(run: Run, speed: Speed) -> float:
    """Seconds until a run is done, alone."""
    request = run.request
    if isinstance(request, ImageRequest):
        return run.size / 1e6 * max((request.steps or 8) - run.step, 0) * speed.step_s_per_mpx
    tokens = max((request.max_tokens or TOKENS) - run.deltas, 0)
    return prompt_bytes(request) / 4 / speed.prefill_tokens_per_s + tokens / speed.decode_tokens_per_s


def _load_s(lane: Lane, speed: Speed) -> float:
    engine = lane.engine
    if engine is None or engine.condemned:
        return speed.load_s if lane.waiting else 0.0
    return speed.load_s * (1 - max(engine.loaded, 0.0)) if engine.phase == "starting" else 0.0


def left_s_of(request: Request, speed: Speed) -> float:
    """The same of one that has not begun."""
    if isinstance(request, ImageRequest):
        px = request.width or 512
        return px * (request.height or px) / 1e6 * (request.steps or 8) * speed.step_s_per_mpx
    return (
        prompt_bytes(request) / 4 / speed.prefill_tokens_per_s
        + (request.max_tokens or TOKENS) / speed.decode_tokens_per_s
    )
