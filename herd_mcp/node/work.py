"""How long what a node has taken will keep it busy, in seconds, by its state and its rates. Pure.

A job is counted the same whoever asked for it. What is under way counts by what is left of it: an image by its steps,
a chat by its tokens, a load by its fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice

from herd_mcp.jobs import USUAL_STEPS, USUAL_STRENGTH, ImageRequest
from herd_mcp.node.lanes import Lane, Run, State, capacity_at
from herd_mcp.node.rates import Rates
from herd_mcp.state import ChatRates, ImageRates, Work, decode_slowdown

LOOKED_AT = 256
"""Waiting runs of one lane that are looked at one by one; the others count as their mean."""
BEFORE = 0.5
"""Of an image's fixed time, what is before its first step."""
LATER = 0.1
"""Of a load that takes longer than expected and tells no fraction, what may be left."""
LONGER = 0.25
"""Of an answer that is longer than expected, what may be left, by what was expected."""
LEAST_SEEN = 0.01
"""Of the rates: steps that were told at once do not make an image free."""
MOST_S = 1e8


def work_of(state: State, rates: Rates, now: float, unix_now: float) -> Work:
    """At `now` of the node's clock, which is `unix_now` of the Mac's."""
    image_s = chat_s = load_s = 0.0
    for lane in state.lanes.values():
        key, first = lane.plan.key, lane.plan.first
        load_s += load_left_s(lane, rates.load_s(key.model, key.quantize, first, unix_now), now)
        running = [run for run in lane.engine.running.values() if not run.ended] if lane.engine else []
        if not running and not lane.waiting:
            continue
        if lane.plan.spec.kind == "image":
            image_s += images_left_s(lane, running, rates.image(key.model, key.quantize, first, unix_now), now)
        else:
            chat = rates.chat(key.model, key.quantize, first, unix_now)
            chat_s += chats_left_s(lane, running, chat, capacity_at(state.level, lane.plan.capacity), now)
    return Work(image_s=_told(image_s), chat_s=_told(chat_s), load_s=_told(load_s))


def load_left_s(lane: Lane, whole_s: float, now: float) -> float:
    """Until the lane's engine is ready, if it is on its way or waited for."""
    engine = lane.engine
    if engine is None or engine.condemned:
        return whole_s if lane.waiting or lane.wanted else 0.0
    if engine.phase == "ready":
        return 0.0
    if engine.loaded > 0:
        return whole_s * (1 - engine.loaded)
    return max(whole_s - (now - engine.started_at), LATER * whole_s)


# ── Images ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def images_left_s(lane: Lane, running: Collection[Run], rates: ImageRates, now: float) -> float:
    """They are drawn one after the other, as fast as the one under way."""
    usual, rates = lane.plan.steps or USUAL_STEPS, _as_seen(running, rates)
    waiting = _sum(lane.waiting, lambda run: run.size / 1e6 * _image_s_per_mpx(_steps(run, usual), rates))
    return waiting + sum(_image_left_s(run, usual, rates, now) for run in running)


def _as_seen(running: Collection[Run], rates: ImageRates) -> ImageRates:
    """The rates, corrected by the steps that an image under way has taken: the first ones of a model are a guess."""
    for run in running:
        if run.first_step and run.last_step and run.last_step[0] > run.first_step[0]:
            step_s = (run.last_step[1] - run.first_step[1]) / (run.last_step[0] - run.first_step[0])
            seen = max(step_s / (run.size / 1e6) / rates.step_s_per_mpx, LEAST_SEEN)
            return ImageRates(step_s_per_mpx=rates.step_s_per_mpx * seen, fixed_s_per_mpx=rates.fixed_s_per_mpx * seen)
    return rates


def _image_s_per_mpx(steps: int, rates: ImageRates) -> float:
    return steps * rates.step_s_per_mpx + rates.fixed_s_per_mpx


def _steps(run: Run, usual: int) -> int:
    """As asked, or as its engine told; those that a picture to begin with saves are left out."""
    request = run.request
    assert isinstance(request, ImageRequest)
    steps = run.steps or run.cap or request.steps or usual
    return steps - int(steps * (request.image_strength or USUAL_STRENGTH)) if request.image else steps


def _image_left_s(run: Run, usual: int, rates: ImageRates, now: float) -> float:
    mpx = run.size / 1e6
    step_s, fixed_s = mpx * rates.step_s_per_mpx, mpx * rates.fixed_s_per_mpx
    if run.cancelling:
        return step_s
    if run.last_step is None or run.first_step is None:
        begun_s = _begun_s(run, now)
        return _steps(run, usual) * step_s + fixed_s - min(begun_s, BEFORE * fixed_s + step_s)
    step, at = run.last_step
    steps = max(run.steps - step, 0)
    return steps * step_s - min(now - at, steps and step_s) + (1 - BEFORE) * fixed_s


# ── Chats ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chats_left_s(lane: Lane, running: Collection[Run], rates: ChatRates, capacity: int, now: float) -> float:
    """Until all have their answers: their prompts one after the other, their tokens as many at a time as the engine
    takes, and no sooner than the longest of them."""
    waiting = lane.waiting
    streams = min(len(running) + len(waiting), capacity)
    prompt_s = _sum(waiting, lambda run: _prompt_s(run, rates))
    prompt_s += sum(max(_prompt_s(run, rates) - _begun_s(run, now), 0.0) for run in running)
    left = [_tokens_left(run, rates) for run in running]
    tokens = sum(left) + _sum(waiting, lambda run: _tokens_left(run, rates))
    longest = max(left, default=0.0)
    return prompt_s + max(tokens / streams * decode_slowdown(streams), longest) / rates.decode_tokens_per_s


def _prompt_s(run: Run, rates: ChatRates) -> float:
    if run.first_token_at is not None:
        return 0.0
    return run.prompt_bytes * rates.tokens_per_byte / rates.prefill_tokens_per_s


def _tokens_left(run: Run, rates: ChatRates) -> float:
    most = run.cap or run.answer_tokens
    expected = min(most, rates.answer_tokens)
    return max(min(max(expected - run.deltas, LONGER * expected), most - run.deltas), 0.0)


def _begun_s(run: Run, now: float) -> float:
    return 0.0 if run.started_at is None else now - run.started_at


def _sum(runs: Collection[Run], seconds: Callable[[Run], float]) -> float:
    looked_at = [seconds(run) for run in islice(runs, LOOKED_AT)]
    return sum(looked_at) * len(runs) / len(looked_at) if looked_at else 0.0


def _told(seconds: float) -> float:
    return round(min(max(seconds, 0.0), MOST_S), 2)
