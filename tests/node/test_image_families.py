"""What the node knows of image models without mflux."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import herd_mcp
from herd_mcp.engines import image_registry
from herd_mcp.node.image_families import (
    TABLE,
    all_families,
    family_of_folder,
    find_family,
    herd_config,
    stored_bits,
)

BUILTIN = Path(herd_mcp.__path__[0]) / "builtin" / "herd-tiny-image"


def weights(file: Path, **metadata: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.zeros(2, dtype=np.float32)}, file, metadata or None)


def flux_folder(folder: Path, **metadata: str) -> Path:
    for part in ("vae", "transformer", "text_encoder", "text_encoder_2"):
        weights(folder / part / "0.safetensors", **metadata)
    for part in ("tokenizer", "tokenizer_2"):
        (folder / part).mkdir()
        (folder / part / "tokenizer.json").write_text("{}")
    return folder


def test_the_table_is_what_the_installed_mflux_gives() -> None:
    assert TABLE.read_text(encoding="utf-8") == image_registry.table()


def test_reading_the_table_brings_no_model_library_into_the_process() -> None:
    code = (
        "import sys; from herd_mcp.node.image_families import all_families; all_families();"
        "print([m for m in ('mlx', 'mlx.core', 'mflux', 'transformers', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("z-image-turbo", "z-image-turbo"),
        ("flux-dev", "dev"),
        ("flux-schnell", "schnell"),
        ("FLUX.1-schnell", "schnell"),
        ("black-forest-labs/FLUX.1-dev", "dev"),
        ("Tongyi-MAI/Z-Image-Turbo", "z-image-turbo"),
        ("dev", "dev"),
        ("klein-4B", "flux2-klein-4b"),
        ("black-forest-labs/FLUX.2-klein-4B", "flux2-klein-4b"),
        ("qwen-image", "qwen-image"),
        ("herd-tiny-image", "builtin-flux2-klein"),
        ("no-such-model", None),
        ("", None),
    ],
)
def test_names_lead_to_families(name: str, key: str | None) -> None:
    family = find_family(name)
    assert (family.key if family else None) == key


def test_every_key_and_repository_of_mflux_is_found_and_no_alias_means_two() -> None:
    seen: dict[str, str] = {}
    for family in all_families():
        assert find_family(family.key) is family
        for alias in family.aliases:
            assert seen.setdefault(alias, family.key) == family.key
            assert find_family(alias.upper()) is family
        if family.repo:
            assert find_family(family.repo) is not None


def test_the_built_in_model_is_whole_and_states_its_sizes() -> None:
    family = family_of_folder(BUILTIN, "anything")
    assert family is not None
    assert family.key == "builtin-flux2-klein"
    assert family.missing(BUILTIN) == ()
    assert family.required_parts == ("vae", "transformer", "text_encoder")
    config = herd_config(BUILTIN)
    assert (config["default_px"], config["max_px"], config["default_steps"]) == (64, 128, 4)
    assert (family.default_px, family.max_px, family.default_steps) == (64, 128, 4)
    assert stored_bits(BUILTIN, family) is None


@pytest.mark.parametrize("part", ["vae", "tokenizer"])
def test_a_part_that_is_not_there_is_missed(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN, folder)
    shutil.rmtree(folder / part)
    family = family_of_folder(folder, "")
    assert family is not None
    assert [missing.split("/")[0] for missing in family.missing(folder)] == [part]


def test_a_shard_that_an_index_names_is_missed(tmp_path: Path) -> None:
    folder = flux_folder(tmp_path / "FLUX.1-dev")
    index = {"metadata": {"quantization_level": "4"}, "weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}
    (folder / "transformer" / "model.safetensors.index.json").write_text(json.dumps(index))
    family = family_of_folder(folder, "FLUX.1-dev")
    assert family is not None
    assert family.missing(folder) == ("transformer/1.safetensors",)


def test_a_saved_folder_is_known_by_its_note_or_by_its_name(tmp_path: Path) -> None:
    named = flux_folder(tmp_path / "a", quantization_level="8", mflux_version="0.24.0")
    family = family_of_folder(named, "someone/FLUX.1-schnell-mflux-8bit")
    assert family is not None
    assert (family.key, stored_bits(named, family)) == ("schnell", 8)
    assert len(family.weight_files(named)) == 4
    assert family_of_folder(named, "my-own") is None
    (named / "mflux_model.json").write_text(json.dumps({"model_name": "my-own", "base_model": "krea-dev"}))
    noted = family_of_folder(named, "my-own")
    assert noted is not None
    assert noted.key == "krea-dev"


def test_a_name_alone_makes_no_image_model(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors")
    assert family_of_folder(tmp_path, "Qwen3-8B") is None
    assert family_of_folder(tmp_path, "black-forest-labs/FLUX.1-dev") is None


def test_a_published_layout_counts_too(tmp_path: Path) -> None:
    family = find_family("anima-base")
    assert family is not None
    for pattern in family.layouts[1].weights:
        weights(tmp_path / pattern)
    layout = family.layout_in(tmp_path)
    assert layout is not None
    assert layout.other_repos == ("Qwen/Qwen3-0.6B-Base", "google/t5-v1_1-xxl")
    assert family.missing(tmp_path) == ()
    assert len(family.weight_files(tmp_path)) == 3


def test_editing_models_are_known_as_what_they_are(tmp_path: Path) -> None:
    family = family_of_folder(flux_folder(tmp_path / "x"), "FLUX.1-Kontext-dev-mflux-4bit")
    assert family is not None
    assert not family.text_to_image
    assert family.why_not == "edits a picture"
