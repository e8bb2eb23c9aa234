"""What one node promises in any order of events: engines that die, lie, stand still or answer late, owners that cancel,
retry and start again. No clock, no process, no disk; hypothesis prints how to repeat what it found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from herd_mcp import pipe
from herd_mcp.jobs import ErrorCode, ErrorInfo, Failed, JobEvent
from herd_mcp.node.decide import decide, next_tick_at
from herd_mcp.node.events import (
    Cancel,
    Effect,
    EndEngine,
    Event,
    Exited,
    Heard,
    Measured,
    Refuse,
    Release,
    Send,
    StartEngine,
    Submit,
    TakeBack,
    Tell,
    Tick,
    Unload,
    Warm,
)
from herd_mcp.node.lanes import EngineKey, Limits, Plan
from herd_mcp.node.memory import Needs
from herd_mcp.node.pressure import LEVELS
from herd_mcp.orders import Returned
from herd_mcp.owner.retry import MAX_DEATHS, alone_after
from tests.node.test_decide import LIMITS, READY, new_state, plan_of, submit

MODELS = {
    "a": plan_of("a", Needs(50, work_bytes=6, px_bytes=1.0)),
    "b": plan_of("b", Needs(30, work_bytes=2, px_bytes=3.0), 4),
    "c": plan_of("c", Needs(20, work_bytes=2, cache=pipe.CacheShape(fixed_bytes=3)), 8, kind="chat"),
    "d": plan_of("d", Needs(25, px_bytes=2.0), pinned=True),
    "big": plan_of("big", Needs(101)),
}
FACTS = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
CHAT_FACTS = pipe.ChatFacts(
    finish_reason="stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1, prefill_s=1, decode_s=1
)
LONGER = ErrorInfo(code=ErrorCode.INSUFFICIENT_MEMORY, message="the prompt is longer", details={"prompt_tokens": 300})
NO = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="no")
DYING = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="a step raised")
STALL_S = LIMITS.engine_stall_s
SIDES = {"high": 3, "critical": 2}
"""Pictures have up to 13 pixels here."""


@dataclass
class Asked:
    """A job as its owner sees it."""

    model: str
    size: int
    attempt: int = 1
    deaths: int = 0
    begun: bool = False
    """An engine began with this attempt."""
    alone: bool = False
    over: bool = False
    left: set[int] = field(default_factory=set)
    """Earlier attempts that it waits for no more, and that have not ended yet."""


@dataclass
class Process:
    """An engine as it is, not as the node thinks it is."""

    runs: dict[int, str] = field(default_factory=dict)
    ready: bool = False
    condemned: bool = False
    lied: bool = False
    work: int = 0
    progress_at: float = 0.0
    let_go_at: dict[int, float] = field(default_factory=dict)


class World:
    """Engines and owners that do what they may in any order. Checks after every decision what must always hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = new_state(limits)
        self.factor = 1.0
        """How wrong the estimates are that come with jobs."""
        self.timeout_s = 500.0
        self.now = 0.0
        self.live: dict[tuple[str, int], Process] = {}
        self.dead: list[tuple[str, int, int]] = []
        """Engines that are gone, with a run that each had."""
        self.jobs: dict[str, Asked] = {}
        self.again: list[tuple[str, bool]] = []
        self.began: dict[int, tuple[str, int]] = {}
        """Job and attempt of each run that was given to an engine."""

    def do(self, event: Event) -> list[Effect]:
        effects = decide(self.state, event, self.now)
        for effect in effects:
            self.carry_out(effect, forced=isinstance(event, Submit) and event.forced)
        self.check()
        while self.again:
            job_id, alone = self.again.pop()
            self.do(self.attempt(job_id, forced=True, alone=alone))
        return effects

    def attempt(self, job_id: str, *, forced: bool = False, alone: bool = False) -> Submit:
        job = self.jobs[job_id]
        job.begun, job.alone = False, alone
        first = submit(job_id, plan=self.plan(job.model), size=job.size, timeout_s=self.timeout_s)
        return replace(first, attempt=job.attempt, forced=forced, alone=alone)

    def plan(self, model: str) -> Plan:
        plan = MODELS[model]
        needs = replace(plan.needs, load_bytes=int(plan.needs.load_bytes * self.factor))
        return replace(plan, needs=needs)

    def carry_out(self, effect: Effect, *, forced: bool) -> None:
        match effect:
            case Refuse("", error):
                self.check_never("big", error)
            case Refuse(job_id, error):
                job = self.jobs[job_id]
                assert not forced or error.code == ErrorCode.INSUFFICIENT_MEMORY, "a job that was accepted is refused"
                if error.code == ErrorCode.INSUFFICIENT_MEMORY:
                    self.check_never(job.model, error)
                job.over = True
            case Tell(job_id, attempt, event):
                self.told(self.jobs[job_id], job_id, attempt, event)
            case StartEngine(key, generation, _):
                assert not [model for model, _ in self.live if model == key.model], "two engines of one lane"
                if self.state.level == "critical":
                    assert not [1 for process in self.live.values() if process.runs], "it starts beside one that works"
                self.live[key.model, generation] = Process(progress_at=self.now)
            case EndEngine(key, generation, reason):
                process = self.live[key.model, generation]
                chosen = reason == "idle" or reason == "unloaded" or reason.startswith("room for")
                loads = reason == "unloaded"  # what nobody waits for may end before it is loaded
                assert not chosen or ((process.ready or loads) and not process.runs), "it is ended under its work"
                assert not (MODELS[key.model].pinned and reason != "unloaded" and chosen), "a pinned model is ended"
                assert not process.condemned, "its end is ordered twice"
                process.condemned = True
            case Send(key, generation, pipe.Start(run=run)):
                self.begin(self.live[key.model, generation], run)
            case Send(key, generation, pipe.Cancel(run=run)):
                process = self.live[key.model, generation]
                assert run in process.runs or process.lied, "an engine is to cancel what it does not have"
                process.let_go_at[run] = self.now

    def told(self, job: Asked, job_id: str, attempt: int, event: JobEvent | Returned) -> None:
        if attempt in job.left:
            if event.type in ("completed", "failed", "cancelled", "returned"):
                job.left.remove(attempt)
            return
        assert not job.over, "something was told after the outcome"
        assert attempt == job.attempt, "an old attempt is spoken of"
        if isinstance(event, Returned):
            runs = [run for process in self.live.values() for run in process.runs]
            assert (job_id, attempt) not in [self.began[run] for run in runs], "it is taken back under its work"
            job.attempt += 1
            self.again.append((job_id, job.alone))
            return
        if event.type not in ("completed", "failed", "cancelled"):
            return
        if isinstance(event, Failed):
            assert event.error.code != ErrorCode.TIMEOUT or self.timeout_s < 1e6, "it waited for ever"
            if event.error.code == ErrorCode.INSUFFICIENT_MEMORY and event.error != LONGER:
                self.check_never(job.model, event.error)
        if isinstance(event, Failed) and event.error.code == ErrorCode.ENGINE_CRASHED:
            job.deaths += 1
            if job.deaths < MAX_DEATHS:
                job.attempt += 1
                self.again.append((job_id, alone_after(event.error)))
                return
        job.over = True

    def begin(self, process: Process, run: int) -> None:
        assert process.ready, "a run is given to an engine that is not ready"
        assert not process.condemned, "a run is given to an engine that is to end"
        ((job_id, attempt),) = [r.id for r in self.state.runs.values() if r.number == run]
        job = self.jobs[job_id]
        assert not self.state.runs[job_id, attempt].held, "a job was started before it was on disk"
        self.began[run] = job_id, attempt
        others = [self.state.runs.get(self.began[other]) for other in process.runs]
        alone = [other for other in (self.state.runs[job_id, attempt], *others) if other and other.alone]
        assert not others or not alone, "it is not alone"
        assert job.deaths < MAX_DEATHS
        side = SIDES.get(self.state.level, 99)
        assert job.model == "c" or job.size <= side * side, "a picture is begun that is too large now"
        job.begun = job.begun or attempt == job.attempt
        if not process.runs:
            process.progress_at = self.now
        process.runs[run] = job_id

    def check(self) -> None:
        state = self.state
        assert state.reserved_bytes <= self.limits.budget_bytes
        assert len(self.live) <= (self.limits.max_loaded or 99)
        assert {(lane.plan.key.model, engine.generation) for lane, engine in state.engines()} == set(self.live)
        due = next_tick_at(state)
        assert not state.runs or due is not None, "nothing wakes the node, and jobs wait"
        heads = [head for lane in state.lanes.values() if lane.engine is None and (head := lane.head)]
        assert not heads or self.live, "a job waits and no engine holds its memory"
        for lane in state.lanes.values():
            assert lane.engine or lane.waiting or lane.wanted, "a lane without use"
            engine = lane.engine
            if engine is None:
                continue
            assert engine.phase == "starting" or self.live[lane.plan.key.model, engine.generation].ready
            assert len(engine.running) <= lane.plan.capacity
            needed = lane.plan.needs.bytes_for([run.size for run in engine.running.values()])
            free = self.limits.budget_bytes - state.reserved_bytes
            if engine.phase == "ready" and not engine.condemned:
                assert engine.reserved_bytes >= needed or not free, "what runs is more than was reserved"
            if engine.phase == "ready" and not engine.condemned and not engine.running and (mine := lane.head):
                older = [other for other in state.lanes.values() if other.place < lane.place]
                fits = lane.plan.needs.bytes_for([mine.size]) - engine.reserved_bytes <= free
                assert older or not fits, "an engine is idle beside a job that may start"

    def check_never(self, model: str, error: ErrorInfo) -> None:
        """It is said that this never fits: then it does not fit beside what is pinned."""
        pinned = [engine for lane, engine in self.state.engines() if lane.plan.pinned and not engine.condemned]
        needed = error.details.get("needed_bytes", 0)
        assert needed > self.limits.budget_bytes or pinned
        assert "needed_bytes" not in error.details or needed + error.details.get("pinned_bytes", 0) > 100, model

    def check_time(self) -> None:
        """After a tick: nothing is over its time."""
        assert all(self.now < run.deadline_at for run in self.state.runs.values())
        for process in self.live.values():
            if not process.condemned and (process.runs or not process.ready):
                assert self.now < process.progress_at + STALL_S, "an engine stands still"
                held = [at for run, at in process.let_go_at.items() if run in process.runs]
                assert all(self.now < at + STALL_S for at in held), "an engine does not let go"

    # ── what can happen ──

    def ask(self, model: str, size: int, *, release: bool) -> None:
        job_id = f"j{len(self.jobs)}"
        self.jobs[job_id] = Asked(model, size)
        self.do(self.attempt(job_id))
        if release:
            self.do(Release(job_id))
        for lane in self.state.lanes.values():
            assert sum(run.attempt == 1 and not run.counted for run in lane.waiting) <= LIMITS.queue_limit

    def start_again(self) -> None:
        """The node was killed: its owner takes up what was not over, as `Owner.restore` does."""
        self.state = new_state(self.limits)
        self.live.clear()
        self.dead.clear()  # numbers begin anew, and so do the pipes
        for job_id, job in self.jobs.items():
            job.left.clear()
            if job.over:
                continue
            job.deaths += job.begun
            job.attempt += job.begun
            job.over = job.deaths >= MAX_DEATHS
            if not job.over:
                self.do(self.attempt(job_id, forced=True))

    def come_back(self, job_id: str) -> None:
        """Its owner lets go of an attempt and comes with the next, while an engine may still have the old one."""
        job = self.jobs[job_id]
        if job.over:
            return
        old, job.attempt = job.attempt, job.attempt + 1
        job.left.add(old)
        self.do(self.attempt(job_id, forced=True, alone=job.alone))
        self.do(Cancel(job_id, old))

    def take_back(self, job_id: str, attempt: int) -> None:
        run = self.state.runs.get((job_id, attempt))
        waited = run is not None and run.started_at is None
        effects = self.do(TakeBack(job_id, attempt))
        told = [effect for effect in effects if isinstance(effect, Tell) and isinstance(effect.event, Returned)]
        assert [(tell.job_id, tell.attempt) for tell in told] == [(job_id, attempt)] * waited

    def hear(self, at: tuple[str, int], message: pipe.Message) -> list[Effect]:
        lied = at in self.live and self.live[at].lied
        effects = self.do(Heard(EngineKey(at[0]), at[1], message))
        assert not lied or not [effect for effect in effects if isinstance(effect, Tell)], "a liar is heard"
        return effects

    def engine(self, what: str, index: int) -> None:
        if not self.live:
            return
        at = sorted(self.live)[index % len(self.live)]
        process = self.live[at]
        run = sorted(process.runs)[index % len(process.runs)] if process.runs else None
        match what:
            case "gone":
                del self.live[at]
                self.dead.append((*at, run or 0))
                self.do(Exited(EngineKey(at[0]), at[1], "it was killed"))
            case "ready" if not process.ready:
                process.ready = not process.condemned
                process.progress_at = self.now
                self.hear(at, READY)
            case "beat" if process.ready:
                self.hear(at, pipe.Step(work=process.work))
            case "work" if process.ready:
                process.work += 1
                process.progress_at = self.now
                self.hear(at, pipe.Step(work=process.work, runs=(pipe.RunDelta(run=run, text="x"),) if run else ()))
            case "done" | "fail" | "longer" | "cancelled" | "dying" if run is not None:
                del process.runs[run]
                process.let_go_at.pop(run, None)
                endings: dict[str, pipe.Message] = {
                    "done": pipe.Done(run=run, facts=CHAT_FACTS if at[0] == "c" else FACTS),
                    "longer": pipe.RunFailed(run=run, error=LONGER),
                    "fail": pipe.RunFailed(run=run, error=NO),
                    "dying": pipe.RunFailed(run=run, error=DYING),
                    "cancelled": pipe.RunCancelled(run=run),
                }
                process.progress_at = self.now
                self.hear(at, endings[what])
                assert what != "dying" or process.condemned, "a dying engine is kept"
            case "lie" if process.ready or index % 7 < 6:
                self.hear(at, self.lies(run, CHAT_FACTS if at[0] != "c" else FACTS)[index % 7])
                process.lied = True
                assert process.condemned, "a lie is believed"

    def lies(self, run: int | None, others: pipe.ChatFacts | pipe.ImageFacts) -> list[pipe.Message]:
        old = self.dead[-1][2] if self.dead else 10**6
        return [
            pipe.Done(run=10**6, facts=FACTS),
            pipe.Done(run=old, facts=FACTS),
            pipe.Done(run=run or 0, facts=others),
            pipe.Step(work=10**6, runs=(pipe.RunDelta(run=old, text="x"),)),
            pipe.RunFailed(run=run or 0, error=NO.model_copy(update={"code": ErrorCode.INTERRUPTED})),
            pipe.LoadFailed(error=NO),
            pipe.LoadingNow(fraction=0.5),
        ]

    def measure(self, index: int) -> None:
        """The Mac is short of memory, or not, and an engine takes too much, or none does."""
        greedy = sorted(self.live)[index % len(self.live)] if self.live and index % 3 else None
        held = tuple((EngineKey(at[0]), at[1], 2**40 if at == greedy else 1) for at in sorted(self.live))
        self.do(Measured(LEVELS[index % len(LEVELS)], held))

    def late_words(self, index: int) -> None:
        """What an engine said before it died, read after it is gone."""
        if self.dead:
            model, generation, run = self.dead[index % len(self.dead)]
            assert self.hear((model, generation), pipe.Done(run=run, facts=FACTS)) == []


DEEDS = ("ask", "ask", "crowd", "submit", "release", "cancel", "tick", "wait", "late", "measure", "start again")
KEEPING = ("warm", "unload", "level", "estimates", "come back", "take back", "take back")
WORDS = ("ready", "ready", "work", "beat", "done", "done", "fail", "longer", "cancelled", "dying", "lie", "gone")
STEPS = st.lists(
    st.tuples(st.sampled_from(DEEDS + KEEPING + WORDS), st.integers(0, 13), st.sampled_from(sorted(MODELS))),
    min_size=20,
    max_size=120,
)


def act(world: World, what: str, index: int, model: str) -> None:
    jobs = list(world.jobs)
    if what in ("ask", "submit"):
        world.ask(model, index, release=what == "ask")
    elif what == "crowd":
        for _ in range(3):
            world.ask("bc"[index % 2], index, release=True)
        for place in range(len(world.live)):
            world.engine("ready", place)
    elif what in ("release", "cancel") and jobs:
        job_id = jobs[-1 - index % len(jobs)]
        attempt = world.jobs[job_id].attempt
        world.do(Release(job_id, attempt) if what == "release" else Cancel(job_id, attempt))
        others = world.do(Cancel(job_id, attempt + 1))  # of one that never came
        assert not [effect for effect in others if isinstance(effect, Tell) and effect.job_id == job_id]
    elif what in ("come back", "take back") and jobs:
        job_id = jobs[-1 - index % len(jobs)]
        if what == "come back":
            world.come_back(job_id)
        else:
            world.take_back(job_id, world.jobs[job_id].attempt + (0, 0, 0, 1, -1)[index % 5])
    elif what in ("tick", "wait"):
        world.now += 1 if what == "tick" else 16
        world.do(Tick())
        world.check_time()
    elif what == "warm":
        world.do(Warm(world.plan(model)))
    elif what == "unload":
        world.do(Unload(EngineKey(model)))
    elif what == "level":
        world.do(Measured(LEVELS[index % 4]))
    elif what == "estimates":
        world.factor = (0.7, 1.0, 1.3, 1.6)[index % 4]
    elif what == "late":
        world.late_words(index)
    elif what == "start again":
        world.start_again()
    elif what == "measure":
        world.measure(index)
    else:
        world.engine(what, index)


def go_well(world: World) -> None:
    """From now on nothing goes wrong and nobody's time runs out, until nothing is left to do; but what is too large
    while memory is short waits until it is not."""
    finish(world)
    assert all(run.put_off for run in world.state.runs.values())
    world.do(Measured("normal"))
    finish(world)


def finish(world: World) -> None:
    world.timeout_s = 1e9
    for run in world.state.runs.values():
        run.deadline_at = 1e9
    for _ in range(20 * len(world.jobs) + 20):
        for job_id, attempt in list(world.state.runs):
            world.do(Release(job_id, attempt))
        if world.state.claim_at is not None:
            for process in world.live.values():
                process.progress_at = world.now
            world.now = max(world.now, world.state.claim_at)
            world.do(Tick())
        for at in sorted(world.live):
            if at not in world.live:
                continue
            index = sorted(world.live).index(at)
            if world.live[at].condemned:
                world.engine("gone", index)
            elif not world.live[at].ready:
                world.engine("ready", index)
            while at in world.live and world.live[at].runs and not world.live[at].condemned:
                world.engine("done", sorted(world.live).index(at))


@settings(max_examples=300)
@given(STEPS, st.sampled_from([0, 0, 1, 2]))
def test_in_any_order_of_events_memory_is_never_over_and_every_job_has_one_outcome(
    steps: list[tuple[str, int, str]], max_loaded: int
) -> None:
    world = World(replace(LIMITS, max_loaded=max_loaded, pressure_max_image_px=SIDES))  # type: ignore[arg-type]
    for what, index, model in steps:
        act(world, what, index, model)
    go_well(world)
    assert world.state.runs == {}
    assert [job_id for job_id, job in world.jobs.items() if not job.over or job.left] == []
