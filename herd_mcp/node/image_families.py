"""What this Mac knows of mflux's image models without importing mflux: names, defaults, limits, parts on disk.

The rows are in image_families.json, made by `python -m herd_mcp.engines.image_registry` in an environment with mflux;
a test makes them anew and compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from herd_mcp.jobs import Frozen
from herd_mcp.node import weights

TABLE = Path(__file__).with_name("image_families.json")


class Layout(Frozen):
    """One way a checkpoint lies on disk: patterns below its folder, each of which must match a file."""

    weights: tuple[str, ...]
    tokenizers: tuple[str, ...] = ()
    other_repos: tuple[str, ...] = ()
    """Repositories that mflux reads from the Hugging Face cache besides; without them the model does not load."""
    hf_cache_only: bool = False
    """mflux reads this layout from the Hugging Face cache only, not from a copy of the folder."""

    def missing(self, folder: Path) -> tuple[str, ...]:
        """What of it is not in `folder`: patterns without a file, and shards that an index names."""
        gone = [part for part in (*self.weights, *self.tokenizers) if not any(_files(folder, part))]
        for place in dict.fromkeys(folder / Path(part).parent for part in self.weights):
            gone += [f"{(place / shard).relative_to(folder)}" for shard in _missing_shards(place)]
        return tuple(gone)


class ImageFamily(Frozen):
    """One key of mflux's registry, or the built-in architecture."""

    key: str
    aliases: tuple[str, ...]
    """Every other name that means it, in lower case."""
    repo: str
    """The Hugging Face repository that it is published in; empty for the built-in one."""
    text_to_image: bool
    """Whether this build draws with it. The others need a picture or a control to start from."""
    why_not: str = ""
    """What it does instead, as a verb: `edits a picture`."""
    class_name: str = ""
    default_px: int
    """Width and height when a request names neither."""
    min_px: int
    max_px: int | None
    """Longest side; None leaves it to the setting `max_image_px`."""
    default_steps: int
    default_guidance: float | None
    """None where guidance is not taken, or where the model has a schedule of its own."""
    takes_guidance: bool
    """Whether a value changes the picture. Where not, it is ignored and the result says `guidance: null`."""
    takes_negative_prompt: bool
    """True: with a guidance above 1. False: a negative prompt that is not empty is refused."""
    takes_image: bool
    """Whether it can start from a picture (`image`, `image_strength`)."""
    json_prompt: bool
    """The prompt must be a JSON caption."""
    own_schedule: bool
    layouts: tuple[Layout, ...]
    """The first is what mflux saves; the others are how it is published."""

    @property
    def required_parts(self) -> tuple[str, ...]:
        """The subfolders that hold weights in the first layout; an empty name is the folder itself."""
        if not self.layouts:
            return ()
        return tuple("" if str(part) == "." else str(part) for part in map(_parent, self.layouts[0].weights))

    def layout_in(self, folder: Path) -> Layout | None:
        """The layout that `folder` comes closest to."""
        return min(self.layouts, key=lambda layout: len(layout.missing(folder)), default=None)

    def missing(self, folder: Path) -> tuple[str, ...]:
        """What of a checkpoint is not in `folder`, as patterns and file names; empty when all is there."""
        layout = self.layout_in(folder)
        return layout.missing(folder) if layout else ()

    def weight_files(self, folder: Path) -> list[Path]:
        """The files that will be loaded from `folder`, of the layout that is there."""
        layout = self.layout_in(folder)
        patterns = layout.weights if layout else ()
        return sorted({file for pattern in patterns for file in _files(folder, pattern)})


@cache
def all_families() -> tuple[ImageFamily, ...]:
    """Every row: the built-in architecture first, then mflux's registry in its order."""
    return tuple(ImageFamily.model_validate(row) for row in json.loads(TABLE.read_text(encoding="utf-8")))


@cache
def _by_name() -> dict[str, ImageFamily]:
    rows: dict[str, ImageFamily] = {}
    for family in all_families():
        rows[family.key] = family
        for alias in family.aliases:
            rows.setdefault(alias, family)
    return rows


def find_family(name: str) -> ImageFamily | None:
    """The family that a name means, case aside: mflux's key or alias, a repository, or what people call it."""
    return _by_name().get(name.strip().lower())


def family_of_folder(folder: Path, name: str) -> ImageFamily | None:
    """The family of a checkpoint, or None when the folder holds no image model that is known.

    In this order: `herd.json`, the exact name, what `mflux-save` noted in `mflux_model.json`, and as mflux itself
    does, the longest known name within the last part of `name`. The last two ask that weights of it are there.
    """
    if (config := herd_config(folder)) and (family := find_family(str(config.get("family", "")))):
        return family
    noted = _read_object(folder / "mflux_model.json")
    guesses = [find_family(name), *(find_family(str(noted.get(field) or "")) for field in ("base_model", "model_name"))]
    guesses.append(_within(name.rstrip("/").rsplit("/", 1)[-1].lower()))
    return next((family for family in guesses if family and _has_weights(folder, family)), None)


def herd_config(folder: Path) -> dict[str, Any]:
    """`herd.json` of a built-in model, empty where there is none. Its `default_px`, `max_px` and `default_steps`
    stand before the family's."""
    return _read_object(folder / "herd.json")


def largest_px(folder: Path, family_key: str) -> int | None:
    """The longest side that the model in `folder` draws; None leaves it to the setting."""
    family = find_family(family_key)
    limit = herd_config(folder).get("max_px", family.max_px if family else None)
    return limit if isinstance(limit, int) else None


def default_px(folder: Path, family_key: str) -> int:
    """Width and height that the model in `folder` draws when a request names neither."""
    family = find_family(family_key)
    usual = herd_config(folder).get("default_px")
    return usual if isinstance(usual, int) else (family.default_px if family else 0) or 1024


def default_steps(folder: Path, family_key: str) -> int:
    """Steps of an image when a request names none; 0 where that is not known."""
    family = find_family(family_key)
    usual = herd_config(folder).get("default_steps")
    return usual if isinstance(usual, int) else (family.default_steps if family else 0)


def stored_bits(folder: Path, family: ImageFamily) -> int | None:
    """Bits per weight of a quantised checkpoint that mflux saved; None for a full one. It stays as it is, whatever
    a request asks."""
    for file in family.weight_files(folder):
        index = _read_object(file.parent / "model.safetensors.index.json").get("metadata", {})
        level = (index if isinstance(index, dict) else {}).get("quantization_level")
        level = level or weights.metadata(file).get("quantization_level")
        if str(level).isdigit():
            return int(str(level))
    return None


def _within(name: str) -> ImageFamily | None:
    found = [known for known in _by_name() if "/" not in known and known in name]
    return _by_name()[max(found, key=len)] if found else None


def _has_weights(folder: Path, family: ImageFamily) -> bool:
    # Weights in the folder itself are no sign: a chat model has them too.
    patterns = [pattern for layout in family.layouts for pattern in layout.weights if "/" in pattern]
    return any(any(_files(folder, pattern)) for pattern in patterns)


def _parent(pattern: str) -> Path:
    return Path(pattern).parent


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in folder.glob(pattern) if path.is_file())


def _missing_shards(place: Path) -> list[str]:
    shards: list[str] = []
    for index in sorted(place.glob("*.safetensors.index.json")):
        weight_map = _read_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            return [index.name]
        shards += sorted({str(shard) for shard in weight_map.values()})
    return [shard for shard in shards if Path(shard).name != shard or not (place / shard).is_file()]


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none that can be read."""
    try:
        return weights.read_json(path, weights.MAX_INDEX_BYTES)
    except weights.Broken:
        return {}
