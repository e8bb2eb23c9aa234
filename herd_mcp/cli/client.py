"""The native API of a node, as the commands use it. Blocking: a command does one thing, and Ctrl-C ends its read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import TypeAdapter

from herd_mcp import bridge
from herd_mcp.cli.run_dir import as_herd_error, read_record
from herd_mcp.jobs import JOB_EVENT, ErrorCode, ErrorInfo, Frozen, HerdError, Job, JobEvent
from herd_mcp.state import FleetHealth, ModelInfo, NodeState

if TYPE_CHECKING:
    from herd_mcp.jobs import ChatRequest, ImageRequest

CANCEL_S = 75.0
"""Seconds that cancelling may take: the node waits for the engine's current step."""

_JOBS: TypeAdapter[list[Job]] = TypeAdapter(list[Job])
_MODELS: TypeAdapter[list[ModelInfo]] = TypeAdapter(list[ModelInfo])


class Status(Frozen):
    """What the node answers to `status`."""

    nodes: tuple[NodeState, ...]
    health: FleetHealth


def no_node(why: str = "") -> HerdError:
    """Nothing answers in this home."""
    message = f"No node runs in {bridge.herd_home()}."
    return HerdError(ErrorCode.NO_NODE, f"{message} {why}".strip(), "Start one with `herd-mcp up`.", retryable=True)


def find_node() -> NodeClient:
    """The node of this home, which is not started for it. Raises HerdError(no_node)."""
    where = Path(bridge.herd_home())
    with as_herd_error():
        connection = bridge.find(str(where))
    if connection is None:
        raise no_node()
    connection.close()
    return _client(where)


def start_node() -> NodeClient:
    """The node of this home; starts one when none runs, as MCP clients do. Raises HerdError(no_node)."""
    where = Path(bridge.herd_home())
    with as_herd_error():
        bridge.find_or_start(str(where)).close()
    return _client(where)


def _client(where: Path) -> NodeClient:
    record = read_record(where)
    if record is None:  # it ended in this moment
        raise no_node()
    return NodeClient(record["port"], record["token"])


class NodeClient:
    """One node over loopback HTTP with the token of its `run/node.json`. Use as a context manager."""

    def __init__(self, port: int, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30, connect=5, read=120),
            trust_env=False,  # the token goes to no proxy
        )

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Status:
        return Status.model_validate_json(self._send("GET", "/herd/api/status"))

    def models(self) -> list[ModelInfo]:
        return _MODELS.validate_json(self._send("GET", "/herd/api/models"))

    def jobs(self, *, limit: int = 50, status: str | None = None) -> list[Job]:
        """Newest first."""
        params = {"limit": limit} | ({"status": status} if status else {})
        return _JOBS.validate_json(self._send("GET", "/herd/api/jobs", params=params))

    def cancel(self, job_id: str) -> Job:
        """The job after its end. Raises HerdError(job_not_found)."""
        answer = self._send("DELETE", f"/herd/api/jobs/{_segment(job_id)}", timeout=CANCEL_S)
        return Job.model_validate_json(answer)

    def stop(self) -> None:
        """Ask the node to drain and end; it answers at once."""
        self._send("POST", "/herd/api/stop")

    def image(self, image_id: str) -> bytes:
        """The PNG."""
        return self._send("GET", f"/images/{_segment(image_id)}")

    def run(self, request: ChatRequest | ImageRequest) -> Iterator[JobEvent]:
        """Submit and follow: events from the first to the terminal one. Closing the iterator cancels the job."""
        body = request.model_dump_json().encode()
        try:
            with self._http.stream(
                "POST", "/herd/api/jobs", content=body, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                for line in _lines(response.iter_bytes()):
                    if line.startswith(b"data:"):
                        yield JOB_EVENT.validate_json(line[5:])
        except httpx.ConnectError as error:
            raise no_node() from error
        except httpx.HTTPError as error:
            raise HerdError(
                ErrorCode.NODE_LOST,
                f"The connection to the node ended during the job ({type(error).__name__}).",
                "`herd-mcp jobs` shows what became of it; `herd-mcp doctor` looks at this machine.",
                retryable=True,
            ) from error

    def _send(self, method: str, path: str, **options: Any) -> bytes:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise no_node(f"({type(error).__name__} from its port.)") from error
        if response.status_code >= 400:
            raise _refusal(response)
        return response.content


def _segment(name: str) -> str:
    """One segment of a path: an id never becomes another address."""
    from urllib.parse import quote

    return quote(name, safe="") or "-"


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines split at `\\n` only: httpx's own splitter also breaks at U+2028, which a model may write."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _refusal(response: httpx.Response) -> HerdError:
    try:
        body = json.loads(response.content)
        return HerdError.of(ErrorInfo.model_validate(body["error"]))
    except (ValueError, KeyError, TypeError):
        return HerdError(
            ErrorCode.INTERNAL,
            f"The node answered with status {response.status_code} and no explanation.",
            "`herd-mcp doctor` looks at this machine; the node's log is logs/node.log in HERD_HOME.",
        )
