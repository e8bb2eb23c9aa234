"""Nodes that die, links that are cut, jobs that kill engines: each once, by hand, in a simulated herd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from herd_mcp.fleet.placer import PATIENCE_S
from herd_mcp.jobs import ErrorCode, Failed, Job, Queued
from herd_mcp.mesh import REBALANCE_EVERY_S
from herd_mcp.owner.owner import AGAIN_MOST_S
from tests.fleet.sim import invariants
from tests.fleet.sim.clock import VirtualLoop, run
from tests.fleet.sim.disk import PAINTER, TALKER
from tests.fleet.sim.engines import POISON
from tests.fleet.sim.story import too_good
from tests.fleet.sim.world import Asked, World, chat, image, world

LEASE_S = 15.0
Story = Callable[[World], Awaitable[None]]


def play(story: Story, macs: int = 2, *, drawing: int | None = None, seed: int = 1) -> None:
    """A herd of so many Macs, the last `drawing` of which have the image model, warm; then what holds at rest."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop, seed) as herd:
            for number in range(macs):
                able = drawing is None or number >= macs - drawing
                herd.add(has=frozenset({TALKER, PAINTER} if able else {TALKER}), lease_s=LEASE_S)
            await herd.start()
            await herd.warm()
            await story(herd)
            await invariants.rest(herd)
            invariants.check(herd)

    run(main)


def drawn(herd: World) -> list[str]:
    return [prompt for mac in herd.macs for prompt in mac.gpu.images]


async def running(herd: World, job_id: str) -> None:
    """Until an engine draws it, or answers."""
    await herd.until(
        lambda: any(
            mac.up and any(r.step + r.deltas > 1 and r.job_id == job_id for r in mac.node._state.runs.values())
            for mac in herd.macs
        ),
        60,
    )


def test_a_poison_image_kills_two_engines_of_a_herd_of_three_and_no_third() -> None:
    async def story(herd: World) -> None:
        innocent = [await herd.ask(herd.macs[0], image(f"{n}", steps=30)) for n in range(3)]
        poison = await herd.ask(herd.macs[0], image(f"{POISON} it"))
        assert poison
        await herd.over()
        end = poison.ends[0]
        assert isinstance(end, Failed)
        assert end.error.code == ErrorCode.ENGINE_CRASHED
        deaths = [prompts for mac in herd.macs for prompts in mac.gpu.deaths]
        assert len(deaths) == 2
        assert len({attempt.node for attempt in herd.stored(poison).attempts}) == 2
        assert all(one and one.end == "completed" for one in innocent)

    play(story, 3)


def test_an_attempt_that_ran_on_a_mac_that_was_started_anew_counts_when_its_owner_was_too() -> None:
    async def story(herd: World) -> None:
        owner = herd.macs[0]
        poison = await herd.ask(owner, image(f"{POISON} it"))
        assert poison
        await herd.until(lambda: herd.stored(poison).status == "running", 60)
        await owner.kill()
        runner = next(mac for mac in herd.macs if mac.up and mac.node._state.runs)
        await herd.until(lambda: bool(runner.gpu.deaths), 60)
        await runner.kill()
        await herd.up(runner)
        await herd.up(owner)
        await herd.over()
        assert [a.outcome for a in herd.stored(poison).attempts] == ["node_lost", "engine_crashed"]

    play(story, 3, drawing=2)


def test_a_poison_chat_takes_nobody_with_it_twice() -> None:
    async def story(herd: World) -> None:
        asked = await herd.ask_all([herd.macs[0]] * 8, [chat(f"{POISON} it" if n == 3 else f"{n}") for n in range(8)])
        await herd.over()
        assert [one.end for one in asked] == ["completed"] * 3 + ["failed"] + ["completed"] * 4
        assert sum(len(mac.gpu.deaths) for mac in herd.macs) == 2

    play(story, 3)


@pytest.mark.parametrize("away_s", [1.0, 5.0])
def test_an_image_that_runs_elsewhere_outlives_its_owner_and_is_drawn_once(away_s: float) -> None:
    async def story(herd: World) -> None:
        owner = herd.macs[0]
        asked = await herd.ask(owner, image("a star", steps=40))
        assert asked
        await running(herd, asked.job_id)
        await owner.kill()
        await asyncio.sleep(away_s)
        await herd.up(owner)
        await herd.over()
        assert asked.end == "completed"
        assert drawn(herd) == ["a star"]

    play(story, drawing=1)


def test_an_image_whose_runner_dies_is_drawn_on_another() -> None:
    async def story(herd: World) -> None:
        asked = await herd.ask(herd.macs[0], image("a star", steps=40))
        assert asked
        await running(herd, asked.job_id)
        runner = next(mac for mac in herd.macs if mac.gpu.engines and mac.node._state.runs)
        await runner.kill()
        await herd.over()
        assert asked.end == "completed"
        assert [a.outcome for a in herd.stored(asked).attempts] == ["node_lost", "completed"]

    play(story, 3, drawing=2)


@pytest.mark.parametrize(
    ("cut_s", "attempts"), [(LEASE_S / 2, ["completed"]), (LEASE_S * 2, ["node_lost", "completed"])]
)
def test_a_cut_shorter_than_the_lease_costs_nothing_and_a_longer_one_an_attempt(
    cut_s: float, attempts: list[str]
) -> None:
    async def story(herd: World) -> None:
        owner = herd.macs[0]
        asked = await herd.ask(owner, image("a star", steps=60))  # 31 s
        assert asked
        await running(herd, asked.job_id)
        runner = next(mac for mac in herd.macs if mac.node._state.runs)
        herd.net.cut(owner.name, runner.name)
        await asyncio.sleep(cut_s)
        herd.net.heal()
        await herd.over()
        assert asked.end == "completed"
        assert [a.outcome for a in herd.stored(asked).attempts] == attempts
        assert drawn(herd) == ["a star"]

    play(story, 3, drawing=2)


@pytest.mark.parametrize("back_s", [1.0, 2 * LEASE_S])
def test_an_owner_that_dies_between_placing_an_attempt_and_writing_it_down_has_its_image_all_the_same(
    back_s: float,
) -> None:
    async def story(herd: World) -> None:
        owner = herd.macs[0]
        asked = await herd.ask(owner, image("a star", steps=40))
        assert asked
        await running(herd, asked.job_id)
        runner = next(mac for mac in herd.macs if mac.node._state.runs)
        save = owner.history.save

        async def dying(job: Job) -> None:
            if len(job.attempts) == 2:  # its number is given and its place taken
                herd.loop.create_task(owner.kill())
                await asyncio.sleep(1)
            await save(job)

        owner.history.save = dying  # type: ignore[method-assign]
        await runner.kill()
        await herd.until(lambda: not owner.up, 60)
        assert len(herd.stored(asked).attempts) == 1
        other = next(mac for mac in herd.macs if mac.up)
        assert len(other.guests) == 1
        await asyncio.sleep(back_s)
        await herd.up(owner)
        began = herd.loop.now
        await herd.over()
        assert [a.outcome for a in herd.stored(asked).attempts] == ["node_lost", "completed"]
        assert herd.loop.now - began < 21 + 2 * LEASE_S  # of which it is drawn for 21

    play(story, 3, drawing=2)


def test_a_stream_that_is_cut_again_and_again_goes_on_where_it_was() -> None:
    async def story(herd: World) -> None:
        busy = await herd.ask(herd.macs[0], image("busy", steps=60))
        asked = await herd.ask(herd.macs[0], chat("tell", tokens=200), stream=True)
        assert asked
        assert busy
        for _ in range(10):
            await asyncio.sleep(0.7)
            herd.net.cut_streams()
        await herd.over()
        assert asked.end == "completed"
        assert herd.ran_on(asked) != herd.ran_on(busy)

    play(story)


def test_a_mac_that_drains_gives_back_what_has_not_begun() -> None:
    async def story(herd: World) -> None:
        asked = [await herd.ask(herd.macs[0], image(f"{n}", steps=20)) for n in range(6)]
        await asyncio.sleep(1)
        await herd.macs[2].drain()
        await herd.over()
        assert all(one and one.end == "completed" for one in asked)
        assert sorted(drawn(herd)) == [f"{n}" for n in range(6)]

    play(story, 3, drawing=2)


@pytest.mark.parametrize("clock_stood", [True, False])
@pytest.mark.parametrize("asleep_s", [4.0, 60.0])
def test_a_mac_that_sleeps_or_is_stopped_in_the_middle_of_an_image_loses_no_job(
    asleep_s: float, clock_stood: bool
) -> None:
    async def story(herd: World) -> None:
        asked = [await herd.ask(mac, image(f"{mac.name}", steps=60)) for mac in herd.macs]
        await asyncio.sleep(3)
        await herd.macs[1].sleep()
        await asyncio.sleep(asleep_s)
        await herd.macs[1].wake(clock_stood=clock_stood)
        await herd.over()
        assert all(one and one.end == "completed" for one in asked)

    play(story, 3)


def test_a_mac_that_slept_lets_go_of_the_image_of_an_owner_that_was_started_anew_meanwhile() -> None:
    async def story(herd: World) -> None:
        owner, runner = herd.macs
        long = await herd.ask(runner, image("long", steps=200))
        waits = await herd.ask(owner, image("waits"), stream=True)
        assert long
        assert waits
        await asyncio.sleep(5)
        await runner.sleep()
        await asyncio.sleep(LEASE_S)  # the connection is given up, and the runner does not hear of it
        await owner.kill(power=True)
        await runner.wake()
        guest = next(iter(runner.guests._guests.values()))
        listening = guest.listeners
        await herd.up(owner)
        await asyncio.sleep(2 * LEASE_S)
        assert listening == 1
        assert guest.listeners == 0
        assert not long.ends

    play(story, drawing=1)


def test_an_image_that_died_on_a_mac_is_not_asked_back_for_it_again_and_again() -> None:
    async def story(herd: World) -> None:
        _, dies, busy = herd.macs
        await herd.ask(busy, image("long", steps=100))
        dies.gpu.faults.append("die")
        asked = await herd.ask(dies, image("a star", steps=20))
        assert asked
        await herd.over()
        assert [a.outcome for a in herd.stored(asked).attempts] == ["engine_crashed", "completed"]
        assert herd.ran_on(asked) == busy.name

    play(story, 3, drawing=2)


def test_a_mac_that_lies_does_not_make_a_job_that_waits_run_to_and_fro() -> None:
    async def story(herd: World) -> None:
        owner, one, liar = herd.macs
        await herd.ask(one, image("long", steps=60))
        await herd.ask(liar, image("longer", steps=120))
        liar.honest, liar.lie = False, too_good
        asked = await herd.ask(owner, image("a star"))
        assert asked
        await asyncio.sleep(30)
        assert sum(attempt.outcome == "returned" for attempt in herd.stored(asked).attempts) <= 4
        await herd.over()
        assert asked.end == "completed"

    play(story, 3, drawing=2)


def test_what_waits_goes_to_a_mac_that_comes_later() -> None:
    async def story(herd: World) -> None:
        owner, _, late = herd.macs
        await late.kill()
        watch = invariants.IdleWatch(herd)
        watching = asyncio.create_task(watch.run())
        asked = [await herd.ask(owner, image(f"{n}", steps=40)) for n in range(6)]
        await asyncio.sleep(5)
        await herd.up(late)
        await herd.over()
        watching.cancel()
        assert not watch.left
        assert {herd.ran_on(one) for one in asked if one} == {mac.name for mac in herd.macs[1:]}

    play(story, 3, drawing=2)


def test_a_mac_that_is_cut_off_does_not_hold_up_what_waits_on_others() -> None:
    async def story(herd: World) -> None:
        owner, one, other, late = herd.macs
        await late.kill()
        for mac in (one, other):
            await herd.ask(mac, image("long", steps=100))
        asked = await herd.ask_all([owner] * 2, [image(f"{n}", steps=20) for n in range(2)])
        assert {herd.ran_on(each) for each in asked} == {one.name, other.name}
        first, second = sorted(asked, key=lambda each: list(owner.owner._live).index(each.job_id))
        herd.net.cut(owner.name, herd.ran_on(first))
        await herd.up(late)
        began = herd.loop.now
        await herd.until(lambda: herd.ran_on(second) == late.name, 60)
        assert herd.loop.now - began < REBALANCE_EVERY_S + 0.5
        herd.net.heal()

    play(story, 4, drawing=3)


# ── No Mac is able for a moment ──


async def lost_alone(herd: World) -> Asked:
    """An image of the first Mac, after the only node that can draw was killed while it did."""
    owner, runner = herd.macs
    asked = await herd.ask(owner, image("a star", steps=40))
    assert asked
    await running(herd, asked.job_id)
    await runner.kill()
    await herd.until(lambda: herd.stored(asked).status == "queued", 60)
    return asked


def test_an_image_waits_for_the_only_mac_that_can_draw_to_come_back() -> None:
    async def story(herd: World) -> None:
        asked = await lost_alone(herd)
        await asyncio.sleep(PATIENCE_S / 2)
        event = asked.told[-1][1]
        assert isinstance(event, Queued)
        assert "No Mac of the herd can take this now" in event.message
        await herd.up(herd.macs[1])
        await herd.over()
        assert [a.outcome for a in herd.stored(asked).attempts] == ["node_lost", "completed"]
        assert drawn(herd) == ["a star"]

    play(story, drawing=1)


def test_an_image_for_which_no_mac_comes_back_fails_with_the_reasons_when_its_patience_is_over() -> None:
    async def story(herd: World) -> None:
        asked = await lost_alone(herd)
        began = herd.loop.now
        await herd.over()
        assert PATIENCE_S - AGAIN_MOST_S - 1 <= herd.loop.now - began <= PATIENCE_S + 1
        end = asked.ends[0]
        assert isinstance(end, Failed)
        assert end.error.code == ErrorCode.NO_NODE
        assert set(end.error.details["nodes"]) == {mac.name for mac in herd.macs}
        await herd.up(herd.macs[1])

    play(story, drawing=1)


def test_an_image_that_waits_for_a_mac_is_cancelled_at_once() -> None:
    async def story(herd: World) -> None:
        asked = await lost_alone(herd)
        await asyncio.sleep(20)
        owner = herd.macs[0]
        live = owner.owner.find(asked.job_id)
        assert live
        began = herd.loop.now
        await owner.host.spawn(owner.owner.cancel(live))
        assert herd.loop.now - began < 0.1
        assert asked.end == herd.stored(asked).status == "cancelled"

    play(story, drawing=1)


@pytest.mark.parametrize("good_order", [True, False])
def test_an_image_that_waits_for_a_mac_outlives_its_owner(good_order: bool) -> None:
    async def story(herd: World) -> None:
        owner, runner = herd.macs
        asked = await lost_alone(herd)
        await asyncio.sleep(5)
        began = herd.loop.now
        await (owner.drain(3.0) if good_order else owner.kill())
        assert herd.loop.now - began < 3.5
        assert not asked.ends
        await herd.up(owner)
        await asyncio.sleep(20)
        await herd.up(runner)
        await herd.over()
        assert [a.outcome for a in herd.stored(asked).attempts] == ["node_lost", "completed"]

    play(story, drawing=1)


def test_a_chat_that_waits_for_a_mac_is_interrupted_when_its_owner_ends() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as herd:
            owner, runner = herd.add(has=frozenset({PAINTER})), herd.add()
            await herd.start()
            asked = await herd.ask(owner, chat(tokens=200))
            assert asked
            await running(herd, asked.job_id)
            await runner.kill()
            await herd.until(lambda: isinstance(asked.told[-1][1], Queued), 60)
            await owner.drain(3.0)
            end = asked.ends[0]
            assert isinstance(end, Failed)
            assert end.error.code == ErrorCode.INTERRUPTED

    run(main)
