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
    Tell,
    Tick,
)
from herd_mcp.node.lanes import EngineKey
from herd_mcp.node.pressure import LEVELS
from herd_mcp.owner.retry import MAX_DEATHS, alone_after
from tests.node.test_decide import LIMITS, READY, new_state, submit

MODELS = {"a": (60, 1), "b": (50, 4), "c": (30, 2), "big": (101, 1)}
FACTS = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
CHAT_FACTS = pipe.ChatFacts(
    finish_reason="stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1, prefill_s=1, decode_s=1
)
NO = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="no")
DYING = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="a step raised")
STALL_S = LIMITS.engine_stall_s


@dataclass
class Asked:
    """A job as its owner sees it."""

    model: str
    attempt: int = 1
    deaths: int = 0
    begun: bool = False
    """An engine began with this attempt."""
    alone: bool = False
    over: bool = False


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

    def __init__(self) -> None:
        self.state = new_state()
        self.now = 0.0
        self.live: dict[tuple[str, int], Process] = {}
        self.dead: list[tuple[str, int, int]] = []
        """Engines that are gone, with a run that each had."""
        self.jobs: dict[str, Asked] = {}
        self.again: list[tuple[str, bool]] = []
        self.started_runs: dict[int, str] = {}

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
        reserve, capacity = MODELS[job.model]
        first = submit(job_id, job.model, reserve=reserve, capacity=capacity, timeout_s=500)
        return replace(first, attempt=job.attempt, forced=forced, alone=alone)

    def carry_out(self, effect: Effect, *, forced: bool) -> None:
        match effect:
            case Refuse(job_id, _):
                assert not forced, "a job that was accepted is refused"
                self.jobs[job_id].over = True
            case Tell(job_id, attempt, event):
                self.told(self.jobs[job_id], job_id, attempt, event)
            case StartEngine(key, generation, _):
                assert not [model for model, _ in self.live if model == key.model], "two engines of one lane"
                self.live[key.model, generation] = Process(progress_at=self.now)
            case EndEngine(key, generation, _):
                process = self.live[key.model, generation]
                assert not process.condemned, "its end is ordered twice"
                process.condemned = True
            case Send(key, generation, pipe.Start(run=run)):
                self.begin(self.live[key.model, generation], run)
            case Send(key, generation, pipe.Cancel(run=run)):
                process = self.live[key.model, generation]
                assert run in process.runs or process.lied, "an engine is to cancel what it does not have"
                process.let_go_at[run] = self.now

    def told(self, job: Asked, job_id: str, attempt: int, event: JobEvent) -> None:
        assert not job.over, "something was told after the outcome"
        assert attempt == job.attempt, "an old attempt is spoken of"
        if event.type not in ("completed", "failed", "cancelled"):
            return
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
        (job_id,) = [r.job_id for r in self.state.runs.values() if r.number == run]
        job = self.jobs[job_id]
        assert not self.state.runs[job_id].held, "a job was started before it was on disk"
        others = [self.jobs[other] for other in process.runs.values()]
        assert not others or not (job.alone or any(other.alone for other in others)), "it is not alone"
        assert job.attempt <= MAX_DEATHS
        job.begun = True
        if not process.runs:
            process.progress_at = self.now
        process.runs[run] = job_id

    def check(self) -> None:
        state = self.state
        assert state.reserved_bytes <= LIMITS.budget_bytes
        assert {(lane.plan.key.model, engine.generation) for lane, engine in state.engines()} == set(self.live)
        due = next_tick_at(state)
        assert not state.runs or due is not None, "nothing wakes the node, and jobs wait"
        heads = [head for lane in state.lanes.values() if lane.engine is None and (head := lane.head)]
        assert not heads or self.live, "a job waits and no engine holds its memory"
        for lane in state.lanes.values():
            assert lane.engine or lane.waiting, "a lane without use"
            engine = lane.engine
            if engine is None:
                continue
            assert engine.phase == "starting" or self.live[lane.plan.key.model, engine.generation].ready
            assert len(engine.running) <= lane.plan.capacity
            if engine.phase == "ready" and not engine.condemned and not engine.running and (mine := lane.head):
                older = [head for head in heads if head.submitted_at < mine.submitted_at]
                assert older, "an engine is idle beside a job that may start"

    def check_time(self) -> None:
        """After a tick: nothing is over its time."""
        assert all(self.now < run.deadline_at for run in self.state.runs.values())
        for process in self.live.values():
            if not process.condemned and (process.runs or not process.ready):
                assert self.now < process.progress_at + STALL_S, "an engine stands still"
                held = [at for run, at in process.let_go_at.items() if run in process.runs]
                assert all(self.now < at + STALL_S for at in held), "an engine does not let go"

    # ── what can happen ──

    def ask(self, model: str, *, release: bool) -> None:
        job_id = f"j{len(self.jobs)}"
        self.jobs[job_id] = Asked(model)
        self.do(self.attempt(job_id))
        if release:
            self.do(Release(job_id))
        for lane in self.state.lanes.values():
            assert sum(run.attempt == 1 for run in lane.waiting) <= LIMITS.queue_limit

    def start_again(self) -> None:
        """The node was killed: its owner takes up what was not over, as `Owner.restore` does."""
        self.state = new_state()
        self.live.clear()
        self.dead.clear()  # numbers begin anew, and so do the pipes
        for job_id, job in self.jobs.items():
            if job.over:
                continue
            job.deaths += job.begun
            job.attempt += job.begun
            job.over = job.deaths >= MAX_DEATHS
            if not job.over:
                self.do(self.attempt(job_id, forced=True))

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
            case "done" | "fail" | "cancelled" | "dying" if run is not None:
                del process.runs[run]
                endings: dict[str, pipe.Message] = {
                    "done": pipe.Done(run=run, facts=FACTS),
                    "fail": pipe.RunFailed(run=run, error=NO),
                    "dying": pipe.RunFailed(run=run, error=DYING),
                    "cancelled": pipe.RunCancelled(run=run),
                }
                process.progress_at = self.now
                self.hear(at, endings[what])
                assert what != "dying" or process.condemned, "a dying engine is kept"
            case "lie" if process.ready or index % 7 < 6:
                self.hear(at, self.lies(run)[index % 7])
                process.lied = True
                assert process.condemned, "a lie is believed"

    def lies(self, run: int | None) -> list[pipe.Message]:
        old = self.dead[-1][2] if self.dead else 10**6
        return [
            pipe.Done(run=10**6, facts=FACTS),
            pipe.Done(run=old, facts=FACTS),
            pipe.Done(run=run or 0, facts=CHAT_FACTS),
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


DEEDS = ("ask", "crowd", "submit", "release", "cancel", "tick", "wait", "late", "measure", "start again")
WORDS = ("ready", "ready", "work", "beat", "done", "fail", "cancelled", "dying", "lie", "gone")
STEPS = st.lists(
    st.tuples(st.sampled_from(DEEDS + WORDS), st.integers(0, 13), st.sampled_from(sorted(MODELS))),
    min_size=20,
    max_size=120,
)


def act(world: World, what: str, index: int, model: str) -> None:
    jobs = list(world.jobs)
    if what in ("ask", "submit"):
        world.ask(model, release=what == "ask")
    elif what == "crowd":
        for _ in range(3):
            world.ask("b", release=True)
        for index in range(len(world.live)):
            world.engine("ready", index)
    elif what in ("release", "cancel") and jobs:
        job_id = jobs[-1 - index % len(jobs)]
        world.do(Release(job_id) if what == "release" else Cancel(job_id))
    elif what in ("tick", "wait"):
        world.now += 1 if what == "tick" else 16
        world.do(Tick())
        world.check_time()
    elif what == "late":
        world.late_words(index)
    elif what == "start again":
        world.start_again()
    elif what == "measure":
        world.measure(index)
    else:
        world.engine(what, index)


def go_well(world: World) -> None:
    """From now on nothing goes wrong, until nothing is left to do."""
    for _ in range(20 * len(world.jobs) + 20):
        for job_id in list(world.state.runs):
            world.do(Release(job_id))
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
@given(STEPS)
def test_in_any_order_of_events_memory_is_never_over_and_every_job_has_one_outcome(
    steps: list[tuple[str, int, str]],
) -> None:
    world = World()
    for what, index, model in steps:
        act(world, what, index, model)
    go_well(world)
    assert world.state.runs == {}
    assert [job_id for job_id, job in world.jobs.items() if not job.over] == []
