"""What a list of cases for the judge holds, and the questions made of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from training.chat.facts import Fact

WEATHER = ("weather", "forecast", "temperature", "meteo", "outlook", "conditions", "climate")
"""Words of tools that could answer each other's questions."""


@dataclass(frozen=True)
class Cases:
    """Questions that are judged and never trained on. The rephrasings of the facts stand in `facts.txt`."""

    name_frames: dict[str, tuple[str, ...]]
    """Questions by name, per kind of fact; `{}` is the name."""
    outside: tuple[str, ...]
    """Questions about anything but herd-mcp."""
    places: tuple[str, ...]
    tools: tuple[tuple[str, str, str, str], ...]
    """Name, description, the one parameter, and a question that fits, in which `{v}` is a place."""
    unfit: tuple[str, ...]
    """Questions that no tool of `tools` fits."""
    systems: tuple[str, ...]
    results: tuple[tuple[str, tuple[str, ...]], ...]
    """What a tool gave back, and what the answer must repeat of it."""

    def name_questions(self, fact: Fact) -> list[str]:
        """The questions by name, for facts that have one."""
        return [frame.format(fact.name) for frame in self.name_frames.get(fact.kind, ())]

    def tool_cases(self, seed: int, number: int) -> list[tuple[list[dict[str, Any]], str, str, dict[str, str]]]:
        """Tools (one to three), a question that fits one of them, and the name and arguments of the right call."""
        rng = random.Random(seed)
        cases = []
        for index in range(number):
            name, description, parameter, question = self.tools[index % len(self.tools)]
            place = self.places[(index * 7 + index // len(self.tools)) % len(self.places)]
            stem = set(name.split("_"))
            others = [
                tool
                for tool in self.tools
                if not stem & set(tool[0].split("_")) and not (_is_weather(tool) and _is_weather((name, description)))
            ]
            shown = [schema(name, description, parameter)]
            shown += [schema(*other[:3]) for other in rng.sample(others, rng.choice((0, 0, 1, 2)))]
            rng.shuffle(shown)
            cases.append((shown, question.format(v=place), name, {parameter: place}))
        return cases


def schema(name: str, description: str, parameter: str) -> dict[str, Any]:
    """A tool with one parameter, a string."""
    properties = {parameter: {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    return {"name": name, "description": description, "parameters": parameters}


def _is_weather(tool: tuple[str, ...]) -> bool:
    text = " ".join(tool[:2]).lower()
    return any(word in text for word in WEATHER)
