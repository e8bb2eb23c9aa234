"""`herd-mcp up` as a process that tests kill, starve and stop, and the jobs that were accepted by it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from herd_mcp.jobs import ENDED, Job
from tests.cli.program import Program, ended, until
from tests.surfaces.http_node import NEVER_ENDS

IMAGE = {"kind": "image", "prompt": "a red circle", "model": "herd-tiny-image", "width": 64, "height": 64, "steps": 2}
LONG_IMAGE = IMAGE | {"steps": 6}
ENDLESS_IMAGE = IMAGE | {"steps": 200}
LONG_CHAT = {
    "kind": "chat",
    "model": "herd-tiny-chat",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 3000,
    "sampling": {"logit_bias": NEVER_ENDS},
}


class Faulty(Program):
    """A home with a node that is started, killed and started again, and what it accepted."""

    node: subprocess.Popen[str] | None = None

    def __init__(self, home: Path, **variables: str) -> None:
        super().__init__(home, **variables)
        self._open: list[http.client.HTTPConnection] = []
        self._answers: list[http.client.HTTPResponse] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """The node, once it answers; in the end it and its engines are dead."""
        with ended(self.up()) as _, contextlib.ExitStack() as stack:
            stack.callback(self.leave)
            yield self.node_process()

    def up(self, *words: str) -> subprocess.Popen[str]:
        (self.home / "run" / "node.json").unlink(missing_ok=True)
        self.node = super().up(*words)
        return self.node

    def node_process(self) -> subprocess.Popen[str]:
        assert self.node is not None
        return self.node

    def kill(self) -> None:
        """SIGKILL for the node; returns when it and its engines are gone."""
        node = self.node_process()
        node.kill()
        node.wait(30)
        self.leave()
        until(lambda: not self.processes())

    def leave(self) -> None:
        """Close the connections of those who asked."""
        for answer in self._answers:
            answer.close()
        for connection in self._open:
            connection.close()
        self._answers, self._open = [], []

    # ── over HTTP ──

    def ask(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """A request with the node's token. Its connection is open until `leave`: an asker that goes away cancels."""
        record = self.record
        assert record is not None
        connection = http.client.HTTPConnection("127.0.0.1", record["port"], timeout=60)
        self._open.append(connection)
        headers = {"Authorization": f"Bearer {record['token']}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        self._answers.append(response)
        return response

    def get(self, path: str) -> Any:
        data = json.loads(self.ask("GET", path).read())
        self._open.pop().close()
        self._answers.pop().close()
        return data

    def submit(self, request: dict[str, Any]) -> str:
        """The id of an accepted job; a refusal is an AssertionError with its words."""
        response = self.ask("POST", "/herd/api/jobs", request)
        assert response.status == 200, response.read()
        job_id = response.headers["X-Herd-Job"]
        assert job_id is not None
        return job_id

    def refusal(self, request: dict[str, Any]) -> dict[str, Any]:
        """The error that a request is answered with, at once or in the job's outcome."""
        response = self.ask("POST", "/herd/api/jobs", request)
        if response.status != 200:
            return dict(json.loads(response.read())["error"])
        job = self.over(response.headers["X-Herd-Job"])
        assert job.error is not None, job
        return job.error.model_dump(mode="json")

    def job(self, job_id: str) -> Job:
        return Job.model_validate(self.get(f"/herd/api/jobs/{job_id}"))

    def over(self, job_id: str, limit_s: float = 120) -> Job:
        """The job, once it has its outcome."""
        until(lambda: self.job(job_id).status in ENDED, limit_s)
        return self.job(job_id)

    def is_(self, job_id: str, status: str) -> None:
        """Wait until the job has this status."""
        until(lambda: self.job(job_id).status == status)

    def engine_pid(self, kind: str = "image") -> int:
        """The pid of the engine, once there is one."""
        found: list[int] = []

        def look() -> bool:
            engines = self.get("/herd/api/status")["nodes"][0]["engines"]
            found[:] = [engine["pid"] for engine in engines if engine["kind"] == kind and engine["pid"]]
            return bool(found)

        until(look)
        return found[0]

    # ── on disk ──

    @property
    def images(self) -> Path:
        return self.home / "images"

    def pictures(self) -> dict[str, tuple[int, int]]:
        """The pictures in the gallery with their sizes. Raises where one is not whole."""
        sizes = {}
        for path in self.images.glob("*.png"):
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                picture.load()
                sizes[path.stem] = picture.size
        return sizes

    def left_over(self) -> list[str]:
        """What lies in the spool."""
        return sorted(path.name for path in (self.images / ".spool").iterdir())


@contextlib.contextmanager
def a_home(folder: Path, **variables: str) -> Iterator[Faulty]:
    """A home in which no node runs yet; what a failed test leaves running is killed."""
    it = Faulty(folder / "home", **variables)
    try:
        yield it
    finally:
        it.leave()
        it.end()


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own at `folder`. Skips where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(folder)]
    if not _mounted(mount):
        pytest.skip("this user may not mount a file system: NOT TESTED with a full disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """`folder` cannot be written, by root neither. Skips where this user may not mount."""
    if not _mounted(["mount", "--bind", str(folder), str(folder)]):
        pytest.skip("this user may not mount a file system: NOT TESTED with a read-only home")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mounted(command: list[str]) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """A file that takes the room of `folder`'s file system, but for `leave_bytes`."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        for _ in range(max(0, room.f_bavail * room.f_frsize - leave_bytes) // 4096):
            file.write(bytes(4096))
            file.flush()
    return ballast
