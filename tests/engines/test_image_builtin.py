"""The built-in image model's files."""

from __future__ import annotations

from pathlib import Path

from herd_mcp.engines import builtin_image
from training.make_random_image import CONFIG, FOLDER, make


def test_the_files_in_the_package_are_what_the_script_makes(tmp_path: Path) -> None:
    make(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert made.keys() == kept.keys()
    assert [path for path in made if made[path] != kept[path]] == []


def test_it_is_small_and_says_that_it_draws_noise() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 5_000_000
    assert "Its weights are random: it draws noise." in (FOLDER / "README.md").read_text()
    assert builtin_image.read_config(FOLDER) == CONFIG
