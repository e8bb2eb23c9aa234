"""Checks what `herd-mcp demo --json` printed and left behind. Usage: check_demo.py SCRATCH"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
from PIL import Image


def main(scratch: Path) -> None:
    report = json.loads((scratch / "demo.json").read_text())
    assert isinstance(report, dict), f"an object was expected, not {report!r}"
    sys.stdout.write(json.dumps(report, indent=1)[:2000] + "\n")

    pictures = sorted((scratch / "here" / "herd-demo").glob("*.png"))
    assert len(pictures) == 2, f"two images were expected in ./herd-demo, found {pictures}"
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
            assert min(image.size) >= 64, f"{picture.name} is {image.size}"

    assert not (scratch / "home" / ".herd").exists(), "the demo wrote into the home of the user"
    assert not list((scratch / "tmp").iterdir()), f"left behind: {list((scratch / 'tmp').iterdir())}"
    left = [p.info for p in psutil.process_iter(["pid", "exe", "cmdline"]) if _is_ours(p, scratch)]
    assert not left, f"processes left behind: {left}"


def _is_ours(process: psutil.Process, scratch: Path) -> bool:
    return process.pid != psutil.Process().pid and any(
        str(scratch / "env") in part for part in process.info["cmdline"] or ()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
