"""What the worker asks of an engine. `chat.ChatEngine` and `image.ImageEngine` are the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from herd_mcp.pipe import EngineSpec, Limit, Message, Ready, Start

Emit = Callable[[Message], None]
"""Writes one message to the node; blocks while the node reads slowly, which is what bounds memory."""

Report = Callable[[float], None]
"""Tells how much of the model is loaded, 0.0 to 1.0."""


class Engine(Protocol):
    """One model. The worker calls `load`, `admit`, `settle` and `step` on its one MLX thread and nothing else touches
    MLX. What is computed is computed in turns: `step` is called in one, `load` takes its own.

    Every admitted run ends in exactly one of Done, RunFailed, RunCancelled, emitted from `settle` or `step`.
    """

    def load(self, spec: EngineSpec, report: Report) -> Ready:
        """Load, and produce one token or step as proof. Raises HerdError when the model cannot be served.

        `report` also offers the turn to others, so it is called where nothing is left half computed."""
        ...

    def prepare(self, start: Start) -> Any:
        """Validate, render, tokenise, decode: everything that needs no MLX. Runs on its own thread after `load`.
        Raises HerdError, which fails that run alone."""
        ...

    def admit(self, start: Start, prepared: Any) -> None:
        """Take a run in, and compute nothing yet. Raises HerdError, which fails that run alone; then the engine keeps
        nothing of it."""
        ...

    def cancel(self, run: int) -> None:
        """Mark a run; callable from any thread, idempotent, ignored for runs that are not admitted (any more).
        It takes effect at the next token or step, and RunCancelled is then emitted once."""
        ...

    def settle(self, emit: Emit) -> bool:
        """Tell the ends of cancelled runs, which computes nothing: others may be at the GPU. False when no work is
        left: the worker then sleeps until a command comes."""
        ...

    def step(self, emit: Emit) -> None:
        """Do one bounded piece of the work that `settle` saw. An exception means that the engine can no longer be
        trusted: the worker fails all runs and ends."""
        ...

    def limit(self, limit: Limit) -> None:
        """Keep no more than this from now on."""
        ...

    def rest(self) -> None:
        """Give back memory that only makes the next request quicker: nothing came for a while."""
        ...
