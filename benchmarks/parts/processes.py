"""Processes to measure: a node in a home of its own, mlx-lm's server, peers that answer lines.

All end with their block.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

START_S = 120.0
"""Seconds that a process may take until it answers."""
END_S = 40.0
"""Seconds it may take to end by itself; a node drains its work first."""
MIB = 1024 * 1024
UP = (sys.executable, "-m", "herd_mcp", "up")


def environment(**variables: str) -> dict[str, str]:
    """This process's, without any setting that would change what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HERD_", "HF_", "MLX_"))}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Without a GPU, MLX compiles with the machine's C++ compiler: seconds at the first step, on whichever side.
    return {**kept, **offline, "MLX_DISABLE_COMPILE": "1", **variables}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that goes with the block. Its path is short: sockets may lie in it."""
    path = Path(tempfile.mkdtemp(prefix="hb-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def wait(look: Callable[[], T | None], what: str, limit_s: float = START_S) -> T:
    """What `look` gives as soon as it gives something. Raises TimeoutError."""
    until = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.02)
    return found


def end(pid: int) -> None:
    """Ask the process to end, and see that it does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(END_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(END_S)


# ── A node ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Node:
    home: Path
    pid: int
    port: int
    token: str


def node_environment(home: Path, **settings: str) -> dict[str, str]:
    """`settings` are HERD_* variables by their small names."""
    usual = {"port": "0", "node_name": "benchmark", "hf_cache": str(home / "no-cache")}
    every = {f"HERD_{name.upper()}": value for name, value in (usual | settings).items()}
    return environment(HERD_HOME=str(home), **every)


def record(home: Path) -> dict[str, Any] | None:
    """What a node that is up says about itself."""
    try:
        return dict(json.loads((home / "run" / "node.json").read_text()))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def node(command: Sequence[str] = UP, **settings: str) -> Iterator[Node]:
    """`herd-mcp up`, once it answers. What it logs is in the file `stderr` of its home."""
    with folder() as home, (home / "stderr").open("w+") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=node_environment(home, **settings),
        )
        try:
            found = wait(lambda: _record_of(home, process, Path(log.name)), "the node")
            yield Node(home, process.pid, found["port"], found["token"])
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            finally:
                process.kill()
                process.wait()


def _record_of(home: Path, process: subprocess.Popen[Any], log: Path) -> dict[str, Any] | None:
    """Raises RuntimeError when the node has ended instead of coming up."""
    if process.poll() is not None:
        raise RuntimeError(f"the node ended with {process.returncode}: {log.read_text()[-2000:]}")
    return record(home)


# ── Peers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def mlx_lm_server(model: Path) -> Iterator[int]:
    """The port of `mlx_lm.server` with this model, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(HF_HOME=cache),
        )
        try:
            wait(lambda: process.poll() is not None or _listens(port), "mlx_lm.server")
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"mlx_lm.server ended with {process.returncode}: {log.read()[-2000:]}")
            yield port
        finally:
            end(process.pid)
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Peer:
    """`python -m benchmarks.peers.NAME`: says one line of JSON when it is ready, then one for each line it gets."""

    def __init__(self, name: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.{name}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            text=True,
        )
        self.ready: dict[str, Any] = {}

    def __enter__(self) -> Peer:
        self.ready = self._answer()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._process as process:  # closes both pipes and waits
            process.terminate()

    def ask(self, question: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait()}")
        return dict(json.loads(line))


# ── What they hold ────────────────────────────────────────────────────────────────────────────────────────────────────


def resident_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / MIB


def cpu_s(pid: int) -> float:
    """Seconds of all cores that the process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
