"""Ways to choose a Mac, ours among them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from benchmarks.parts.macs import BY_NAME, GB
from benchmarks.parts.sim_herd import CONNECT_S, REPORT_S, Choosing, Herd, Policy, node_id
from benchmarks.parts.sim_mac import Task
from benchmarks.parts.traces import KEY
from herd_mcp.fleet import placement
from herd_mcp.fleet.placer import HerdPlacer
from herd_mcp.jobs import ErrorCode, HerdError, Job, JobEvent
from herd_mcp.orders import Accepted, Ending, Later, Order, Placed
from herd_mcp.state import NodeState


class Simple:
    """A policy that gives each able Mac a number; one of the lowest is taken. `exact` counts are of this moment, as
    one balancer in the middle would know them."""

    def __init__(self, herd: Herd, rate: Callable[[Herd, Task, list[int]], list[float]], seed: int) -> None:
        self._herd, self._rate, self._rng = herd, rate, random.Random(seed)

    def choose(self, task: Task) -> Choosing:
        yield from ()  # it takes no time
        able = self._herd.able(task)
        if not able:
            return None
        ratings = self._rate(self._herd, task, able)
        lowest = min(ratings)
        return self._rng.choice([index for index, rating in zip(able, ratings, strict=True) if rating == lowest])

    def look(self) -> list[int]:
        return []


def at_random(_: Herd, __: Task, able: list[int]) -> list[float]:
    return [0.0] * len(able)


class RoundRobin:
    def __init__(self) -> None:
        self._turn: dict[int, int] = {}
        self._count = 0

    def __call__(self, _: Herd, __: Task, able: list[int]) -> list[float]:
        self._count += 1
        ratings = [float(self._turn.get(index, -1)) for index in able]
        self._turn[able[ratings.index(min(ratings))]] = self._count
        return [rating + rank * 1e-6 for rank, rating in enumerate(ratings)]


def least_connections(herd: Herd, _: Task, able: list[int]) -> list[float]:
    return [float(len(herd.macs[index].runs)) for index in able]


class TwoChoices:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def __call__(self, herd: Herd, _: Task, able: list[int]) -> list[float]:
        two = self._rng.sample(able, min(2, len(able)))
        return [float(len(herd.macs[index].runs)) if index in two else math.inf for index in able]


def perfect(herd: Herd, task: Task, able: list[int]) -> list[float]:
    """When it would be done: by the true rates and lengths and the state of this moment, looked ahead exactly, and
    without trying Macs that are down. It does not know what will be asked next, and moves nothing."""
    ratings = []
    for index in able:
        herd.catch_up(index)
        ratings.append(herd.macs[index].done_s(task) if herd.up(index) else math.inf)
    return ratings


def points(herd: Herd, task: Task, able: list[int]) -> list[float]:
    """The peer's points, of the 0.6.1 that its repository publishes: seven signals for chats, three for images. Its
    router knows its own queues exactly; memory, loaded models and whether a Mac draws come every five seconds."""
    rate = _image_points if task.kind == "image" else _chat_points
    widths = sorted(mac.chip.bandwidth_gb_s for mac in herd.macs)
    middle = (widths[(len(widths) - 1) // 2] + widths[len(widths) // 2]) / 2
    return [-rate(herd, task, index, _heartbeat(herd, index), middle) for index in able]


def _heartbeat(herd: Herd, index: int) -> NodeState:
    beat_s = herd.now - herd.now % REPORT_S
    times = herd.reported_s[index]
    newest = next((number for number in range(len(times) - 1, -1, -1) if times[number] <= beat_s), 0)
    return herd.reports[index][newest]


def _free_gb(herd: Herd, state: NodeState, index: int) -> float:
    used = sum(model.bytes for model in state.models if model.loaded or model.loading is not None)
    return max(herd.macs[index].chip.budget_bytes - used, 0) / GB


def _image_points(herd: Herd, _: Task, index: int, state: NodeState, __: float) -> float:
    draws = any(model.kind == "image" and model.running for model in state.models)
    cpu_percent = 15.0 if draws else 5.0
    return 0.5 * _free_gb(herd, state, index) - 0.2 * cpu_percent - (50.0 if draws else 0.0)


def _chat_points(herd: Herd, task: Task, index: int, state: NodeState, middle_gb_s: float) -> float:
    chip, model = herd.macs[index].chip, BY_NAME[task.model]
    size_gb = model.bytes / GB
    hot = any(known.name == task.model and known.loaded for known in state.models)
    score = 50.0 if hot else 10.0
    fit = _free_gb(herd, state, index) / size_gb
    score += 20.0 if hot or fit > 2 else 15.0 if fit > 1.5 else 8.0 if fit > 1.2 else 3.0 if fit >= 1 else 0.0
    depth = sum(run.task.model == task.model for run in herd.macs[index].runs)
    if depth:
        faster = min(max(chip.bandwidth_gb_s / middle_gb_s, 0.25), 4.0)
        score -= min(30.0, 6.0 * depth / faster)
        usual_s = 1.25 * model.answer_tokens / model.decode_tokens_per_s(chip)  # about the 75th percentile
        score -= min(25.0, depth * usual_s / 10)
    width = min(25.0, 5.0 + chip.bandwidth_gb_s / 40)
    score += width if size_gb > 20 else max(3.0, 18 - 0.6 * width) if size_gb < 8 else 0.6 * width
    return score + (15.0 if hot else 0.0)  # the contexts of these models are roomy for these prompts


# ── Ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Wait:
    """Seconds that pass before a node answers."""

    def __await__(self) -> Generator[float, None, None]:
        yield CONNECT_S


class SimRunner:
    """A Mac as a placer asks it: it decides by its own present state."""

    def __init__(self, herd: Herd, index: int, tasks: dict[str, Task]) -> None:
        self.node_id, self.name = node_id(index), herd.macs[index].chip.name
        self._herd, self._index, self._tasks = herd, index, tasks

    async def reserve(self, order: Order) -> Accepted:
        herd, index = self._herd, self._index
        if not herd.up(index):
            await _Wait()
            raise HerdError(ErrorCode.NODE_LOST, "It does not answer.")
        request = order.job.request
        assert request is not None
        assert request.model is not None
        state = herd.present(index)
        mine_s = placement.finish(placement.ask_of(request, request.model, KEY), state).finish_s
        assert mine_s is not None
        if not order.must and placement.later(mine_s, order.expects_s):
            raise Later(mine_s, state)
        herd.put(self._tasks[order.job.id], index)
        return Accepted(model=request.model, incarnation=1, revision=len(herd.reports[index]) - 1)

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        raise NotImplementedError

    def give_back(self, job_id: str, attempt: int) -> None: ...

    def cancel(self, job_id: str, attempt: int) -> None: ...

    async def take_back(self, job_id: str, attempt: int) -> bool:
        raise NotImplementedError


class Ours:
    """The placer of each Mac, as it is."""

    def __init__(self, herd: Herd, seed: int, *, moves: bool = True) -> None:
        self._herd, self._moves = herd, moves
        self._jobs = {task.number: _job(task) for task in herd.trace.tasks}
        self._attempts: dict[int, int] = {}
        self._placed: dict[int, Placed] = {}
        tasks = {job.id: herd.trace.tasks[number] for number, job in self._jobs.items()}
        runners = [SimRunner(herd, index, tasks) for index in range(len(herd.macs))]
        self._index = {runner.node_id: index for index, runner in enumerate(runners)}
        self._placers = [
            HerdPlacer(
                runner,
                partial(herd.present, index),
                partial(self._views, index),
                {other.node_id: other for other in runners}.get,
                preferred=lambda kind: None,
                prefix_key=KEY,
                rng=random.Random(f"{seed}/{index}"),
                now=lambda: herd.now,
            )
            for index, runner in enumerate(runners)
        ]

    def _views(self, asker: int) -> list[NodeState]:
        return [self._herd.view(asker, index) for index in range(len(self._herd.macs)) if index != asker]

    def choose(self, task: Task) -> Generator[float, None, int | None]:
        order = Order(job=self._jobs[task.number], attempt=self._attempts.get(task.number, 0) + 1)
        placing: Any = self._placers[task.asker].place(order)
        try:
            while True:
                yield placing.send(None)
        except StopIteration as over:
            placed: Placed = over.value
        except HerdError:
            return None
        self._attempts[task.number] = placed.order.attempt
        self._placed[task.number] = placed
        return self._index[placed.runner.node_id]

    def look(self) -> list[int]:
        if not self._moves:
            return []
        herd = self._herd
        waiting = [
            run.task
            for index, mac in enumerate(herd.macs)
            if herd.up(index)
            for run in mac.runs
            if not run.begun and run.task.number in self._placed
        ]
        return [task.number for task in waiting if self._placers[task.asker].elsewhere(self._placed[task.number])]


def _job(task: Task) -> Job:
    return Job(id=f"job-{task.number}", kind=task.kind, client="", request=task.request, created_at=0)


OURS, STILL, PERFECT, POINTS = "herd-mcp", "herd-mcp, never moved", "greedy, all known", "the peer's points"
SIMPLE = ("random", "round robin", "least connections", "two choices")


def make(name: str, herd: Herd) -> Policy:
    seed = herd.trace.seed
    if name in (OURS, STILL):
        return Ours(herd, seed, moves=name == OURS)
    rates: dict[str, Callable[[Herd, Task, list[int]], list[float]]] = {
        PERFECT: perfect,
        POINTS: points,
        "random": at_random,
        "round robin": RoundRobin(),
        "least connections": least_connections,
        "two choices": TwoChoices(seed),
    }
    return Simple(herd, rates[name], seed)


NAMES = (OURS, STILL, PERFECT, POINTS, *SIMPLE)
