"""The arithmetic of membership, by tables and in any order of events."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.parts.mesh import node_id, state_of
from herd_mcp.fleet.membership import (
    DEGRADED_S,
    FORGOTTEN_S,
    LONGEST_BACKOFF_S,
    MOST_NODES,
    OFFLINE_S,
    Members,
    View,
    after_failure,
    after_report,
    after_sleep,
    age_of,
    backoff_s,
    seen,
    silent_s,
    status_of,
    told_apart,
    wire_problem,
)

FRESH = View(state_of(1, incarnation=5, revision=5), heard_at=100.0)


@pytest.mark.parametrize(
    ("view", "now", "status", "reason"),
    [
        (FRESH, 100.0, "online", ""),
        (FRESH, 114.9, "online", ""),
        (FRESH, 115.0, "degraded", "not heard of for 15 s"),
        (FRESH, 129.9, "degraded", "not heard of for 30 s"),
        (FRESH, 130.0, "offline", "not heard of for 30 s"),
        (replace(FRESH, failures=1, why="refused"), 101.0, "online", ""),
        (replace(FRESH, failures=2, why="refused"), 101.0, "degraded", "it does not answer: refused"),
        (replace(FRESH, failures=2, why="refused"), 140.0, "offline", "not heard of for 40 s: refused"),
        (replace(FRESH, woke_at=200.0), 200.0, "degraded", "not heard of since this Mac slept"),
        (replace(FRESH, woke_at=200.0), 229.0, "degraded", "not heard of since this Mac slept"),
        (replace(FRESH, woke_at=200.0), 230.0, "offline", "not heard of for 130 s"),
        (View(state_of(1, status="draining"), 100.0), 101.0, "draining", ""),
        (View(state_of(1, status="draining"), 100.0), 116.0, "degraded", "not heard of for 16 s"),
        (View(state_of(1, status="offline", reason="it left"), 100.0), 101.0, "offline", "it left"),
        (View(state_of(1, status="offline"), 100.0), 101.0, "offline", "it was stopped"),
    ],
)
def test_status_follows_silence_failed_calls_sleep_and_what_the_node_says(
    view: View, now: float, status: str, reason: str
) -> None:
    assert status_of(view, now) == (status, reason)


@pytest.mark.parametrize(
    ("incarnation", "revision", "now", "taken"),
    [
        (5, 6, 101.0, True),
        (5, 5, 101.0, True),
        (5, 4, 101.0, False),
        (6, 0, 101.0, True),
        (4, 9, 101.0, False),
        (4, 9, 129.9, False),
        (4, 9, 130.0, True),
        (5, 4, 1000.0, False),
    ],
)
def test_an_older_report_changes_nothing(incarnation: int, revision: int, now: float, taken: bool) -> None:
    state = state_of(1, incarnation=incarnation, revision=revision)
    after = after_report(FRESH, state, now)
    assert (after is not None) == taken
    if after:
        assert (after.state, after.heard_at) == (state, now)


def test_a_report_heals_and_a_new_start_has_a_clean_slate() -> None:
    ill = replace(FRESH, failures=7, why="refused", woke_at=120.0)
    same = after_report(ill, state_of(1, incarnation=5, revision=6), 121.0)
    assert same is not None
    assert (same.woke_at, same.failures) == (None, 7)
    assert after_report(ill, state_of(1, incarnation=6), 121.0) == View(state_of(1, incarnation=6), 121.0)


def test_sleep_makes_a_node_stale_but_no_better() -> None:
    slept = after_sleep(FRESH, 101.0, 3600.0)
    assert status_of(slept, 101.0)[0] == "degraded"
    assert seen(slept, 101.0).heard_s == 3601.0
    gone = after_sleep(FRESH, 140.0, 3600.0)
    assert status_of(gone, 140.0)[0] == "offline"


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (10**6, 30)])
def test_a_node_that_is_gone_is_called_ever_less_often(failures: int, seconds: float) -> None:
    assert backoff_s(failures) == seconds


@pytest.mark.parametrize(
    ("wire", "problem"), [((1, 0), ""), ((1, 7), ""), ((2, 0), "on this Mac"), ((0, 9), "on that Mac")]
)
def test_only_another_major_version_is_a_problem(wire: tuple[int, int], problem: str) -> None:
    assert problem in wire_problem(wire)
    assert bool(wire_problem(wire)) == bool(problem)


def test_names_are_told_apart_without_case_and_stay_names() -> None:
    states = [state_of(n, name=name) for n, name in enumerate(["a" * 63, "a" * 63, "B", "b", "c"])]
    apart = told_apart(states, ["C"])
    assert len({state.name.casefold() for state in apart} | {"c"}) == 6
    assert all(state_of(1).__class__.model_validate(state.model_dump()) for state in apart)


def test_a_full_herd_lets_the_one_go_that_is_offline_for_longest() -> None:
    members = Members()
    for n in range(MOST_NODES - 1):
        assert members.report(state_of(n), float(n)) == "new"
    assert members.report(state_of(99), 5.0) == "full"
    assert members.report(state_of(99), 45.0) == "new"
    assert node_id(0) not in members.views
    assert len(members.views) == MOST_NODES - 1


def test_a_node_that_is_gone_for_a_day_is_listed_no_more() -> None:
    members = Members()
    members.report(state_of(1), 0.0)
    members.forget(FORGOTTEN_S - 1)
    assert members.views
    members.forget(FORGOTTEN_S)
    assert not members.views


Event = (
    st.tuples(st.just("report"), st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)))
    | st.tuples(st.sampled_from(["failed", "reached"]), st.tuples(st.integers(0, 3)))
    | st.tuples(st.sampled_from(["slept", "pass"]), st.tuples(st.integers(0, 40) | st.integers(0, 10_000)))
)


@given(st.lists(Event, max_size=80))
@settings(max_examples=150)
def test_in_any_order_a_view_never_becomes_older_and_its_status_follows_its_age(
    events: list[tuple[str, tuple[int, ...]]],
) -> None:
    members, now = Members(), 0
    for kind, values in events:
        before = dict(members.views)
        if kind == "pass":
            now += values[0]
        elif kind == "slept":
            members.slept(now, values[0])
        elif kind == "failed":
            members.failed(node_id(values[0]), "refused")
        elif kind == "reached":
            members.reached(node_id(values[0]))
        else:
            number, incarnation, revision = values
            state = state_of(number, incarnation=incarnation, revision=revision)
            result = members.report(state, now)
            taken = members.views[state.node_id].state is state
            assert taken == (result in ("new", "same"))
        for one, view in members.views.items():
            if earlier := before.get(one):
                went_back = age_of(view.state) < age_of(earlier.state)
                set_back = view.state.incarnation < earlier.state.incarnation
                assert not went_back or (set_back and silent_s(earlier, now) >= OFFLINE_S)
            shown = seen(view, now)
            silent = silent_s(view, now)
            assert math.isfinite(silent)
            assert silent >= 0
            assert (shown.status == "offline") == (silent >= OFFLINE_S)
            if shown.status == "online":
                assert silent < DEGRADED_S
                assert view.woke_at is None
                assert view.failures < 2
            assert shown.status == "online" or shown.reason
            assert (shown.heard_s or 0) >= round(silent, 1) - 0.1
            assert backoff_s(view.failures) <= LONGEST_BACKOFF_S
    # whatever was, silence ends in offline and a report of a new start heals
    assert set(members.statuses(now + OFFLINE_S).values()) <= {"offline"}
    for one, view in list(members.views.items()):
        members.report(view.state.model_copy(update={"incarnation": 9}), now)
        assert members.statuses(now)[one] == "online"


def test_failures_count_one_by_one() -> None:
    assert after_failure(after_failure(FRESH, "a"), "b") == replace(FRESH, failures=2, why="b")
