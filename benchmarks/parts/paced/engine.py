"""An engine of fixed pace over the real pipe, in place of the real worker: `python engine.py PACE`. Two cores
cannot show the speed of several Macs; engines that only wait can. Standard library only.

PACE is a JSON file: `{"load_s": 0.2, "step_s": 0.1, "token_s": 0.01}`, read at the start of the engine. A chat says
the words `w0 w1 …` up to its max_tokens, all runs one word per `token_s`; images are drawn one after the other. What a
request says may be a fault: `DIE n` (SIGKILL of the engine after n steps or words), `HANG n`.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

READY = {"ev": "ready", "weights_bytes": 1, "active_bytes": 1, "peak_bytes": 1, "context_tokens": 100_000}
FAULT = re.compile(r"(DIE|HANG) (\d+)")


def png(side: int = 16) -> bytes:
    """A grey square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * 3 * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Paced:
    def __init__(self, pace: dict[str, float], kind: str) -> None:
        self.pace, self.kind = pace, kind
        self.runs: dict[int, dict[str, Any]] = {}
        self.work = 0

    def say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def hear(self, command: dict[str, Any]) -> None:
        if command["op"] == "start":
            request = command["request"]
            said = request["prompt"] if self.kind == "image" else request["messages"][-1]["content"]
            fault = FAULT.search(said)
            count = (request.get("steps") or 4) if self.kind == "image" else (request.get("max_tokens") or 16)
            self.runs[command["run"]] = {
                "done": 0, "of": count, "spool": command["spool"], "request": request,
                "fault": (fault[1], int(fault[2])) if fault else None, "began": time.monotonic(),
            }  # fmt: skip
        elif command["op"] == "cancel" and self.runs.pop(command["run"], None):
            self.say({"ev": "cancelled", "run": command["run"]})

    def step(self) -> None:
        """One step of the image that came first, or one word of every chat."""
        told = []
        ended = []
        for number, run in list(self.runs.items())[: 1 if self.kind == "image" else None]:
            run["done"] += 1
            self.work += 1
            if run["fault"] and run["done"] >= run["fault"][1]:
                self.fail(run["fault"][0])
            brought: dict[str, Any] = {"run": number}
            if self.kind == "image":
                brought |= {"step": run["done"], "steps": run["of"]}
            else:
                brought |= {"text": f"w{run['done'] - 1} "}
            told.append(brought)
            if run["done"] >= run["of"]:
                ended.append(number)
        self.say({"ev": "step", "work": self.work, "runs": told})
        for number in ended:
            try:
                self.say({"ev": "done", "run": number, "facts": self.facts(self.runs.pop(number))})
            except OSError as error:
                full = {"code": "disk", "message": f"The picture could not be written: {error.strerror}.", "hint": ""}
                self.say({"ev": "failed", "run": number, "error": full | {"retryable": True}})

    def facts(self, run: dict[str, Any]) -> dict[str, Any]:
        took_s = time.monotonic() - run["began"]
        request = run["request"]
        if self.kind == "image":
            Path(run["spool"]).write_bytes(png())
            return {
                "kind": "image", "width": request.get("width") or 512, "height": request.get("height") or 512,
                "steps": run["of"], "seed": 1, "guidance": None, "quantize": None, "run_s": took_s,
            }  # fmt: skip
        return {
            "kind": "chat", "finish_reason": "length", "prompt_tokens": 10, "cached_tokens": 0,
            "completion_tokens": run["done"], "prefill_s": 0.001, "decode_s": took_s,
        }  # fmt: skip

    @staticmethod
    def fail(how: str) -> None:
        if how == "DIE":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(60)


def main() -> None:
    pace = json.loads(Path(sys.argv[1]).read_text())
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    kind = json.loads(read_line())["spec"]["kind"]
    engine = Paced(pace, kind)
    for fraction in (0.0, 0.5):
        engine.say({"ev": "loading", "fraction": fraction})
        time.sleep(pace["load_s"] / 2)
    engine.say(READY)
    every_s = pace["step_s"] if kind == "image" else pace["token_s"]
    due = time.monotonic() + every_s
    while True:
        wait_s = max(due - time.monotonic(), 0) if engine.runs else None
        if selector.select(wait_s):
            idle = not engine.runs
            engine.hear(json.loads(read_line()))
            if idle:
                due = time.monotonic() + every_s
        elif engine.runs:
            engine.step()
            due += every_s


def read_line() -> bytes:
    """A line of stdin, byte by byte: nothing may wait in a buffer that `select` does not see."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return line


if __name__ == "__main__":
    main()
