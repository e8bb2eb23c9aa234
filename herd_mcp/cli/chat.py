"""`chat`: one question whose answer streams to stdout, or a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from herd_mcp.cli.console import FAILED, USAGE, clean, fail, human_s, print_json, say
from herd_mcp.cli.prompt import SETTINGS, PromptCommand

if TYPE_CHECKING:
    from herd_mcp.cli.client import NodeClient
    from herd_mcp.jobs import ChatRequest, ChatResult

HELP = "/reset forgets the conversation · /model NAME takes another model · Ctrl-C cancels an answer · Ctrl-D ends"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def add_to(app: typer.Typer) -> None:
    app.command(cls=PromptCommand, context_settings=SETTINGS)(chat)


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The question; `-` or nothing with a pipe reads stdin; nothing in a terminal converses."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model shall keep in mind throughout.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model answers; `herd-mcp models` lists them.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A label for statistics; may be repeated.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the seconds per Mac that decided where.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON at the end.")] = False,
) -> None:
    """Ask a model. The answer goes to stdout as it comes, what the model thinks before it to stderr.

    Without a prompt in a terminal it is a conversation: /reset, /model NAME, Ctrl-C cancels an answer, Ctrl-D ends.

    \b
    Example:
      herd-mcp chat "Why is the sky blue?" --max-tokens 100
      git diff | herd-mcp chat --system "Write a commit message for this diff."
      herd-mcp chat
    """
    options = {
        "model": model,
        "max_tokens": max_tokens,
        "sampling": {"temperature": temperature, "seed": seed},
        "tags": tuple(tag or ()),
    }
    if prompt is None and sys.stdin.isatty():
        if as_json:
            say("--json needs a prompt: herd-mcp chat --json 'your question'")
            raise typer.Exit(USAGE)
        _converse(system, options)
        return
    text = sys.stdin.read() if prompt in (None, "-") else prompt
    if not text or not text.strip():
        say("There is no question: give a prompt, or text on stdin.")
        raise typer.Exit(USAGE)
    _once(text, system, options, as_json=as_json, explain=explain)


def _once(text: str, system: str | None, options: dict[str, Any], *, as_json: bool, explain: bool) -> None:
    from herd_mcp.cli.client import start_node
    from herd_mcp.cli.follow import explain as explain_job
    from herd_mcp.cli.follow import placement

    request = _request([*_opening(system), {"role": "user", "content": text}], options)
    node = start_node()
    answer = Answer(silent=as_json)
    try:
        result = answer.follow(node, request)
    except KeyboardInterrupt:
        answer.cancel(node)
        raise SystemExit(FAILED) from None
    if answer.error is not None:
        fail(answer.error, as_json=as_json, code=FAILED)
    if result is None:
        say(f"The job {answer.job_id} was cancelled.")
        raise SystemExit(FAILED)
    job = node.job(answer.job_id) if explain else None
    if as_json:
        told = {"placement": placement(job)} if job else {}
        print_json({"job_id": answer.job_id, **result.model_dump(mode="json"), **told})
        return
    if result.limited_by:
        say(f"[{result.limited_by}]")
    if sys.stderr.isatty() or explain:
        say(_summary(result))
    if job:
        explain_job(job)


def _converse(system: str | None, options: dict[str, Any]) -> None:
    import readline  # noqa: F401  # line editing for input()

    from herd_mcp.cli.client import start_node
    from herd_mcp.jobs import HerdError

    say(HELP)
    turns: list[dict[str, str]] = []
    node = start_node()
    while True:
        try:
            line = input("› ").strip()
        except KeyboardInterrupt:
            typer.echo()
            continue
        except EOFError:
            typer.echo()
            return
        if line.startswith("/"):
            _command(line, turns, options)
            continue
        if not line:
            continue
        try:
            turn = {"role": "user", "content": line}
            answer = _turn(node, _request([*_opening(system), *turns, turn], options))
            if answer:
                turns += [turn, {"role": "assistant", "content": answer}]
        except HerdError as error:
            say(str(error))


def _turn(node: NodeClient, request: ChatRequest) -> str:
    """Ask; what was answered, also when Ctrl-C cut it short."""
    answer = Answer()
    try:
        result = answer.follow(node, request)
    except KeyboardInterrupt:
        answer.cancel(node)
        result = None
    if answer.error is not None:
        say(f"{answer.error.message} {answer.error.hint}".strip())
    if result is not None:
        say(_summary(result))
        if result.limited_by:
            say(f"[{result.limited_by}]")
    return answer.text


def _command(line: str, turns: list[dict[str, str]], options: dict[str, Any]) -> None:
    word, _, rest = line.partition(" ")
    if word == "/reset":
        turns.clear()
        say("The conversation is forgotten.")
    elif word == "/model":
        options["model"] = rest.strip() or None
        say(f"The next answer comes from {rest.strip() or 'the default model'}.")
    else:
        say(HELP)


class Answer:
    """An answer as it comes: written out at once, kept for the next turn."""

    def __init__(self, *, silent: bool = False) -> None:
        self.job_id = ""
        self.text = ""
        self.error: Any = None
        self._silent = silent
        self._thinking = False

    def follow(self, node: NodeClient, request: ChatRequest) -> ChatResult | None:
        """The result; None when it failed (see `error`) or was cancelled. Raises KeyboardInterrupt and HerdError."""
        from herd_mcp.jobs import ChatResult, Completed, Delta, Failed

        for event in node.run(request):
            self.job_id = event.job_id or self.job_id
            if isinstance(event, Delta):
                self._write(event)
            elif isinstance(event, Failed):
                self._end()
                self.error = event.error
            elif isinstance(event, Completed) and isinstance(event.result, ChatResult):
                self._end()
                return event.result
        return None

    def cancel(self, node: NodeClient) -> None:
        from herd_mcp.cli.follow import cancel_and_say

        self._end()
        cancel_and_say(node, self.job_id)

    def _write(self, delta: Any) -> None:
        if delta.reasoning and not self._silent:
            self._think(delta.reasoning)
        if delta.text:
            self.text += delta.text
            if not self._silent:
                self._stop_thinking()
                sys.stdout.write(clean(delta.text) if sys.stdout.isatty() else delta.text)
                sys.stdout.flush()
        if delta.tool_call and not self._silent:
            self._stop_thinking()
            say(f"[wants to call {delta.tool_call.name}({delta.tool_call.arguments})]")

    def _think(self, text: str) -> None:
        if not self._thinking and sys.stderr.isatty():
            sys.stderr.write(_DIM)
        self._thinking = True
        sys.stderr.write(clean(text))
        sys.stderr.flush()

    def _stop_thinking(self) -> None:
        if self._thinking:
            sys.stderr.write(f"{_PLAIN}\n" if sys.stderr.isatty() else "\n")
            sys.stderr.flush()
        self._thinking = False

    def _end(self) -> None:
        self._stop_thinking()
        if self.text and not self._silent and not self.text.endswith("\n"):
            typer.echo()


def _opening(system: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}] if system else []


def _request(messages: list[dict[str, str]], options: dict[str, Any]) -> ChatRequest:
    from herd_mcp.jobs import ChatRequest, parse_request

    return parse_request(ChatRequest, {**options, "messages": tuple(messages)})


def _summary(result: ChatResult) -> str:
    rate = result.timings.decode_tokens_per_s
    at = f", {rate:.0f} tokens/s" if rate else ""
    return (
        f"[{result.model} on {result.node}: {result.usage.completion_tokens} tokens in "
        f"{human_s(result.timings.total_s)}{at}]"
    )
