"""`invite`, `join`, `leave`: who belongs to the herd of this Mac."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from herd_mcp.cli.console import FAILED, clean, console, fail, human_s, print_json, say
from herd_mcp.cli.tables import Json

if TYPE_CHECKING:
    from herd_mcp.cli.client import NodeClient
    from herd_mcp.fleet.words import Invitation, InviteInfo

POLL_S = 0.5

_ENDS = {
    "expired": "Nobody joined in time; the code is good for nothing now.",
    "tries": "Too many wrong codes were tried, so this one was closed. Somebody may be guessing: invite again, and "
    "look at the node's log.",
    "closed": "The invite was closed: the node ended, or another invite replaced it.",
    "unconfirmed": "It was given the herd's keys and did not say that it joined. Look there with `herd-mcp status`; if "
    "it was none of yours, `herd-mcp leave --rotate` makes a new herd.",
}


def add_to(app: typer.Typer) -> None:
    for command in (invite, join, leave):
        app.command()(command)


def invite(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until a Mac has joined.")] = True,
    as_json: Json = False,
) -> None:
    """Let another Mac into the herd of this one: prints a code for it, and waits until it has joined.

    The first invite makes the herd. A code lets one Mac in, within ten minutes; Ctrl-C takes it back. Whoever has it
    can join, and every member holds the herd's key (docs/security.md).

    \b
    Example:
      herd-mcp invite
      herd-mcp invite --no-wait --json
    """
    from herd_mcp.cli.client import start_node

    node = start_node()
    made = node.invite()
    try:
        if as_json:
            print_json(made)
        else:
            typer.echo(made.code)
            say(f"On the other Mac, within {human_s(made.expires_s)}:  herd-mcp join {made.code}")
        if wait:
            _wait_for_guest(node, made)
    except KeyboardInterrupt:
        node.close_invite()
        say("The code was taken back.")
        raise


def _wait_for_guest(node: NodeClient, made: InviteInfo) -> None:
    sys.stdout.flush()  # a program that reads the code through a pipe needs it now
    with console(err=True).status("Waiting for the other Mac (Ctrl-C takes the code back)…"):
        while (now := _of(node.invitation(), made)).state in ("open", "granted"):
            time.sleep(POLL_S)
    if now.state != "joined":
        who = f"{now.name}: " if now.name else ""
        say(f"{who}{_ENDS[now.state]}")
        raise typer.Exit(FAILED)
    say(f"{now.name} ({now.node_id}) has joined. `herd-mcp status` shows the herd.")


def _of(invitation: Invitation | None, made: InviteInfo) -> Invitation:
    """How it stands with the invite that was made; closed, when the node knows of another or of none."""
    from herd_mcp.fleet.words import Invitation

    if invitation is None or invitation.id != made.id:
        return Invitation(id=made.id, state="closed", expires_s=0)
    return invitation


def join(
    code: Annotated[str, typer.Argument(help="What `herd-mcp invite` printed on the other Mac.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Join the herd of another Mac, with the code that `herd-mcp invite` printed there.

    A Mac is in one herd: one that has another must `herd-mcp leave` it first.

    \b
    Example:
      herd-mcp join AEIPQ-…
    """
    from herd_mcp.cli.client import start_node

    joined = start_node().join(code)
    if as_json:
        print_json(joined)
        return
    typer.echo(f"This Mac is in the herd of {clean(', '.join(member.name for member in joined.members))}.")
    if silent := [member.name for member in joined.members if not member.reached]:
        say(f"Not heard of yet: {', '.join(silent)}. `herd-mcp status` shows when they are.")


def leave(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new herd, with new keys, and invite into it.")
    ] = False,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NAME", help="Take this Mac (name or id) out of the herd instead, for good."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Leave the herd: this Mac forgets its keys and tells the others. It may be invited again.

    With --node another Mac is shut out, for one that is gone or not to be trusted by its id any more. A Mac that was
    stolen has the herd's key, and can make itself another id: then `leave --rotate` on one, and `leave` and `join` on
    each of the others.

    \b
    Example:
      herd-mcp leave
      herd-mcp leave --node old-mini
      herd-mcp leave --rotate --yes
    """
    from herd_mcp.cli.client import start_node

    if rotate and node is not None:
        raise typer.BadParameter("takes no --node: --rotate makes a herd without any other Mac.", param_hint="--rotate")
    if not yes:
        _confirm(rotate=rotate, node=node, as_json=as_json)
    client = start_node()
    left = client.leave(rotate=rotate, node=node)
    if as_json:
        print_json(left)
    elif left.revoked:
        say(f"{left.revoked} was taken out of the herd.")
    elif left.invite is None:
        say("This Mac has left the herd. `herd-mcp invite` or `herd-mcp join CODE` begins another.")
    else:
        names = ", ".join(left.members) or "the others"
        typer.echo(left.invite.code)
        say(
            f"A new herd begins. On {names}: `herd-mcp leave`, then within {human_s(left.invite.expires_s)}:  "
            f"herd-mcp join {left.invite.code}"
        )
        if len(left.members) > 1:
            say("The code lets one Mac in; `herd-mcp invite` makes one for each of the others.")


def _confirm(*, rotate: bool, node: str | None, as_json: bool) -> None:
    what = (
        f"Shut {node} out of the herd for good?"
        if node is not None
        else "Leave the herd and make a new one?"
        if rotate
        else "Leave the herd?"
    )
    if not sys.stdin.isatty():
        _not_confirmed("This has to be confirmed, and there is no terminal to ask on.", as_json)
    if not typer.confirm(clean(what), err=True):
        _not_confirmed("Nothing was changed.", as_json)


def _not_confirmed(message: str, as_json: bool) -> NoReturn:
    from herd_mcp.jobs import ErrorCode, ErrorInfo

    fail(ErrorInfo(code=ErrorCode.NOT_CONFIRMED, message=message, hint="--yes does it unasked."), as_json=as_json)
