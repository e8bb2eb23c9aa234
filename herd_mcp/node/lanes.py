"""What one node knows about its work: a lane per engine with the runs that wait, and the engine that serves them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from herd_mcp.jobs import ChatRequest, ErrorInfo, Request, ToolCall
from herd_mcp.node.memory import Needs
from herd_mcp.node.rates import UNKNOWN_RATES, FirstRates
from herd_mcp.pipe import DEFAULT_MAX_TOKENS, EngineSpec
from herd_mcp.settings import Settings
from herd_mcp.state import Level


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Jobs with the same key share an engine: the model, and for images the bits it is quantised to."""

    model: str
    quantize: int | None = None


RunId = tuple[str, int]
"""A job and the number of the attempt: a job may come back while an engine still lets go of an earlier attempt."""

Place = tuple[float, int]
"""A moment and, of those that came in the same one, which came first."""

SHARE_AT: dict[Level, int] = {"normal": 1, "moderate": 2, "high": 4}


def capacity_at(level: Level, capacity: int) -> int:
    """How many runs an engine may have while this Mac is so short of memory: all, a half, a quarter, one."""
    return max(1, capacity // SHARE_AT.get(level, capacity))


def for_jobs_only(level: Level) -> bool:
    """Whether this Mac is so short of memory that nothing is loaded but for a job that waits for it."""
    return level in ("high", "critical")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job needs: which engine, how it is loaded, and what that reserves."""

    key: EngineKey
    spec: EngineSpec
    needs: Needs
    capacity: int
    """Runs the engine takes at the same time."""
    max_tokens: int = DEFAULT_MAX_TOKENS
    """Of an answer whose asker named none."""
    steps: int = 0
    """Of an image whose asker named none; 0 where only its engine knows."""
    pinned: bool = False
    """Never ended to make room, nor for being idle."""
    idle_unload_s: float | None = None
    """Instead of the node's own."""
    first: FirstRates = UNKNOWN_RATES
    """How fast it is, as guessed before it was measured."""


@dataclass(slots=True)
class Run:
    """One attempt of one job on this node. Times are seconds of the node's monotonic clock."""

    number: int
    job_id: str
    attempt: int
    request: Request
    key: EngineKey
    spool: str
    size: int
    """Tokens of the chat, prompt and answer together, or pixels of the image: what memory is reserved for."""
    submitted_at: float
    deadline_at: float
    alone: bool = False
    """Shares its engine with nobody: it was in one that died, and is not to take others with it."""
    counted: bool = False
    """Its size is what the engine counted, no longer an estimate."""
    held: bool = True
    """Not to be started yet: the job is not on disk."""
    started_at: float | None = None
    load_s: float = 0.0
    first_token_at: float | None = None
    cancelling: bool = False
    ended: bool = False
    """Its end was told (a timeout), but the engine has not let go of it yet."""
    let_go_at: float | None = None
    """When the engine was told to let go of it."""
    put_off: bool = False
    """Not to be started while memory is as short as now: it is too large for that."""
    cap: int | None = None
    """The longest answer in tokens, or the most steps, where memory was too short at its start for what was asked."""
    deltas: int = 0
    chars: int = 0
    step: int = 0
    steps: int = 0
    first_step: tuple[int, float] | None = None
    last_step: tuple[int, float] | None = None
    """Images: the first and the last step that was done, and when."""
    prompt_bytes: int = 0
    """Chat: of its prompt, in UTF-8."""
    streams_s: float = 0.0
    """Its engine's figure of that name when it began."""
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)

    @property
    def id(self) -> RunId:
        return self.job_id, self.attempt

    @property
    def answer_tokens(self) -> int:
        """The longest answer that was asked for. The node names one for those who did not (`plans.with_limits`)."""
        asked = self.request.max_tokens if isinstance(self.request, ChatRequest) else 0
        return DEFAULT_MAX_TOKENS if asked is None else asked


@dataclass(slots=True)
class Engine:
    """One engine process, as the node sees it."""

    generation: int
    """Tells this process from an earlier one of the same lane."""
    reserved_bytes: int
    started_at: float
    phase: Literal["starting", "ready"] = "starting"
    condemned: bool = False
    """Its end was ordered: it gets no more work and holds its memory until it is gone."""
    ready_at: float | None = None
    last_used_at: float = 0.0
    last_progress_at: float = 0.0
    loaded: float = -1.0
    """The last fraction it told of its loading."""
    work: int = 0
    """What it told it has computed, as `pipe.Step.work`."""
    vain_messages: int = 0
    """Messages since the last that told of progress."""
    unloading: bool = False
    """Wanted no more: it ends when nothing runs or waits in it."""
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=1))
    """When its last runs were started, as many as make a turn."""
    broken: bool = False
    """It broke the protocol: nothing it says counts any more."""
    running: dict[int, Run] = field(default_factory=dict)
    load_error: ErrorInfo | None = None
    held_bytes: int = 0
    """What the process holds, as last measured."""
    most_bytes: int = 0
    """The most of it."""
    times_over: int = 0
    """Measurements in a row in which that was too much."""
    lately_bytes: int = 0
    """The most that was reserved for it lately, since memory comes back a little later than it is given up."""
    lately_at: float = 0.0
    streams_s: float = 0.0
    """Seconds that its runs took so far, added up, as of `streams_at`."""
    streams_at: float = 0.0

    def streams_until(self, now: float) -> float:
        """Seconds that its runs took until now, added up."""
        return self.streams_s + len(self.running) * max(now - self.streams_at, 0.0)

    def count_streams(self, now: float) -> float:
        """The same, noted: to be asked before a run comes or goes."""
        self.streams_s, self.streams_at = self.streams_until(now), now
        return self.streams_s


@dataclass(slots=True)
class Lane:
    """The work for one engine, whether or not the engine is there."""

    plan: Plan
    engine: Engine | None = None
    waiting: deque[Run] = field(default_factory=deque)
    wanted: bool = False
    """Its engine is to be started though no job asks for it."""
    mean_run_s: float | None = None
    """Moving average of the time a run took in the engine."""
    yielded: Place = (float("-inf"), 0)
    """Its place since it had a whole turn and gave it up to others."""

    @property
    def head(self) -> Run | None:
        """The first run that may start."""
        return next((run for run in self.waiting if not run.held and not run.put_off), None)

    @property
    def has_work(self) -> bool:
        """Whether a run waits here that may come next, or as soon as it is on disk."""
        return any(not run.put_off for run in self.waiting)

    @property
    def place(self) -> Place:
        """Where it stands among the lanes: first who came first. Last of all while it waits for nothing."""
        head = self.head
        return max((head.submitted_at, head.number), self.yielded) if head else (float("inf"), 0)

    def put_back(self, run: Run) -> None:
        """A run that did not begin after all waits again, where it waited before."""
        run.started_at = None
        index = next((i for i, other in enumerate(self.waiting) if other.number > run.number), len(self.waiting))
        self.waiting.insert(index, run)

    def idle_unload_s(self, limits: Limits) -> float:
        """Seconds without work after which its engine ends; 0 keeps it."""
        if self.plan.pinned:
            return 0
        return limits.idle_unload_s if self.plan.idle_unload_s is None else self.plan.idle_unload_s

    def eta_s(self, position: int) -> float | None:
        """Seconds until the run at `position` (0 is next) starts, where past runs tell."""
        if self.mean_run_s is None:
            return None
        running = len(self.engine.running) if self.engine else 0
        return round(self.mean_run_s * (position + running) / self.plan.capacity, 1)


ByLevel = Mapping[Literal["moderate", "high", "critical"], int]
"""What holds while memory is so short; a level that is not there limits nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that decisions need. Seconds and bytes as in settings.py."""

    queue_limit: int
    idle_unload_s: float
    load_timeout_s: float
    engine_stall_s: float
    budget_bytes: int
    max_loaded: int = 0
    """Engines at the same time; 0 is without limit."""
    memory_margin: float = 0.2
    pressure_max_tokens: ByLevel = field(default_factory=dict)
    pressure_max_steps: ByLevel = field(default_factory=dict)
    pressure_max_image_px: ByLevel = field(default_factory=dict)
    pressure_context_tokens: ByLevel = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, budget_bytes: int) -> Limits:
        return cls(
            queue_limit=settings.queue_limit,
            idle_unload_s=settings.idle_unload_s,
            load_timeout_s=settings.load_timeout_s,
            engine_stall_s=settings.engine_stall_s,
            budget_bytes=budget_bytes,
            max_loaded=settings.max_loaded,
            memory_margin=settings.memory_margin,
            pressure_max_tokens=settings.pressure_max_tokens,
            pressure_max_steps=settings.pressure_max_steps,
            pressure_max_image_px=settings.pressure_max_image_px,
            pressure_context_tokens=settings.pressure_context_tokens,
        )


@dataclass(slots=True)
class State:
    """All mutable state of one node. Changed by `decide` and by nothing else."""

    node: str
    limits: Limits
    draining: bool = False
    """No new jobs."""
    closed: bool = False
    """No new engines and runs either."""
    lanes: dict[EngineKey, Lane] = field(default_factory=dict)
    runs: dict[RunId, Run] = field(default_factory=dict)
    """Every run whose end was not told yet."""
    next_number: int = 1
    level: Level = "normal"
    """How short of memory this Mac is."""
    load_s: dict[EngineKey, float] = field(default_factory=dict)
    """How long the last load of each took, from the start of its process."""
    claim_at: float | None = None
    """When the next of those that wait for others' memory has waited long enough to claim it."""

    def engines(self) -> Iterator[tuple[Lane, Engine]]:
        """The lanes that have an engine, and it."""
        for lane in self.lanes.values():
            if lane.engine is not None:
                yield lane, lane.engine

    @property
    def reserved_bytes(self) -> int:
        """What is promised to engines now, those that are just ending included."""
        return sum(engine.reserved_bytes for _, engine in self.engines())

    def number(self) -> int:
        """A number not used before, for a run or for an engine process."""
        self.next_number += 1
        return self.next_number
