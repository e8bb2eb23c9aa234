"""How `demo` looks: lines, moving bars in a terminal, a table. With `--json` all of it goes to stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from herd_mcp.cli.console import clean, console, print_table


class _Typing:
    """An answer that grows: the last of it, on one line."""

    def __init__(self, live: Live, label: str) -> None:
        self._live, self._label = live, label

    def show(self, words: str) -> None:
        line = Text(f"{self._label} ", no_wrap=True, overflow="ellipsis")
        self._live.update(line.append(clean(words).replace("\n", " "), style="dim"))


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def at(self, words: str, done: float, total: float | None) -> None:
        self._progress.update(self._task, words=clean(words), completed=done if total else 0, total=total)


class Screen:
    """Prints to stdout, or to stderr when stdout is for data."""

    def __init__(self, *, err: bool) -> None:
        self._console = console(err=err)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._open = 0

    def line(self, words: str) -> None:
        self._console.print(Text(clean(words)), soft_wrap=True)

    def quote(self, question: str, answer: str) -> None:
        """A question and its whole answer."""
        self.line(f"  › {question}")
        self.line(f"  ‹ {answer.strip() or '(no words)'}")

    @contextlib.contextmanager
    def typing(self, label: str) -> Iterator[_Typing]:
        """A line that shows an answer as it comes, and goes when it is complete."""
        live = Live(console=self._console, transient=True, refresh_per_second=20)
        if not self._console.is_terminal:
            yield _Typing(live, label)
            return
        with live:
            yield _Typing(live, label)

    @contextlib.contextmanager
    def bar(self, label: str) -> Iterator[_Bar]:
        """A bar among others; all go when the last is done."""
        task = self._bars.add_task(clean(label), total=None, words="")
        if not self._open:
            self._bars.start()
        self._open += 1
        try:
            yield _Bar(self._bars, task)
        finally:
            self._open -= 1
            self._bars.remove_task(task)
            if not self._open:
                self._bars.stop()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.line("")
        print_table(columns, rows, right=("took",))
        self.line("")
