"""Two models, room for one, many clients of each: no wrong answer, nobody starves, and not all the time is loading."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import swap
from benchmarks.parts import jobs
from benchmarks.parts.jobs import Ask

ROUNDS = 6
LONGEST_S = 180.0
"""Nobody waits longer. Seconds on a machine of its own: all 240 chats take about one minute there."""
MOST_FIRST = swap.CLIENTS * ROUNDS // 2
"""Chats asked later that may end before: half of what the other model's clients ask in all. Who starves lets nearly all
of them go first."""
CHATS_PER_LOAD = 10
"""At least, on average: a load takes about as long as a turn of the engine."""


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
@pytest.mark.timeout(900)
def test_two_models_with_room_for_one_answer_all_their_clients(tmp_path: Path) -> None:
    swap.build(tmp_path)
    run = swap.swap(tmp_path, int(swap.engine_bytes(tmp_path) * swap.ONE), ROUNDS)
    first = jobs.overtaken(run.asks)
    print(f"{run.rate:.1f} tok/s, {run.loads} loads, longest wait {run.longest_s:.1f} s, {first} chats went first")
    assert (run.wrong, run.failed) == (0, 0)
    assert 2 <= run.loads <= len(run.asks) / CHATS_PER_LOAD
    assert first <= MOST_FIRST
    assert run.longest_s <= LONGEST_S
