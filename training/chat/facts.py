"""What the model knows: `facts.txt`, read; and the judge of an answer."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("facts.txt")

OUTSIDE = (
    "I am herd-tiny-chat, a small built-in model that knows only herd-mcp, not this. For real answers get a real chat "
    "model: `uvx --from huggingface_hub hf download mlx-community/Qwen3-4B-4bit`."
)
"""The one sentence for everything that is neither herd-mcp nor a task for a tool."""

OUTSIDE_KEYS = ("a small built-in model that knows only herd-mcp", "get a real chat model", "Qwen3-4B-4bit")

COMMANDS_TO_COME = ("pull", "remove", "top", "invite", "join", "leave", "keys", "install", "service")
"""Commands that later versions have; each answer about one says how to see whether it is there."""

SMALL_TALK = ("greet", "mood", "thanks", "bye")

_HEADER = re.compile(r"\[([a-z_]+)]")
_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)]")
_FIELDS = {"T": "topics", "V": "doings", "Q": "questions", "D": "dev", "H": "held_out"}


@dataclass
class Fact:
    """One answer and the ways to ask for it."""

    id: str
    kind: str = ""
    """command, tool, resource, setting or error; with `name` it takes the question frames of its kind."""
    name: str = ""
    answer: str = ""
    keys: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    doings: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    dev: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    def is_answered_by(self, text: str) -> bool:
        """Whether `text` states every key fact."""
        return all(key in text for key in self.keys)


def is_outside(text: str) -> bool:
    """Whether `text` is the honest sentence."""
    return all(key in text for key in OUTSIDE_KEYS)


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of `facts.txt`, in its order."""
    found: list[Fact] = []
    for number, line in enumerate(FILE.read_text("utf-8").splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if header := _HEADER.fullmatch(line):
            found.append(Fact(header[1]))
            continue
        mark, colon, rest = line.partition(": ")
        fact = found[-1]
        if mark == "A":
            fact.answer = rest
        elif mark == "K":
            fact.keys = rest.split(" | ")
        elif mark in _FIELDS:
            getattr(fact, _FIELDS[mark]).append(rest)
        elif not colon and (words := line.split()) and len(words) == 2:
            fact.kind, fact.name = words
        else:
            raise ValueError(f"{FILE.name}:{number}: {line}")
    return tuple(found)


def expand(pattern: str, rng: random.Random) -> str:
    """Pick one of the alternatives of every `[a|b]`, innermost first."""
    while True:
        made, times = _CHOICE.subn(lambda choice: rng.choice(choice[1].split("|")), pattern)
        if not times:
            return " ".join(made.split())
        pattern = made
