"""Nodes of one's own for a while: the real program in temporary homes, of which nothing stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from herd_mcp.cli.run_dir import read_record
from herd_mcp.jobs import ErrorCode, HerdError

START_S = 60.0
STOP_S = 20.0


@dataclass
class TemporaryNode:
    """A running node. `env` makes this program's commands talk to it and to no other."""

    home: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return int((read_record(self.home) or {})["port"])

    @property
    def token(self) -> str:
        return str((read_record(self.home) or {})["token"])

    @property
    def log(self) -> str:
        """The last lines of what it wrote."""
        lines = (self.home / "node.stderr").read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])


def environment(home: Path, **ours: str) -> dict[str, str]:
    """This process's variables without those of nodes and model caches, so that only the built-in models are found,
    and with `ours`."""
    theirs = ("HERD_", "HF_", "MLX_MODEL_DIR")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return {
        **env,
        "HERD_HOME": str(home),
        "HERD_PORT": "0",
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        **ours,
    }


@contextlib.contextmanager
def temporary_node() -> Iterator[TemporaryNode]:
    """One node, as `temporary_nodes`."""
    with temporary_nodes({}) as (node,):
        yield node


@contextlib.contextmanager
def temporary_nodes(*variables: dict[str, str]) -> Iterator[list[TemporaryNode]]:
    """Start a node for each set of variables, wait until all answer, and take everything away at the end: their
    processes and their homes.

    SIGTERM and SIGHUP end the block as Ctrl-C does. The nodes also end by themselves when this process does, however
    that happens: their stdin is our pipe. Raises HerdError(no_node) with the end of the log of one that does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="herd-"))
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    nodes: list[TemporaryNode] = []
    try:
        try:
            for number, ours in enumerate(variables):
                nodes.append(_start(folder / str(number), ours))
            for node in nodes:
                _wait_until_up(node)
            yield nodes
        finally:
            end(*(node.process for node in nodes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(home: Path, ours: dict[str, str]) -> TemporaryNode:
    home.mkdir(mode=0o700)
    env = environment(home, **ours)
    with (home / "node.stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "herd_mcp", "up", "--until-eof"],
            env=env,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C reaches us, and we end it in order
        )
    return TemporaryNode(home, env, process)


def _wait_until_up(node: TemporaryNode) -> None:
    deadline = time.monotonic() + START_S
    while read_record(node.home) is None:
        if node.process.poll() is not None or time.monotonic() > deadline:
            raise HerdError(
                ErrorCode.NO_NODE,
                f"The temporary node did not start. The end of its log:\n{node.log}",
                "`herd-mcp doctor` looks at this machine.",
            )
        time.sleep(0.02)


def end(*processes: subprocess.Popen[bytes]) -> None:
    """End nodes and everything they started: in order, then by force. A second Ctrl-C is force at once."""
    families = [member for process in processes for member in _family(process.pid)]
    try:
        for process in processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        deadline = time.monotonic() + STOP_S
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        families += [member for process in processes for member in _family(process.pid)]
    finally:
        ours = {process.pid for process in processes}
        for member in families:
            with contextlib.suppress(psutil.Error):
                if member.is_running() and member.pid not in ours:
                    member.kill()
        for process in processes:
            process.kill()
            process.wait()


def _family(pid: int) -> list[psutil.Process]:
    """The process and all below it; psutil compares start times, so a reused pid is not mistaken."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []
