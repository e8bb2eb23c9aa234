"""What runs tell of a Mac's rates, played through a node's decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ImageRequest, Message
from herd_mcp.node.decide import decide
from herd_mcp.node.events import Event, Heard, Release, Submit
from herd_mcp.node.lanes import EngineKey, Plan
from herd_mcp.node.learning import Learning
from herd_mcp.node.memory import Needs
from herd_mcp.node.rates import FirstRates
from herd_mcp.state import decode_slowdown
from tests.node.test_decide import READY, new_state, plan_of

FIRST = FirstRates(step_s=8, fixed_s=8, prefill=100, decode=10, load_s=5)
IMAGE = replace(plan_of("i", Needs(10)), first=FIRST)
CHAT = replace(plan_of("c", Needs(10), 4, kind="chat"), first=FIRST)
LONG = "x" * 1000


class Played:
    """A node's decisions in a time of its own, with what it learns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.state = new_state()
        self.learning = Learning(self.state, lambda: self.now)

    def do(self, event: Event, after_s: float = 0.0) -> None:
        self.now += after_s
        if isinstance(event, Heard):
            self.learning.heard(event.key, event.generation, event.message)
        decide(self.state, event, self.now)

    def ask(self, plan: Plan, job_id: str) -> None:
        chat = ChatRequest(messages=(Message(role="user", content=LONG),), max_tokens=1000)
        request = chat if plan is CHAT else ImageRequest(prompt="x", steps=4)
        self.do(Submit(job_id, 1, request, plan, "", 1e9, size=10))
        self.do(Release(job_id))

    def say(self, plan: Plan, message: pipe.Message, after_s: float = 0.0) -> None:
        engine = self.state.lanes[plan.key].engine
        assert engine is not None
        self.do(Heard(plan.key, engine.generation, message), after_s)

    def run_of(self, job_id: str) -> int:
        return self.state.runs[job_id, 1].number

    def measured(self, plan: Plan) -> dict[str, float]:
        """The last value of each figure, before any older one and the guess are mixed in."""
        return {place[2]: seen.usual for place, seen in self.learning.rates.seen.items() if place[0] == plan.key.model}

    def draw(self, job_id: str, steps: int, step_s: float, before_s: float, after_s: float) -> None:
        run = self.run_of(job_id)
        self.say(IMAGE, pipe.Step(work=1, runs=(pipe.RunDelta(run=run, step=0, steps=steps, message="encoding"),)))
        for step in range(1, steps + 1):
            delta = pipe.RunDelta(run=run, step=step, steps=steps)
            self.say(IMAGE, pipe.Step(work=1 + step, runs=(delta,)), step_s + (before_s if step == 1 else 0))
        run_s = before_s + steps * step_s + after_s
        facts = pipe.ImageFacts(width=1000, height=500, steps=steps, seed=1, guidance=None, quantize=None, run_s=run_s)
        self.say(IMAGE, pipe.Done(run=run, facts=facts), after_s)

    def answer(self, job_id: str, tokens: int, seconds: float, after_s: float, **facts: object) -> None:
        told = {"finish_reason": "stop", "prompt_tokens": 300, "cached_tokens": 100, "prefill_s": 2.0}
        told |= {"completion_tokens": tokens, "decode_s": seconds} | facts
        self.say(CHAT, pipe.Done(run=self.run_of(job_id), facts=pipe.ChatFacts.model_validate(told)), after_s)


@pytest.fixture
def node() -> Played:
    return Played()


def test_an_image_tells_its_steps_and_what_is_around_them_apart(node: Played) -> None:
    node.ask(IMAGE, "j")
    node.say(IMAGE, READY, after_s=7.0)
    node.draw("j", steps=4, step_s=3.0, before_s=1.0, after_s=2.0)
    assert node.measured(IMAGE) == pytest.approx({"load_s": 7.0, "step_s": 6.0, "fixed_s": 6.0})


def test_an_image_of_one_step_tells_how_much_slower_all_is(node: Played) -> None:
    node.ask(IMAGE, "j")
    node.say(IMAGE, READY)
    node.draw("j", steps=1, step_s=3.0, before_s=1.0, after_s=4.0)  # 8 s, where 0.5 megapixels were guessed at 8 s too
    assert node.measured(IMAGE) | {"load_s": 0} == pytest.approx({"step_s": 8, "fixed_s": 8, "load_s": 0})


def test_a_lone_chat_tells_its_prompt_its_answer_and_its_words(node: Played) -> None:
    node.ask(CHAT, "j")
    node.say(CHAT, READY)
    node.answer("j", tokens=101, seconds=4.0, after_s=6.0)
    wanted = {"prefill": 100.0, "decode": 25.0, "answer": 101.0, "per_byte": 0.3}
    assert node.measured(CHAT) | wanted == pytest.approx(node.measured(CHAT))


def test_chats_in_a_batch_tell_what_one_alone_would_have_done(node: Played) -> None:
    for job in "abc":
        node.ask(CHAT, job)
    node.say(CHAT, READY)
    for job in "abc":
        node.answer(job, tokens=101, seconds=10.0, after_s=10.0 if job == "a" else 0.0)
    assert node.measured(CHAT)["decode"] == pytest.approx(10 * decode_slowdown(3))
    assert "prefill" not in node.measured(CHAT)  # the others' tokens came between


def test_a_batch_that_was_full_for_half_of_the_time_counts_as_what_it_was_on_average(node: Played) -> None:
    node.ask(CHAT, "a")
    node.say(CHAT, READY)
    node.do(Release("nobody"), after_s=5.0)
    for job in "bcd":
        node.ask(CHAT, job)
    node.answer("a", tokens=101, seconds=10.0, after_s=5.0)
    assert node.measured(CHAT)["decode"] == pytest.approx(10 * decode_slowdown(2.5))


def test_what_shared_the_gpu_with_another_engine_is_not_measured(node: Played) -> None:
    node.ask(CHAT, "c")
    node.say(CHAT, READY)
    node.ask(IMAGE, "i")
    node.say(IMAGE, READY, after_s=2.0)
    node.draw("i", steps=4, step_s=3.0, before_s=1.0, after_s=2.0)
    node.answer("c", tokens=101, seconds=4.0, after_s=6.0)
    assert set(node.measured(IMAGE)) == {"load_s"}
    assert set(node.measured(CHAT)) == {"load_s", "answer", "per_byte"}


def test_answers_that_were_cut_and_prompts_that_say_little_teach_nothing_wrong(node: Played) -> None:
    node.ask(CHAT, "j")
    node.say(CHAT, READY)
    node.answer("j", tokens=5, seconds=0.1, after_s=1.0, finish_reason="length", cached_tokens=299, prefill_s=0.5)
    assert set(node.measured(CHAT)) == {"load_s", "per_byte"}


def test_an_engine_that_says_what_it_may_not_say_teaches_nothing(node: Played) -> None:
    node.ask(IMAGE, "j")
    node.say(IMAGE, READY)
    run = node.run_of("j")
    facts = pipe.ChatFacts(
        finish_reason="stop", prompt_tokens=900, cached_tokens=0, completion_tokens=900, prefill_s=1, decode_s=1
    )
    node.say(IMAGE, pipe.Done(run=run, facts=facts), after_s=1.0)
    node.learning.heard(EngineKey("i"), 999, READY)  # of an engine long gone
    assert set(node.measured(IMAGE)) == {"load_s"}
