"""A trace run to its end by one policy, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.parts.macs import BY_NAME
from benchmarks.parts.sim_mac import SEATS, Run, SimMac, Task
from benchmarks.parts.traces import TOKENS_PER_BYTE, Trace
from herd_mcp.state import ChatRates, ImageRates, MemoryState, ModelState, NodeState, Work, decode_slowdown

REPORT_S = 5.0
"""A Mac with work tells how far it is at least so often, besides each change."""
CONNECT_S = 3.0
"""Until an asker gives up on a Mac that does not answer, and how long it then leaves it out."""
LEFT_OUT_S = 10.0
SUSPECT_S, GONE_S = 15.0, 30.0
"""Silence after which a Mac is called degraded, then offline; then what ran there is placed again."""
AGAIN_S = 2.0
"""Until one that no Mac could take is asked for again."""
LIMIT_S = 100_000.0

Choosing = Generator[float, None, int | None]
"""Yields seconds to wait, returns the Mac or None where there is none now."""


class Policy(Protocol):
    def choose(self, task: Task) -> Choosing:
        """A Mac for the task, which is put there at once, unless the policy did so itself (`put`)."""
        ...

    def look(self) -> list[int]:
        """Called every two seconds: numbers of tasks that have not begun and shall be placed anew."""
        ...


@dataclass
class Herd:
    trace: Trace
    now: float = 0.0
    macs: list[SimMac] = field(init=False)
    down_at: list[float] = field(init=False)
    """Since when a Mac is down; infinity while it is up."""
    where: dict[int, int] = field(default_factory=dict)
    done_s: dict[int, float] = field(default_factory=dict)
    left_out: dict[tuple[int, int], float] = field(default_factory=dict)
    """(asker, Mac) that was not reached: until when it is left out."""
    reports: list[list[NodeState]] = field(init=False)
    reported_s: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.macs = [mac.copy() for mac in self.trace.macs]
        for mac in self.macs:
            mac.kept, mac.a_guess = mac.kept.copy(), False
        self.down_at = [math.inf] * len(self.macs)
        self.reports = [[] for _ in self.macs]
        self.reported_s = [[] for _ in self.macs]
        self._moved_s = [0.0] * len(self.macs)
        self._version = [0] * len(self.macs)
        self._told_s = [0.0] * len(self.macs)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._tasks = {task.number: task for task in self.trace.tasks}
        self._placing: set[int] = set()

    # ── a run ──

    def run(self, policy: Policy) -> list[float]:
        """The completion time of each task, seconds from when it was asked for."""
        self._policy = policy
        for index in range(len(self.macs)):
            self._changed(index)
        for task in self.trace.tasks:
            self._at(task.at_s, self._place, task)
        for index, from_s, until_s in self.trace.down:
            self._at(from_s, self._fall, index)
            if until_s < math.inf:
                self._at(until_s, self._wake, index)
        self._at(2.0, self._look)
        while len(self.done_s) < len(self._tasks):
            self.now, _, call, words = heapq.heappop(self._events)
            if self.now > LIMIT_S:
                raise RuntimeError(f"{self.trace.name} {self.trace.seed}: a task waits for ever")
            call(*words)
        return [self.done_s[task.number] - task.at_s for task in self.trace.tasks]

    def put(self, task: Task, index: int) -> None:
        """The Mac takes the task."""
        self.catch_up(index)
        self.macs[index].add(task)
        self.where[task.number] = index
        self._changed(index)

    def up(self, index: int) -> bool:
        return self.down_at[index] == math.inf

    def status(self, asker: int, index: int) -> str:
        """What the asker thinks of the Mac, by how long it is silent."""
        silent_s = self.now - self.down_at[index] - self.trace.delay_s[asker][index]
        return "offline" if silent_s > GONE_S else "degraded" if silent_s > SUSPECT_S else "online"

    def able(self, task: Task) -> list[int]:
        """Macs that a policy without states of its own may take: they have the model and are not known to be gone."""
        return [
            index
            for index, mac in enumerate(self.macs)
            if mac.able(task.model)
            and self.status(task.asker, index) == "online"
            and self.left_out.get((task.asker, index), 0.0) <= self.now
        ]

    def catch_up(self, index: int) -> None:
        """Move a Mac to this moment. Nothing ends on the way: that would have been an event."""
        if self.up(index) and self.now > self._moved_s[index]:
            self._over(index, self.macs[index].advance(self.now - self._moved_s[index]))
        self._moved_s[index] = self.now

    # ── events ──

    def _at(self, at_s: float, call: Callable[..., None], *words: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._count), call, words))

    def _place(self, task: Task) -> None:
        if task.number not in self._placing:
            self._placing.add(task.number)
            self._go_on(task, self._policy.choose(task))

    def _go_on(self, task: Task, choosing: Choosing) -> None:
        try:
            self._at(self.now + next(choosing), self._go_on, task, choosing)
            return
        except StopIteration as over:
            index: int | None = over.value
        self._placing.discard(task.number)
        if index is None:
            self._at(self.now + AGAIN_S, self._place, task)
        elif self.where.get(task.number) == index:
            pass  # the policy put it there
        elif self.up(index):
            self.put(task, index)
        else:
            self.left_out[task.asker, index] = self.now + CONNECT_S + LEFT_OUT_S
            self._at(self.now + CONNECT_S, self._place, task)

    def _changed(self, index: int) -> None:
        self._version[index] += 1
        if not self.up(index):
            return
        self._report(index)
        step_s = self.macs[index].next_s()
        if step_s < math.inf:
            self._at(self.now + min(step_s, REPORT_S), self._step, index, self._version[index])

    def _step(self, index: int, version: int) -> None:
        if version == self._version[index]:
            self.catch_up(index)
            self._changed(index)

    def _over(self, index: int, tasks: list[Task]) -> None:
        for task in tasks:
            self.done_s[task.number] = self.now
            self.where.pop(task.number, None)

    def _fall(self, index: int) -> None:
        self.catch_up(index)
        self.down_at[index] = self.now
        self._version[index] += 1
        self._at(self.now + GONE_S, self._give_up, index, self.now)

    def _wake(self, index: int) -> None:
        self.down_at[index] = math.inf
        self._moved_s[index] = self.now
        self._changed(index)

    def _give_up(self, index: int, down_at: float) -> None:
        """The owners of what ran there place it again."""
        if self.down_at[index] != down_at:
            return
        for run in list(self.macs[index].runs):
            self._again(run.task)

    def _again(self, task: Task) -> None:
        index = self.where.pop(task.number)
        self.catch_up(index)
        self.macs[index].remove(task.number)
        self._changed(index)
        self._place(task)

    def _look(self) -> None:
        for number in self._policy.look():
            self._again(self._tasks[number])
        self._at(self.now + 2.0, self._look)

    # ── what Macs tell ──

    def _report(self, index: int) -> None:
        state = told(self.trace, index, self.macs[index], len(self.reports[index]))
        self.reports[index].append(state)
        self.reported_s[index].append(self.now)

    def view(self, asker: int, index: int) -> NodeState:
        """The newest report of a Mac that has reached the asker."""
        delay_s = self.trace.delay_s[asker][index]
        newest = max(bisect_right(self.reported_s[index], self.now - delay_s) - 1, 0)
        state = self.reports[index][newest]
        age_s = max(self.now - delay_s - self.reported_s[index][newest], 0.0)
        status = self.status(asker, index)
        if status == "online":
            age_s = min(age_s, REPORT_S)
        return state.model_copy(update={"heard_s": age_s, "status": status})

    def present(self, index: int) -> NodeState:
        """A Mac's own state at this moment."""
        self.catch_up(index)
        return told(self.trace, index, self.macs[index], len(self.reports[index]) - 1)


def node_id(index: int) -> str:
    return f"{index:010x}"


def told(trace: Trace, index: int, mac: SimMac, revision: int) -> NodeState:
    """The state of a Mac by its own rates, which are wrong."""
    off = trace.believed[index]
    runs: dict[str, list[Run]] = {}
    for run in mac.runs:
        runs.setdefault(run.task.model, []).append(run)
    image_s = sum(run.left_s * off[run.task.model] for run in mac.runs if run.task.kind == "image")
    chat_s = 0.0
    for name, mine in runs.items():
        if BY_NAME[name].kind == "chat":
            left = [_expected_s(mac, run) * off[name] for run in mine]
            slower = decode_slowdown(min(len(mine), SEATS))
            chat_s += max(max(left), sum(left) / SEATS) * slower
    load_s = sum(BY_NAME[name].load_s for name in runs if name not in mac.loaded and name != mac.loading)
    return NodeState.model_construct(
        node_id=node_id(index),
        name=mac.chip.name,
        version="1",
        platform="",
        chip=mac.chip.name,
        cpu_cores=0,
        started_at=0.0,
        wire=(1, 0),
        incarnation=1,
        revision=revision,
        status="online",
        memory=MEMORY,
        models=tuple(_model(mac, name, off[name], runs.get(name, [])) for name in mac.models if mac.able(name)),
        work=Work.model_construct(
            image_s=image_s, chat_s=chat_s, load_s=load_s + (mac.load_left_s if mac.loading else 0.0)
        ),
        prefixes=tuple(reversed(mac.kept)),
        heard_s=None,
    )


MEMORY = MemoryState(total_bytes=0, available_bytes=0, budget_bytes=0, reserved_bytes=0)


def _expected_s(mac: SimMac, run: Run) -> float:
    """What is left of a chat, by the usual length of an answer: nobody knows how long this one will be."""
    model, task = BY_NAME[run.task.model], run.task
    rate = model.decode_tokens_per_s(mac.chip)
    asked = getattr(task.request, "max_tokens", None)
    usual = min(model.answer_tokens, asked) if asked else model.answer_tokens
    to_come = usual - task.answer_tokens
    return max(run.left_s + to_come / rate, 0.1 * run.work_s)


def _model(mac: SimMac, name: str, off: float, runs: list[Run]) -> ModelState:
    model = BY_NAME[name]
    loading = 1 - mac.load_left_s / model.load_s if mac.loading == name else None
    image = chat = None
    if model.kind == "image":
        image = ImageRates.model_construct(
            step_s_per_mpx=model.step_s_per_mpx(mac.chip) * off, fixed_s_per_mpx=model.fixed_s_per_mpx(mac.chip) * off
        )
    else:
        chat = ChatRates.model_construct(
            prefill_tokens_per_s=model.prefill_tokens_per_s(mac.chip) / off,
            decode_tokens_per_s=model.decode_tokens_per_s(mac.chip) / off,
            answer_tokens=model.answer_tokens,
            tokens_per_byte=TOKENS_PER_BYTE,
        )
    seats = SEATS if model.kind == "chat" else 1
    loaded = name in mac.loaded
    return ModelState.model_construct(
        name=name,
        kind=model.kind,
        bytes=model.bytes,
        loaded=loaded,
        loading=loading,
        load_s=model.load_s,
        capacity=seats,
        running=min(len(runs), seats) if loaded else 0,
        waiting=max(len(runs) - seats, 0) if loaded else len(runs),
        image=image,
        chat=chat,
    )
