"""How commands talk: data to stdout, everything else to stderr, and one meaning per exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from herd_mcp.jobs import ErrorInfo

DONE, FAILED, USAGE, NO_NODE, NOT_CONFIRMED = range(5)
"""Exit codes of every command: done; the job failed; wrong usage; no node reachable; not confirmed."""

_EXIT = {
    "invalid_request": USAGE,
    "no_node": NO_NODE,
    "confirmation_required": NOT_CONFIRMED,
    "not_confirmed": NOT_CONFIRMED,
}

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


def clean(text: str) -> str:
    """Text without control characters, so that a model's or a file's words cannot steer the terminal."""
    return text.translate(_CONTROLS)


def say(message: str) -> None:
    """A sentence for the person, on stderr."""
    typer.echo(clean(message), err=True)


def print_json(data: Any) -> None:
    """Data on stdout, ASCII JSON of two spaces; pydantic models as their fields."""
    typer.echo(json.dumps(_plain(data), indent=2))


def _plain(data: Any) -> Any:
    if hasattr(data, "model_dump"):
        return data.model_dump(mode="json")
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data


def exit_code(error: ErrorInfo) -> int:
    """The exit code of a command that was refused. A job that was accepted and failed is always FAILED."""
    return _EXIT.get(str(error.code), FAILED)


def fail(error: ErrorInfo, *, as_json: bool = False, code: int | None = None) -> NoReturn:
    """Tell `error` (as JSON on stdout too, where data was asked for) and end with its exit code."""
    if as_json:
        print_json({"error": error})
    say(f"{error.message} {error.hint}".strip())
    raise SystemExit(exit_code(error) if code is None else code)


def console(*, err: bool = False) -> Console:
    """A rich console that takes text as it is: no markup, no highlighting, no emoji codes."""
    from rich.console import Console

    return Console(stderr=err, markup=False, highlight=False, emoji=False, soft_wrap=False)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table; columns named in `right` hold numbers. Long cells fold, nothing is cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(str(cell))) for cell in row))
    return table


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), err: bool = False
) -> None:
    """A table on stdout, or on stderr where stdout is for data."""
    output = console(err=err)
    if not (sys.stderr if err else sys.stdout).isatty():  # a pipe has no width: let every row be one line
        output.width = 400
    output.print(table_of(columns, rows, right=right))


def human_bytes(count: int | float | None) -> str:
    """`1.5 GiB`; a dash for None."""
    if count is None:
        return "–"
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def human_s(seconds: float | None) -> str:
    """`0.31 s`, `4.2 s`, `3 min 5 s`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
