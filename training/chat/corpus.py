"""The training data: conversations made by code from the facts, deterministic by seed.

A question is a phrasing of a fact put into a frame, some of its words exchanged, dropped, misspelt or surrounded by
others, so that what decides is the words that carry the meaning and not their order. The held-out phrasings are never
trained on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from training.chat import tool_data, words
from training.chat.dev import DEV
from training.chat.facts import OUTSIDE, SMALL_TALK, Fact, expand, facts
from training.chat.held_out import HELD_OUT
from training.chat.template import CLOSED_THOUGHTS, OPENING, conversation

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EVERYDAY = Path(__file__).with_name("outside.txt")
"""Everyday questions, one pattern of `facts.expand` per line; a good part uses words that herd-mcp uses too."""

THOUGHT_FACT = "This is about herd-mcp."
THOUGHT_OUTSIDE = "This is not about herd-mcp, so I say so."
THOUGHT_TOOL = "The tool {} fits."

Messages = list[dict[str, Any]]


# ── Questions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(question: str) -> str:
    """A question without case and signs, to compare it with others."""
    return " ".join(re.findall(r"\w+", question.lower()))


@cache
def _withheld() -> frozenset[str]:
    """Questions that must not be trained on, even where the templates happen to make them."""
    questions: list[str] = []
    for cases in (DEV, HELD_OUT):
        questions += [*cases.outside, *cases.unfit]
        questions += [question.format(v=place) for *_, question in cases.tools for place in cases.places]
        questions += [question for fact in facts() for question in cases.name_questions(fact)]
    questions += [question for fact in facts() for question in (*fact.dev, *fact.held_out)]
    return frozenset(map(plain, questions))


def fact_question(fact: Fact, rng: random.Random) -> str:
    """One way to ask for `fact`, with noise; never one of the held-out ones."""
    while True:
        question = noisy(_plain_question(fact, rng), rng, wrap=fact.id not in SMALL_TALK)
        if plain(question) not in _withheld():
            return question


def _plain_question(fact: Fact, rng: random.Random) -> str:
    ways = [(3.0 + len(fact.questions), "Q")] if fact.questions else []
    ways += [(3.0 + len(fact.topics), "T")] if fact.topics else []
    ways += [(5.0 + len(fact.doings), "V")] if fact.doings else []
    ways += [(6.0, "N")] if fact.kind else []
    weights = [weight for weight, _ in ways]
    match rng.choices([way for _, way in ways], weights)[0]:
        case "Q":
            return expand(rng.choice(fact.questions), rng)
        case "T":
            return rng.choice(words.TOPIC_FRAMES).format(expand(rng.choice(fact.topics), rng))
        case "V":
            return rng.choice(words.DOING_FRAMES).format(expand(rng.choice(fact.doings), rng))
        case _:
            return _name_question(fact, rng)


def _name_question(fact: Fact, rng: random.Random) -> str:
    frames = words.NAME_FRAMES if rng.random() < 0.5 else words.MENTIONS
    frame = expand(rng.choice(frames[fact.kind]), rng)
    name = fact.name
    if fact.kind in ("error", "setting", "tool") and rng.random() < 0.25:
        name = name.replace("_", " ")
    if fact.kind == "error" and rng.random() < 0.1:
        name = name.upper()
    if fact.kind == "setting" and fact.name in ("port", "confirm") and not ("setting" in frame or "config" in frame):
        frame = "the setting {}"
    if rng.random() < 0.15:
        name = f"`{name}`"
    command = rng.choice(("herd-mcp {}", "`herd-mcp {}`", "herd-mcp {}", "herd mcp {}")).format(fact.name)
    return frame.replace("{c}", command).replace("{q}", f"{fact.name} command").replace(
        "{v}", f"HERD_{fact.name.upper()}"
    ).replace("{}", name)  # fmt: skip


def _life_question(rng: random.Random) -> str:
    """A question made of everyday words, often in the very frames that ask for herd-mcp."""
    roll = rng.random()
    if roll < 0.4:
        pattern = rng.choice(words.LIFE_QUESTIONS)
    else:
        frames = words.TOPIC_FRAMES if roll < 0.7 else words.DOING_FRAMES
        pattern = rng.choice(frames).replace("{}", rng.choice(words.LIFE_FRAMES))
    values: dict[str, Callable[[], str]] = {
        "{x}": lambda: rng.choice(words.THINGS_OF_LIFE),
        "{d}": lambda: rng.choice(words.DOINGS_OF_LIFE),
        "{q}": lambda: rng.choice(words.QUALITIES),
        "{w}": lambda: tool_data.made_up_word(rng),
        "{n}": lambda: str(rng.randrange(2, 1000)),
        "{person}": lambda: (
            rng.choice(words.PERSONS) if rng.random() < 0.5 else tool_data.made_up_word(rng).capitalize()
        ),
        "{place}": lambda: rng.choice(words.COUNTRIES) if rng.random() < 0.5 else tool_data.place(rng),
    }
    for name, value in values.items():
        while name in pattern:
            pattern = pattern.replace(name, value(), 1)
    return pattern


def outside_question(rng: random.Random) -> str:
    """A question about anything else, with noise; never one of the held-out ones."""
    while True:
        question = _outside_question(rng)
        if plain(question) not in _withheld():
            return question


@cache
def _everyday() -> tuple[str, ...]:
    return tuple(line for line in EVERYDAY.read_text("utf-8").splitlines() if line)


def _outside_question(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.6:
        question = expand(rng.choice(_everyday()), rng)
        return _as_typed(question, rng) if rng.random() < 0.75 else noisy(question, rng, wrap=True, herd=False)
    if roll < 0.8:
        return noisy(_life_question(rng), rng, wrap=True, herd=False)
    pattern = rng.choice(words.OUTSIDE_PATTERNS)
    values: dict[str, Callable[[], str]] = {
        "country": lambda: rng.choice(words.COUNTRIES),
        "person": lambda: rng.choice(words.PERSONS),
        "thing": lambda: rng.choice(words.THINGS) if rng.random() < 0.75 else tool_data.made_up_word(rng),
        "n": lambda: str(rng.randrange(0, 10 ** rng.randrange(1, 5))),
        "language": lambda: rng.choice(words.LANGUAGES),
        "code": lambda: rng.choice(words.CODES),
        "words": lambda: rng.choice(words.PHRASES) if rng.random() < 0.6 else tool_data.phrase(rng),
        "word": lambda: rng.choice(words.WORDS) if rng.random() < 0.6 else tool_data.made_up_word(rng),
        "food": lambda: rng.choice(words.FOODS),
        "software": lambda: rng.choice(words.OTHER_SOFTWARE),
        "year": lambda: str(rng.randrange(1000, 2030)),
        "animal": lambda: rng.choice(words.ANIMALS),
        "nonsense": lambda: " ".join(tool_data.made_up_word(rng) for _ in range(rng.randrange(1, 7))),
    }
    question = pattern
    if "{code}" in pattern:
        return question.replace("{code}", values["code"]())
    question = expand(pattern, rng)
    for name, value in values.items():
        while "{" + name + "}" in question:
            question = question.replace("{" + name + "}", value(), 1)
    return noisy(question, rng, wrap=True, herd=False)


# ── Noise ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def noisy(question: str, rng: random.Random, *, wrap: bool, herd: bool = True) -> str:
    """`question` as people write it. `herd` says that words about herd-mcp may be added."""
    if rng.random() < 0.35:
        question = _same_words(question, rng)
    parts = question.split(" ")
    if rng.random() < 0.25 and len(parts) > 3:
        parts = [part for part in parts if part not in words.DROPPABLE or rng.random() < 0.5] or parts
    if rng.random() < 0.3 and len(parts) > 1:
        for _ in range(rng.choice((1, 1, 2, 3))):
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(words.FILLERS))
    if herd and rng.random() < 0.2 and len(parts) > 2:
        everyday = rng.choice(rng.choice((words.THINGS_OF_LIFE, words.DOINGS_OF_LIFE, words.QUALITIES)))
        parts.insert(rng.randrange(len(parts) + 1), everyday if rng.random() < 0.6 else tool_data.made_up_word(rng))
    if rng.random() < 0.12 and len(parts) > 4:
        del parts[rng.randrange(len(parts))]
    if rng.random() < 0.22 and len(parts) > 2:
        parts = _bag(parts, rng)
    if rng.random() < 0.12:
        at = rng.randrange(len(parts))
        parts[at] = _other_form(parts[at])
    if rng.random() < 0.06 and len(parts) > 3:
        at = rng.randrange(len(parts) - 1)
        parts[at], parts[at + 1] = parts[at + 1], parts[at]
    if rng.random() < 0.15:
        at = rng.randrange(len(parts))
        parts[at] = _typo(parts[at], rng)
    question = " ".join(parts)
    if wrap:
        question = _wrapped(question, rng, herd)
    question = _cased(question, rng)
    if question[-1:] not in "?!.":
        question += rng.choices(("?", "", ".", "!", "??", " ?", "...", "?!"), (50, 30, 8, 2, 2, 2, 2, 1))[0]
    if wrap and rng.random() < 0.08:
        question = (
            f"{question} {rng.choice(words.NEUTRAL)}"
            if rng.random() < 0.5
            else f"{rng.choice(words.NEUTRAL)} {question}"
        )
    return question


def _as_typed(question: str, rng: random.Random) -> str:
    if rng.random() < 0.15:
        parts = question.split(" ")
        at = rng.randrange(len(parts))
        parts[at] = _typo(parts[at], rng)
        question = " ".join(parts)
    if rng.random() < 0.6:
        question = question[:1].upper() + question[1:]
    return question if question[-1:] in "?!." else question + rng.choice(("?", "", "", ".", "!"))


def _bag(parts: list[str], rng: random.Random) -> list[str]:
    """The words that carry meaning, between others: the order says little."""
    kept = [part for part in parts if part not in words.DROPPABLE] or parts
    if rng.random() < 0.5:
        at = rng.randrange(len(kept))
        kept = kept[at:] + kept[:at]
    mixed: list[str] = []
    small = sorted(words.DROPPABLE)
    for part in kept:
        mixed += [
            rng.choice(small) if rng.random() < 0.7 else rng.choice(words.FILLERS)
            for _ in range(rng.choice((0, 1, 1, 2)))
        ]
        mixed.append(part)
    return mixed


def _other_form(word: str) -> str:
    """Singular for plural and the other way round, as far as adding and dropping an s goes."""
    if len(word) < 4 or not word.isalpha():
        return word
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word + "s"


def _wrapped(question: str, rng: random.Random, herd: bool) -> str:
    if rng.random() < 0.22:
        before = rng.choice(words.BEFORE)
        question = question if not herd and "herd" in before else f"{before} {question}"
    if rng.random() < 0.18:
        after = rng.choice(words.AFTER)
        question = question if not herd and ("herd" in after or "version" in after) else f"{question} {after}"
    return question


def _same_words(question: str, rng: random.Random) -> str:
    padded = f" {question} "
    for group in rng.sample(words.SAME, len(words.SAME)):
        for word in group:
            if f" {word} " in padded and rng.random() < 0.5:
                padded = padded.replace(f" {word} ", f" {rng.choice(group)} ", 1)
                break
    return padded.strip()


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 4 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 2:
            return word[:at] + rng.choice(LETTERS) + word[at + 1 :]
        case _:
            return word[:at] + word[at] + word[at:]


def _cased(question: str, rng: random.Random) -> str:
    """Names as they are written, or not; now and then any word with a capital, or all in capitals."""
    roll = rng.random()
    if roll < 0.65:
        parts = question.split(" ")
        for at, part in enumerate(parts):
            core = part.strip("?.,!:;()`'")
            proper = words.PROPER.get(core) or words.PROPER.get(core.removesuffix("s"))
            if proper and rng.random() < 0.8:
                parts[at] = part.replace(core.removesuffix("s") if core not in words.PROPER else core, proper, 1)
            elif rng.random() < 0.04:
                parts[at] = part.upper() if rng.random() < 0.3 else part[:1].upper() + part[1:]
        question = " ".join(parts)
        return question[:1].upper() + question[1:] if rng.random() < 0.75 else question
    return question.upper() if roll < 0.665 else question


# ── Conversations ─────────────────────────────────────────────────────────────────────────────────────────────────────


def example(rng: random.Random) -> str:
    """One conversation, rendered whole."""
    messages: Messages = []
    tools: list[dict[str, Any]] = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": _system(rng)})
    tasks = tool_data.tasks(rng, rng.choice((1, 1, 2, 2, 3, 4))) if rng.random() < 0.45 else []
    tools = [task.tool for task in tasks]
    turns = rng.choices((1, 2, 3), (70, 22, 8))[0]
    for turn in range(turns):
        last = turn == turns - 1
        roll = rng.random()
        if tasks and roll < 0.66:
            messages += _tool_turn(rng, tasks, last)
        elif roll < 0.77 or (turns > 1 and turn == 0 and roll < 0.6):
            messages += _fact_turn(rng, tasks, first=turn == 0 and not last)
        else:
            question = _unfit(lambda: outside_question(rng), tasks)
            messages += [_user(question), _said(OUTSIDE, THOUGHT_OUTSIDE)]
    roll = rng.random()
    if roll < 0.05 and messages[-2]["role"] == "user":
        messages[-2]["content"] += " /think"
        messages[-1]["reasoning_content"] = messages[-1]["thought"]
    text = conversation(messages, tools)
    if roll > 0.95:
        before, opening, after = text.rpartition(OPENING)
        text = before + opening + CLOSED_THOUGHTS + after
    return text


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _said(text: str, thought: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "thought": thought}


def _unfit(make: Callable[[], str], tasks: list[tool_data.Task]) -> str:
    """A question that none of the tools may fit."""
    while True:
        question = make()
        if not any(task.may_fit(question) for task in tasks):
            return question


def _fact_turn(rng: random.Random, tasks: list[tool_data.Task], *, first: bool) -> Messages:
    known = facts()
    small = known[: len(SMALL_TALK)]
    fact = rng.choice(small) if rng.random() < (0.3 if first else 0.03) else rng.choice(known)
    question = fact_question(fact, rng)
    if any(task.may_fit(question) for task in tasks):
        fact, question = known[0], "Hello"
    return [_user(question), _said(fact.answer, THOUGHT_FACT)]


def _tool_turn(rng: random.Random, tasks: list[tool_data.Task], last: bool) -> Messages:
    asked = rng.choice(tasks)
    while plain(question := _tool_question(asked, rng)) in _withheld():
        asked = rng.choice(tasks)
    call: dict[str, Any] = {"role": "assistant", "content": "", "thought": THOUGHT_TOOL.format(asked.name)}
    call["tool_calls"] = [{"type": "function", "function": asked.call}]
    if last and rng.random() < 0.45:
        return [_user(question), call]
    given, told = tool_data.result(rng, asked)
    answer = {"role": "assistant", "content": tool_data.told(asked, told), "thought": ""}
    return [_user(question), call, {"role": "tool", "content": given}, answer]


def _tool_question(asked: tool_data.Task, rng: random.Random) -> str:
    question = tool_data.loose(rng, asked) if rng.random() < 0.3 else asked.question
    if rng.random() < 0.5:
        question = _cased_but(question, rng)
    if rng.random() < 0.2:
        question = f"{rng.choice(words.BEFORE[:30])} {question}"
    return question + rng.choices(("?", "", ".", " please", " please?", "!", " thanks"), (45, 35, 6, 6, 4, 2, 2))[0]


def _cased_but(question: str, rng: random.Random) -> str:
    """A capital first letter: the rest belongs to names that have to be copied."""
    return question[:1].upper() + question[1:]


def _system(rng: random.Random) -> str:
    made = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(words.SYSTEMS)
        text = text.replace("{n}", rng.choice(words.NAMES)).replace("{o}", rng.choice(words.COMPANIES))
        made.append(text.replace("{d}", rng.choice(words.DATES)))
    if rng.random() < 0.2:
        made.append(
            " ".join(rng.choice(words.FILLERS) for _ in range(rng.choice((20, 20, 60, 60, 300)))).capitalize() + "."
        )
    return " ".join(made)


def texts(seed: int, number: int) -> list[str]:
    """`number` conversations; the same seed gives the same ones."""
    rng = random.Random(seed)
    return [example(rng) for _ in range(number)]
