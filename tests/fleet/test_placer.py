"""The placer against nodes that take jobs, turn them away, cannot, or are gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from herd_mcp.fleet import placement
from herd_mcp.fleet.ask import model_of
from herd_mcp.fleet.placer import FAILED_HALF_S, MOST_REFUSALS, REFUSALS, TOLD_S, UNREACHED_S, HerdPlacer
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest, Job, JobEvent, new_job_id
from herd_mcp.orders import Accepted, Ending, Later, Order, Placed
from herd_mcp.state import NodeState, Work
from tests.conftest import until
from tests.fleet.states import CHAT, COLD, IMAGE, SHORT, like, node


class Scripted:
    """A node that takes orders as its state says, or as it is told to."""

    def __init__(self, state: NodeState) -> None:
        self.state = state
        self.node_id, self.name = state.node_id, state.name
        self.taken: list[Order] = []
        self.asked: list[Order] = []
        self.refuses: HerdError | None = None
        self.takes_all = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def reserve(self, order: Order) -> Accepted:
        self.asked.append(order)
        await self.answers.wait()
        if self.refuses:
            raise self.refuses
        request = order.job.request
        assert request is not None
        ask = placement.ask_of(request, request.model or "flux")
        mine_s = placement.finish(ask, self.state).finish_s if model_of(self.state, ask.model) else 1.0
        assert mine_s is not None
        if not order.must and not self.takes_all and placement.later(mine_s, order.expects_s):
            raise Later(mine_s, self.state)
        self.taken.append(order)
        work = self.state.work.model_copy(update={"image_s": self.state.work.image_s + 10})
        self.state = self.state.model_copy(update={"work": work, "revision": self.state.revision + 1})
        return Accepted(model=ask.model, incarnation=self.state.incarnation, revision=self.state.revision)

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        raise NotImplementedError

    def give_back(self, job_id: str, attempt: int) -> None: ...

    def cancel(self, job_id: str, attempt: int) -> None: ...

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return True


class Herd:
    """Nodes, and what the first of them sees: `views` stay as they are until `report`."""

    def __init__(self, *states: NodeState, seed: int = 0) -> None:
        self.nodes = [Scripted(state) for state in states]
        self.local = self.nodes[0]
        self.now = 100.0
        self.views = list(states[1:])
        self.by_id = {each.node_id: each for each in self.nodes[1:]}
        self.placer = self.asker(self.local, seed)

    def asker(self, local: Scripted, seed: int) -> HerdPlacer:
        return HerdPlacer(
            local,
            lambda: local.state,
            lambda: [view for view in self.views if view.node_id != local.node_id],
            self.by_id.get,
            preferred=lambda kind: None,
            prefix_key=b"key",
            rng=random.Random(seed),
            now=lambda: self.now,
        )

    def report(self) -> None:
        self.views = [each.state for each in self.nodes[1:]]

    def __getitem__(self, number: int) -> Scripted:
        return self.nodes[number - 1]


def order(model: str | None = "flux", **fields: Any) -> Order:
    request = ImageRequest(prompt="a circle", model=model)
    job = Job(id=new_job_id("0" * 10), kind="image", client="test", request=request, created_at=0)
    return Order(job=job, attempt=1, **fields)


def busy(number: int, image_s: float = 100, **fields: Any) -> NodeState:
    return node(number, work=Work(image_s=image_s), **fields)


async def refusal(placing: Any) -> HerdError:
    with pytest.raises(HerdError) as raised:
        await placing
    return raised.value


async def test_a_lone_node_takes_its_order_as_it_came() -> None:
    herd = Herd(node(1, CHAT, paused="by hand"))
    asked = order(model=None)
    placed = await herd.placer.place(asked)
    assert placed.order is herd[1].taken[0] is asked
    assert [row.finish_s for row in placed.estimates] == [None]
    herd[1].refuses = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "too big", details={"fits_px": 9})
    assert (await refusal(herd.placer.place(asked))) is herd[1].refuses


async def test_the_soonest_node_gets_the_job_with_the_seconds_that_were_expected() -> None:
    herd = Herd(busy(1), node(2), busy(3, 20))
    placed = await herd.placer.place(order(model=None))
    assert placed.runner is herd[2]
    assert [row.node for row in placed.estimates] == ["n2", "n3", "n1"]
    (taken,) = herd[2].taken
    assert (taken.expects_s, taken.attempt, taken.must) == (10, 1, False)
    assert taken.job.request is not None
    assert taken.job.request.model == "flux"


async def test_images_asked_at_once_go_one_to_each_though_no_report_came() -> None:
    herd = Herd(*(node(number) for number in range(1, 7)))
    await asyncio.gather(*(herd.placer.place(order()) for _ in range(6)))
    assert [len(each.taken) for each in herd.nodes] == [1] * 6


async def test_an_addition_counts_until_the_report_that_contains_it() -> None:
    herd = Herd(node(1, CHAT), node(2, revision=7), busy(3, 15))
    assert (await herd.placer.place(order())).runner is herd[2]
    assert (await herd.placer.place(order())).runner is herd[2], "20 s there are sooner than 25"
    assert (await herd.placer.place(order())).runner is herd[3]
    herd.report()
    assert [row.ahead_s for row in (await herd.placer.place(order())).estimates[:2]] == [20, 25], "nothing twice"


async def test_an_order_that_is_still_asked_about_counts() -> None:
    herd = Herd(node(1, CHAT), node(2), busy(3, 5))
    herd[2].answers.clear()
    first = asyncio.create_task(herd.placer.place(order()))
    await asyncio.sleep(0)
    assert (await herd.placer.place(order())).runner is herd[3]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    herd[2].answers.set()
    placed = await herd.placer.place(order())
    assert placed.runner is herd[2]
    assert placed.estimates[0].ahead_s == 0, "one that was given up counts no more"


async def test_who_is_turned_away_goes_on_with_what_it_heard() -> None:
    herd = Herd(busy(1), node(2), busy(3, 20))
    herd[2].state = busy(2, 50, revision=1)
    placed = await herd.placer.place(order())
    assert placed.runner is herd[3]
    assert placed.order.attempt == 2
    assert next(row for row in placed.estimates if row.node == "n2").finish_s == 60
    again = await herd.placer.place(order())
    assert again.runner is herd[3]
    assert len(herd[2].asked) == 1, "what it said stays known until its report is newer"


async def test_what_a_node_said_counts_no_more_when_it_started_anew_with_its_clock_set_back() -> None:
    herd = Herd(busy(1), node(2, incarnation=2000), busy(3, 20))
    herd[2].state = busy(2, 5000, incarnation=2000, revision=1)
    assert (await herd.placer.place(order())).runner is herd[3]
    herd[2].state = node(2, incarnation=1000)
    herd.report()
    herd.now += TOLD_S + 1
    assert (await herd.placer.place(order())).runner is herd[2]


@pytest.mark.parametrize("seed", range(10))
async def test_six_who_cannot_and_six_idle_ones_with_old_views_get_one_each(seed: int) -> None:
    askers = [Scripted(node(number, CHAT)) for number in range(11, 17)]
    herd = Herd(node(99, CHAT), *(node(number) for number in range(1, 7)))
    placers = [herd.asker(asker, seed * 100 + number) for number, asker in enumerate(askers)]
    await asyncio.gather(*(placer.place(order()) for placer in placers))
    assert [len(each.taken) for each in herd.nodes[1:]] == [1] * 6


async def test_after_three_refusals_a_node_that_was_asked_must_take_it() -> None:
    herd = Herd(node(1, CHAT), *(node(number) for number in range(2, 5)))
    for each in herd.nodes[1:]:
        each.state = busy(int(each.node_id, 16), 100 * int(each.node_id, 16))
    placed = await herd.placer.place(order())
    assert placed.order.must
    assert placed.runner is herd[2], "the best of them as they are now"
    assert placed.order.attempt == REFUSALS + 1


async def test_no_number_of_nodes_that_look_idle_is_asked_for_ever() -> None:
    herd = Herd(node(1, CHAT), *(node(number) for number in range(2, 32)))
    for each in herd.nodes[1:]:
        each.state = busy(int(each.node_id, 16))
    placed = await herd.placer.place(order())
    assert placed.order.must
    assert placed.order.attempt == MOST_REFUSALS + 1


async def test_a_node_that_is_not_reached_is_left_out_for_a_while() -> None:
    herd = Herd(busy(1), node(2), busy(3, 20))
    herd[2].refuses = HerdError(ErrorCode.NODE_LOST, "gone")
    placed = await herd.placer.place(order())
    assert (placed.runner, placed.order.attempt) == (herd[3], 2)
    herd[2].refuses = None
    assert (await herd.placer.place(order())).runner is herd[3]
    herd.now += UNREACHED_S + 1
    assert (await herd.placer.place(order())).runner is herd[2]


async def test_a_node_that_starts_anew_is_asked_at_once() -> None:
    herd = Herd(busy(1), node(2, incarnation=1))
    herd[2].refuses = HerdError(ErrorCode.NODE_LOST, "gone")
    await herd.placer.place(order())
    herd[2].refuses = None
    herd.views = [node(2, incarnation=2)]
    assert (await herd.placer.place(order())).runner is herd[2]


async def test_a_node_that_cannot_is_passed_over_and_remembered_in_the_error() -> None:
    herd = Herd(node(1, CHAT), node(2), node(3, paused="until 18:00"))
    herd[2].refuses = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "It takes 9 GiB.")
    error = (await refusal(herd.placer.place(order()))).info
    assert error.code == ErrorCode.NO_NODE
    assert error.details["nodes"] == {
        "n1": "it has no image model",
        "n2": "It takes 9 GiB.",
        "n3": "it is paused: until 18:00",
    }
    assert "n3: it is paused: until 18:00" in error.message


async def test_when_all_are_busy_the_error_is_of_the_one_that_has_room_first() -> None:
    herd = Herd(node(1), node(2))
    for each, after in zip(herd.nodes, (60, 30), strict=True):
        each.refuses = HerdError(ErrorCode.BUSY, f"full, {after} s", details={"retry_after_s": after})
    error = (await refusal(herd.placer.place(order()))).info
    assert (error.code, error.details["retry_after_s"]) == (ErrorCode.BUSY, 30)
    assert set(error.details["nodes"]) == {"n1", "n2"}


async def test_what_only_this_node_could_run_fails_in_its_own_words() -> None:
    herd = Herd(node(1, like(IMAGE, fits=False, reason="9 of 8 GiB")), node(2, CHAT))
    herd[1].refuses = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "flux needs 9 GiB of 8.", "Take a smaller one.")
    error = (await refusal(herd.placer.place(order()))).info
    assert (error.code, error.hint) == (ErrorCode.INSUFFICIENT_MEMORY, "Take a smaller one.")
    assert error.details["nodes"]["n2"] == "it has no image model"
    herd[1].refuses = HerdError(ErrorCode.MODEL_NOT_FOUND, "There is no model 'nothing'.")
    assert await refusal(herd.placer.place(order("nothing"))) is herd[1].refuses


async def test_a_paused_node_runs_its_own_job_when_the_others_cannot() -> None:
    herd = Herd(node(1, paused="by hand"), node(2))
    assert (await herd.placer.place(order())).runner is herd[2]
    herd[2].refuses = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "full")
    assert (await herd.placer.place(order())).runner is herd[1]


async def test_where_a_job_died_it_goes_only_if_no_other_is_able() -> None:
    herd = Herd(busy(1), node(2))
    assert (await herd.placer.place(order(), avoid=frozenset({herd[2].node_id}))).runner is herd[1]
    herd[1].refuses = HerdError(ErrorCode.INSUFFICIENT_MEMORY, "full")
    assert (await herd.placer.place(order(), avoid=frozenset({herd[2].node_id}))).runner is herd[2]


async def test_a_node_that_fails_fast_is_less_attractive_for_a_while() -> None:
    herd = Herd(node(1, CHAT), node(2), busy(3, 15))
    herd.placer.note_failure(herd[2].node_id)
    assert (await herd.placer.place(order())).runner is herd[3]
    herd.views[1] = herd[3].state = busy(3, 15, revision=9)
    herd.now += 3 * FAILED_HALF_S
    assert (await herd.placer.place(order())).runner is herd[2]


async def test_a_node_that_took_a_job_while_the_way_to_it_was_lost_has_it() -> None:
    herd = Herd(node(1, CHAT), node(2))
    herd[2].answers.clear()
    placing = asyncio.create_task(herd.placer.place(order()))
    await until(lambda: len(herd[2].asked) == 1, "it is asked")
    del herd.by_id[herd[2].node_id]
    herd[2].answers.set()
    assert (await placing).runner is herd[2]


async def place_behind(herd: Herd) -> Placed:
    """A job that waits on n2 behind a minute of work, while n3 has as much."""
    placed = await herd.placer.place(order())
    herd.report()
    assert placed.runner is herd[2]
    return placed


async def test_a_waiting_job_moves_to_a_node_that_became_free_and_the_next_one_knows() -> None:
    herd = Herd(node(1, CHAT), busy(2, 60), busy(3, 80))
    one = await place_behind(herd)
    assert not herd.placer.elsewhere(one)
    herd.now += 5
    herd.views[1] = node(3, revision=9)
    herd[3].state = herd.views[1]
    two = Placed(order(), one.runner, one.accepted, one.estimates)
    assert herd.placer.elsewhere(one)
    moved = await herd.placer.place(one.order.model_copy(update={"attempt": 2}))
    assert moved.runner is herd[3]
    herd.views[1] = busy(3, 50, revision=10)
    assert not herd.placer.elsewhere(two)


async def test_of_those_that_wait_no_more_move_than_gain() -> None:
    herd = Herd(node(1, CHAT), busy(2, 30), busy(3, 50))
    one = await place_behind(herd)
    herd.views[1] = node(3, revision=9)
    waiting = [one, *(Placed(order(), one.runner, one.accepted, one.estimates) for _ in range(2))]
    assert [herd.placer.elsewhere(placed) for placed in waiting] == [True, True, False]


async def test_a_job_that_is_nearly_its_turn_stays() -> None:
    herd = Herd(node(1, CHAT), busy(2, 10), busy(3, 40))
    placed = await place_behind(herd)
    herd.now += 9
    herd.views = [busy(2, 300, revision=5), like_cold(3)]  # much came behind it
    assert not herd.placer.elsewhere(placed)


async def test_a_job_that_is_late_leaves_a_node_whatever_that_tells_of_itself_and_does_not_come_back() -> None:
    herd = Herd(node(1, CHAT), busy(2, 10), busy(3, 40))
    placed = await place_behind(herd)
    herd.views = [busy(2, 1, revision=5), like_cold(3)]
    herd.now += 11
    assert not herd.placer.elsewhere(placed)
    herd.now += 60  # an engine that hangs works off nothing, and its node does not know yet
    assert herd.placer.elsewhere(placed)
    moved = await herd.placer.place(placed.order.model_copy(update={"attempt": 2}))
    assert moved.runner is herd[3]


async def test_a_job_that_left_a_node_does_not_run_back_while_it_waits_elsewhere() -> None:
    herd = Herd(node(1, CHAT), busy(2, 10, running=1), busy(3, 200))
    placed = await place_behind(herd)
    herd.now += 100
    herd[2].state = busy(2, 1, running=1, revision=9)
    herd[3].state = busy(3, 30, running=1, revision=9)
    herd.report()
    assert herd.placer.elsewhere(placed)
    moved = await herd.placer.place(placed.order.model_copy(update={"attempt": 2}))
    assert moved.runner is herd[3]
    herd.now += 5
    herd.report()
    assert not herd.placer.elsewhere(moved), "it tells that it is nearly free, as before"
    herd[3].state = busy(3, 500, running=1, revision=11)
    herd.report()
    herd.now += 60
    assert herd.placer.elsewhere(moved), "it is later here by now than it would have been there"
    back = await herd.placer.place(moved.order.model_copy(update={"attempt": 3}))
    assert back.runner is herd[2]
    herd.views = [busy(2, 1, running=1, revision=99), node(3, revision=99)]
    assert not herd.placer.elsewhere(back), "what was thought before of the node that it is on does not count"


async def test_a_job_goes_back_to_a_node_that_is_idle_by_now() -> None:
    herd = Herd(node(1, CHAT), busy(2, 10, running=1), busy(3, 200))
    placed = await place_behind(herd)
    herd.now += 100
    herd[2].state = busy(2, 1, running=1, revision=9)
    herd[3].state = busy(3, 30, running=1, revision=9)
    herd.report()
    assert herd.placer.elsewhere(placed)
    moved = await herd.placer.place(placed.order.model_copy(update={"attempt": 2}))
    herd.now += 5
    herd[2].state = node(2, revision=10)
    herd.report()
    assert herd.placer.elsewhere(moved)
    back = await herd.placer.place(moved.order.model_copy(update={"attempt": 3}))
    assert back.runner is herd[2]


async def test_a_job_that_is_a_little_late_where_much_is_ahead_of_it_moves() -> None:
    herd = Herd(node(1, CHAT), busy(2, 10), busy(3, 40))
    placed = await place_behind(herd)
    herd.now += 12
    herd.views = [busy(2, 300, revision=5), like_cold(3)]
    assert herd.placer.elsewhere(placed)


def like_cold(number: int) -> NodeState:
    return node(number, like(IMAGE, **COLD), revision=9)


async def test_a_waiting_job_leaves_a_node_that_has_no_memory_for_it_now_and_moves_to_none_that_has_none() -> None:
    herd = Herd(node(1, CHAT), busy(2, 60), busy(3, 80))
    placed = await place_behind(herd)
    herd.views = [node(2, memory=SHORT, revision=9), busy(3, 300, revision=9)]
    assert herd.placer.elsewhere(placed)
    moved = await herd.placer.place(placed.order.model_copy(update={"attempt": 2}))
    assert all(row.finish_s is None or row.finish_s < 1000 for row in moved.estimates)
    herd.views = [busy(2, 60, revision=9), node(3, memory=SHORT, revision=9)]
    assert not herd.placer.elsewhere(placed)


async def test_a_job_that_was_accepted_before_waits_where_its_model_is_until_memory_is_back() -> None:
    herd = Herd(node(1, CHAT), node(2, memory=SHORT))
    placed = await herd.placer.place(order(forced=True))
    assert placed.runner is herd[2]
    assert "short of memory (high)" in placed.estimates[0].reason


async def test_who_finds_memory_short_everywhere_hears_it_of_the_node_that_refuses() -> None:
    herd = Herd(node(1, CHAT), node(2, memory=SHORT))
    herd[2].refuses = HerdError(ErrorCode.BUSY, "too large now", retryable=True, details={"retry_after_s": 30})
    with pytest.raises(HerdError, match="too large now") as caught:
        await herd.placer.place(order())
    assert caught.value.info.details["retry_after_s"] == 30


async def test_what_cannot_be_reached_is_no_reason_to_move() -> None:
    herd = Herd(node(1, CHAT), busy(2, 60), busy(3, 80))
    placed = await place_behind(herd)
    herd.views[1] = node(3, status="offline")
    assert not herd.placer.elsewhere(placed)
    herd.views[0], herd.views[1] = node(2, status="offline"), node(3)
    assert herd.placer.elsewhere(placed)
