"""The models on this Mac's disk: found, not registered. Nothing is downloaded, moved or changed here."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from herd_mcp.node import weights
from herd_mcp.node.image_families import ImageFamily, family_of_folder, stored_bits
from herd_mcp.node.weights import Broken
from herd_mcp.settings import Settings
from herd_mcp.state import ModelInfo, Source

log = logging.getLogger(__name__)

MAX_FOLDERS = 2_000
"""Folders looked at in one place; more are left out."""

BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
"""As the engine has them."""


def find_models(settings: Settings, home: Path) -> list[ModelInfo]:
    """Every model in the package, HERD_HOME/models, the settings' folders and the Hugging Face cache.

    Reads file headers only; takes milliseconds per model. The first of two models with one name wins.
    """
    found: dict[str, ModelInfo] = {}
    for info in _all(settings, home):
        found.setdefault(info.name.lower(), info)
    return list(found.values())


def _all(settings: Settings, home: Path) -> Iterator[ModelInfo]:
    for folder in _subfolders(BUILTIN_FOLDER):
        yield from _look(folder, folder.name, "builtin")
    own = home / "models"
    for place in (own, *(folder.expanduser() for folder in settings.model_dirs)):
        source: Source = "herd" if place == own else "folder"
        yield from _look(place, place.name, source)
        for folder in _subfolders(place):
            yield from _look(folder, folder.name, source)
            for inner in _subfolders(folder):  # organisation/model, as the Hugging Face command lays them out
                yield from _look(inner, f"{folder.name}/{inner.name}", source)
    for repository in _subfolders(hub_cache(settings)):
        if repository.name.startswith("models--") and (snapshot := _snapshot(repository)):
            yield from _look(snapshot, repository.name.removeprefix("models--").replace("--", "/"), "huggingface")


def hub_cache(settings: Settings) -> Path:
    """The Hugging Face cache, by the rules of its own library."""
    return (settings.hf_cache or Path(constants.HF_HUB_CACHE)).expanduser()


def _subfolders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if _is_folder(entry))
    except OSError:
        return []
    return [place / name for name in names[:MAX_FOLDERS]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder with a name that can be told; also not a link that leads nowhere or in a circle."""
    try:
        return entry.name.isprintable() and not entry.name.startswith(".") and entry.is_dir()
    except OSError:
        return False


def _snapshot(repository: Path) -> Path | None:
    """The revision that `main` points to, else the newest."""
    try:
        revision = (repository / "refs" / "main").read_text().strip()
    except OSError:
        revision = ""
    if revision and "/" not in revision and (repository / "snapshots" / revision).is_dir():
        return repository / "snapshots" / revision
    snapshots = _subfolders(repository / "snapshots")
    return max(snapshots, key=lambda folder: folder.stat().st_mtime, default=None)


def _look(folder: Path, name: str, source: Source) -> Iterator[ModelInfo]:
    """The model in one folder, if there is one. Whatever is odd about it stays its own affair."""
    try:
        if family := family_of_folder(folder, name):
            yield _image_model(folder, name, source, family)
        elif os.path.lexists(folder / "config.json") and (info := _chat_model(folder, name, source)) is not None:
            yield info
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        log.warning("the folder of the model %s makes no sense: %r", name, error)


# ── Chat ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _chat_model(folder: Path, name: str, source: Source) -> ModelInfo | None:
    """None for what is no text model: embedders, speech, classifiers."""
    problem = ""
    size_bytes = 0
    config: dict[str, Any] = {}
    try:
        config = weights.read_json(folder / "config.json")
        if not _is_text_generator(config):
            return None
        files = weights.weight_files(folder)
        if not files:
            raise Broken("there are no safetensors files; the download did not finish, or it is not an MLX model")
        size_bytes = weights.whole_bytes(files)
        if not any(
            (folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
        ):
            raise Broken("the tokenizer is missing")
    except Broken as error:
        problem = str(error)
    complete = not problem
    supported = architecture(config) in chat_architectures()
    if not supported:
        problem = problem or f"mlx-lm has no architecture {_told(config.get('model_type'))!r}"
    quantization = config.get("quantization") or config.get("quantization_config")
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    return ModelInfo(
        name=name,
        aliases=_short_names(name),
        kind="chat",
        family=_told(config.get("model_type", "")),
        source=source,
        path=str(folder),
        bytes=size_bytes,
        complete=complete,
        supported=supported,
        problem=problem,
        bits=bits if isinstance(bits, int) else None,
        context_tokens=_context_tokens(config),
    )


def _is_text_generator(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return architecture(config) in chat_architectures()
    return any(str(name).endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in architectures)


def architecture(config: dict[str, Any]) -> str:
    """The module of mlx-lm that loads it."""
    kind = str(config.get("model_type", ""))
    return _remapped().get(kind, kind)


def _context_tokens(config: dict[str, Any]) -> int | None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 1:
                return value
    return None


@cache
def chat_architectures() -> frozenset[str]:
    """What mlx-lm can load, from the names of its files: importing it would bring MLX into the node."""
    folder = mlx_lm_folder()
    names = {file.stem for file in (folder / "models").glob("*.py")} if folder else set()
    return frozenset(name for name in names if not name.startswith("_"))


@cache
def _remapped() -> dict[str, str]:
    """mlx-lm's MODEL_REMAPPING, read from its source for the same reason."""
    folder = mlx_lm_folder()
    if folder is None:
        return {}
    for node in ast.parse((folder / "utils.py").read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["MODEL_REMAPPING"]:
            return dict(ast.literal_eval(node.value))
    return {}


def mlx_lm_folder() -> Path | None:
    """Where mlx-lm lies, found without importing it."""
    spec = importlib.util.find_spec("mlx_lm")
    return Path(spec.origin).parent if spec and spec.origin else None


# ── Images ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _image_model(folder: Path, name: str, source: Source, family: ImageFamily) -> ModelInfo:
    files = family.weight_files(folder)
    missing = family.missing(folder)
    problem = f"{', '.join(missing[:3])} is missing; the download did not finish" if missing else ""
    try:
        size_bytes = weights.whole_bytes(files)
    except Broken as error:
        size_bytes = 0
        problem = problem or str(error)
    complete = not problem
    if not family.text_to_image:
        problem = problem or f"it {family.why_not}, which this build does not do yet"
    return ModelInfo(
        name=name,
        aliases=tuple(dict.fromkeys((*_short_names(name), family.key, *family.aliases))),
        kind="image",
        family=family.key,
        source=source,
        path=str(folder),
        bytes=size_bytes,
        complete=complete,
        supported=family.text_to_image,
        problem=problem,
        bits=stored_bits(folder, family),
    )


def _told(value: Any) -> str:
    """Somebody's text as one that can be shown and sent."""
    return str(value).encode("utf-8", "replace").decode()[:100]


def _short_names(name: str) -> tuple[str, ...]:
    return (name.rpartition("/")[2],) if "/" in name else ()
