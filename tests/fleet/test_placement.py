"""The arithmetic of placement, by tables: seconds, filters, choices."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.fleet import placement
from herd_mcp.fleet.ask import Ask
from herd_mcp.fleet.placement import best, finish, later, much_sooner, rank, resolve
from herd_mcp.fleet.prefixes import Prefix
from herd_mcp.fleet.sent import Addition, Sent
from herd_mcp.jobs import ChatRequest, ErrorCode, HerdError, ImageRequest, Message
from herd_mcp.state import ImageRates, NodeState, Power, Work, decode_slowdown
from tests.fleet.states import CHAT, COLD, IMAGE, SHORT, like, node

DRAW = Ask("image", "flux")
TALK = Ask("chat", "qwen", prompt_bytes=400)
RNG = random.Random(1)


def seconds(ask: Ask, state: NodeState, *sent: Addition) -> float:
    row = finish(ask, state, sent)
    assert row.finish_s is not None
    assert row.finish_s == pytest.approx((row.ahead_s or 0) + (row.load_s or 0) + (row.service_s or 0), abs=0.01)
    return row.finish_s


# ── Seconds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ask", "state", "wanted"),
    [
        (DRAW, node(1), 10),
        (Ask("image", "flux", 2000, 1000, 8), node(1), 36),
        (Ask("image", "flux", drawn=0.5), node(1), 6),
        (DRAW, node(1, like(IMAGE, **COLD)), 22),
        (DRAW, node(1, like(IMAGE, **COLD, loading=0.75)), 13),
        (DRAW, node(1, work=Work(image_s=7)), 17),
        (DRAW, node(1, work=Work(image_s=7), heard_s=3), 14),
        (DRAW, node(1, work=Work(image_s=8, chat_s=7), heard_s=3.2), 22.3),  # 6 and 5.88 s are left of them
        (DRAW, node(1, work=Work(chat_s=100)), 16),  # chats all the time: 1.6 times as long
        (DRAW, node(1, work=Work(chat_s=0.7)), 10.75),  # for 2 s, in which 1.25 s are drawn
        (DRAW, node(1, like(IMAGE, image=None)), 50),  # nothing known: as slow as a small Mac
        (TALK, node(1), 11),
        (Ask("chat", "qwen", prompt_bytes=400, max_tokens=20), node(1), 2),
        (Ask("chat", "qwen", prompt_bytes=400, max_tokens=2000), node(1), 11),
        (TALK, node(1, like(CHAT, **COLD)), 16),
        (TALK, node(1, like(CHAT, running=2)), 1 + 10 * decode_slowdown(3)),
        (TALK, node(1, like(CHAT, running=4), work=Work(chat_s=8)), 1 + 10 * decode_slowdown(4) + 2),
        (TALK, node(1, work=Work(image_s=100)), 11 / 0.35),
        (TALK, node(1, CHAT, like(CHAT, name="other", running=1), work=Work(chat_s=2)), 13),
    ],
)
def test_a_finish_is_what_the_formula_says(ask: Ask, state: NodeState, wanted: float) -> None:
    assert seconds(ask, state) == pytest.approx(wanted, abs=0.01)


@given(st.floats(0, 30), st.floats(0.001, 30))
def test_nothing_ahead_is_no_less_than_nothing(load_s: float, step_s: float) -> None:
    cold = like(IMAGE, **COLD, load_s=load_s, image=ImageRates(step_s_per_mpx=step_s))
    assert str(finish(DRAW, node(1, cold)).ahead_s) == "0.0"


def test_what_was_sent_counts_until_it_is_reported() -> None:
    sent = Sent()
    sent.add("n", "a job", Addition("image", "flux", 10), now_s=0)
    assert len(list(sent.of("n", 1, 99, 1))) == 1, "the node has not answered yet"
    sent.accepted("n", "a job", 1, 5)
    assert len(list(sent.of("n", 1, 4, 1))) == 1
    assert not sent.of("n", 1, 5, 1)
    sent.add("n", "one without an answer", Addition("image", "flux", 10), now_s=0)
    assert not sent.of("n", 0, 0, 31)


def test_a_load_is_waited_for_once() -> None:
    cold = node(1, like(IMAGE, **COLD))
    assert seconds(DRAW, cold, Addition("image", "flux", 10, 12)) == pytest.approx(32)
    assert seconds(TALK, node(1, like(CHAT, **COLD)), Addition("chat", "qwen", 11, 5)) == pytest.approx(
        5 + 1 + 10 * decode_slowdown(2)
    )


def test_a_kept_beginning_saves_its_seconds_and_no_more() -> None:
    ask = Ask("chat", "qwen", prompt_bytes=4000, prefixes=(Prefix("a", 1000), Prefix("b", 3600)))
    assert seconds(ask, node(1)) == pytest.approx(20)
    assert seconds(ask, node(1, prefixes=("a",))) == pytest.approx(17.5)
    assert seconds(ask, node(1, prefixes=("b", "a"))) == pytest.approx(11)
    busy = node(1, prefixes=("b",), work=Work(image_s=30))
    assert rank(ask, [busy, node(2)])[0].state.name == "n2"


# ── Who is able ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "offline", "reason": "not heard of for 31 s"}, "it is offline: not heard of for 31 s"),
        ({"status": "draining"}, "it is about to end"),
        ({"wire": (2, 0)}, "version 2"),
        ({"paused": "by hand"}, "it is paused: by hand"),
        ({"disk_free_bytes": 1024}, "its disk"),
        ({"power": Power(source="battery", battery_percent=19)}, "its battery is at 19 %"),
        ({"power": Power(thermal="serious")}, "too hot"),
    ],
)
def test_a_node_is_left_out_with_its_reason(fields: dict[str, Any], reason: str) -> None:
    first, second = rank(DRAW, [node(1, **fields), node(2, work=Work(image_s=500))])
    assert first.state.name == "n2"
    assert second.estimate.finish_s is None
    assert reason in second.estimate.reason


@pytest.mark.parametrize(
    ("ask", "state", "reason"),
    [
        (DRAW, node(1, CHAT), "it has no image model"),
        (DRAW, node(1, like(IMAGE, name="other")), "it does not have flux"),
        (DRAW, node(1, like(IMAGE, fits=False, reason="it takes 12 GiB of 8")), "it takes 12 GiB of 8"),
        (Ask("image", "flux", 2048), node(1, like(IMAGE, largest_px=1024)), "it draws at most 1024 px"),
        (Ask("chat", "qwen", prompt_bytes=100_000), node(1), "too long"),
    ],
)
def test_a_model_that_is_not_there_or_too_small_is_a_reason(ask: Ask, state: NodeState, reason: str) -> None:
    (only,) = rank(ask, [state])
    assert not only.able
    assert reason in only.estimate.reason
    assert best([only], "", RNG) is None


@pytest.mark.parametrize("power", [Power(), Power(source="battery"), Power(source="battery", battery_percent=20)])
def test_what_the_system_does_not_tell_is_no_reason(power: Power) -> None:
    assert rank(DRAW, [node(1, power=power)])[0].able


def test_a_paused_node_still_runs_its_own_jobs_when_no_other_can() -> None:
    paused, other = node(1, paused="by hand"), node(2, work=Work(image_s=500))
    places = rank(DRAW, [paused, other], local_id=paused.node_id)
    assert [place.state.name for place in places] == ["n2", "n1"]
    assert places[1].able
    assert "paused" in places[1].estimate.reason
    (only,) = rank(DRAW, [paused], local_id=paused.node_id)
    assert only.able


@pytest.mark.parametrize(
    ("ask", "begun"),
    [
        (DRAW, False),
        (Ask("image", "flux", 512, 512), True),
        (Ask("image", "flux", 1024, 256), True),
        (Ask("image", "flux", 528, 512), False),
        (TALK, True),
        (Ask("chat", "qwen", prompt_bytes=1000), False),
    ],
)
def test_a_node_short_of_memory_is_taken_for_what_it_begins_and_for_the_rest_only_if_all_are_so(
    ask: Ask, begun: bool
) -> None:
    short, busy = node(1, memory=SHORT), node(2, work=Work(image_s=500))
    places = rank(ask, [short, busy], local_id=short.node_id, avoid=(busy.node_id,))
    assert [place.state.name for place in places] == (["n1", "n2"] if begun else ["n2", "n1"])
    assert all(place.able for place in places)
    assert ("short of memory (high)" in places[1].estimate.reason) == (not begun)
    chosen = best(places, short.node_id, RNG)
    assert chosen is not None
    assert chosen.state.name == ("n1" if begun else "n2")
    as_soon = best(rank(ask, [short, node(2)], local_id=short.node_id), short.node_id, RNG)
    assert as_soon is not None
    assert as_soon.state.name == ("n1" if begun else "n2"), "not even its own node is preferred"
    only = best(rank(ask, [short]), "", RNG)
    assert only is not None
    assert only.put_off == (not begun)


def test_silent_nodes_and_those_where_the_job_died_come_last() -> None:
    silent, deadly, busy = node(1, status="degraded"), node(2), node(3, work=Work(image_s=99))
    places = rank(DRAW, [silent, deadly, busy], avoid={deadly.node_id})
    assert [place.state.name for place in places] == ["n3", "n1", "n2"]


def test_where_the_job_died_it_goes_after_its_own_paused_node() -> None:
    paused, deadly = node(1, paused="by hand", work=Work(image_s=500)), node(2)
    places = rank(DRAW, [paused, deadly], local_id=paused.node_id, avoid={deadly.node_id})
    assert [place.state.name for place in places] == ["n1", "n2"]


# ── The choice ────────────────────────────────────────────────────────────────────────────────────────────────────────


def place_all(asks: list[Ask], states: list[NodeState], local_id: str = "", seed: int = 0) -> dict[str, int]:
    """Where one asker places jobs, one after the other, without hearing of any node meanwhile."""
    rng, sent, count = random.Random(seed), Sent(), dict.fromkeys((state.name for state in states), 0)
    for number, ask in enumerate(asks):
        known = {state.node_id: sent.of(state.node_id, 0, 0, 0) for state in states}
        chosen = best(rank(ask, states, local_id=local_id, sent=known), local_id, rng)
        assert chosen is not None
        count[chosen.state.name] += 1
        row = chosen.estimate
        addition = Addition(ask.kind, ask.model, row.service_s or 0, row.load_s or 0)
        sent.add(chosen.state.node_id, number, addition, 0)
    return count


@given(st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 5))
def test_equal_images_on_equal_idle_nodes_go_one_to_each(count: int, warm: bool, asks_itself: bool, seed: int) -> None:
    states = [node(number, like(IMAGE, loaded=warm)) for number in range(count)]
    local = states[0].node_id if asks_itself else ""
    assert set(place_all([DRAW] * count, states, local, seed).values()) == {1}


def test_twelve_images_on_a_fast_and_a_three_times_slower_node_are_split_nine_to_three() -> None:
    rates = {"step_s_per_mpx": 6, "fixed_s_per_mpx": 6}
    states = [node(1), node(2, like(IMAGE, image=rates))]
    assert place_all([DRAW] * 12, states) == {"n1": 9, "n2": 3}


def test_a_backlog_longer_than_a_load_warms_the_best_cold_node() -> None:
    states = [node(1), node(2, like(IMAGE, **COLD)), node(3, like(IMAGE, loaded=False, load_s=40))]
    assert place_all([DRAW], states) == {"n1": 1, "n2": 0, "n3": 0}
    assert place_all([DRAW] * 2, states) == {"n1": 2, "n2": 0, "n3": 0}, "no load for a tie"
    assert place_all([DRAW] * 3, states) == {"n1": 2, "n2": 1, "n3": 0}


def test_chats_go_to_the_batch_only_while_no_node_is_free() -> None:
    states = [node(1, CHAT), node(2, CHAT)]
    assert place_all([TALK] * 8, states) == {"n1": 4, "n2": 4}


def test_work_of_two_kinds_is_not_mixed_while_another_node_is_free() -> None:
    for seed in range(20):
        assert set(place_all([DRAW, TALK], [node(1), node(2)], seed=seed).values()) == {1}


def test_near_ties_go_to_this_node_and_else_to_any() -> None:
    near, far = node(2, work=Work(image_s=0.9)), node(3, work=Work(image_s=1.1))
    places = rank(DRAW, [node(1), near, far])
    for local, names in ((near.node_id, {"n2"}), (far.node_id, {"n1", "n2"}), ("", {"n1", "n2"})):
        chosen = [best(places, local, random.Random(seed)) for seed in range(30)]
        assert {place.state.name for place in chosen if place} == names


def test_a_penalty_moves_the_choice_and_not_the_seconds() -> None:
    first, second = rank(DRAW, [node(1), node(2)], penalty_s={node(1).node_id: 5})
    assert (first.state.name, second.estimate.finish_s) == ("n2", 10)
    assert "failed lately" in second.estimate.reason


def test_what_a_node_said_itself_counts_more_than_its_report() -> None:
    first, second = rank(DRAW, [node(1), node(2)], later_s={node(1).node_id: 30})
    assert (first.state.name, second.estimate.finish_s, second.estimate.ahead_s) == ("n2", 30, 20)


@pytest.mark.parametrize(
    ("mine", "expects", "wanted"),
    [(10, None, False), (1.5, 1, False), (1.51, 1, True), (11, 10, False), (11.1, 10, True), (5, 10, False)],
)
def test_a_target_turns_away_what_it_would_end_noticeably_later(mine: float, expects: float, wanted: bool) -> None:
    assert later(mine, expects) is wanted


@pytest.mark.parametrize(("mine", "there", "wanted"), [(10, 6, True), (10, 6.6, False), (3, 0.4, True), (3, 1, False)])
def test_a_job_moves_for_a_large_gain_only(mine: float, there: float, wanted: bool) -> None:
    assert much_sooner(mine, there) is wanted


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(model: str | None = None) -> ImageRequest:
    return ImageRequest(prompt="a circle", model=model)


def test_names_and_aliases_mean_models_of_all_nodes_without_case() -> None:
    states = [node(1, CHAT), node(2)]
    assert resolve(draw("FLUX-Schnell"), states) == "flux"
    assert resolve(draw(), states) == "flux"
    assert resolve(draw(), states, "Flux") == "flux"


def test_a_request_without_a_name_gets_a_real_a_loaded_a_large_model() -> None:
    toy = like(CHAT, name="toy", builtin=True, bytes=1)
    large = like(CHAT, name="large", bytes=2**40, **COLD)
    talk = ChatRequest(messages=(Message(role="user", content="hello"),))
    assert resolve(talk, [node(1, toy), node(2, large)]) == "large"
    assert resolve(talk, [node(1, toy, CHAT), node(2, large)]) == "qwen"
    assert resolve(talk, [node(1, toy), node(2, large, status="offline")]) == "toy"
    assert resolve(talk, [node(1, toy), node(2, like(large, fits=False))]) == "toy"


def test_of_models_that_share_an_alias_the_one_of_that_name_is_meant() -> None:
    other = like(IMAGE, name="flux-8bit", aliases=("flux",), bytes=2**40)
    assert resolve(draw("flux"), [node(1, other), node(2)]) == "flux"
    assert resolve(draw("flux-schnell"), [node(1, other), node(2)]) == "flux"


def test_unknown_names_and_names_of_another_kind_are_told_apart() -> None:
    for name, code in (("nothing", ErrorCode.MODEL_NOT_FOUND), ("qwen", ErrorCode.KIND_NOT_SUPPORTED)):
        with pytest.raises(HerdError) as raised:
            resolve(draw(name), [node(1)])
        assert raised.value.info.code == code


def test_an_ask_holds_what_counts() -> None:
    picture = ImageRequest(prompt="x", width=512, steps=9, image=b"p", image_strength=0.75)
    assert placement.ask_of(picture, "flux") == Ask("image", "flux", 512, None, 9, 0.25)
    talk = ChatRequest(messages=(Message(role="user", content="grüß"),), max_tokens=5)
    ask = placement.ask_of(talk, "qwen", b"key")
    assert (ask.prompt_bytes, ask.max_tokens, len(ask.prefixes)) == (6, 5, 1)


# ── Cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_placing_among_32_states_of_20_models_takes_about_a_millisecond() -> None:
    models = [like(IMAGE if number % 2 else CHAT, name=f"model-{number}", aliases=("x", "y")) for number in range(20)]
    states = [node(number, *models, heard_s=1.0) for number in range(32)]
    request = draw("model-19")
    took = []
    for _ in range(50):
        began = time.process_time()
        name = resolve(request, states)
        assert best(rank(placement.ask_of(request, name), states), "", RNG)
        took.append(time.process_time() - began)
    assert min(took) < 0.005, "measured: see the report; five times as long is another algorithm"
