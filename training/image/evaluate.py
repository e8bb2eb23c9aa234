"""Draws the held-out list with mflux, as the engine does, judges every picture, and writes the numbers down.

    uv run --group training python -m training.image.evaluate [--folder FOLDER] [--each 32] [--out FOLDER] [--card]

Writes `table.json` and `herd-tiny-image.png`, a sheet of the first pictures of every form.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.image import card, cases, config
from training.image.cases import Case
from training.image.judge import judge

SHEET_COLUMNS = 12
OTHER_STEPS = (2, 8)
Job = tuple[str, int, int, Case]
"""Form, side in pixels, steps, case."""


@dataclass
class Row:
    """One form at one size and one number of steps."""

    form: str
    px: int
    steps: int
    cases: int = 0
    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def share(self, thing: str) -> float:
        return self.right[thing] / self.asked[thing]

    def as_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "px": self.px,
            "steps": self.steps,
            "cases": self.cases,
            **{thing: round(self.share(thing), 4) for thing in self.right},
        }


@cache
def _model(folder: Path) -> Any:
    from herd_mcp.engines import image_load

    image_load.prepare_process()
    import mlx.core as mx

    mx.disable_compile()  # as the engine does where it runs on the CPU
    from herd_mcp.engines import builtin_image

    model = builtin_image.load(folder)
    model.generate_image(seed=0, prompt="warm", num_inference_steps=1, height=64, width=64)
    return model


def draw(folder: Path, prompt: str, seed: int, px: int, steps: int = 4) -> NDArray[np.uint8]:
    """One picture through mflux's own `generate_image`."""
    made = _model(folder).generate_image(seed=seed, prompt=prompt, num_inference_steps=steps, height=px, width=px)
    return np.array(made.image.convert("RGB"))


def _run(folder: Path, job: Job) -> NDArray[np.uint8]:
    _, px, steps, case = job
    return draw(folder, case.prompt, case.seed, px, steps)


def timings(folder: Path) -> dict[tuple[int, int], float]:
    """Seconds for one picture, warm and with nothing else running, by side and steps: the median of three."""
    draw(folder, "warm", 0, 128, 1)
    found = {}
    for px in (64, 128):
        for steps in (2, 4, 8):
            taken = []
            for seed in range(3):
                began = time.monotonic()
                draw(folder, f"a red circle {seed}", seed, px, steps)
                taken.append(time.monotonic() - began)
            found[px, steps] = sorted(taken)[1]
    return found


def jobs(each: int) -> list[Job]:
    forms = cases.held_out(each)
    every = [(form, px, 4, case) for px in (64, 128) for form, asked in forms.items() for case in asked]
    for px in (64, 128):
        # A mixture of all forms for the other step counts.
        mixed = [case for group in zip(*forms.values(), strict=True) for case in group][:each]
        every += [("mixed", px, steps, case) for steps in OTHER_STEPS for case in mixed]
    return every


def evaluate(folder: Path, each: int, workers: int) -> tuple[list[Row], NDArray[np.uint8]]:
    wanted = jobs(each)
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(_run, [folder] * len(wanted), wanted, chunksize=4))
    rows: dict[tuple[str, int, int], Row] = {}
    for (form, px, steps, case), picture in zip(wanted, drawn, strict=True):
        row = rows.setdefault((form, px, steps), Row(form, px, steps))
        row.cases += 1
        answers = judge(picture).right(case.scene)
        for thing, right in {**answers, "all": all(answers.values())}.items():
            row.right[thing] = row.right.get(thing, 0) + right
            row.asked[thing] = row.asked.get(thing, 0) + 1
    return list(rows.values()), sheet(list(zip(wanted, drawn, strict=True)))


def sheet(pictures: list[tuple[Job, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """A line of pictures for every form at 64 px, then at 128 px in half as many, then for other step counts."""
    lines: dict[tuple[str, int, int], list[NDArray[np.uint8]]] = {}
    for (form, px, steps, _), picture in pictures:
        lines.setdefault((form, px, steps), []).append(np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=200))
    width = SHEET_COLUMNS * 68
    strips = []
    for (_, px, _), drawn in lines.items():
        strip = np.concatenate(drawn[: width // (px + 4)], axis=1)
        strips.append(np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(strips)


def totals(rows: list[Row], px: int) -> dict[str, float]:
    """Over all forms of one size at four steps, each form as heavy as the other."""
    chosen = [row for row in rows if row.px == px and row.steps == 4]
    things = ("foreground", "background", "shape", "all")
    return {thing: sum(row.right[thing] for row in chosen) / sum(row.cases for row in chosen) for thing in things}


def table(rows: list[Row]) -> str:
    lines = [
        "| px | steps | form | cases | foreground | background | shape | size or place | all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        extra = ", ".join(f"{row.share(thing):.0%}" for thing in ("size", "place") if thing in row.right)
        shares = " | ".join(f"{row.share(thing):.0%}" for thing in ("foreground", "background", "shape"))
        lines.append(
            f"| {row.px} | {row.steps} | {row.form} | {row.cases} | {shares} | {extra} | {row.share('all'):.0%} |"
        )
    for px in (64, 128):
        overall = totals(rows, px)
        shares = " | ".join(f"**{overall[thing]:.1%}**" for thing in ("foreground", "background", "shape"))
        lines.append(f"| {px} | 4 | **all forms** | | {shares} | | **{overall['all']:.1%}** |")
    return "\n".join(lines) + "\n"


def timing_table(seconds: dict[tuple[int, int], float]) -> str:
    lines = ["| px | steps | seconds |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {px} | {steps} | {took:.1f} |" for (px, steps), took in seconds.items())]) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.image.evaluate")
    parser.add_argument("--folder", type=Path, default=config.FOLDER)
    parser.add_argument("--each", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--card", action="store_true", help="put the table into the model card")
    parser.add_argument("--machine", default=platform.processor() or platform.machine(), help="for the card")
    asked = parser.parse_args(arguments)
    seconds = timings(asked.folder)
    rows, picture = evaluate(asked.folder, asked.each, asked.workers)
    asked.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": asked.machine,
        "rows": [row.as_json() for row in rows],
        "seconds": [{"px": px, "steps": steps, "seconds": round(took, 2)} for (px, steps), took in seconds.items()],
    }
    (asked.out / "table.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = f"{table(rows)}\n{timing_table(seconds)}"
    (asked.out / "table.md").write_text(text, encoding="utf-8")
    Image.fromarray(picture).quantize(48, dither=Image.Dither.NONE).save(
        asked.out / "herd-tiny-image.png", optimize=True
    )
    if asked.card:
        card.add_results(asked.folder, text, asked.machine)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
