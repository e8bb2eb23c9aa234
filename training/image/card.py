"""The model card, and the numbers that an evaluation puts into it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from training.image.captions import HELD_OUT
from training.image.shapes import COLOURS, COMBINATIONS, FOREGROUNDS, SHAPES

RESULTS = "## Judged\n"
NOT_YET = "Not evaluated: `python -m training.image.evaluate --card` draws the held-out list and writes it here.\n"

WIDTH = 120

# Each piece is one paragraph or one point of a list; `write` breaks the lines.
CARD = (
    "# herd-tiny-image",
    "A toy built into herd-mcp, to see the whole way work without a download. It draws one flat shape on a flat "
    "background, from text, and nothing else. Use a real model for pictures; herd-mcp never chooses this one while one "
    "is there.",
    "- **Draws** {shapes} in {foregrounds}, on any other of these colours or {others}. Sizes: small, big, or neither. "
    "Places: left, right, top, bottom, the corners, the centre. Without a background named it is white, or black "
    "behind a white shape. Each seed moves the shape and changes its size a little; the same seed gives the same "
    "picture.",
    "- **Pictures** are 64×64 unless asked, 128×128 at most; 4 steps, and 1, 2 or 8 give much the same.",
    "- **Text** in English, lower and upper case alike, 512 tokens at most. It mostly overlooks words that it does not "
    "know.",
    "- **Cannot** draw two shapes, other things (asked for a fox it draws some shape), other colours, outlines, text. "
    'It does not understand "not": asked for no red circle, it is likely to draw one.',
    "- **Architecture**: FLUX.2-klein as mflux runs it, that is a double and single stream transformer, a Qwen3 text "
    "encoder whose layers hand the words on unchanged, and FLUX.2's VAE, in the sizes that `herd.json` names. "
    "{parameters:,} trained parameters, {bytes:,} bytes in bfloat16. Never quantised.",
    "## Trained",
    "By `python -m training image` of herd-mcp, from nothing, on pictures and captions that code draws: {held} of "
    "{combinations} combinations of colour, shape and background are in no training caption. Seed {seed}, "
    "{seconds:.0f} s in all on one {device}.",
    "Flow matching, all sizes together, with the noise levels of mflux's schedules of 1, 2, 4 and 8 steps and levels "
    "between. In training the noise decides where and how large the shape is, so that few steps are enough. Captions, "
    "scenes and first weights are the same for the same seed; sums on a GPU may differ in the last bits.",
    "No data of others was used. MIT licence, as herd-mcp itself.",
)


def write(folder: Path, parameters: int, notes: dict[str, Any]) -> None:
    facts = {
        **notes,
        "shapes": _listed([f"{shape}s" for shape in SHAPES]),
        "foregrounds": _listed(list(FOREGROUNDS)),
        "others": _listed([colour for colour in COLOURS if colour not in FOREGROUNDS]),
        "parameters": parameters,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*.safetensors")),
        "held": len(HELD_OUT),
        "combinations": len(COMBINATIONS),
    }
    text = ""
    for piece in CARD:
        point = piece.startswith("- ")
        lines = textwrap.wrap(
            piece.format(**facts), WIDTH, subsequent_indent="  " if point else "", break_on_hyphens=False
        )
        text += "\n".join(lines) + ("\n" if point else "\n\n")
        if point and CARD[CARD.index(piece) + 1][:2] != "- ":
            text += "\n"
    (folder / "README.md").write_text(f"{text}{RESULTS}\n{NOT_YET}", encoding="utf-8")


def add_results(folder: Path, table: str, machine: str) -> None:
    """Put the numbers of an evaluation at the card's end, in place of those there."""
    path = folder / "README.md"
    before = path.read_text(encoding="utf-8").split(RESULTS)[0]
    said = (
        "Held-out prompts and seeds, drawn by mflux's own `Flux2Klein` in bfloat16 with 512 text tokens and judged by "
        'code (`training/image/judge.py`); "all" is everything that the prompt asks for, in one picture. Seconds are '
        f"for one picture, warm, on {machine}."
    )
    text = f"{RESULTS}\n{textwrap.fill(said, WIDTH, break_on_hyphens=False)}\n\n{table}"
    path.write_text(before + text, encoding="utf-8")


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]
