"""A finished measurement: as a table for people, which is valid Markdown too, or as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass

from benchmarks.parts.machine import Machine
from benchmarks.parts.measure import Goal, Quartiles, Row

HEAD = ("what", "herd-mcp", "peer", "ratio", "goal", "met")


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    about: str
    """One sentence: what was compared with what."""
    rows: tuple[Row, ...]
    machine: Machine
    pairs: int
    notes: tuple[str, ...] = ()
    spread: str = "Median [quartiles]"
    """What the figures with brackets are."""

    def text(self) -> str:
        lines = [self.about, "", *_table(self.rows), ""]
        lines += [f"- {note}" for note in self.notes]
        runs = f"{self.spread} of {self.pairs} interleaved runs." if self.pairs > 1 else "One run."
        lines.append(f"- {runs} {self.machine}")
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        rows = [{**dataclasses.asdict(row), "ratio": row.ratio, "met": row.met} for row in self.rows]
        return json.dumps({**dataclasses.asdict(self), "rows": rows}, indent=2) + "\n"

    def show(self, *, as_json: bool) -> int:
        """Write it to stdout. 0, also for a goal that was missed: to measure is all that was asked."""
        sys.stdout.write(self.json() if as_json else self.text())
        return 0


def parser(name: str, about: str | None, pairs: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=about)
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options.add_argument("--pairs", type=int, default=pairs, metavar="N", help="interleaved runs (default %(default)s)")
    return options


def _table(rows: tuple[Row, ...]) -> list[str]:
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    cells.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return [f"| {line} |" for line in lines]


def _cells(row: Row) -> tuple[str, ...]:
    peer = f"{_spread(row.peer)} {row.unit}" if row.peer else "–"
    if row.peer_name:
        peer += f" ({row.peer_name})"
    return (
        row.what,
        f"{_spread(row.ours)} {row.unit}",
        peer,
        f"{row.ratio:.2f}×" if row.ratio is not None else "–",
        " or ".join(_goal(goal, row.unit) for goal in row.goals) or "–",
        {True: "yes", False: "NO", None: "–"}[row.met],
    )


def _goal(goal: Goal, unit: str) -> str:
    sign = {"<=": "≤", ">=": "≥", "within": "within"}[goal.sign]
    return f"{sign} {_short(goal.bound)}{'×' if goal.of == 'ratio' else ' ' + unit}"


def _spread(value: Quartiles) -> str:
    if value.q1 == value.q3:
        return _short(value.median)
    return f"{_short(value.median)} [{_short(value.q1)}–{_short(value.q3)}]"


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    if abs(number) >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.3g}"
