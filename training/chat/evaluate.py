"""Judge the model through the package's own chat engine: `uv run python -m training.chat.evaluate [FOLDER] [--dev]`.

Nothing judged here was trained on. `--dev` takes the rephrasings for development in place of those for the report.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herd_mcp.engines.chat import ChatEngine
from herd_mcp.jobs import ChatRequest, ToolCall
from herd_mcp.pipe import ChatFacts, Done, EngineSpec, RunDelta, RunFailed, Start, Step
from training.chat import held_out
from training.chat.facts import SMALL_TALK, facts, is_outside

FOLDER = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"
SEED = 7


@dataclass
class Answer:
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    done: Done | None = None
    error: str = ""


@dataclass
class Score:
    """How many of a group were right, and what went wrong."""

    right: int = 0
    total: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, right: bool, what: str) -> None:
        self.total += 1
        self.right += right
        if not right:
            self.wrong.append(what)

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else 0.0


class Talker:
    """The chat engine, in this process."""

    def __init__(self, folder: Path = FOLDER, batch: int = 16) -> None:
        self._engine = ChatEngine()
        self._batch = batch
        began = time.perf_counter()
        spec = EngineSpec(kind="chat", model="herd-tiny-chat", path=str(folder), max_batch=batch, prompt_cache_bytes=0)
        self._engine.load(spec, lambda *_: None)
        self.load_s = time.perf_counter() - began

    def ask(self, requests: Iterable[ChatRequest]) -> list[Answer]:
        """Answers in the order of the requests; several run at once."""
        waiting = list(enumerate(requests))
        answers = [Answer() for _ in waiting]
        running = 0

        def emit(message: Any) -> None:
            nonlocal running
            if isinstance(message, Step):
                for delta in message.runs:
                    _add(answers[delta.run], delta)
            elif isinstance(message, Done):
                answers[message.run].done = message
                running -= 1
            elif isinstance(message, RunFailed):
                answers[message.run].error = message.error.message
                running -= 1

        while waiting or running:
            while waiting and running < self._batch:
                run, request = waiting.pop(0)
                start = Start(run=run, request=request)
                self._engine.admit(start, self._engine.prepare(start))
                running += 1
            self._engine.step(emit)
        return answers


def _add(answer: Answer, delta: RunDelta) -> None:
    answer.text += delta.text
    answer.reasoning += delta.reasoning
    answer.calls += delta.tool_calls


def request(*messages: tuple[str, str], tools: list[dict[str, Any]] | None = None) -> ChatRequest:
    turns = [{"role": role, "content": content} for role, content in messages]
    return ChatRequest.model_validate({"messages": turns, "tools": tools or [], "max_tokens": 160})


def _groups(*, dev: bool) -> Iterator[tuple[str, ChatRequest, Any]]:
    """Group, request, and a function that judges the answer."""
    for fact in facts():
        for question in fact.dev if dev else fact.held_out:
            yield "in scope", request(("user", question)), fact.is_answered_by
        if dev:
            continue
        for question in held_out.name_questions(fact):
            yield "by name", request(("user", question)), fact.is_answered_by
        if fact.held_out and fact.id not in SMALL_TALK:
            question = fact.held_out[-1]
            hello = (("user", "Hello, good day!"), ("assistant", facts()[0].answer), ("user", question))
            yield "after a greeting", request(*hello), fact.is_answered_by
            system = held_out.SYSTEMS[len(fact.id) % 2]
            yield "with a system prompt", request(("system", system), ("user", question)), fact.is_answered_by
    for question in held_out.OUTSIDE:
        yield "outside", request(("user", question)), is_outside
    for question in held_out.OUTSIDE[::3]:
        yield "outside, with a system prompt", request(("system", held_out.SYSTEMS[0]), ("user", question)), is_outside


def evaluate(talker: Talker, *, dev: bool = False) -> dict[str, Score]:
    """Every group's score."""
    scores: dict[str, Score] = {}
    cases = list(_groups(dev=dev))
    for (group, asked, right), answer in zip(cases, talker.ask(case[1] for case in cases), strict=True):
        what = f"{asked.messages[-1].content!r} → {answer.text or answer.calls or answer.error!r}"
        scores.setdefault(group, Score()).count(not answer.calls and right(answer.text), what)
    _judge_calls(talker, scores)
    return scores


def _judge_calls(talker: Talker, scores: dict[str, Score]) -> None:
    cases = held_out.tool_cases(SEED, 160)
    answers = talker.ask(request(("user", question), tools=tools) for tools, question, _, _ in cases)
    calls = scores["tool call"] = Score()
    results = scores["after a tool's result"] = Score()
    follow = []
    for (tools, question, name, arguments), answer in zip(cases, answers, strict=True):
        made = [(call.name, json.loads(call.arguments)) for call in answer.calls]
        calls.count(made == [(name, arguments)] and not answer.text, f"{question!r} → {made or answer.text!r}")
        follow.append((tools, question, name, arguments))
    given = ("21 °C and hazy", '{"value": "17 °C", "sky": "drizzle"}', "Closed until Thursday.")
    asked = []
    for index, (tools, question, name, arguments) in enumerate(follow[::4]):
        call = {"id": "call_1", "name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": given[index % 3], "tool_call_id": "call_1"},
        ]
        asked.append(ChatRequest.model_validate({"messages": turns, "tools": tools, "max_tokens": 160}))
    keys = (("21 °C and hazy",), ("17 °C", "drizzle"), ("Closed until Thursday",))
    for index, answer in enumerate(talker.ask(asked)):
        right = not answer.calls and all(key in answer.text for key in keys[index % 3])
        results.count(right, f"{given[index % 3]!r} → {answer.text!r}")
    unfit = scores["tools that do not fit"] = Score()
    tools = [held_out.schema(*tool[:3]) for tool in held_out.TOOLS[::5]]
    for question, answer in zip(
        held_out.UNFIT, talker.ask(request(("user", asked), tools=tools) for asked in held_out.UNFIT), strict=True
    ):
        unfit.count(not answer.calls and bool(answer.text), f"{question!r} → {answer.calls or answer.text!r}")


def speed(talker: Talker) -> float:
    """Tokens per second of one stream, the best of three."""
    rates = []
    for _ in range(3):
        (answer,) = talker.ask([request(("user", "How do I stop the holiday in the sun?"))])
        assert answer.done is not None
        assert isinstance(answer.done.facts, ChatFacts)
        facts_ = answer.done.facts
        rates.append((facts_.completion_tokens - 1) / facts_.decode_s)
    return max(rates)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.chat.evaluate", description="Judge herd-tiny-chat.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="do not print what went wrong")
    asked = parser.parse_args(argv)
    talker = Talker(asked.folder)
    scores = evaluate(talker, dev=asked.dev)
    for group, score in scores.items():
        print(f"{group}: {score.right} of {score.total}, {score.share:.1%}")
        for wrong in () if asked.quiet else score.wrong:
            print(f"    {wrong}")
    size = sum(file.stat().st_size for file in asked.folder.iterdir())
    print(f"{speed(talker):.0f} tokens/s, {size / 1e6:.2f} MB, loaded in {talker.load_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
