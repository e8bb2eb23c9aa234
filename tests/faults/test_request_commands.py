"""What is wrong on the command line is said before anything is loaded for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import COMMAND, Program

WRONG: dict[str, tuple[list[str], str]] = {
    "temperature below zero": (["chat", "x", "--temperature", "-1"], "temperature"),
    "temperature nan": (["chat", "x", "--temperature", "nan"], "temperature"),
    "temperature inf": (["chat", "x", "--temperature", "inf"], "temperature"),
    "a thousand million tokens": (["chat", "x", "--max-tokens", "1000000000"], "1000000"),
    "a chat's seed": (["chat", "x", "--seed", str(2**64)], str(2**64)),
    "width": (["image", "x", "--width", "1000000000"], "8192"),
    "steps": (["image", "x", "--steps", "1000000000"], "200"),
    "an image's seed": (["image", "x", "--seed", str(2**32)], str(2**32)),
    "guidance nan": (["image", "x", "--guidance", "nan"], "guidance"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("wrong") / "home")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_with_its_limit_and_starts_no_node(program: Program, name: str) -> None:
    words, says = WRONG[name]
    done = program.run(*words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert program.record is None


def test_bytes_that_are_no_text_are_no_prompt(program: Program) -> None:
    done = subprocess.run(
        [*map(os.fsencode, COMMAND), b"chat", b"half \xff"],
        env=program.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert program.record is None


def test_a_prompt_of_100_mb_is_refused_by_its_limit(program: Program, tmp_path: Path) -> None:
    with (tmp_path / "long").open("w+b") as prompt:
        prompt.write(b"x" * 100_000_000)
        prompt.seek(0)
        done = subprocess.run(
            [*COMMAND, "chat"], stdin=prompt, env=program.env, capture_output=True, text=True, timeout=90, check=False
        )
    assert done.returncode == 2, done.stderr
    assert "4,000,000" in done.stderr
    assert program.record is None
