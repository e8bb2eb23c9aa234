"""What can happen to a node, and what it then does: the words between `decide` and the world."""

from __future__ import annotations

from dataclasses import dataclass

from herd_mcp import pipe
from herd_mcp.jobs import ErrorInfo, JobEvent, Request
from herd_mcp.node.lanes import EngineKey, Plan
from herd_mcp.orders import Returned
from herd_mcp.state import Level

# ── What can happen ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Submit:
    """A job asks for a place. It is held until `Release`. `forced`: it was accepted before, no limit refuses it.
    `alone`: it was in an engine that died, and shares the next with nobody."""

    job_id: str
    attempt: int
    request: Request
    plan: Plan
    spool: str
    timeout_s: float
    forced: bool = False
    alone: bool = False
    size: int = 0
    """Tokens of the chat, prompt and answer together, or pixels of the image."""


@dataclass(frozen=True, slots=True)
class Release:
    """The job is on disk: the attempt may start."""

    job_id: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Cancel:
    """The attempt is wanted no more. Others of the same job are left alone: the job may have come back."""

    job_id: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The job's owner wants the attempt back, unless an engine has begun with it."""

    job_id: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """An engine said something."""

    key: EngineKey
    generation: int
    message: pipe.Message


@dataclass(frozen=True, slots=True)
class Exited:
    """An engine process is gone. `reason` is a sentence for people."""

    key: EngineKey
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """No new jobs from now on."""


@dataclass(frozen=True, slots=True)
class Close:
    """The node ends: nothing is started any more."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Slept:
    """The node itself did not run for about this long: the Mac slept, or its processes were stopped."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the system says of this Mac's memory, and what each engine process holds (bytes)."""

    level: Level
    held_bytes: tuple[tuple[EngineKey, int, int], ...] = ()
    """Key, generation, bytes."""


@dataclass(frozen=True, slots=True)
class Warm:
    """An engine is wanted though no job asks for it yet: preloaded, or loaded by hand."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Unload:
    """An engine is wanted no more. It ends when nothing runs or waits in it."""

    key: EngineKey


Event = Submit | Release | Cancel | TakeBack | Heard | Exited | Drain | Close | Tick | Slept | Measured | Warm | Unload


# ── What to do ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Refuse:
    job_id: str
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Tell:
    """An event for the job's owner."""

    job_id: str
    attempt: int
    event: JobEvent | Returned


@dataclass(frozen=True, slots=True)
class StartEngine:
    key: EngineKey
    generation: int
    spec: pipe.EngineSpec


@dataclass(frozen=True, slots=True)
class Send:
    key: EngineKey
    generation: int
    command: pipe.Start | pipe.Cancel | pipe.Limit


@dataclass(frozen=True, slots=True)
class EndEngine:
    """End the process group: unloading, or the end of one that hangs."""

    key: EngineKey
    generation: int
    reason: str


Effect = Refuse | Tell | StartEngine | Send | EndEngine
