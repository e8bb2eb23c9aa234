"""An image as a PNG file that says how it was made."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from herd_mcp.engines.image_request import Drawing
from herd_mcp.pipe import ImageFacts


def describe(model: str, drawing: Drawing, facts: ImageFacts) -> dict[str, Any]:
    """What is embedded: enough to draw the image again, nothing about the machine, the user or the time."""
    return {
        "model": model,
        "prompt": drawing.prompt,
        "negative_prompt": drawing.negative_prompt,
        "seed": facts.seed,
        "steps": facts.steps,
        "guidance": facts.guidance,
        "width": facts.width,
        "height": facts.height,
        "quantize": facts.quantize,
        "image_strength": drawing.strength,
        "software": f"herd-mcp {version('herd-mcp')}, mflux {version('mflux')}",
    }


def write_png(image: Image.Image, path: Path, description: dict[str, Any]) -> None:
    """Write to a temporary name beside `path`, then rename. Raises OSError; then nothing is left behind.

    Text chunks: `Software`, `parameters` (the line that image programs show), `herd` (all of it, as JSON).
    """
    info = PngInfo()
    info.add_text("Software", description["software"])
    info.add_text("parameters", _parameters(description))
    info.add_text("herd", json.dumps(description))
    part = path.with_name(path.name + ".part")
    try:
        image.save(part, format="PNG", pnginfo=info)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _parameters(description: dict[str, Any]) -> str:
    lines = [description["prompt"]]
    if description["negative_prompt"]:
        lines.append(f"Negative prompt: {description['negative_prompt']}")
    values = [f"Steps: {description['steps']}", f"Seed: {description['seed']}"]
    if description["guidance"] is not None:
        values.append(f"CFG scale: {description['guidance']:g}")
    values += [f"Size: {description['width']}x{description['height']}", f"Model: {description['model']}"]
    return "\n".join([*lines, ", ".join(values)])
