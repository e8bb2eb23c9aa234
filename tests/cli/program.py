"""The real program in a home of its own, as a person and as a service manager run it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

COMMAND = [sys.executable, "-m", "herd_mcp"]
TINY_IMAGE = ("image", "--model", "herd-tiny-image", "--width", "64", "--height", "64", "--steps", "2")
SLOW_IMAGE = ("image", "--model", "herd-tiny-image", "--width", "128", "--height", "128", "--steps", "200", "a hill")
TINY_CHAT = ("chat", "--model", "herd-tiny-chat", "--max-tokens", "8")


class Program:
    """Runs commands with HERD_HOME set to a folder of the test, on any free port."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HERD_", "HF_", "MLX_"))}
        self.env = {
            **env,
            "HERD_HOME": str(home),
            "HERD_PORT": "0",
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "MLX_DISABLE_COMPILE": "1",
            **variables,
        }

    def run(
        self, *words: str, text: str | None = None, timeout_s: float = 90, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            env={**self.env, **variables},
            timeout=timeout_s,
            check=False,
        )

    def data(self, *words: str) -> Any:
        """What a command prints with --json, after it has ended well."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A command as a process group of its own, so that Ctrl-C can be sent to it alone."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*COMMAND, *words], text=True, env=self.env, start_new_session=True, **options)

    def up(self, *words: str) -> subprocess.Popen[str]:
        """`herd-mcp up`, once it answers."""
        log = (self.home.parent / f"{self.home.name}.stderr").open("a+")
        with log:
            node = self.start("up", *words, stdout=subprocess.DEVNULL, stderr=log)
        until(lambda: self.record is not None or node.poll() is not None)
        assert node.poll() is None, self.stderr
        return node

    @property
    def record(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.home / "run" / "node.json").read_text()))
        except FileNotFoundError:
            return None

    @property
    def stderr(self) -> str:
        return (self.home.parent / f"{self.home.name}.stderr").read_text()

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started for this home."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("HERD_HOME") == str(self.home)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> None:
        """Kill what a failed test has left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def until(look: Callable[[], object], limit_s: float = 60) -> None:
    """Return when `look` is true; fail after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens in the block, the process does not outlive it."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
