"""What the program says before any node is there."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program, ended

COMMANDS = ["up", "stop", "mcp", "demo", "status", "image", "chat", "models", "jobs", "cancel", "config", "doctor"]
COMMANDS += ["pause", "resume"]


def test_every_command_is_listed(program: Program) -> None:
    listed = program.run("--help").stdout
    assert [command for command in COMMANDS if f"\n  {command} " not in listed] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(program: Program, command: str) -> None:
    help_text = program.run(command, "--help")
    assert help_text.returncode == 0
    assert "Example" in help_text.stdout
    assert "  herd-mcp" in help_text.stdout or "-- herd-mcp" in help_text.stdout


def test_help_does_not_load_what_only_commands_need() -> None:
    heavy = ["pydantic", "httpx", "rich", "mcp", "fastapi", "uvicorn", "psutil", "mlx", "asyncio"]
    code = f"import sys, herd_mcp.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("words", [("status",), ("jobs",), ("cancel", "job-1"), ("pause",), ("resume",)])
def test_commands_that_only_look_start_no_node_and_end_with_3(program: Program, words: tuple[str, ...]) -> None:
    done = program.run(*words)
    assert done.returncode == 3
    assert "herd-mcp up" in done.stderr
    assert not program.home.exists()


def test_an_error_is_json_too_where_json_was_asked_for(program: Program) -> None:
    done = program.run("status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "no_node"


def test_stop_without_a_node_says_so_and_is_no_error(program: Program) -> None:
    done = program.run("stop")
    assert done.returncode == 0
    assert "No node runs" in done.stderr
    assert json.loads(program.run("stop", "--json").stdout) == {"stopped": False, "was_running": False}


@pytest.mark.parametrize("command", ["image", "chat"])
def test_a_prompt_with_a_dash_is_refused_with_the_way_to_write_it(program: Program, command: str) -> None:
    done = program.run(command, "-5 degrees")
    assert done.returncode == 2
    assert f"herd-mcp {command} -- '-5 degrees'" in done.stderr


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("image", "fox", "--width", "7"), "width"),
        (("image", "fox", "--width", "-1"), "width"),
        (("image", "fox", "--height", "100000"), "height"),
        (("image", "fox", "--steps", "0"), "steps"),
        (("image", "fox", "--quantize", "1"), "quantize"),
        (("image", "fox", "--guidance", "nan"), "guidance"),
        (("image", "   "), "prompt"),
        (("image", "fox", "--image", "/nowhere.png"), "/nowhere.png"),
        (("image", "fox", "--width", "wide"), "--width"),
        (("image", "fox", "--output", "/no/such/folder/x.png"), "/no/such/folder"),
        (("chat", "hello", "--max-tokens", "0"), "max_tokens"),
        (("chat", ""), "question"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_usage_names_the_field_and_ends_with_2_before_a_node_starts(
    program: Program, words: tuple[str, ...], field: str
) -> None:
    done = program.run(*words)
    assert done.returncode == 2, done.stderr
    assert field in done.stderr
    assert "Traceback" not in done.stderr
    assert not program.home.exists()


def test_config_tells_every_setting_its_value_and_where_it_comes_from(program: Program) -> None:
    program.home.mkdir()
    (program.home / "config.toml").write_text("idle_unload_s = 60\nport = 1\n")
    told = program.data("config")
    settings = {setting["name"]: setting for setting in told["settings"]}
    assert told["path"] == str(program.home / "config.toml")
    assert settings["idle_unload_s"]["value"] == 60
    assert settings["idle_unload_s"]["source"] == "config.toml"
    assert settings["port"]["source"] == "HERD_PORT"
    assert settings["port"]["value"] == 0
    assert settings["wait_s"]["source"] == "default"
    assert program.run("config", "--path").stdout.strip() == str(program.home / "config.toml")
    assert "idle_unload_s" in program.run("config").stdout


def test_folders_from_the_variable_of_another_program_are_named_as_such(program: Program, tmp_path: Path) -> None:
    program.env["MLX_MODEL_DIR"] = str(tmp_path)
    (folders,) = [row for row in program.data("config")["settings"] if row["name"] == "model_dirs"]
    assert folders["value"] == [str(tmp_path)]
    assert folders["source"] == "MLX_MODEL_DIR"


@pytest.mark.parametrize("content", ["idle_unload_s = 'x'", "prot = 1", "port = "])
def test_a_wrong_config_file_is_named_with_the_setting(program: Program, content: str) -> None:
    program.home.mkdir()
    (program.home / "config.toml").write_text(content)
    for command in ("config", "up"):
        done = program.run(command)
        assert done.returncode == 2
        assert "config.toml" in done.stderr
        assert "Traceback" not in done.stderr


def test_version_is_told(program: Program) -> None:
    assert program.run("--version").stdout.startswith("herd-mcp 0.")


def test_in_a_terminal_without_a_command_it_shows_the_status_and_the_help(program: Program) -> None:
    ours, theirs = pty.openpty()
    try:
        done = program.start(stdin=theirs)
        with ended(done):
            stdout, stderr = done.communicate(timeout=20)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert "No node runs" in stderr
    assert "Usage: herd-mcp" in stdout


def test_a_reader_that_leaves_early_is_no_error_to_speak_of(program: Program) -> None:
    read, write = os.pipe()
    os.close(read)
    config = program.start("config", "--json", stdout=write)
    os.close(write)
    with ended(config):
        _, stderr = config.communicate(timeout=20)
    assert "Traceback" not in stderr
