"""The commands a person types. Each group has a module of its own, which imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from herd_mcp.cli import chat, config, demo, doctor, image, members, node, pause, status, tables, top
from herd_mcp.cli.console import DONE, FAILED, fail, say

HELP = """\
Images with mflux and chat with mlx-lm on your Macs, for MCP clients, HTTP and the shell.

With no command and a pipe on stdin it speaks MCP, which is how Claude Desktop, Claude Code and OpenClaw start it;
in a terminal it shows the status and this help.

\b
Exit codes: 0 done, 1 the job failed or was cancelled, 2 wrong usage, 3 no node reachable, 4 not confirmed.
HERD_HOME (default ~/.herd) holds settings, images and the history; `herd-mcp config` shows the settings.

\b
Try it without any set-up:
  herd-mcp demo
"""

TYPER_INTERRUPTED = 130

app = typer.Typer(
    name="herd-mcp",
    help=HELP,
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def herd(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        typer.echo(f"herd-mcp {version('herd-mcp')}")
        raise typer.Exit(DONE)
    if context.invoked_subcommand is None:
        status.show_status_if_up()
        typer.echo(context.get_help())


node.add_to(app)
image.add_to(app)
chat.add_to(app)
status.add_to(app)
top.add_to(app)
tables.add_to(app)
members.add_to(app)
pause.add_to(app)
demo.add_to(app)
config.add_to(app)
doctor.add_to(app)


def run() -> NoReturn:
    """Run the command of `sys.argv` and end with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="herd-mcp")
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == TYPER_INTERRUPTED:
            _interrupted()
        raise
    except Exception as error:
        from herd_mcp.jobs import ErrorCode, HerdError

        if isinstance(error, OSError) and error.filename:
            where, why = os.fsdecode(error.filename), error.strerror or "cannot be used"
            hint = "Mend that, or set HERD_HOME to another folder; `herd-mcp doctor` looks at the machine."
            error = HerdError(ErrorCode.NO_NODE, f"{where}: {why}.", hint)
        if not isinstance(error, HerdError):
            raise
        fail(error.info, as_json=_asked_for_json())
    sys.exit(DONE)


def _interrupted() -> NoReturn:
    say("Interrupted.")
    sys.exit(FAILED)


def _asked_for_json() -> bool:
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)
