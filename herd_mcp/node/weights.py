"""Weight files read without loading them: are they whole, how many bytes, how quantised.

What lies in a model folder comes from strangers: a pipe, an endless device, a header that is no header or nested
without end is a broken model and nothing worse.
"""

from __future__ import annotations

import json
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_INDEX_BYTES = 64 * 1024 * 1024
INDEX = ".safetensors.index.json"


class Broken(Exception):
    """A file that cannot be loaded; the message says which and why, without its folder."""


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of bounded size. Raises Broken."""
    with _open(path) as file:
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise Broken(f"{_name(path)} is too large to be what it says")
    return _object(text, path)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one folder: those its index names, else all. Raises Broken when one is missing."""
    indexes = sorted(folder.glob(f"*{INDEX}"))
    if not indexes:
        files = sorted(folder.glob("*.safetensors"))
    else:
        maps = [read_json(index, MAX_INDEX_BYTES).get("weight_map") for index in indexes]
        if not all(isinstance(shards, dict) for shards in maps):
            raise Broken(f"{indexes[0].name} names no files")
        names = {str(name) for shards in maps if isinstance(shards, dict) for name in shards.values()}
        if any("/" in name or name.startswith(".") for name in names):
            raise Broken(f"{indexes[0].name} names files outside of its folder")
        files = [folder / name for name in sorted(names)]
    for file in files:
        _check_regular(file)
    return files


def whole_bytes(files: list[Path]) -> int:
    """The sum of the tensors' bytes. Raises Broken for a file that is shorter than its header says."""
    total = 0
    for file in files:
        # What a link of the Hugging Face cache points to never changes; size and time tell for the rest.
        status = _check_regular(file)
        total += _tensor_bytes(file, status.st_size, status.st_mtime_ns)
    return total


def metadata(file: Path) -> dict[str, Any]:
    """The safetensors metadata of one file, empty when it has none or cannot be read."""
    try:
        found = _header(file)[1].get("__metadata__", {})
    except Broken:
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=4096)
def _tensor_bytes(file: Path, size_bytes: int, changed_ns: int) -> int:
    del changed_ns  # part of the cache's key only
    header_bytes, header = _header(file)
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        raise Broken(f"{_name(file)} has a header that makes no sense") from None
    data_bytes = max(ends, default=0)
    if header_bytes + data_bytes > size_bytes:
        raise Broken(f"{_name(file)} is cut short; the download did not finish")
    return data_bytes


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begins, and what the header says of it."""
    with _open(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise Broken(f"{_name(file)} is not a safetensors file")
        text = stream.read(length)
    if len(text) < length or not length:
        raise Broken(f"{_name(file)} is cut short; the download did not finish")
    return 8 + length, _object(text, file)


def _object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise Broken(f"{_name(path)} is not JSON") from None
    if not isinstance(data, dict):
        raise Broken(f"{_name(path)} is not a JSON object")
    return data


def _open(path: Path) -> BinaryIO:
    """A regular file, open for reading. Not blocking: opening a pipe would wait for its other end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Broken(f"{_name(path)} is missing") from None
    except (OSError, ValueError) as error:
        raise Broken(f"{_name(path)} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Broken(f"{_name(path)} is not a file")
    return os.fdopen(descriptor, "rb")


def _check_regular(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Broken(f"{_name(path)} is missing; the download did not finish") from None
    except (OSError, ValueError) as error:
        raise Broken(f"{_name(path)} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Broken(f"{_name(path)} is not a file")
    return status


def _name(path: Path) -> str:
    """The file's name as text that can be told."""
    return path.name.encode("utf-8", "replace").decode()[:100]
