"""Where images go in a simulated herd: one each, and as the speeds are."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.fleet.sim.clock import VirtualLoop, run
from tests.fleet.sim.disk import PAINTER, TALKER
from tests.fleet.sim.engines import Speed
from tests.fleet.sim.world import image, world

IMAGE_S = 0.512 * 0.512 * 20 * Speed().step_s_per_mpx
LATER_S = 0.5
"""What finding the right Mac may cost: less than being moved from the wrong one."""


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("macs", [2, 3, 6])
def test_as_many_images_as_idle_macs_go_one_to_each(macs: int, seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop, seed) as herd:
            for _ in range(macs):
                herd.add()
            await herd.start()
            await herd.warm(PAINTER)
            await asyncio.sleep(herd.rng.uniform(0, 1))
            began = loop.now
            asked = await herd.ask_all([herd.macs[0]] * macs, [image(f"{n}", steps=20) for n in range(macs)])
            await herd.over()
            assert loop.now - began <= IMAGE_S + LATER_S
            assert sorted(map(herd.ran_on, asked)) == [mac.name for mac in herd.macs]
            assert all(one.end == "completed" for one in asked)

    run(main)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_six_macs_that_cannot_draw_bring_one_image_to_each_of_six_that_can(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop, seed) as herd:
            asking = [herd.add(has=frozenset({TALKER})) for _ in range(6)]
            able = [herd.add() for _ in range(6)]
            await herd.start()
            for mac in able:
                await mac.host.spawn(mac.node.loads.load(await mac.node.plan_model(PAINTER)))
            await asyncio.sleep(herd.rng.uniform(1, 2))
            began = loop.now
            asked = await herd.ask_all(asking, [image(f"{n}", steps=20) for n in range(6)])
            await herd.over()
            assert loop.now - began <= IMAGE_S + LATER_S
            assert Counter(map(herd.ran_on, asked)) == Counter(mac.name for mac in able)

    run(main)


@pytest.mark.parametrize("seed", [1, 2])
def test_twelve_images_on_a_fast_and_a_three_times_slower_mac_end_within_a_tenth_of_the_best_split(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop, seed) as herd:
            herd.add()
            herd.add(Speed().times(3))
            await herd.start()
            await herd.warm(PAINTER)
            best_s = min(max(fast, 3 * (12 - fast)) * IMAGE_S for fast in range(13))
            began = loop.now
            await herd.ask_all([herd.macs[0]] * 12, [image(f"{n}", steps=20) for n in range(12)])
            await herd.over()
            assert loop.now - began <= 1.1 * best_s + 0.5

    run(main)
