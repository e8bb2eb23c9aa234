"""What may happen to a herd, drawn by Hypothesis and played: jobs, faults, and the end of all faults."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from herd_mcp.jobs import ChatRequest, ImageRequest
from herd_mcp.state import ModelState, NodeState, Work
from tests.fleet.sim import invariants
from tests.fleet.sim.clock import VirtualLoop
from tests.fleet.sim.disk import TALKER
from tests.fleet.sim.engines import Fault, Speed
from tests.fleet.sim.mac import Mac
from tests.fleet.sim.world import BOTH, World, chat, image, world

Deed = Literal[
    "kill", "power", "restart", "sleep", "stop", "wake", "cut", "heal", "cut streams", "drain",
    "good lie", "absurd lie", "truth", "slow net", "slow gpu", "engine",
]  # fmt: skip
DEEDS: tuple[Deed, ...] = Deed.__args__  # type: ignore[attr-defined]
FAULTS: tuple[Fault, ...] = Fault.__args__  # type: ignore[attr-defined]
WHILE_S = 40
"""Things happen for so long; then all faults end."""
REST_LIMIT_S = 900.0
"""Until everything that was asked is over then."""


@dataclass(frozen=True)
class Act:
    """Something that happens to a Mac."""

    at_s: float
    deed: Deed
    mac: int
    other: int = 0
    fault: Fault = "die"


@dataclass(frozen=True)
class Ask:
    """Somebody asks a Mac for something."""

    at_s: float
    mac: int
    kind: Literal["image", "chat"]
    size: int
    word: Literal["", "poison", "bad"] = ""
    stream: bool = False
    cancel_after_s: float | None = None


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    macs: tuple[tuple[float, bool], ...]
    """How many times slower each is than usual, and whether it has the image model."""
    asks: tuple[Ask, ...]
    acts: tuple[Act, ...] = ()
    gone: frozenset[int] = frozenset()
    """Of those that are dead at the end, these do not come back."""
    loss: float = 0.0
    broken: float = 0.0


_AT = st.integers(0, WHILE_S * 4).map(lambda quarter: quarter / 4)
_MAC = st.integers(0, 4)


def plans(*, acts: bool = True) -> st.SearchStrategy[Plan]:
    """Runs of 2 to 5 Macs; the first can draw, so that the herd can."""
    asks = st.builds(
        Ask,
        at_s=_AT,
        mac=_MAC,
        kind=st.sampled_from(("image", "chat")),
        size=st.integers(1, 60),
        word=st.sampled_from(("", "", "", "", "", "poison", "bad")),
        stream=st.booleans(),
        cancel_after_s=st.one_of(st.none(), st.none(), st.integers(0, 20).map(float)),
    )
    done = st.builds(Act, at_s=_AT, deed=st.sampled_from(DEEDS), mac=_MAC, other=_MAC, fault=st.sampled_from(FAULTS))
    return st.builds(
        Plan,
        seed=st.integers(0, 2**16),
        macs=st.lists(st.tuples(st.sampled_from((1.0, 1.0, 3.0)), st.booleans()), min_size=2, max_size=5).map(
            lambda macs: ((macs[0][0], True), *macs[1:])
        ),
        asks=st.lists(asks, min_size=1, max_size=14).map(tuple),
        acts=st.lists(done, max_size=12).map(tuple) if acts else st.just(()),
        gone=st.frozensets(_MAC, max_size=1) if acts else st.just(frozenset()),
        loss=st.sampled_from((0.0, 0.0, 0.05)),
        broken=st.sampled_from((0.0, 0.0, 0.02)),
    )


async def play(loop: VirtualLoop, plan: Plan) -> str:
    """Play the plan, check what has to hold, and return the digest of all that happened."""
    async with world(loop, plan.seed) as herd:
        for slower, draws in plan.macs:
            herd.add(Speed().times(slower), has=BOTH if draws else frozenset({TALKER}))
        await herd.start()
        herd.net.loss, herd.net.broken = plan.loss, plan.broken
        watch = invariants.IdleWatch(herd)
        watching = asyncio.create_task(watch.run())
        beside: list[asyncio.Task[object]] = []
        began = loop.now
        happening: list[Ask | Act] = [*plan.asks, *plan.acts]
        for what in sorted(happening, key=lambda one: one.at_s):
            await asyncio.sleep(max(began + what.at_s - loop.now, 0.0))
            work = _ask(herd, what) if isinstance(what, Ask) else _act(herd, what)
            beside.append(asyncio.create_task(work))
            await asyncio.sleep(0)
        await _mend(herd)
        async with asyncio.timeout(REST_LIMIT_S):
            await asyncio.gather(*beside)
        gone = await _restart(herd, plan.gone)
        await invariants.rest(herd, gone, REST_LIMIT_S)
        watching.cancel()
        assert not watch.left, watch.left[:3]
        invariants.check(herd, gone)
        return herd.digest()


async def _ask(herd: World, ask: Ask) -> None:
    mac = herd.macs[ask.mac % len(herd.macs)]
    if not mac.up or mac.asleep:
        return
    prompt = f"{ask.word} {next(herd.prompts)}".strip()
    request: ImageRequest | ChatRequest
    request = image(prompt, steps=ask.size) if ask.kind == "image" else chat(prompt * ask.size, tokens=ask.size * 2)
    asked = await herd.ask(mac, request, stream=ask.stream)
    if asked is None or ask.cancel_after_s is None:
        return
    await asyncio.sleep(ask.cancel_after_s)
    live = mac.owner.find(asked.job_id) if mac.listens else None
    if live is not None:
        await asyncio.wait({mac.host.spawn(mac.owner.cancel(live), "cancel")})


async def _act(herd: World, act: Act) -> None:
    mac, other = (herd.macs[number % len(herd.macs)] for number in (act.mac, act.other))
    herd.note(mac, act.deed, other.name)
    awake = mac.up and not mac.asleep and not mac.draining
    match act.deed:
        case "kill" | "power" if mac.up and not mac.draining:
            await mac.kill(power=act.deed == "power")
        case "restart" if not mac.up and not mac.starting and not mac.draining:
            await herd.up(mac)
        case "sleep" | "stop" if awake:
            mac.stands = act.deed == "sleep"
            await mac.sleep()
        case "wake" if mac.asleep:
            await mac.wake(clock_stood=mac.stands)
        case "cut" if mac is not other:
            herd.net.cut(mac.name, other.name)
        case "heal":
            herd.net.heal()
        case "cut streams":
            herd.net.cut_streams()
        case "drain" if awake:
            await mac.drain(10.0)
        case "good lie":
            mac.honest, mac.lie = False, too_good
        case "absurd lie":
            mac.honest, mac.lie = False, absurd
        case "truth":
            _truth(mac)
        case "slow net":
            mac.net_delay_s = 0.5
        case "slow gpu":
            mac.gpu.stretch = 4.0
        case "engine":
            mac.gpu.faults.append(act.fault)


async def _mend(herd: World) -> None:
    """All faults end but that of Macs that are down."""
    herd.net.heal()
    herd.net.loss = herd.net.broken = 0.0
    for mac in herd.macs:
        _truth(mac)
        mac.net_delay_s, mac.gpu.stretch = 0.0, 1.0
        mac.gpu.faults.clear()
        if mac.asleep:
            await mac.wake(clock_stood=mac.stands)


async def _restart(herd: World, gone: frozenset[int]) -> tuple[Mac, ...]:
    """All Macs are up again but those that never come back, which are returned."""
    left = tuple(mac for number, mac in enumerate(herd.macs) if number in gone and not mac.up)
    for mac in herd.macs:
        if not mac.up and mac not in left:
            await herd.up(mac)
    return left


def _truth(mac: Mac) -> None:
    mac.honest, mac.lie = True, lambda state: state


def too_good(state: NodeState) -> NodeState:
    """Idle, quick, with everything loaded."""

    def better(model: ModelState) -> ModelState:
        image = model.image and model.image.model_copy(update={"step_s_per_mpx": 0.01})
        return model.model_copy(update={"loaded": True, "running": 0, "waiting": 0, "image": image, "load_s": 0.0})

    models = tuple(map(better, state.models))
    return state.model_copy(update={"models": models, "work": Work(), "status": "online"})


def absurd(state: NodeState) -> NodeState:
    """What no Mac can be."""
    work = Work.model_construct(image_s=float("nan"), chat_s=-1.0, load_s=1e30)
    return state.model_copy(update={"work": work})
