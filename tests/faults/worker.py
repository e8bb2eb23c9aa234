"""The real worker, with two seams: it loads models that bring their own code, and one fault strikes where the test
says, once: `python worker.py FOLDER POINT SIGNAL`. FOLDER/struck tells that it has. Three are no signals: with `IN_C`
the process goes into C code that holds the interpreter and does not come back, so that no thread of it can do anything;
`MEMORY` is an allocation that fails as on Metal (on the CPU it would be a SIGSEGV); with `GROW` it takes more memory
than anybody reserved for it, and stands still."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from herd_mcp.engines import worker

GROWN_BYTES = 3 << 29


def strike() -> None:
    """The fault, if it did not strike an engine before this one."""
    folder, _, name = sys.argv[1:4]
    try:
        os.close(os.open(Path(folder) / "struck", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if name == "MEMORY":
        raise RuntimeError("[malloc_or_wait] Unable to allocate 8589934592 bytes.")
    if name == "GROW":
        taken = b"x" * GROWN_BYTES
        time.sleep(len(taken))  # for ever
    if name == "IN_C":
        ctypes.PyDLL(None).sleep(3600)
    else:
        os.kill(os.getpid(), getattr(signal, name))


def in_chat(point: str) -> None:
    from herd_mcp.engines import chat

    engine: Any = chat.ChatEngine
    step, hear = engine.step, engine._hear

    def strike_in_prefill(self: Any, emit: Any) -> bool:
        busy = step(self, emit)
        if any(run.prefilled_tokens and not run.completion_tokens for run in self._runs.values()):
            strike()
        return bool(busy)

    def strike_in_decode(self: Any, run: Any, *rest: Any) -> None:
        hear(self, run, *rest)
        if run.completion_tokens == 3:
            strike()

    if point == "prefill":
        engine.step = strike_in_prefill
    elif point == "decode":
        engine._hear = strike_in_decode


def in_images(point: str) -> None:
    from herd_mcp.engines import image

    module: Any = image
    call, write_png = module._Watcher.call_in_loop, module.write_png

    def strike_between_steps(self: Any, t: int, *rest: Any, **more: Any) -> None:
        call(self, t, *rest, **more)
        if t == 1 and self.run.number >= 0:
            strike()

    def strike_while_it_saves(picture: Any, path: Path, description: Any) -> None:
        path.with_name(path.name + ".part").write_bytes(b"\x89PNG half")
        strike()
        write_png(picture, path, description)

    if point == "step":
        module._Watcher.call_in_loop = strike_between_steps
    elif point == "save":
        module.write_png = strike_while_it_saves


def main() -> None:
    point = sys.argv[2]
    make = worker.make_engine

    def make_engine(kind: Any, turn: Any) -> Any:
        engine = make(kind, turn)
        load = engine.load

        def trusting(spec: Any, report: Any) -> Any:
            def told(fraction: float) -> None:
                report(fraction)
                if point == "load" and fraction > 0.5:
                    strike()

            return load(spec.model_copy(update={"trust_remote_code": True}), told)

        engine.load = trusting  # type: ignore[method-assign]
        in_chat(point) if kind == "chat" else in_images(point)
        return engine

    worker.make_engine = make_engine
    worker.main()


if __name__ == "__main__":
    main()
