"""Following a job on the terminal: a bar for its way, and what happens at Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from herd_mcp.cli.console import clean, human_s, say
from herd_mcp.jobs import ENDED, HerdError, Job, JobEvent, Loading, Progress, Queued, Routed, owner_of

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from herd_mcp.cli.client import NodeClient


class Bar:
    """Queued, loading, steps: one line that moves, gone at the end; silent where stderr is no terminal."""

    def __init__(self, console: Console, label: str = "") -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._label = f"{label} " if label else ""
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"{self._label}asking", total=None, count="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._bar.stop()

    def show(self, event: JobEvent) -> None:
        if isinstance(event, Queued):
            ahead = f"{event.position} ahead" if event.position else ""
            eta = f"about {human_s(event.eta_s)}" if event.eta_s else ""
            self.at("queued", None, None, ", ".join(part for part in (event.message, ahead, eta) if part))
        elif isinstance(event, Routed):
            self.at(f"on {event.node}", None, None)
        elif isinstance(event, Loading):
            self.at("loading the model", event.fraction, 1.0, f"{event.fraction:.0%}")
        elif isinstance(event, Progress):
            self.at(event.message or "drawing", event.step, event.steps, f"{event.step}/{event.steps}")

    def at(self, words: str, done: float | None, total: float | None, count: str = "") -> None:
        """Draw the line anew; no `total` makes the bar pulse."""
        self._bar.update(
            self._task, description=clean(self._label + words), completed=done or 0, total=total, count=clean(count)
        )


def explain(job: Job) -> None:
    """The seconds per node that decided where a job ran, on stderr."""
    from herd_mcp.cli.console import print_table
    from herd_mcp.explain import story

    rows = job.routed.estimates if job.routed else ()
    here = owner_of(job.id)
    if len(rows) < 2:
        say("There was one Mac to run it on.")
    else:
        numbers = ("done in", "work ahead", "load", "itself")
        table = [
            (
                f"{row.node} (this Mac)" if row.node_id == here else row.node,
                *map(human_s, (row.finish_s, row.ahead_s, row.load_s, row.service_s)),
                row.reason,
            )
            for row in rows
        ]
        print_table(("node", *numbers, "why not, or not gladly"), table, right=numbers, err=True)
    if told := story(job, here):
        say(told)


def placement(job: Job) -> dict[str, object]:
    """The same as data."""
    from herd_mcp.explain import story

    rows = [row.model_dump() for row in job.routed.estimates] if job.routed else []
    attempts = [attempt.model_dump() for attempt in job.attempts]
    return {"why": story(job, owner_of(job.id)), "estimates": rows, "attempts": attempts}


def cancel_and_say(node: NodeClient, job_id: str) -> None:
    """After Ctrl-C: cancel, and tell how the job really ended."""
    if not job_id:
        say("Cancelled before the node had taken the job.")
        return
    say(f"Cancelling {job_id}…")
    try:
        status = node.cancel(job_id).status
    except HerdError as error:
        say(str(error))
        return
    if status == "cancelled":
        say(f"The job {job_id} was cancelled.")
    elif status in ENDED:
        say(f"The job {job_id} had {status} already.")
    else:
        say(f"The job {job_id} is still {status}; `herd-mcp jobs` shows when it ends.")
