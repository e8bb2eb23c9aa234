"""`pause` and `resume`: whether this Mac does anything for the others of its herd."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from herd_mcp.cli.console import clean, print_json

if TYPE_CHECKING:
    from herd_mcp.state import NodeState

UNITS_S = (86_400, 3600, 60, 1)
SPAN = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")


def add_to(app: typer.Typer) -> None:
    app.command()(pause)
    app.command()(resume)


def seconds_of(text: str) -> float:
    """`2h`, `90m`, `1h30m`, `3d`. Raises typer.BadParameter."""
    from herd_mcp.state import MAX_PAUSE_S

    found = SPAN.fullmatch(text.strip().lower())
    counts = found.groups(default="0") if found else ()
    seconds = sum(int(count) * unit for count, unit in zip(counts, UNITS_S, strict=False))
    if not 0 < seconds <= MAX_PAUSE_S:
        raise typer.BadParameter("a time such as 2h, 90m, 1h30m or 3d, a year at most")
    return float(seconds)


def pause(
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long: 2h, 90m, 1h30m, 3d. Default: until resume.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Let this Mac do nothing for others.

    What is asked on this Mac itself goes on as before, and what runs for others now runs to its end. It stays so over
    restarts of the node. Does not start a node; ends with 3 when none runs.

    \b
    Example:
      herd-mcp pause --for 2h
      herd-mcp pause
    """
    for_s = None if for_ is None else seconds_of(for_)
    from herd_mcp.cli.client import find_node

    _show(find_node().pause(for_s), as_json)


def resume(as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False) -> None:
    """Let this Mac work for others again.

    Ends what `pause` began. The settings pause_times and pause_on_battery go on to count. Does not start a node; ends
    with 3 when none runs.

    \b
    Example:
      herd-mcp resume
    """
    from herd_mcp.cli.client import find_node

    _show(find_node().resume(), as_json)


def _show(node: NodeState, as_json: bool) -> None:
    if as_json:
        print_json({"node": node.name, "paused": node.paused})
    elif node.paused:
        typer.echo(clean(f"{node.name} does nothing for others: {node.paused}."))
    else:
        typer.echo(clean(f"{node.name} works for others."))
