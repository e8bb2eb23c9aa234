"""`up`, `stop`, `mcp`: the life of the node of this home."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from herd_mcp.cli.console import FAILED, console, human_s, print_json, say

POLL_S = 0.05
STOP_S = 45.0
"""Seconds that `stop` waits: the node's own time to drain and then some to end its engines."""


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(stop)
    app.command()(mcp)


def up(
    detached: Annotated[
        bool, typer.Option("--detached", hidden=True, help="Log to logs/node.log instead of stderr.")
    ] = False,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", hidden=True, help="End when the pipe on stdin ends.")
    ] = False,
) -> None:
    """Run the node of this home in the foreground until Ctrl-C.

    Ctrl-C or SIGTERM lets running jobs end, up to 30 seconds; a second Ctrl-C ends at once. Clients (`herd-mcp image`,
    Claude) start a node by themselves when none runs, so this is for watching its log, or for a service manager.

    Ends with 3 when the port is taken and with 1 when a node of this home already runs.

    \b
    Example:
      herd-mcp up
      HERD_PORT=0 HERD_HOME=/tmp/try herd-mcp up
    """
    from herd_mcp.settings import load_settings

    settings = load_settings()
    from herd_mcp.cli.up import run_node

    run_node(settings, detached=detached, until_eof=until_eof)


def stop(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for running jobs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Let the node of this home finish its running jobs, and end it.

    Ends with 0 also when none was running.

    \b
    Example:
      herd-mcp stop
      herd-mcp stop --now
    """
    from herd_mcp import bridge
    from herd_mcp.cli.run_dir import NodeLock, read_record

    home = Path(bridge.herd_home())
    lock = NodeLock(home)
    if not lock.is_held():
        say(f"No node runs in {home}.")
        _tell(as_json, {"stopped": False, "was_running": False})
        return
    started = time.monotonic()
    with console(err=True).status("The node finishes its running jobs (--now would not wait)…"):
        pid = None
        while (alive := lock.is_held()) and time.monotonic() - started < STOP_S:
            if pid is None and (record := read_record(home)):  # none: it is only just starting
                pid = record["pid"]
                _ask_to_end(record, now=now)
            time.sleep(POLL_S)
    took_s = time.monotonic() - started
    if alive:
        say(f"The node (pid {pid}) has not ended in {human_s(took_s)}; `kill -9 {pid}` ends it.")
        raise typer.Exit(FAILED)
    say(f"The node has ended ({human_s(took_s)}).")
    _tell(as_json, {"stopped": True, "was_running": True, "seconds": round(took_s, 3)})


def _ask_to_end(record: dict[str, Any], *, now: bool) -> None:
    """By its API; by a signal where that does not answer or where it shall hurry."""
    import contextlib
    import os
    import signal

    from herd_mcp.cli.client import NodeClient
    from herd_mcp.jobs import HerdError

    try:
        NodeClient(record["port"], record["token"]).stop()
        asked = True
    except HerdError:
        asked = False
    with contextlib.suppress(ProcessLookupError):  # the lock says that this pid is the node's, or just ended
        if not asked:
            os.kill(record["pid"], signal.SIGTERM)
        if now:
            os.kill(record["pid"], signal.SIGTERM)


def _tell(as_json: bool, outcome: dict[str, Any]) -> None:
    if as_json:
        print_json(outcome)


def mcp() -> None:
    """Speak MCP on stdin and stdout, as MCP clients want it. Starts the node when none runs.

    \b
    Example, for Claude Code:
      claude mcp add herd -- herd-mcp mcp
    """
    from herd_mcp import bridge

    raise typer.Exit(bridge.main())
