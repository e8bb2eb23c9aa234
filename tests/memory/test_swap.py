"""Two models, room for one, many clients of each: no wrong answer, nobody starves, and not all the time is loading."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import swap
from benchmarks.parts import jobs
from benchmarks.parts.jobs import Ask
from herd_mcp.node.room import turn_runs

ROUNDS = 6
MOST_TURNS = math.ceil(swap.CLIENTS / swap.BATCH)
"""Of the other model, before one's own answer: a turn begins with a whole batch, and so many hold all that wait."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one engine answered, from its start to its end."""

    asks: list[Ask]

    @property
    def model(self) -> str:
        return self.asks[0].model

    @property
    def began_at(self) -> float:
        """When its first answer was complete."""
        return self.asks[0].ended_at

    @property
    def ended_at(self) -> float:
        return self.asks[-1].ended_at


def turns_of(asks: Sequence[Ask]) -> list[Turn]:
    """With room for one engine all answers of one come before those of the next."""
    in_order = sorted(asks, key=lambda one: one.ended_at)
    return [Turn(list(group)) for _, group in itertools.groupby(in_order, key=lambda one: one.model)]


def waited_for(one: Ask, turns: Sequence[Turn]) -> int:
    """Turns of the other model that began or went on while it waited."""
    return sum(turn.model != one.model and one.asked_at < turn.ended_at < one.ended_at for turn in turns)


def longest_turn(turns: Sequence[Turn]) -> float:
    """How many answers a turn may have by the rules of node/room.py: as many as an engine gives while another loads,
    or `turn_runs`, and those that run when it is over. Both times are of this very run, so a slow machine has its own.
    """
    working_s = sum(turn.ended_at - turn.began_at for turn in turns)
    answers_per_s = sum(len(turn.asks) - 1 for turn in turns) / working_s
    load_s = max(after.began_at - before.ended_at for before, after in itertools.pairwise(turns))
    return max(turn_runs(swap.BATCH), load_s * answers_per_s) + swap.BATCH


def test_turns_are_told_from_the_order_of_the_answers() -> None:
    def one(model: str, asked_at: float, ended_at: float) -> Ask:
        return Ask({"model": model}, asked_at=asked_at, ended_at=ended_at)

    patient = one("a", 0, 9)
    turns = turns_of([one("b", 0, 2), patient, one("a", 0, 1), one("b", 1, 3), one("a", 2, 4), one("b", 4, 6)])
    assert [(turn.model, len(turn.asks)) for turn in turns] == [("a", 1), ("b", 2), ("a", 1), ("b", 1), ("a", 1)]
    assert waited_for(patient, turns) == 2
    assert waited_for(turns[2].asks[0], turns) == 1


def test_the_chats_that_one_let_go_first_are_counted() -> None:
    def one(asked_at: float, ended_at: float) -> Ask:
        return Ask({"model": "x"}, asked_at=asked_at, ended_at=ended_at)

    assert jobs.overtaken([one(0, 1), one(1, 2), one(2, 3)]) == 0
    assert jobs.overtaken([one(0, 9), one(1, 2), one(2, 3), one(3, 10)]) == 2


def test_answers_that_are_not_ones_own_are_found() -> None:
    def told(number: int, text: str, prompt_tokens: int, model: str = "low") -> Ask:
        asked = jobs.chat(number, "low", tokens=3)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 3}
        asked.end, asked.result = "completed", {"model": model, "text": text, "usage": usage}
        return asked

    right = [told(1, "abc", 29), told(2, "abb", 30)]
    assert jobs.mixed_up(right, swap.LETTERS) == []
    assert len(jobs.mixed_up([*right, told(3, "abm", 31)], swap.LETTERS)) == 1
    assert len(jobs.mixed_up([*right, told(3, "abc", 31, "high")], swap.LETTERS)) == 1
    assert len(jobs.mixed_up([*right, told(3, "abc", 30)], swap.LETTERS)) == 1
    assert len(jobs.mixed_up([*right, told(3, "ab", 31)], swap.LETTERS)) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_models_with_room_for_one_answer_all_their_clients(tmp_path: Path) -> None:
    swap.build(tmp_path)
    run = swap.swap(tmp_path, int(swap.engine_bytes(tmp_path) * swap.ONE), ROUNDS)
    first = jobs.overtaken(run.asks)
    turns = turns_of(run.asks)
    waited = max(waited_for(one, turns) for one in run.asks)
    sizes = [len(turn.asks) for turn in turns]
    print(f"{run.rate:.1f} tok/s, {run.loads} loads, longest wait {run.longest_s:.1f} s, {first} chats went first")
    print(f"turns of {sizes} chats where {longest_turn(turns):.1f} are allowed, waited for {waited} turns of the other")
    assert (run.wrong, run.failed) == (0, 0)
    assert run.loads == len(turns) <= len(run.asks) / swap.BATCH
    assert max(sizes) <= longest_turn(turns)
    assert waited <= MOST_TURNS
