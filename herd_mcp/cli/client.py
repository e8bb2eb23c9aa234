"""The native API of a node, as the commands use it. Blocking: a command does one thing, and Ctrl-C ends its read.

Over `http.client`: importing httpx takes longer (0.4 s, with its own command line) than most commands, and the
loopback needs no proxies, pools or redirects.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pydantic import TypeAdapter

from herd_mcp import bridge
from herd_mcp.cli.run_dir import as_herd_error, read_record
from herd_mcp.fleet.words import Invitation, InviteInfo, Joined, Left, PeerCheck
from herd_mcp.jobs import JOB_EVENT, ErrorCode, ErrorInfo, Frozen, HerdError, Job, JobEvent
from herd_mcp.state import FleetHealth, ModelInfo, NodeState

if TYPE_CHECKING:
    from herd_mcp.jobs import ChatRequest, ImageRequest

ANSWER_S = 30.0
"""Seconds without a byte after which the node is taken for gone; streams carry a sign of life every 10 s."""
JOB_ID = re.compile(r"job-[\w-]+", re.ASCII)
CANCEL_S = 75.0
"""Seconds that cancelling may take: the node waits for the engine's current step."""

_JOBS: TypeAdapter[list[Job]] = TypeAdapter(list[Job])
JOIN_S = 90.0
"""Seconds that joining may take: every address of the code is tried."""

_INVITATION: TypeAdapter[Invitation | None] = TypeAdapter(Invitation | None)
_CHECKS: TypeAdapter[list[PeerCheck]] = TypeAdapter(list[PeerCheck])
_MODELS: TypeAdapter[list[ModelInfo]] = TypeAdapter(list[ModelInfo])
_BROKEN = (OSError, http.client.HTTPException)


class Nodes(Frozen):
    """The nodes as one of them knows them, that one first, and who was not let in."""

    nodes: tuple[NodeState, ...]
    strangers: tuple[str, ...] = ()


class Status(Nodes):
    """What the node answers to `status`."""

    health: FleetHealth


def no_node(why: str = "") -> HerdError:
    """Nothing answers in this home."""
    message = f"No node runs in {bridge.herd_home()}."
    return HerdError(ErrorCode.NO_NODE, f"{message} {why}".strip(), "Start one with `herd-mcp up`.", retryable=True)


def find_node() -> NodeClient:
    """The node of this home, which is not started for it. Raises HerdError(no_node)."""
    home = bridge.herd_home()
    with as_herd_error():
        connection = bridge.find(home)
    if connection is None:
        raise no_node()
    connection.close()
    return _client(home)


def start_node() -> NodeClient:
    """The node of this home; starts one when none runs, as MCP clients do. Raises HerdError(no_node)."""
    home = bridge.herd_home()
    with as_herd_error():
        bridge.find_or_start(home).close()
    return _client(home)


def _client(home: str) -> NodeClient:
    record = read_record(Path(home))
    if record is None:  # it ended in this moment
        raise no_node()
    return NodeClient(record["port"], record["token"])


class NodeClient:
    """One node over loopback HTTP, with the token of its `run/node.json`. A connection per request."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    def status(self) -> Status:
        return Status.model_validate_json(self._send("GET", "/herd/api/status"))

    def nodes(self) -> Nodes:
        """Without asking another node for anything."""
        return Nodes.model_validate_json(self._send("GET", "/herd/api/nodes"))

    def job(self, job_id: str) -> Job:
        """One job as it is now. Raises HerdError(job_not_found)."""
        return Job.model_validate_json(self._send("GET", f"/herd/api/jobs/{job_id}"))

    def models(self) -> list[ModelInfo]:
        return _MODELS.validate_json(self._send("GET", "/herd/api/models"))

    def jobs(self, *, limit: int = 50, status: str | None = None) -> list[Job]:
        """Newest first."""
        query = urlencode({"limit": limit} | ({"status": status} if status else {}))
        return _JOBS.validate_json(self._send("GET", f"/herd/api/jobs?{query}"))

    def cancel(self, job_id: str) -> Job:
        """The job after its end. Raises HerdError(job_not_found)."""
        if not JOB_ID.fullmatch(job_id):
            raise HerdError(ErrorCode.JOB_NOT_FOUND, "That is no job's id.", "`herd-mcp jobs` lists them.")
        answer = self._send("DELETE", f"/herd/api/jobs/{job_id}", timeout_s=CANCEL_S)
        return Job.model_validate_json(answer)

    def pause(self, for_s: float | None) -> NodeState:
        """Do nothing for others for so many seconds, None until `resume`. The node as it is then."""
        body = json.dumps({"for_s": for_s}).encode()
        return NodeState.model_validate_json(self._send("POST", "/herd/api/pause", body))

    def resume(self) -> NodeState:
        return NodeState.model_validate_json(self._send("POST", "/herd/api/resume"))

    def stop(self) -> None:
        """Ask the node to drain and end; it answers at once."""
        self._send("POST", "/herd/api/stop")

    def invite(self) -> InviteInfo:
        return InviteInfo.model_validate_json(self._send("POST", "/herd/api/herd/invite"))

    def invitation(self) -> Invitation | None:
        return _INVITATION.validate_json(self._send("GET", "/herd/api/herd/invite"))

    def close_invite(self) -> None:
        self._send("DELETE", "/herd/api/herd/invite")

    def join(self, code: str) -> Joined:
        body = json.dumps({"code": code}).encode()
        return Joined.model_validate_json(self._send("POST", "/herd/api/herd/join", body, timeout_s=JOIN_S))

    def leave(self, *, rotate: bool = False, node: str | None = None) -> Left:
        body = json.dumps({"rotate": rotate, "node": node}).encode()
        return Left.model_validate_json(self._send("POST", "/herd/api/herd/leave", body))

    def check(self) -> list[PeerCheck]:
        """The other Macs of the herd, each asked now by the node itself."""
        return _CHECKS.validate_json(self._send("GET", "/herd/api/herd/check"))

    def image(self, image_id: str) -> bytes:
        """The PNG."""
        return self._send("GET", f"/images/{image_id}")

    def run(self, request: ChatRequest | ImageRequest) -> Iterator[JobEvent]:
        """Submit and follow: events from the first to the terminal one. Closing the iterator cancels the job."""
        body = request.model_dump_json().encode()
        told = False
        try:
            with self._ask("POST", "/herd/api/jobs", body) as response:
                while line := response.readline():  # at \n only: a model may write U+2028
                    if line.startswith(b"data:"):
                        event = JOB_EVENT.validate_json(line[5:])
                        told = event.type in ("completed", "failed", "cancelled")
                        yield event
        except _BROKEN as error:
            raise _lost(f" ({type(error).__name__})") from error
        if not told:
            raise _lost("")

    def _send(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = ANSWER_S) -> bytes:
        try:
            with self._ask(method, path, body, timeout_s=timeout_s) as response:
                return response.read()
        except _BROKEN as error:
            raise no_node(f"({type(error).__name__} on its port.)") from error

    @contextlib.contextmanager
    def _ask(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = ANSWER_S
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request. Raises the HerdError that the node answers with."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            yield response


def _lost(why: str) -> HerdError:
    return HerdError(
        ErrorCode.NODE_LOST,
        f"The node ended during the job{why}.",
        "`herd-mcp jobs` shows what became of it; `herd-mcp doctor` looks at this machine.",
        retryable=True,
    )


def _refusal(status: int, body: bytes) -> HerdError:
    try:
        return HerdError.of(ErrorInfo.model_validate(json.loads(body)["error"]))
    except (ValueError, KeyError, TypeError):
        return HerdError(
            ErrorCode.INTERNAL,
            f"The node answered with status {status} and no explanation.",
            "`herd-mcp doctor` looks at this machine; the node's log is logs/node.log in HERD_HOME.",
        )
