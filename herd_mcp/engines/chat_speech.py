"""What one run says: tokens become text, reasoning and tool calls, and a stop string ends it.

The chain is mlx-lm's streaming detokenizer, its `TextStateMachine` (which part of an answer is this?), its tool parser,
and our stop strings. Text that may still turn out to be a marker or a stop string is held back until that is known.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from mlx_lm.generate import TextStateMachine, make_text_state_machine

from herd_mcp.engines.text import Prompt
from herd_mcp.jobs import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class Piece:
    """What one token added."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def add(self, other: Piece) -> None:
        self.text += other.text
        self.reasoning += other.reasoning
        self.tool_calls += other.tool_calls

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)


def text_machine(tokenizer: Any, *, tools: bool) -> TextStateMachine:
    """The model's markers. Without tools a tool call is nothing but text, and is streamed as such."""
    if tools:
        return make_text_state_machine(tokenizer)
    return make_text_state_machine(
        SimpleNamespace(
            has_thinking=tokenizer.has_thinking,
            think_start=tokenizer.think_start,
            think_end=tokenizer.think_end,
            has_tool_calling=False,
            structural_markers=tokenizer.structural_markers,
            response_transitions=tokenizer.response_transitions,
        )
    )


class StopStrings:
    """Finds the first of some strings in a stream of text, also across its pieces."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string ended it. The stop string is never shown."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self._held = ""
            return text[:found], True
        keep = self._unfinished(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _unfinished(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class Speech:
    """One run's answer as it grows. Feed it `token` by token, then `end` once."""

    def __init__(self, tokenizer: Any, machine: TextStateMachine, prompt: Prompt, stops: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer
        self._state = machine.make_state(prompt.part)
        self._stops = StopStrings(stops)
        self._tools = prompt.tools
        self._tool_names = {tool["function"]["name"] for tool in prompt.tools}
        self._call = prompt.opened
        self._in_call = prompt.part == "tool"
        self._part = prompt.part
        self._trim = prompt.part != "normal"
        self.stopped = False
        """A stop string was said; everything after it is dropped."""
        self.called = False
        """At least one tool call was made."""

    def token(self, token: int) -> Piece:
        piece = Piece()
        self._detokenizer.add_token(token)
        self._hear(self._detokenizer.last_segment, piece)
        return piece

    def end(self, reason: Literal["stop", "length"]) -> tuple[Piece, FinishReason]:
        """Everything that was held back. With `length` an unfinished tool call is given as text: its arguments may be
        cut short and still parse."""
        piece = Piece()
        if not self.stopped:
            self._flush(piece, parse=reason == "stop")
        if reason == "stop" or self.stopped:
            return piece, "tool_calls" if self.called else "stop"
        return piece, "length"

    def _flush(self, piece: Piece, *, parse: bool) -> None:
        # What is left in the detokenizer is the first half of a character that never came.
        self._detokenizer.finalize()
        self._hear(self._detokenizer.last_segment.rstrip("\ufffd"), piece)
        self._state, rest, part = TextStateMachine.flush(self._state)
        self._say(str(part), rest, piece)
        if self._in_call:
            self._end_call(piece, marker="", parse=parse)
        piece.text += self._stops.flush()

    def _hear(self, text: str, piece: Piece) -> None:
        if not text:
            return
        self._state, segments = TextStateMachine.split(self._state, text)
        last = len(segments) - 1
        for index, (part, said) in enumerate(segments):
            self._say(part, said, piece)
            if self._in_call and index < last:
                self._end_call(piece, marker=self._tokenizer.tool_call_end or "", parse=True)

    def _say(self, part: str, text: str, piece: Piece) -> None:
        if self.stopped:
            return
        if part != self._part:
            # Templates put line breaks around their markers; they belong to neither part.
            self._part, self._trim = part, True
        if part == "tool":
            self._in_call = True
            self._call += text
            return
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        if part == "reasoning":
            piece.reasoning += text
        elif part == "normal":
            self._answer(text, piece)

    def _answer(self, text: str, piece: Piece) -> None:
        safe, self.stopped = self._stops.feed(text)
        piece.text += safe

    def _end_call(self, piece: Piece, *, marker: str, parse: bool) -> None:
        body, self._call, self._in_call = self._call, "", False
        calls = self._parse(body) if parse else None
        if calls is None:
            self._answer(f"{self._tokenizer.tool_call_start or ''}{body}{marker}", piece)
            self._part = "normal"
            return
        self.called = True
        piece.tool_calls += calls

    def _parse(self, body: str) -> list[ToolCall] | None:
        """The calls in `body`, or None when it is not made of calls of the tools that the model was shown."""
        if not self._tools:
            return None
        try:
            parsed = self._tokenizer.tool_parser(body, list(self._tools))
            return [self._tool_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])] or None
        except Exception:  # the parsers raise whatever a model's text makes them trip over
            return None

    def _tool_call(self, call: Any) -> ToolCall:
        name, arguments = call["name"], call.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if name not in self._tool_names or not isinstance(arguments, dict):
            raise ValueError("not a call of a known tool")
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if not _encodable(text):
            text = json.dumps(arguments, allow_nan=False)
        given = call.get("id")
        keep = isinstance(given, str) and 0 < len(given) <= 128 and given.isascii() and given.isprintable()
        return ToolCall(id=given if keep else f"call_{secrets.token_hex(12)}", name=name, arguments=text)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
