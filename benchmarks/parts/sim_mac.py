"""One Mac in simulated time, as it truly is: a GPU that its engines share, memory, loads, kept conversations.

Between two events all rates are constant: `advance` moves work on, `next_s` says how long until something changes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.parts.macs import BY_NAME, Chip
from herd_mcp.jobs import Kind, Request

SEATS = 8
KEPT = 64
DONE = 1e-9


@dataclass(frozen=True, slots=True)
class Task:
    """A job as it truly is."""

    number: int
    at_s: float
    asker: int
    kind: Kind
    model: str
    megapixels: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    """What the answer will have; nobody knows it before, but for perfect knowledge."""
    request: Request | None = None
    beginnings: tuple[tuple[str, int], ...] = ()
    """Hashes of the conversation's beginnings and their tokens, the shortest first; the last is the whole prompt."""
    keeps: tuple[str, ...] = ()
    """Hashes of what a Mac keeps after it: the conversation with its answer first, then shorter ones."""


@dataclass(slots=True)
class Run:
    task: Task
    work_s: float
    """Alone on this GPU."""
    left_s: float
    begun: bool = False

    def copy(self) -> Run:
        return Run(self.task, self.work_s, self.left_s, self.begun)


@dataclass(slots=True)
class SimMac:
    chip: Chip
    models: tuple[str, ...]
    """On its disk."""
    batch_slows: float
    """What each further stream adds to a step here, truly."""
    beside_chat: float
    """Part of its rate that an image keeps beside a chat, truly."""
    beside_image: float
    """The same of a chat."""
    loaded: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Least recently used first."""
    loading: str = ""
    load_left_s: float = 0.0
    runs: list[Run] = field(default_factory=list)
    """In the order in which they came; those of ended jobs are gone."""
    kept: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Hashes of conversations' beginnings and their tokens, oldest first."""
    a_guess: bool = False
    """A copy to look ahead with, which keeps nothing."""

    def copy(self) -> SimMac:
        return SimMac(
            self.chip,
            self.models,
            self.batch_slows,
            self.beside_chat,
            self.beside_image,
            OrderedDict(self.loaded),
            self.loading,
            self.load_left_s,
            [run.copy() for run in self.runs],
            self.kept,
            True,
        )

    def able(self, model: str) -> bool:
        return model in self.models and BY_NAME[model].bytes <= self.chip.budget_bytes

    def add(self, task: Task) -> None:
        work_s = self.work_s(task)
        self.runs.append(Run(task, work_s, work_s))
        self._load()

    def remove(self, number: int) -> None:
        self.runs = [run for run in self.runs if run.task.number != number]
        self._load()

    def work_s(self, task: Task) -> float:
        """Seconds alone on this GPU, with what is kept of its conversation now."""
        model = BY_NAME[task.model]
        if task.kind == "image":
            steps_s = task.steps * model.step_s_per_mpx(self.chip)
            return task.megapixels * (steps_s + model.fixed_s_per_mpx(self.chip))
        new = task.prompt_tokens - self.kept_tokens(task)
        return new / model.prefill_tokens_per_s(self.chip) + task.answer_tokens / model.decode_tokens_per_s(self.chip)

    def kept_tokens(self, task: Task) -> int:
        if task.model not in self.loaded:
            return 0
        return next((tokens for digest, tokens in reversed(task.beginnings) if digest in self.kept), 0)

    # ── time ──

    def active(self) -> tuple[Run | None, dict[str, list[Run]]]:
        """The image that is drawn and the chats that are answered, by model."""
        image: Run | None = None
        chats: dict[str, list[Run]] = {}
        waits_for_room = False
        for run in self.runs:
            if run.task.model not in self.loaded:
                waits_for_room |= run.task.model != self.loading
                continue
            if waits_for_room and not run.begun:
                continue  # who waits for another model to go is not overtaken for ever
            if run.task.kind == "image":
                image = image or run
            elif len(seated := chats.setdefault(run.task.model, [])) < SEATS:
                seated.append(run)
        return image, chats

    def _rates(self) -> Iterable[tuple[Run, float]]:
        image, chats = self.active()
        if image is not None:
            yield image, self.beside_chat if chats else 1.0
        share = (self.beside_image if image is not None else 1.0) / max(len(chats), 1)
        for seated in chats.values():
            rate = share / (1 + self.batch_slows * (len(seated) - 1))
            for run in seated:
                yield run, rate

    def next_s(self) -> float:
        """Until a run or a load ends; infinity where nothing goes on."""
        soonest = min((run.left_s / rate for run, rate in self._rates()), default=math.inf)
        return min(soonest, self.load_left_s) if self.loading else soonest

    def advance(self, seconds: float) -> list[Task]:
        """Work for so long, at most `next_s`. What ended, in order."""
        over: list[Run] = []
        for run, rate in list(self._rates()):
            run.begun = True
            run.left_s -= seconds * rate
            if run.left_s <= DONE:
                over.append(run)
        if self.loading:
            self.load_left_s -= seconds
        for run in over:
            self.runs.remove(run)
            self.loaded.move_to_end(run.task.model)
            if run.task.kind == "chat" and not self.a_guess:
                self._keep(run.task)
        if self.loading and self.load_left_s <= DONE:
            self.loaded[self.loading] = None
            self.loading = ""
        if over or not self.loading:
            self._load()
        return [run.task for run in over]

    def _keep(self, task: Task) -> None:
        """Remember the conversation of a chat that ended, bounded."""
        known = dict(task.beginnings)
        for digest in reversed(task.keeps):
            self.kept.pop(digest, None)
            self.kept[digest] = known.get(digest, task.prompt_tokens + task.answer_tokens)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)

    def _load(self) -> None:
        """Begin to load for the first run that needs it, if idle models that go make room for it."""
        if self.loading:
            return
        place = next((place for place, run in enumerate(self.runs) if run.task.model not in self.loaded), None)
        if place is None:
            return
        wanted = self.runs[place].task.model
        used = {run.task.model for at, run in enumerate(self.runs) if at < place or run.begun}
        room = self.chip.budget_bytes - BY_NAME[wanted].bytes - sum(BY_NAME[name].bytes for name in self.loaded)
        going = []
        for name in self.loaded:
            if room >= 0:
                break
            if name not in used:
                going.append(name)
                room += BY_NAME[name].bytes
        if room < 0:
            return
        for name in going:
            del self.loaded[name]
        self.loading, self.load_left_s = wanted, BY_NAME[wanted].load_s

    def done_s(self, task: Task) -> float:
        """When the task would be done if it came now and nothing after it."""
        mac, passed_s = self.copy(), 0.0
        mac.add(task)
        while True:
            step_s = mac.next_s()
            if math.isinf(step_s):
                return math.inf
            passed_s += step_s
            if any(over.number == task.number for over in mac.advance(step_s)):
                return passed_s
