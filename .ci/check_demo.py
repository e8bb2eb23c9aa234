"""Checks what `herd-mcp demo --json` printed and left behind. Usage: check_demo.py SCRATCH"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
from PIL import Image


def main(scratch: Path) -> None:
    report = json.loads((scratch / "demo.json").read_text())
    for step in report["steps"]:
        sys.stdout.write(f"{step['seconds']:6.2f} s  {step['what']}: {step['outcome'][:90]}\n")
    assert {model["name"] for model in report["models"]} == {"herd-tiny-chat", "herd-tiny-image"}
    assert report["chat"], "there was no answer"
    assert (report["stats"]["completed"], report["stats"]["absent"]) == (5, ["mac-2"]), report["stats"]
    first, later = report["images"][:2], report["images"][2:]
    assert {image["node"] for image in first} == {"mac-1", "mac-2"}, f"the images were not spread: {first}"
    again = [image for image in later if image["job_id"] == report["killed"]["job_id"]]
    tried = [(attempt["node"], attempt["outcome"]) for attempt in again[0]["placement"]["attempts"]]
    assert tried == [("mac-2", "node_lost"), ("mac-1", "completed")], tried
    vitals = report["health"]["vitals"]
    assert (vitals["nodes_total"], vitals["nodes_online"]) == (2, 1), vitals

    pictures = sorted((scratch / "here" / "herd-demo").glob("*.png"))
    assert len(pictures) == len(report["files"]) == 4, f"four images were expected in ./herd-demo, found {pictures}"
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
            assert min(image.size) >= 64, f"{picture.name} is {image.size}"

    assert not (scratch / "home" / ".herd").exists(), "the demo wrote into the home of the user"
    assert not list((scratch / "tmp").iterdir()), f"left behind: {list((scratch / 'tmp').iterdir())}"
    left = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if is_ours(process, scratch)]
    assert not left, f"processes left behind: {left}"


def is_ours(process: psutil.Process, scratch: Path) -> bool:
    words = process.info["cmdline"] or ()
    return process.pid != psutil.Process().pid and any(str(scratch / "env") in word for word in words)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
