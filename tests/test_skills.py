"""The skills for agents, and what else is written about the MCP server: valid, and nothing that does not exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import Tool

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode
from herd_mcp.surfaces.mcp.server import make_mcp

ROOT = Path(__file__).parent.parent
SKILLS = {"herd-mcp": ROOT / "SKILL.md", "herd-images": ROOT / "skills" / "herd-images" / "SKILL.md"}
DESIGN = ROOT / "docs" / "design.md"

each_skill = pytest.mark.parametrize("name", SKILLS)


@pytest.fixture
async def client(herd: Herd) -> AsyncIterator[Client]:
    """A client of the real server in front of a real node that has nothing to do."""
    async with Client(make_mcp(herd, local=True)) as client:
        yield client


async def tools_of(client: Client) -> dict[str, Tool]:
    return {tool.name: tool for tool in (await client.list_tools()).tools}


async def uris_of(client: Client) -> set[str]:
    resources = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates
    return {str(resource.uri) for resource in resources} | {template.uri_template for template in templates}


def words_in(text: str) -> set[str]:
    """The code spans of `text` that could be the name of a tool or an argument."""
    return set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", text))


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


@each_skill
async def test_every_tool_argument_and_error_in_a_skill_exists(name: str, client: Client) -> None:
    tools = await tools_of(client)
    arguments = {argument for tool in tools.values() for argument in tool.input_schema["properties"]}
    known = tools.keys() | arguments | set(ErrorCode)
    assert words_in(SKILLS[name].read_text()) - known == set()


async def test_the_root_skill_and_the_design_name_every_tool(client: Client) -> None:
    tools = (await tools_of(client)).keys()
    assert tools <= words_in(SKILLS["herd-mcp"].read_text())
    listed = re.search(r"\*\*MCP tools\*\* ([^.]+)\.", DESIGN.read_text())
    assert listed
    assert words_in(listed[1]) == tools


async def test_the_table_of_arguments_is_that_of_the_tool(client: Client) -> None:
    tool = (await tools_of(client))["generate_image"]
    rows = re.findall(r"^\| (`.+?`) \| ", SKILLS["herd-images"].read_text(), re.MULTILINE)
    assert {word for row in rows for word in words_in(row)} <= tool.input_schema["properties"].keys()
    assert "prompt" in tool.input_schema["required"]


async def test_every_resource_that_is_named_exists_and_the_design_names_all(client: Client) -> None:
    real = await uris_of(client)
    for text in [*(path.read_text() for path in SKILLS.values()), (ROOT / "README.md").read_text()]:
        assert set(re.findall(r"`(herd://[^`]+)`", text)) <= real
    assert set(re.findall(r"`(herd://[^`]+)`", DESIGN.read_text())) == real
