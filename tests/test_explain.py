"""Why a job runs where it runs, in words."""

from __future__ import annotations

import pytest

from herd_mcp.explain import again, why
from herd_mcp.jobs import Attempt, NodeEstimate, Routed

HERE, THERE = "a" * 10, "b" * 10


def routed(node: str, mine: float | str, other: float | str) -> Routed:
    def row(name: str, node_id: str, told: float | str) -> NodeEstimate:
        if isinstance(told, str):
            return NodeEstimate(node=name, node_id=node_id, reason=told)
        return NodeEstimate(node=name, node_id=node_id, finish_s=told)

    return Routed(node=node, estimates=(row("mac1", HERE, mine), row("mac2", THERE, other)))


@pytest.mark.parametrize(
    ("node", "mine", "other", "words"),
    [
        ("mac2", 31, 12, "on mac2 because it is done there in 12 s; here it would be 31 s"),
        ("mac1", 4.25, 12, "here, on mac1, because it is done in 4.2 s; on mac2 it would be 12 s"),
        ("mac2", "it is hot", 12, "on mac2 because it is done there in 12 s; here it cannot run now: it is hot"),
        ("mac1", 12, 12, "here, on mac1, because it is done in 12 s; on mac2 it would be about as soon (12 s)"),
    ],
)
def test_a_choice_is_told_in_seconds(node: str, mine: float | str, other: float | str, words: str) -> None:
    assert why(routed(node, mine, other), HERE) == words


def test_what_speaks_against_the_sooner_node_is_told() -> None:
    slow = routed("mac2", 3, 12)
    rows = (slow.estimates[0].model_copy(update={"reason": "it is paused: by hand"}), slow.estimates[1])
    told = why(slow.model_copy(update={"estimates": rows}), HERE)
    assert told == "on mac2 because it is done there in 12 s; here it would be 3.0 s, but it is paused: by hand"


def test_where_there_was_no_choice_there_is_nothing_to_tell() -> None:
    assert why(None) == ""
    assert why(Routed(node="mac1", estimates=(NodeEstimate(node="mac1"),)), HERE) == ""


def test_a_reader_elsewhere_is_told_of_names_alone() -> None:
    assert "here" not in why(routed("mac2", 31, 12)).replace("there", "")


def test_a_job_that_was_tried_again_says_who_was_lost() -> None:
    attempts = [
        Attempt(number=1, node="mac2", started_at=0, outcome="node_lost"),
        Attempt(number=2, node="mac3", started_at=1, outcome="timeout"),
        Attempt(number=3, node="mac1", started_at=2, outcome="completed"),
    ]
    assert (
        again(attempts) == "it was tried 3 times: mac2 was lost, then on mac3 it ended with timeout, then mac1 did it"
    )
    assert again(attempts[2:]) == ""


def test_a_job_that_was_given_back_moved() -> None:
    attempts = [
        Attempt(number=1, node="mac2", started_at=0, outcome="returned"),
        Attempt(number=2, node="mac1", started_at=1),
    ]
    assert again(attempts) == "it moved: mac2 gave it back, then mac1 has it"
