"""What lies in a model's folder, checked before a loader trips over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from herd_mcp.jobs import ErrorCode, HerdError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")


def check_chat_checkpoint(folder: Path, model: str) -> None:
    """Raises HerdError(model_incomplete) that names every file that is missing or cut short."""
    if not folder.is_dir():
        raise _incomplete(model, ["its folder is not there any more"])
    problems = []
    if not isinstance(read_json(folder / "config.json"), dict):
        problems.append("config.json is missing or is not JSON")
    problems += _weight_problems(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        problems.append("the tokenizer is missing (tokenizer.json)")
    if problems:
        raise _incomplete(model, problems)


def read_json(path: Path) -> Any:
    """The parsed file, or None when it is absent or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _weight_problems(folder: Path) -> list[str]:
    index = read_json(folder / "model.safetensors.index.json")
    named = set(index["weight_map"].values()) if isinstance(index, dict) and "weight_map" in index else set()
    missing = sorted(name for name in named if not (folder / name).is_file())
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return [f"weights are missing: {shown}"]
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return ["the weights are missing (model*.safetensors)"]
    return [f"{file.name} is cut short or is not a safetensors file" for file in files if not _is_whole(file)]


def _is_whole(file: Path) -> bool:
    """Whether the file is as long as its own header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if header_bytes > size - 8:
                return False
            header = json.loads(stream.read(header_bytes))
        ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return bool(size >= 8 + header_bytes + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False


def damaged(model: str, why: str) -> HerdError:
    """All files are there and a loader tripped over what is in them."""
    return HerdError(
        ErrorCode.MODEL_INCOMPLETE, f"The model {model} is damaged: {why}.", "Download it again.", details={"why": why}
    )


def _incomplete(model: str, problems: list[str]) -> HerdError:
    return HerdError(
        ErrorCode.MODEL_INCOMPLETE,
        f"The model {model} cannot be loaded: {'; '.join(problems)}.",
        "Download it again.",
        details={"problems": problems},
    )
