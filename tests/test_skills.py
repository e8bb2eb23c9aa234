"""The skills for agents: valid, and nothing in them that does not exist."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SKILLS = {"herd-mcp": ROOT / "SKILL.md", "herd-images": ROOT / "skills" / "herd-images" / "SKILL.md"}

each_skill = pytest.mark.parametrize("name", SKILLS)


@each_skill
def test_a_skill_is_valid(name: str, tmp_path: Path) -> None:
    # The root skill lies in the checkout, whose folder may have any name: an agent gets it in one of the right name.
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(SKILLS[name], folder)
    validator = Path(sys.executable).parent / "agentskills"
    run = subprocess.run([validator, "validate", folder], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr


def test_every_folder_of_skills_is_tested() -> None:
    assert {path.parent.name for path in ROOT.glob("skills/*/SKILL.md")} | {"herd-mcp"} == set(SKILLS)


@each_skill
def test_a_skill_carries_the_guardrails(name: str) -> None:
    guardrails = SKILLS[name].read_text().split("## Guardrails")[1]
    assert "Never delete or change images" in guardrails
    assert "Never pull or remove a model without the person's own yes" in guardrails
    assert "`~/.fleet-manager/`" in guardrails
    assert "`~/.herd/`" in guardrails
    assert "If no image model is there" in guardrails


@each_skill
def test_a_skill_says_how_to_get_an_image_model(name: str) -> None:
    assert "uv tool install mflux" in SKILLS[name].read_text()
