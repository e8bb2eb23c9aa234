"""What an engine really holds: `python -m benchmarks.parts.held JSON` loads one, works, and tells bytes as JSON.

In a process of its own, since MLX counts per process. The engine is driven without its pipe: MLX's own counters are
read between its steps.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from herd_mcp.pipe import EngineSpec, Message, RunFailed, Start

LIMIT_S = 1800.0


def measure(question: dict[str, Any]) -> dict[str, int]:
    """Ask a new process. Raises RuntimeError with what it said when it fails.

    Chat: {path, rows, prompt_tokens, answer_tokens, prompt_cache_bytes}. Image: {path, family, px}.
    """
    from benchmarks.parts.processes import environment

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.parts.held", json.dumps(question)],
        env=environment(),
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(run.stderr)
    told: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return told


def main(words: list[str]) -> None:
    question = json.loads(words[0])
    with tempfile.TemporaryDirectory() as spool:
        told = image(question, Path(spool) / "x.png") if "px" in question else chat(question)
    sys.stdout.write(json.dumps(told) + "\n")


def chat(question: dict[str, Any]) -> dict[str, int]:
    """As many chats at once as `rows`, each of one user message; one character is one token of the byte tokenizer."""
    import mlx.core as mx

    from benchmarks.parts.model import text
    from herd_mcp.engines.chat import ChatEngine
    from herd_mcp.engines.turns import Turn
    from herd_mcp.jobs import ChatRequest

    before = _resident()
    engine = ChatEngine(Turn(None, lambda: None, lambda _: None))
    ready = engine.load(
        EngineSpec(
            kind="chat", model="m", path=question["path"], prompt_cache_bytes=question.get("prompt_cache_bytes", 0)
        ),
        lambda _: None,
    )
    # As on a device for which prompts are quick: as many are computed together as ever are.
    engine._prefill_tokens_per_s = 1e12
    engine._time_prefill = lambda prefilled: None  # type: ignore[method-assign]
    mx.clear_cache()
    mx.reset_peak_memory()
    told = {"weights": ready.weights_bytes, "loaded": mx.get_active_memory(), "imported_resident": before}
    told["loaded_resident"] = _resident()
    ended: list[Message] = []

    def emit(message: Message) -> None:
        if message.ev in ("done", "failed", "cancelled"):
            ended.append(message)

    for number in range(question["rows"]):
        words = text(number, question["prompt_tokens"])
        request = ChatRequest.model_validate(
            {"messages": [{"role": "user", "content": words}], "max_tokens": question["answer_tokens"]}
        )
        start = Start(run=number, request=request)
        engine.admit(start, engine.prepare(start))
    prefill, told["resident"] = 0, 0
    while engine.settle(emit):
        engine.step(emit)
        if engine._batch._currently_processing:
            prefill = mx.get_peak_memory()
        told["resident"] = max(told["resident"], _resident())
    failed = [message for message in ended if isinstance(message, RunFailed)]
    if failed:
        raise RuntimeError(str(failed[0].error))
    told |= {"prefill_peak": prefill, "peak": mx.get_peak_memory(), "after": mx.get_active_memory()}
    return told


def image(question: dict[str, Any], spool: Path) -> dict[str, int]:
    """One image of `px` × `px`, two steps."""
    from herd_mcp.engines.image import ImageEngine
    from herd_mcp.engines.turns import Turn
    from herd_mcp.jobs import ImageRequest

    before = _resident()
    engine = ImageEngine(Turn(None, lambda: None, lambda _: None))
    ready = engine.load(
        EngineSpec(kind="image", model="m", path=question["path"], family=question["family"]), lambda _: None
    )
    import mlx.core as mx

    mx.clear_cache()
    mx.reset_peak_memory()
    told = {"weights": ready.weights_bytes, "loaded": mx.get_active_memory(), "imported_resident": before}
    told["loaded_resident"] = _resident()
    px = question["px"]
    engine._family = dataclasses.replace(engine._family, max_px=px)  # also what the toy is too small to draw well
    request = ImageRequest(prompt="a red circle", width=px, height=px, steps=2)
    start = Start(run=0, request=request, spool=str(spool))
    prepared = engine.prepare(start)
    engine.admit(start, prepared)
    ended: list[Message] = []
    steps: list[int] = []

    def emit(message: Message) -> None:
        steps.append(mx.get_peak_memory())
        ended.append(message)

    engine.step(emit)
    if isinstance(ended[-1], RunFailed):
        raise RuntimeError(str(ended[-1].error))
    told |= {"peak": mx.get_peak_memory(), "steps_peak": steps[-2], "after": mx.get_active_memory()}
    told["resident"] = _resident()
    return told


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(sys.argv[1:])
