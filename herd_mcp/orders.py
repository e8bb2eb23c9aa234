"""What a job's owner asks of the node that runs it, be it this one or another: one attempt, its events, its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from herd_mcp.jobs import Cancelled, Completed, Failed, Frozen, Job, JobEvent, NodeEstimate
from herd_mcp.state import NodeState, OwnStats, Told

ELSEWHERE = "elsewhere"
"""In `details` of an error of the disk: it is not the owner's disk."""
PARTED = "parted"
"""`details["reason"]` of node_lost where a node is not asked any more: it, or this one, has left the herd."""

GONE = "gone"
"""The same where the node's machine answers and no node does: what ran there ended with its process."""


class Order(Frozen):
    """Run one attempt of a job."""

    job: Job
    """Its status is that of this attempt."""
    attempt: int
    """Its number; what comes of an older one is discarded."""
    expects_s: float | None = None
    """When its owner expects it to be done, seconds from now. Who cannot keep it says so instead of taking it."""
    must: bool = False
    """Take it though it will be later: the owner was turned away often enough."""
    forced: bool = False
    """It was accepted before: no limit of the queue refuses it."""
    alone: bool = False
    """It was in an engine that died, and shares the next with nobody."""
    spool: str = ""
    """Where the picture goes, on the owner's disk. Never told to another node."""


class Accepted(Told):
    """A place was taken for an order."""

    model: Annotated[str, Field(max_length=256)] = ""
    """The model that serves it, resolved."""
    incarnation: int = 0
    revision: int = 0
    """The runner's state that has this order in it: once it is seen, the owner counts it no more on top."""


class Returned(Frozen):
    """The end of an attempt that is nobody's failure: the owner places the job again."""

    type: Literal["returned"] = "returned"
    job_id: str = ""
    seq: int = 0
    reason: str = ""


Ending = Completed | Failed | Cancelled | Returned


class Later(Exception):
    """The target would be done noticeably later than the owner expects (HTTP 409): it took nothing."""

    def __init__(self, finish_s: float, state: NodeState | None = None) -> None:
        super().__init__(f"it would take {finish_s:.1f} s")
        self.finish_s = finish_s
        self.state = state
        """How the target is now, so that the owner chooses better."""


class Line(Told):
    """One line of an attempt's events between nodes. Without an event and an end it is a heart beat, or something that
    only a newer version knows."""

    attempt: int
    seq: int = 0
    """Rises by one with each event of the attempt."""
    event: JobEvent | Returned | None = None
    size: int = Field(0, exclude=True)
    """Bytes that were read for it; whoever reads them says so, not the other side."""


class Runner(Protocol):
    """A node that runs attempts: this Mac's own, or another over the wire."""

    node_id: str
    name: str

    async def reserve(self, order: Order) -> Accepted:
        """Take a place, held until `run`. Raises HerdError as `Node.plan` and `Node.reserve`, node_lost where the node
        cannot be reached, or Later."""
        ...

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        """Run a reserved attempt to its end, which is returned; each event before it goes to `listener` as it comes.
        A picture is at `order.spool` then. Leaving early cancels the attempt, at the latest when its lease is over."""
        ...

    def give_back(self, job_id: str, attempt: int) -> None:
        """Undo `reserve` for an attempt that will not run."""
        ...

    def cancel(self, job_id: str, attempt: int) -> None:
        """End the attempt at its next token or step; `run` returns its end. Unknown ones are fine."""
        ...

    async def take_back(self, job_id: str, attempt: int) -> bool:
        """Whether the attempt had not begun and is undone: `run` returns `Returned` then."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an attempt has its place."""

    order: Order
    runner: Runner
    accepted: Accepted
    estimates: tuple[NodeEstimate, ...]
    """The table that decided it, seconds."""


class Placer(Protocol):
    """Chooses a node for each attempt."""

    patience_s: float
    """How long a job that was accepted waits for a node that takes it, where none does now."""

    async def place(self, order: Order, *, avoid: frozenset[str] = frozenset()) -> Placed:
        """Reserve a place for the order where it will be done first. `avoid`: node ids where it died, taken only if no
        other is able. The attempt's number rises with each node that turns it away. Raises HerdError when no node
        takes it, with the reason of each in `details["nodes"]`."""
        ...

    def runner(self, node_id: str) -> Runner | None:
        """The node by its id, to ask again about an attempt that an earlier start of this node gave it. None where it
        is not of the herd any more."""
        ...

    def note_failure(self, node_id: str) -> None:
        """An attempt failed there for reasons of the node's: for a while it is less attractive, and not excluded."""
        ...

    def elsewhere(self, placed: Placed, *, avoid: frozenset[str] = frozenset()) -> bool:
        """Whether an attempt that has not begun would be done much sooner on another node by now; `avoid` as in
        `place`."""
        ...


class PeerApi(Protocol):
    """What one node asks another, as one member of the herd (`/herd/v1/` over TLS, or in memory). Raises HerdError;
    node_lost where the other is not reached or falls silent."""

    async def exchange(self, state: NodeState) -> NodeState:
        """Tell how this node is; hear how the other is."""
        ...

    async def submit(self, order: Order) -> Accepted:
        """Reserve a place for an attempt. It begins with the first `follow`, and is dropped when none comes within the
        lease. Raises Later."""
        ...

    def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        """The attempt's events after `after_seq` to its end, with heart beats between. Raises
        HerdError(job_not_found)."""
        ...

    async def cancel(self, job_id: str, attempt: int) -> None: ...

    async def take_back(self, job_id: str, attempt: int) -> bool: ...

    def blob(self, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """A picture that an attempt brought, from `offset` on. Raises HerdError(image_not_found)."""
        ...

    async def job(self, job_id: str) -> Job:
        """A job that the other owns. Raises HerdError(job_not_found)."""
        ...

    def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        """The events of a job that the other owns, with heart beats between."""
        ...

    async def cancel_job(self, job_id: str) -> Job: ...

    async def image(self, image_id: str) -> bytes:
        """The PNG of a job that the other owns. Raises HerdError(image_not_found)."""
        ...

    async def stats(self) -> OwnStats:
        """Figures of the jobs that the other owns."""
        ...
