"""An engine that does what a test dictates, over the real pipe. Started by the node in place of the real worker:
`python engine.py FOLDER`. Standard library only, so that it is up in a moment.

FOLDER/script.json says for each model what its first, second, … engine does; the last goes on for all that follow:
`{"load": [op, …], "run": [op, …], "runs": {"<prompt>": [op, …]}}`. What is left out goes well. An op is a list of a
verb and what it needs; see `Engine`. FOLDER/pids and FOLDER/starts tell afterwards who lived and what was begun,
FOLDER/limits and FOLDER/max_tokens what it was told to keep and to answer at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

READY = {"ev": "ready", "weights_bytes": 1, "active_bytes": 1, "peak_bytes": 1}
PNG = b"\x89PNG\r\n\x1a\n"
Op = list[Any]


class Engine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = 0
        self.run = -1
        self.start: dict[str, Any] = {}
        self.note("pids", f"{os.getpid()}")

    def note(self, file: str, line: str) -> None:
        with (self.folder / file).open("a") as notes:
            notes.write(line + "\n")

    def serve(self) -> None:
        spec = json.loads(sys.stdin.buffer.readline())["spec"]
        self.kind, self.model = spec["kind"], spec["model"]
        acts = json.loads((self.folder / "script.json").read_text()).get(self.model, [{}])
        mine = self.folder / f"{self.model}.engines"
        number = len(mine.read_text()) if mine.exists() else 0
        self.note(mine.name, "")
        last_run = self.folder / f"{self.model}.last_run"
        self.old_run = int(last_run.read_text()) if last_run.exists() else -1
        act = acts[min(number, len(acts) - 1)]
        self.obey(act.get("load", [["say", {"ev": "loading", "fraction": 0}], ["say", READY]]))
        for line in sys.stdin.buffer:
            command = json.loads(line)
            if command["op"] == "limit":
                self.note("limits", f"{self.model} {command['prompt_cache_bytes']}")
            if command["op"] != "start":
                continue
            self.start, self.run = command, command["run"]
            self.note("starts", f"{self.model} {self.prompt}")
            self.note("max_tokens", f"{command['request'].get('max_tokens')}")
            (self.folder / f"{self.model}.last_run").write_text(str(self.run))
            self.obey(act.get("runs", {}).get(self.prompt, act.get("run", [["answer"]])))

    @property
    def prompt(self) -> str:
        request = self.start["request"]
        return str(request["prompt"] if self.kind == "image" else request["messages"][-1]["content"])[:40]

    def obey(self, ops: list[Op]) -> None:
        for verb, *rest in ops:
            getattr(self, "do_" + verb)(*rest)

    # ── words ──

    def do_say(self, message: Any) -> None:
        """A message. `RUN`: the run just started, `OLD`: the last of the engine before, `MORE`: more work."""
        self.do_raw(json.dumps(self.filled(message)) + "\n")

    def filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.filled(inner) for inner in value]
        if value == "MORE":
            self.work += 1
            return self.work
        if value == "OLD":
            return self.old_run
        return self.run if value == "RUN" else value

    def do_raw(self, text: str) -> None:
        """Bytes, as latin-1."""
        self.write(text.encode("latin-1"))

    def do_answer(self) -> None:
        """The run as it should be."""
        self.do_say({"ev": "step", "work": "MORE", "runs": [self.brought()]})
        facts: dict[str, Any] = {"kind": "chat", "finish_reason": "stop", "prompt_tokens": 1, "cached_tokens": 0}
        facts |= {"completion_tokens": 1, "prefill_s": 0.1, "decode_s": 0.1}
        if self.kind == "image":
            facts = {"kind": "image", "width": 64, "height": 64, "steps": 1, "seed": 1, "guidance": None}
            facts |= {"quantize": None, "run_s": 0.1}
            Path(self.start["spool"]).write_bytes(PNG)
        self.do_say({"ev": "done", "run": self.run, "facts": facts})

    def brought(self) -> dict[str, Any]:
        return {"run": self.run} | ({"step": 1, "steps": 1} if self.kind == "image" else {"text": "ok"})

    def do_forever(self, ops: list[Op], pause_s: float = 0.0) -> None:
        while True:
            self.obey(ops)
            time.sleep(pause_s)

    def do_closer(self, pause_s: float) -> None:
        """Loading that comes nearer to its end for ever and never there."""
        fraction = 0.0
        while True:
            fraction += (1 - fraction) / 50
            self.do_say({"ev": "loading", "fraction": fraction})
            time.sleep(pause_s)

    def do_flood(self, what: Any) -> None:
        """A message or a text for ever, as fast as it goes; FOLDER/written tells how many bytes were taken."""
        text = what if isinstance(what, str) else json.dumps(self.filled(what)) + "\n"
        data, written = text.encode("latin-1") * (1 + 65536 // len(text)), 0
        while True:
            (self.folder / "written").write_text(str(written))
            self.write(data)
            written += len(data)

    @staticmethod
    def write(data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    # ── deeds ──

    def do_signal(self, name: str) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    def do_exit(self, code: int) -> None:
        os._exit(code)

    def do_hang(self) -> None:
        while True:
            time.sleep(60)

    def do_hold(self) -> None:
        """Read on, and leave this run open."""

    def do_await(self, name: str) -> None:
        """Go on when the test has made FOLDER/name."""
        while not (self.folder / name).exists():
            time.sleep(0.01)

    def do_grow(self, most_mib: int) -> None:
        """Take memory for ever, but at most so much."""
        taken: list[bytes] = []
        while len(taken) * 64 < most_mib:
            taken.append(b"x" * (64 << 20))
            time.sleep(0.02)
        self.do_hang()

    def do_close(self) -> None:
        """No more words, but alive; nor does it go when asked."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(1)

    def do_fork(self, where: str) -> None:
        """A child that holds the pipes open; `away`: out of the engine's process group."""
        if os.fork() == 0:
            if where == "away":
                os.setsid()
            self.note("pids" if where != "away" else "strangers", f"{os.getpid()}")
            self.do_hang()

    def do_damage(self) -> None:
        """Half a picture where the whole one belongs."""
        Path(self.start["spool"]).write_bytes(PNG[:4])

    def do_kill_node(self) -> None:
        """Once the node has written down that the run began."""
        with contextlib.closing(sqlite3.connect(Path(os.environ["HERD_HOME"]) / "herd.db", timeout=60)) as disk:
            while not disk.execute("SELECT 1 FROM jobs WHERE status = 'running'").fetchone():
                time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)


if __name__ == "__main__":
    Engine(Path(sys.argv[1])).serve()
