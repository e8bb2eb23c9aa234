"""What the documents say is so: links, commands, options, dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer.main

from herd_mcp.cli.main import app
from herd_mcp.herd import Herd
from herd_mcp.surfaces.app import make_app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / name for name in ("README.md", "SKILL.md", "CHANGELOG.md")
] + sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "skills").rglob("*.md")])  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def code_in(text: str) -> list[str]:
    """The lines of fenced blocks, without what is behind a `#`, and the code spans."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for fence in fences for line in fence.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + re.findall(r"`([^`\n]+)`", prose)


def herd_calls(text: str) -> list[list[str]]:
    """The words behind each `herd-mcp` that is called with a command in `text`: [["image", "--seed"], …]."""
    calls = []
    for code in code_in(text):
        for call in re.findall(r"(?:^|[\s|&])herd-mcp ((?![^\w-]).+)", re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", code)):
            words = re.split(r"[|&;>]", call)[0].split()
            if re.fullmatch(r"[a-z]+", words[0]):
                calls.append([words[0], *(word.split("=")[0] for word in words if word.startswith("--"))])
    return calls


def test_calls_are_found_in_spans_and_blocks() -> None:
    text = """Run `herd-mcp status` or
```bash
uv run herd-mcp image "a --fox" --seed 7   # herd-mcp draws
claude mcp add herd -- herd-mcp
git diff | herd-mcp chat --json
```
herd-mcp is a herd-mcp and `herd-mcp`."""
    assert herd_calls(text) == [["image", "--seed"], ["chat", "--json"], ["status"]]


@every_document
def test_every_command_that_is_named_exists_with_its_options(document: Path) -> None:
    group = typer.main.get_group(app)
    for command, *options in herd_calls(document.read_text()):
        assert command in group.commands, f"herd-mcp {command}"
        known = {name for parameter in group.commands[command].params for name in parameter.opts}
        assert set(options) <= known, f"herd-mcp {command} {options}"


def test_the_first_screen_shows_the_two_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:12])
    assert "pip install uv && uv run herd-mcp demo" in first
    assert "\nuv run pytest " in first


def test_the_design_names_every_command() -> None:
    group = typer.main.get_group(app)
    shown = {name for name, command in group.commands.items() if not command.hidden}
    listed = re.search(r"shows status and help\.\n((?:`\w+` ?)+)", (ROOT / "docs" / "design.md").read_text())
    assert listed
    assert set(re.findall(r"\w+", listed[1])) == shown


async def test_every_http_address_that_is_named_is_served(herd: Herd) -> None:
    server = make_app(herd, token="", stop=lambda: None)
    served = set(server.openapi()["paths"]) | {getattr(route, "path", "") for route in server.routes}
    for document in DOCUMENTS:
        text = document.read_text()
        named = re.findall(r"127\.0\.0\.1:11435(/[\w/{}-]+)", text)
        if document.name in ("README.md", "design.md"):
            here = text.split("| works in this version |")[-1] if document.name == "README.md" else text
            named += re.findall(r"`(/(?:mcp|sse|healthz|api|images|v1/chat|dashboard)[\w/{}-]*)`", here)
        assert set(named) <= served, document.name


@every_document
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target.split("#")[0]).exists(), target


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {ROOT / target for target in re.findall(r"\]\(([^)\s]+\.md)\)", (ROOT / "README.md").read_text())}
    assert set(DOCUMENTS) - linked == {ROOT / "README.md"}


@every_document
def test_no_document_names_files_that_are_gone(document: Path) -> None:
    for code in code_in(document.read_text()):
        if re.fullmatch(r"(\.ci|tests|docs|skills)/[\w./-]+", code):
            assert (ROOT / code).exists() or code == "docs/", code


def test_nothing_of_the_machine_it_was_written_on_is_left() -> None:
    places = [
        "*.md",
        "*.toml",
        ".ci/*",
        "docs/*",
        "skills/**/*",
        "herd_mcp/**/*",
        "tests/**/*",
        "training/**/*",
        "benchmarks/**/*",
    ]
    kinds = {".md", ".py", ".toml", ".txt", ".json", ""}
    machine = rf"{re.escape(str(ROOT))}/|{re.escape(str(Path.home()))}/|/root/"
    found = {
        f"{name_of(path)}: {left}"
        for path in {path for place in places for path in ROOT.glob(place)} - {Path(__file__)}
        if path.is_file() and path.suffix in kinds
        for left in re.findall(rf"{machine}|index-url|/simple/|TODO|FIXME", path.read_text())
    }
    assert found == set()


def test_the_constraints_hold_exact_versions_and_no_addresses() -> None:
    pinned = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)(?: ; .+)?", line)
            assert match, line
            pinned[match[1]] = match[2]
    assert requirement_names(PROJECT["project"]["dependencies"]) <= pinned.keys()
    assert requirement_names(PROJECT["dependency-groups"]["dev"]) <= pinned.keys()


def test_the_overrides_in_the_file_are_those_of_the_project() -> None:
    lines = (ROOT / ".ci" / "overrides.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["tool"]["uv"]["override-dependencies"]


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize(
    ("section", "requirements"),
    [
        ("At run time", PROJECT["project"]["dependencies"]),
        ("For development", PROJECT["dependency-groups"]["dev"]),
        ("For training", PROJECT["dependency-groups"]["training"]),
        ("To build", PROJECT["build-system"]["requires"]),
    ],
)
def test_every_dependency_has_its_reason_and_nothing_else_is_listed(section: str, requirements: list[str]) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    part = page.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", part, re.MULTILINE))
    assert rows.keys() == requirement_names(requirements)
