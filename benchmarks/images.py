"""Images of the built-in model: warm through the node, against a process per image and against bare mflux.

The process per image is how command-line wrappers run mflux; the bare call is `generate_image` in a process that has
loaded the model, and tells what the node costs. Also how soon the engine is idle after a cancel, in steps.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts import http, machine, processes
from benchmarks.parts.measure import Goal, Row, interleave, row
from benchmarks.parts.report import Report, parser

MODEL = "herd-tiny-image"
PX, STEPS = 64, 4
LONG_STEPS = 200
CANCEL_AFTER = 5
"""Steps before the cancel: enough to know how long one is."""
PROCESS = "a process per image"
ABOUT = f"{MODEL}, {PX}×{PX} pixels, {STEPS} steps: a warm engine behind HTTP, against mflux without a node."
NOTES = (
    "The node adds at most 30 ms or 5 % of the bare call. It also syncs the picture to disk, records and sends it; "
    "the bare call returns it.",
    "Cancels come spread evenly over a step; one takes effect at the end of the step.",
)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one image."""

    whole: float
    drawing: float

    @property
    def rest(self) -> float:
        """Starting, importing, loading and writing; through a warm node little of it."""
        return self.whole - self.drawing


def question(pair: int) -> dict[str, Any]:
    """The same for every side, and a new prompt for each pair, since mflux remembers the encoding of old ones."""
    return {"prompt": f"a red circle, number {pair}", "px": PX, "steps": STEPS}


def through_the_node(node: processes.Node, pair: int) -> Seconds:
    """From the request to the last byte of the picture; of that the drawing, as the engine tells it."""
    asked = question(pair)
    size = {"width": asked["px"], "height": asked["px"], "steps": asked["steps"]}
    body = {"model": MODEL, "prompt": asked["prompt"], "seed": 1, **size}
    began = time.monotonic()
    headers, picture = asyncio.run(http.answer(node.port, "POST", "/api/generate-image", body))
    whole_s = time.monotonic() - began
    if b"\x89PNG" not in picture:
        raise http.BadAnswer("that is no picture")
    return Seconds(whole_s, int(headers["x-generation-time"]) / 1000)


def in_a_process(file: Path, pair: int) -> Seconds:
    """The whole life of a process for one image, and of that the drawing."""
    asked = json.dumps({**question(pair), "file": str(file)})
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.image_bare", "--once", asked],
        env=processes.environment(),
        capture_output=True,
        check=True,
    )
    return Seconds(time.monotonic() - began, json.loads(run.stdout)["seconds"])


async def cancel(node: processes.Node, pair: int, phase: float) -> tuple[float, float]:
    """Seconds from the cancel until no engine has work, and the seconds of a step before it.

    `phase` is the part of a step that has passed at the cancel.
    """
    token = f"Authorization: Bearer {node.token}"
    body = {"kind": "image", "model": MODEL, "prompt": f"number {pair}", "width": PX, "height": PX, "steps": LONG_STEPS}
    job_id, times = "", []
    async with (
        asyncio.timeout(http.LIMIT_S),
        http.request(node.port, "POST", "/herd/api/jobs", body, token) as (
            _,
            reader,
        ),
    ):
        async for data in http.events(reader):
            event = json.loads(data)
            job_id = event["job_id"]
            if event["type"] == "progress" and event["step"] > 0:
                times.append(time.monotonic())
            if len(times) > CANCEL_AFTER:
                break
        step_s = statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
        await asyncio.sleep(phase * step_s)
        began = time.monotonic()
        await http.answer(node.port, "DELETE", f"/herd/api/jobs/{job_id}", None, token)
        while await _running(node, token):
            pass
        idle_s = time.monotonic() - began
    return idle_s, step_s


async def _running(node: processes.Node, token: str) -> int:
    status = await http.answer_json(node.port, "GET", "/herd/api/status", token)
    return sum(engine["running"] for told in status["nodes"] for engine in told["engines"])


def measure(pairs: int) -> Report:
    before = machine.load()
    with processes.folder() as folder, processes.node() as node, processes.Peer("image_bare") as bare:

        def ours(pair: int) -> Seconds:
            return through_the_node(node, pair)

        def called(pair: int) -> Seconds:
            drawing = float(bare.ask(question(pair))["seconds"])
            return Seconds(drawing, drawing)

        def started(pair: int) -> Seconds:
            return in_a_process(folder / "image.png", pair)

        sides = (ours, called, started)
        for side in sides:  # loads, and fills the system's cache
            side(-1)
        warm, bare_calls, whole = interleave(sides, pairs)
        cancels = [asyncio.run(cancel(node, pair, (pair + 0.5) / pairs)) for pair in range(pairs)]
    return Report("images", ABOUT, rows_of(warm, bare_calls, whole, cancels), machine.look(before), pairs, NOTES)


def rows_of(
    warm: list[Seconds], called: list[Seconds], started: list[Seconds], cancels: list[tuple[float, float]]
) -> tuple[Row, ...]:
    added = [ours.whole - mflux.whole for ours, mflux in zip(warm, called, strict=True)]
    share_ms = 50 * statistics.median(mflux.whole for mflux in called)
    loud = (Goal("<=", 30, of="value"), Goal("<=", share_ms, of="value"))
    return (
        row("one image", "ms", _ms(warm, "whole"), _ms(started, "whole"), peer_name=PROCESS),
        row("of that, the drawing", "ms", _ms(warm, "drawing"), _ms(started, "drawing"), peer_name=PROCESS),
        row("the rest: start, load, write", "ms", _ms(warm, "rest"), _ms(started, "rest"), peer_name=PROCESS),
        row("one image", "ms", _ms(warm, "whole"), _ms(called, "whole"), peer_name="bare generate_image"),
        row("what the node adds", "ms", [1000 * one for one in added], (), *loud),
        row(
            "cancel until idle", "ms", [1000 * idle for idle, _ in cancels], [1000 * step for _, step in cancels],
            Goal("<=", 1.0), peer_name="one step",
        ),
    )  # fmt: skip


def _ms(images: list[Seconds], part: str) -> list[float]:
    return [1000 * float(getattr(one, part)) for one in images]


def main(argv: list[str]) -> int:
    asked = parser("images", __doc__).parse_args(argv)
    return measure(asked.pairs).show(as_json=asked.json)
