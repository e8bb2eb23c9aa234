"""The simulated herd of the placement benchmark: its Macs do what their rates say, and its arithmetic holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks import placement
from benchmarks.parts import policies, traces
from benchmarks.parts.macs import BY_NAME, CHIPS
from benchmarks.parts.sim_herd import CONNECT_S, GONE_S, Herd
from benchmarks.parts.sim_mac import SimMac, Task
from tests.test_benchmarks import run

ULTRA = CHIPS[-1]
NAMES = ("small-image", "chat-4b", "chat-8b")


def mac(*loaded: str) -> SimMac:
    made = SimMac(ULTRA, NAMES, 0.05, beside_chat=0.5, beside_image=0.25)
    for name in loaded:
        made.loaded[name] = None
    return made


def image(number: int, at_s: float = 0.0) -> Task:
    return Task(number, at_s, 0, "image", "small-image", 1.0, 4)


def chat(number: int, tokens: int, model: str = "chat-4b") -> Task:
    return Task(number, 0.0, 0, "chat", model, answer_tokens=tokens)


def run_out(busy: SimMac) -> dict[int, float]:
    """When each task is done."""
    now, done = 0.0, dict[int, float]()
    while busy.runs:
        step_s = busy.next_s()
        now += step_s
        done |= {task.number: now for task in busy.advance(step_s)}
    return done


def test_images_are_drawn_one_after_the_other_and_a_load_comes_first() -> None:
    busy = mac()
    alone_s = busy.work_s(image(0))
    load_s = BY_NAME["small-image"].load_s
    for number in range(3):
        assert busy.done_s(image(9)) == pytest.approx(load_s + (number + 1) * alone_s)
        busy.add(image(number))
    assert list(run_out(busy).values()) == pytest.approx([load_s + alone_s * count for count in (1, 2, 3)])


def test_chats_share_a_batch_and_a_ninth_waits_for_a_seat() -> None:
    busy = mac("chat-4b")
    alone_s = busy.work_s(chat(0, 100))
    for number in range(9):
        busy.add(chat(number, 100))
    done = run_out(busy)
    assert done[0] == pytest.approx(alone_s * 1.35), "seven others, 5 % each"
    assert done[8] == pytest.approx(alone_s * 2.35)


def test_chats_beside_an_image_and_beside_another_model_take_turns() -> None:
    busy = mac("chat-4b", "small-image")
    busy.add(image(0))
    busy.add(chat(1, 10))
    talk_s, draw_s = busy.work_s(chat(1, 10)), busy.work_s(image(0))
    done = run_out(busy)
    assert done[1] == pytest.approx(4 * talk_s)
    assert done[0] == pytest.approx(draw_s + 4 * talk_s * 0.5)
    both = mac("chat-4b", "chat-8b")
    both.add(chat(0, 10))
    both.add(chat(1, 1000, "chat-8b"))
    assert run_out(both)[0] == pytest.approx(2 * both.work_s(chat(0, 10)))


def test_memory_is_never_passed_and_everybody_gets_a_turn() -> None:
    small = SimMac(CHIPS[0], NAMES, 0.05, 0.6, 0.35)
    for number in range(12):
        small.add(image(number) if number % 3 == 0 else chat(number, 50))
    done: set[int] = set()
    while small.runs:
        held = [*small.loaded, *([small.loading] if small.loading else [])]
        assert sum(BY_NAME[name].bytes for name in held) <= small.chip.budget_bytes
        done |= {task.number for task in small.advance(small.next_s())}
    assert len(done) == 12


@pytest.mark.parametrize("name", traces.CLASSES)
def test_a_seed_gives_the_same_run_and_no_policy_beats_the_bound(name: str) -> None:
    trace = traces.make(name, 5)
    trace = replace(trace, tasks=trace.tasks[:40])
    bound_s = traces.lower_bound_s(trace)
    for policy in (policies.OURS, policies.PERFECT, policies.POINTS):
        took = []
        for _ in range(2):
            herd = Herd(trace)
            took.append(herd.run(policies.make(policy, herd)))
            assert len(took[0]) == 40
            assert not herd.where
        assert took[0] == took[1]
        assert math.fsum(took[0]) / 40 >= bound_s


def test_what_dies_with_a_mac_is_done_by_another() -> None:
    two = tuple(mac("small-image") for _ in range(2))
    trace = traces.make(traces.BURSTS, 1)
    rate = dict.fromkeys(NAMES, 1.0)
    tasks = tuple(replace(image(number), request=trace.tasks[0].request) for number in range(2))
    request = tasks[0].request
    assert request is not None
    request = request.model_copy(update={"model": "small-image"})
    trace = traces.Trace(
        "two", 0, two, (rate, rate), ((0.0, 0.5), (0.5, 0.0)),
        tuple(replace(task, request=request) for task in tasks), ((1, 0.5, math.inf),),
    )  # fmt: skip
    herd = Herd(trace)
    took = sorted(herd.run(policies.make(policies.OURS, herd)))
    assert took[0] < GONE_S
    assert GONE_S < took[1] < GONE_S + CONNECT_S + 2 * two[0].work_s(tasks[0]) + 2


def test_intervals_are_of_paired_ratios() -> None:
    found = placement.interval([2.0, 2.0, 2.0])
    assert (found.q1, found.median, found.q3) == pytest.approx((2, 2, 2))
    found = placement.interval([1.0, 4.0])
    assert found.median == pytest.approx(2)
    assert found.q1 < 1 < 4 < found.q3
    for freedom, wanted in ((4, 2.776), (9, 2.262), (31, 2.040)):
        assert placement.t95(freedom) == pytest.approx(wanted, rel=0.01)


def test_the_benchmark_runs_and_tells_goals() -> None:
    told = run("placement", "--tuning", "--pairs", "2", "--classes", traces.STEADY)
    assert [line["goals"][0]["sign"] for line in told["rows"]] == ["<=", ">=", "<="]
    assert all(line["ours"]["count"] for line in told["rows"])
