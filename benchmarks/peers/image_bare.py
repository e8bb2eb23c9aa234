"""mflux without a node: `python -m benchmarks.peers.image_bare` draws one image per line of {prompt, px, steps}.

With `--once` it draws a single one, as command-line wrappers do, which start a process per image.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from herd_mcp.engines import image_load

image_load.prepare_process()  # before mflux is imported

import mlx.core as mx  # noqa: E402

import herd_mcp  # noqa: E402
from herd_mcp.engines import builtin_image  # noqa: E402

FOLDER = Path(herd_mcp.__file__).parent / "builtin" / "herd-tiny-image"


def main(words: list[str]) -> None:
    if mx.default_device().type == mx.DeviceType.cpu:
        mx.disable_compile()
    began = time.perf_counter()
    model = builtin_image.load(FOLDER)
    image_load.read_weights(model, lambda _: None)
    load_s = time.perf_counter() - began
    if words[:1] == ["--once"]:
        question = json.loads(words[1])
        image, seconds = draw(model, question)
        image.save(question["file"])
        _say({"load_s": load_s, "seconds": seconds})
        return
    _say({"load_s": load_s})
    for line in sys.stdin:
        _, seconds = draw(model, json.loads(line))
        _say({"seconds": seconds})


def draw(model: Any, question: dict[str, Any]) -> tuple[Any, float]:
    """The image, and how many seconds `generate_image` took."""
    began = time.perf_counter()
    drawn = model.generate_image(
        seed=1,
        prompt=question["prompt"],
        width=question["px"],
        height=question["px"],
        num_inference_steps=question["steps"],
    )
    return drawn, time.perf_counter() - began


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
