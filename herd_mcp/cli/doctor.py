"""`doctor`: what is missing on this machine, and the command that mends it."""

from __future__ import annotations

from typing import Annotated

import typer

from herd_mcp.cli.console import DONE, FAILED, clean, console, print_json, say

MARKS = {"ok": "✓", "note": "•", "broken": "✗"}


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Draw and answer for real, in a temporary node.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look for what is missing on this machine.

    At Python, libraries, memory, disk, port, node, the other Macs of the herd and models; and try the built-in ones.

    Changes nothing. Ends with 1 when something is broken; what could merely be better is marked with a dot.

    \b
    Example:
      herd-mcp doctor
      herd-mcp doctor --no-trial --json
    """
    from herd_mcp.cli.checks import CHECKS, built_in
    from herd_mcp.cli.findings import Finding

    findings: list[Finding] = []
    for check in CHECKS:
        if check is built_in and not trial:
            continue
        with console(err=True).status(f"{check.__name__.replace('_', ' ')}…"):
            found = list(check())
        findings += found
        if not as_json:
            for finding in found:
                typer.echo(clean(f"{MARKS[finding.level]} {finding.check}: {finding.text}"))
                if finding.fix:
                    typer.echo(clean(f"    {finding.fix}"))
    broken = [finding for finding in findings if finding.level == "broken"]
    if as_json:
        print_json({"ok": not broken, "findings": [finding._asdict() for finding in findings]})
    elif broken:
        say(f"{len(broken)} of {len(findings)} things are broken; the line below each says what mends it.")
    else:
        say("Nothing is broken.")
    raise typer.Exit(FAILED if broken else DONE)
