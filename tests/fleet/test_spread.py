"""Images that come together, on real nodes over TLS: each goes where it is done first, whoever asks.

Counted in what ran where and in the engines' own step times: two cores cannot show the speed of several Macs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import until
from tests.fleet.macs import IMAGE, Mac, at_once, load, macs, warm

DRAW = IMAGE | {"width": 128, "height": 128, "steps": 100}
"""Long enough that a node that has drawn none guesses more than its load takes: shorter ones are done sooner one after
the other than by loading a second engine."""
EQUAL = {"step_s": 0.02}
"""Too short for a job to be moved once it waits: it must be placed well at once."""
FAST, SLOW = {"step_s": 0.012}, {"step_s": 0.036}


def spread(asked: list[Mac], images: int) -> Counter[str]:
    """How many of so many images, asked for at the same time of each in turn, were drawn on which node."""
    whom = [asked[number % len(asked)] for number in range(images)]
    jobs = at_once(*(lambda mac=mac: mac.submit(DRAW) for mac in whom))
    over = [mac.over(job_id) for mac, job_id in zip(whom, jobs, strict=True)]
    assert [job.status for job in over] == ["completed"] * images, over
    for job in over:  # shown where a test fails
        assert job.routed is not None
        rows = ", ".join(f"{row.node} {row.finish_s or row.reason}" for row in job.routed.estimates)
        print(f"{job.created_at:.3f} {[(one.number, one.node) for one in job.attempts]} of {rows}")
    return Counter(job.attempts[-1].node for job in over)


def known(drawing: list[Mac], *to: Mac) -> None:
    """Wait until it is known how long each takes, which is far from what is guessed of one that has drawn nothing."""
    names = {mac.name for mac in drawing}

    def look(mac: Mac) -> bool:
        models = [model for name, state in mac.states().items() if name in names for model in state["models"]]
        rates = [model["image"]["step_s_per_mpx"] for model in models if model["name"] == IMAGE["model"]]
        return bool(max(rates) < 6 * min(rates))

    until(lambda: all(map(look, to)))


def one_each(herd: list[Mac]) -> Counter[str]:
    return Counter(mac.name for mac in herd)


def cold(*herd: Mac) -> None:
    """No engine on any, and each knows it of all."""
    at_once(*(lambda mac=mac: mac.post(f"/api/models/{IMAGE['model']}/unload") for mac in herd))
    until(lambda: not any(state["engines"] for mac in herd for state in mac.states().values()))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("two"), EQUAL, EQUAL) as herd:
        yield herd


def test_two_images_on_two_cold_macs_are_drawn_one_on_each(two: list[Mac]) -> None:
    assert spread(two[:1], 2) == one_each(two)


def test_two_images_on_two_warm_macs_are_drawn_one_on_each(two: list[Mac]) -> None:
    load(*two)
    known(two, *two)
    assert spread(two[1:], 2) == one_each(two)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [3, 6])
def test_as_many_images_as_macs_are_drawn_one_on_each_cold_and_warm(count: int, tmp_path: Path) -> None:
    with macs(tmp_path, *[EQUAL] * count) as herd:
        assert spread(herd[:1], count) == one_each(herd)
        load(*herd)
        known(herd, herd[-1])
        assert spread(herd[-1:], count) == one_each(herd)
        cold(*herd)
        assert spread(herd[:1], count) == one_each(herd)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twelve_images_on_a_fast_and_a_three_times_slower_mac_end_within_a_tenth_of_the_best_split(
    tmp_path: Path,
) -> None:
    """Nine and three are the best: both are drawn in nine images of the fast one."""
    with macs(tmp_path, FAST, SLOW) as herd:
        warm(*herd, steps=20)
        known(herd, *herd)
        for asked in herd:
            drawn = spread([asked], 12)
            assert max(drawn["mac0"] * 1, drawn["mac1"] * 3) <= 1.1 * 9, drawn


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [3, 6])
def test_macs_that_cannot_draw_it_themselves_find_one_each_at_the_same_moment(count: int, tmp_path: Path) -> None:
    """Each asks for one image, and knows of the others' no more than was told before."""
    small = {number: {"HERD_MAX_IMAGE_PX": "64"} for number in range(count)}
    with macs(tmp_path, *[EQUAL] * (2 * count), each=small) as herd:
        asking, drawing = herd[:count], herd[count:]
        warm(*drawing, steps=20)
        known(drawing, *asking)
        assert spread(asking, count) == one_each(drawing)
