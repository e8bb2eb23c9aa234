"""What holds in every run of a simulated herd: looked at while it runs, and when it has come to rest."""

from __future__ import annotations

import asyncio
from collections import Counter

from herd_mcp.fleet.placer import PATIENCE_S, HerdPlacer
from herd_mcp.jobs import MAX_ATTEMPTS, ChatRequest, Completed, ErrorCode, Failed, ImageResult, Job
from herd_mcp.owner.live import LiveJob
from herd_mcp.owner.owner import AGAIN_MOST_S
from herd_mcp.owner.retry import MAX_DEATHS, MAX_RETURNS, deaths, died_on, tries
from herd_mcp.state import reluctant
from tests.fleet.sim.disk import UNFINISHED
from tests.fleet.sim.engines import BAD, POISON, answer_of, picture_of
from tests.fleet.sim.mac import Mac
from tests.fleet.sim.net import Network
from tests.fleet.sim.told import left_s_of
from tests.fleet.sim.world import ENDS, Asked, World

LOOK_S = 0.25
SEEN_S = 2.0
"""An able Mac counts once it has been idle, reachable and truthful for so long."""
SLACK_PART, SLACK_S = 0.4, 6.0
"""How much longer than it would take there a job may wait: placement moves only what gains 30 % and two seconds, and
looks every two and a half."""
REST_S = 40.0
"""After the last end: a lease, and the time to notice."""


class IdleWatch:
    """No able Mac stays idle while work of an owner that sees it waits."""

    def __init__(self, herd: World) -> None:
        self._herd = herd
        self._good_since: dict[tuple[str, str], float] = {}
        self._waits_since: dict[tuple[str, int], float] = {}
        self.left: list[str] = []

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        now, macs = self._herd.loop.now, self._herd.macs
        good = {
            (owner.name, other.name)
            for owner in macs
            for other in macs
            if owner is not other and _works(owner) and sees_idle(self._herd.net, owner, other)
        }
        self._good_since = {pair: self._good_since.get(pair, now) for pair in sorted(good)}
        waiting = {}
        for owner in filter(_works, macs):
            for live in list(owner.owner._live.values()):
                if live.job.status == "queued" and not live.cancelled and _is_stuck(owner, live, macs):
                    key = live.job.id, owner.starts
                    waiting[key] = self._waits_since.get(key, now)
                    self._check(owner, live, waiting[key], now)
        self._waits_since = waiting

    def _check(self, owner: Mac, live: LiveJob, since: float, now: float) -> None:
        request, here = live.job.request, live.placed.runner if live.placed else None
        assert request is not None
        for other in self._herd.macs:
            good_since = self._good_since.get((owner.name, other.name))
            if good_since is None or (here and here.node_id == other.node_id):
                continue
            if live.job.model not in other.has or other.node_id in died_on(live.job):
                continue
            there_s = (other.speed.load_s + left_s_of(request, other.speed)) * other.gpu.stretch
            if isinstance(owner.owner.placer, HerdPlacer):
                there_s += owner.owner.placer._penalty_s(other.node_id)
            waited_s = now - max(since, good_since + SEEN_S)
            if waited_s > there_s * (1 + SLACK_PART) + SLACK_S:
                self.left.append(
                    f"{live.job.id} on {here.name if here else 'no Mac'} waits {waited_s:.1f} s, {other.name} idles"
                )


def _is_stuck(owner: Mac, live: LiveJob, macs: list[Mac]) -> bool:
    """Whether it waits on no Mac, or on one that can be asked to give it back: of one that is not reached nobody
    knows."""
    if live.placed is None:
        return True
    there = next(mac for mac in macs if mac.node_id == live.placed.runner.node_id)
    return there is owner or (_works(there) and owner.net.open(owner.name, there.name))


def _works(mac: Mac) -> bool:
    return mac.up and not mac.asleep and not mac.draining


def sees_idle(net: Network, owner: Mac, other: Mac) -> bool:
    if not _works(other) or not net.open(owner.name, other.name) or other.node._state.runs or other.honest is False:
        return False
    view = next((view for view in owner.mesh.views() if view.node_id == other.node_id), None)
    return view is not None and view.status == "online" and not reluctant(view)


# ── At rest ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def rest(herd: World, gone: tuple[Mac, ...] = (), limit_s: float = 900.0) -> None:
    """Wait until all that was asked of Macs that are up is over, then for what is left over to go. `limit_s`: the bound
    of every wait."""
    await herd.over([asked for asked in herd.asked if asked.owner not in gone], limit_s)
    await asyncio.sleep(REST_S)


def check(herd: World, gone: tuple[Mac, ...] = ()) -> None:
    """Everything that holds at rest. `gone`: Macs that never came back."""
    for asked in herd.asked:
        job = herd.stored(asked)
        if asked.owner in gone and not asked.ends:
            assert job.status in (*UNFINISHED, *ENDS)
            continue
        _check_told(asked, job)
        assert tries(job) <= MAX_ATTEMPTS, f"{job.id} had {tries(job)} attempts"
        assert deaths(job) <= MAX_DEATHS, f"{job.id} saw {deaths(job)} deaths"
        numbers = [attempt.number for attempt in job.attempts]
        assert numbers == sorted(set(numbers)), f"attempts of {job.id}: {numbers}"
    killed = Counter(prompt for mac in herd.macs for prompts in mac.gpu.deaths for prompt in prompts)
    for asked in herd.asked:
        if asked.prompt.startswith(POISON):
            assert killed[asked.prompt] <= MAX_DEATHS, f"{asked.prompt} killed {killed[asked.prompt]} engines"
    for mac in herd.macs:
        if mac.up:
            assert not mac.node._state.runs, f"left on {mac.name}: {list(mac.node._state.runs)}"
            assert not len(mac.guests), f"guests left on {mac.name}"
            assert not mac.owner._live, f"jobs left on {mac.name}"
            spooled = list((mac.disk.folder / "images" / ".spool").iterdir())
            kept = {guest.order.spool for guest in mac.guests._guests.values()}
            assert {str(file) for file in spooled} <= kept, f"pictures left on {mac.name}: {spooled}"


def _is_explained(asked: Asked, job: Job, code: ErrorCode) -> bool:
    """Whether what happened to a job is reason enough to fail it."""
    shown = asked.stream and any(event.type == "delta" for _, event in asked.told)
    match code:
        case ErrorCode.INVALID_REQUEST:
            return asked.prompt.startswith(BAD)
        case ErrorCode.ENGINE_CRASHED | ErrorCode.NODE_LOST:
            return shown or deaths(job) == MAX_DEATHS
        case ErrorCode.INTERRUPTED:
            return job.kind == "chat" and (asked.owner.starts > 1 or asked.owner.draining)
        case ErrorCode.NO_NODE:
            waited_s = asked.ended_at - (asked.ended_at if asked.waits_since is None else asked.waits_since)
            returns = sum(attempt.outcome == "returned" for attempt in job.attempts)
            return waited_s >= PATIENCE_S - AGAIN_MOST_S or returns > MAX_RETURNS
    return False


def _check_told(asked: Asked, job: Job) -> None:
    """One outcome, told and stored, and streams without gaps."""
    by_start: dict[int, list[int]] = {}
    for start, event in asked.told:
        by_start.setdefault(start, []).append(event.seq)
    for start, seqs in by_start.items():
        assert seqs == list(range(1, len(seqs) + 1)), f"{job.id}: seq of start {start}: {seqs}"
    outcomes = {event.model_dump_json(exclude={"seq"}) for event in asked.ends}
    assert len(outcomes) == 1, f"{job.id}: {outcomes}"
    assert len(asked.ends) == 1, f"{job.id} ended {len(asked.ends)} times"
    assert asked.told[-1][1].type in ENDS, f"{job.id}: something was told after its end"
    end = asked.ends[0]
    assert end.type == job.status, f"{job.id}: told {end.type}, stored {job.status}"
    if isinstance(end, Failed):
        assert _is_explained(asked, job, end.error.code), f"{job.id}: {end.error} after {job.attempts}"
    if isinstance(end, Completed):
        result = end.result
        if isinstance(result, ImageResult):
            path = asked.owner.disk.folder / "images" / f"{result.image_id}.png"
            assert path.read_bytes() == picture_of(asked.prompt), f"{job.id}: not the picture that was asked for"
        else:
            assert isinstance(asked.request, ChatRequest)
            assert result.text == answer_of(asked.request.max_tokens or 0), f"{job.id}: {result.text!r}"
            if asked.stream:
                start = asked.told[-1][0]
                text = "".join(e.text or "" for s, e in asked.told if s == start and e.type == "delta")
                assert text == result.text, f"{job.id}: told {text!r}"
