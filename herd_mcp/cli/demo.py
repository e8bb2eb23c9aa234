"""`demo`: the whole way once, in a home that is gone afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the PNGs; made if need be.", file_okay=False)] = Path(
        "herd-demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON; nothing else on stdout.")] = False,
) -> None:
    """Show the whole way, without set-up or download.

    Two nodes become a herd; a chat and images go to the one that is done first; one is killed, and nothing is lost.

    Starts them in temporary homes on this machine and talks to the first as an MCP client does, over stdio. Nothing of
    it stays but the PNGs; ~/.herd and a node that runs already are left alone. The built-in models are tiny: they show
    the way of a request, not what real models can do.

    \b
    Example:
      herd-mcp demo
      herd-mcp demo --out /tmp/pictures --json
    """
    from herd_mcp.cli.demo_run import run_demo

    run_demo(out, as_json=as_json)
