"""Weight files read without loading them: are they whole, how many bytes, how quantised."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_JSON_BYTES = 64 * 1024 * 1024
INDEX = ".safetensors.index.json"


class Broken(Exception):
    """A file that cannot be loaded; the message says which and why."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size. Raises Broken."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Broken(f"{path.name} is too large to be what it says")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Broken(f"{path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise Broken(f"{path.name} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise Broken(f"{path.name} is not a JSON object")
    return data


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one folder: those its index names, else all. Raises Broken when one is missing."""
    indexes = sorted(folder.glob(f"*{INDEX}"))
    if indexes:
        names = {str(name) for index in indexes for name in read_json(index).get("weight_map", {}).values()}
        for name in sorted(names):
            if "/" in name or name.startswith(".") or not (folder / name).is_file():
                raise Broken(f"{name} is missing; the download did not finish")
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def whole_bytes(files: list[Path]) -> int:
    """The sum of the tensors' bytes. Raises Broken for a file that is shorter than its header says."""
    total = 0
    for file in files:
        # What a link of the Hugging Face cache points to never changes; size and time tell for the rest.
        status = file.stat()
        total += _tensor_bytes(file, status.st_size, status.st_mtime_ns)
    return total


@lru_cache(maxsize=4096)
def _tensor_bytes(file: Path, size_bytes: int, changed_ns: int) -> int:
    del changed_ns  # part of the cache's key only
    header = _header(file, size_bytes)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    data_bytes = max(ends, default=0)
    if _header_bytes(file) + 8 + data_bytes > size_bytes:
        raise Broken(f"{file.name} is cut short; the download did not finish")
    return int(data_bytes)


def _header_bytes(file: Path) -> int:
    with file.open("rb") as stream:
        return int.from_bytes(stream.read(8), "little")


def _header(file: Path, size_bytes: int) -> dict[str, Any]:
    try:
        length = _header_bytes(file)
        if size_bytes < 8 or length > min(size_bytes - 8, MAX_HEADER_BYTES):
            raise Broken(f"{file.name} is not a whole safetensors file")
        with file.open("rb") as stream:
            stream.seek(8)
            header = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise Broken(f"{file.name} cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise Broken(f"{file.name} is not a safetensors file")
    return header


def metadata(file: Path) -> dict[str, str]:
    """The safetensors metadata of one file, empty when it has none or cannot be read."""
    try:
        found = _header(file, file.stat().st_size).get("__metadata__", {})
    except (Broken, OSError):
        return {}
    return found if isinstance(found, dict) else {}
