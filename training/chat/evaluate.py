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
from herd_mcp.engines.turns import alone
from herd_mcp.jobs import ChatRequest, ToolCall
from herd_mcp.pipe import ChatFacts, Done, EngineSpec, RunDelta, RunFailed, Start, Step
from training.chat.cases import Cases, schema
from training.chat.dev import DEV
from training.chat.facts import SMALL_TALK, facts, is_outside
from training.chat.held_out import HELD_OUT

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
        self._engine = ChatEngine(alone())
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


def _groups(cases: Cases, *, dev: bool) -> Iterator[tuple[str, ChatRequest, Any]]:
    """Group, request, and a function that judges the answer."""
    for fact in facts():
        questions = fact.dev if dev else fact.held_out
        for question in questions:
            yield "in scope", request(("user", question)), fact.is_answered_by
        for question in cases.name_questions(fact):
            yield "by name", request(("user", question)), fact.is_answered_by
        if questions and fact.id not in SMALL_TALK:
            question = questions[-1]
            hello = (("user", "Hello, good day!"), ("assistant", facts()[0].answer), ("user", question))
            yield "after a greeting", request(*hello), fact.is_answered_by
            system = cases.systems[len(fact.id) % len(cases.systems)]
            yield "with a system prompt", request(("system", system), ("user", question)), fact.is_answered_by
    for question in cases.outside:
        yield "outside", request(("user", question)), is_outside
    for question in cases.outside[::3]:
        yield "outside, with a system prompt", request(("system", cases.systems[0]), ("user", question)), is_outside


def evaluate(talker: Talker, *, dev: bool = False) -> dict[str, Score]:
    """Every group's score."""
    cases = DEV if dev else HELD_OUT
    scores: dict[str, Score] = {}
    asks = list(_groups(cases, dev=dev))
    for (group, asked, right), answer in zip(asks, talker.ask(ask[1] for ask in asks), strict=True):
        what = f"{asked.messages[-1].content!r} → {answer.text or answer.calls or answer.error!r}"
        scores.setdefault(group, Score()).count(not answer.calls and right(answer.text), what)
    _judge_calls(talker, cases, scores)
    return scores


def _judge_calls(talker: Talker, lists: Cases, scores: dict[str, Score]) -> None:
    cases = lists.tool_cases(SEED, 160)
    answers = talker.ask(request(("user", question), tools=tools) for tools, question, _, _ in cases)
    calls = scores["tool call"] = Score()
    for (_, question, name, arguments), answer in zip(cases, answers, strict=True):
        made = [(call.name, json.loads(call.arguments)) for call in answer.calls]
        calls.count(made == [(name, arguments)] and not answer.text, f"{question!r} → {made or answer.text!r}")
    asked = []
    for index, (tools, question, name, arguments) in enumerate(cases[::4]):
        call = {"id": "call_1", "name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": lists.results[index % len(lists.results)][0], "tool_call_id": "call_1"},
        ]
        asked.append(ChatRequest.model_validate({"messages": turns, "tools": tools, "max_tokens": 160}))
    results = scores["after a tool's result"] = Score()
    for index, answer in enumerate(talker.ask(asked)):
        given, keys = lists.results[index % len(lists.results)]
        results.count(not answer.calls and all(key in answer.text for key in keys), f"{given!r} → {answer.text!r}")
    unfit = scores["tools that do not fit"] = Score()
    tools = [schema(*tool[:3]) for tool in lists.tools[::5]]
    answers = talker.ask(request(("user", question), tools=tools) for question in lists.unfit)
    for question, answer in zip(lists.unfit, answers, strict=True):
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


RESULTS = "\n## Held-out questions\n"


def write_results(folder: Path, scores: dict[str, tuple[int, int]]) -> None:
    """Put the judge's result (right, of how many) under the card, in the place of an older one."""
    file = folder / "README.md"
    text = file.read_text("utf-8").partition(RESULTS)[0]
    rows = "".join(
        f"| {group} | {right} of {total} | {right / total:.1%} |\n" for group, (right, total) in scores.items()
    )
    text += f"{RESULTS}\nNone of them is in the training data.\n\n| group | right | share |\n|---|---|---|\n{rows}"
    file.write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.chat.evaluate", description="Judge herd-tiny-chat.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="do not print what went wrong")
    parser.add_argument("--card", action="store_true", help="write the result into the model's card")
    asked = parser.parse_args(argv)
    talker = Talker(asked.folder)
    scores = evaluate(talker, dev=asked.dev)
    for group, score in scores.items():
        print(f"{group}: {score.right} of {score.total}, {score.share:.1%}")
        for wrong in () if asked.quiet else score.wrong:
            print(f"    {wrong}")
    if asked.card:
        write_results(asked.folder, {group: (score.right, score.total) for group, score in scores.items()})
    size = sum(file.stat().st_size for file in asked.folder.iterdir())
    print(f"{speed(talker):.0f} tokens/s, {size / 1e6:.2f} MB, loaded in {talker.load_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
