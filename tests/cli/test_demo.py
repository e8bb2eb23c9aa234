"""`demo` and `doctor`: everything for real, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.cli.program import Program, ended, until


@pytest.fixture
def clean(tmp_path: Path) -> Program:
    """A person's account with nothing in it: an empty HOME, a minimal PATH, folders for temporary files apart."""
    program = Program(tmp_path / "unused")
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    program.env = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"}
    return program


def of(tmp_path: Path) -> list[psutil.Process]:
    """Processes alive with a home below the test's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HERD_HOME", "").startswith(str(tmp_path)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_demo_chats_draws_and_leaves_nothing_but_its_pictures(clean: Program, tmp_path: Path) -> None:
    done = clean.run("demo", "--json", "--out", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {step["what"] for step in told["steps"]} >= {"connect", "list_models", "chat", "image 1", "image 2"}
    assert told["chat"]["usage"]["completion_tokens"] > 0
    assert told["stats"]["completed"] == 2
    assert told["health"]["vitals"]["nodes_online"] == 1
    assert [Path(file).parent for file in told["files"]] == [tmp_path / "here"] * 2
    for file in told["files"]:
        assert Path(file).read_bytes().startswith(b"\x89PNG")
    assert not of(tmp_path)
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_demo_leaves_no_process(clean: Program, tmp_path: Path, number: signal.Signals) -> None:
    demo = clean.start("demo", "--out", str(tmp_path / "here"))
    with ended(demo):
        until(lambda: any("worker" in " ".join(process.cmdline()) for process in of(tmp_path)))
        os.killpg(demo.pid, number)
        demo.communicate(timeout=30)
        assert demo.returncode == (1 if number != signal.SIGKILL else -signal.SIGKILL)
    until(lambda: not of(tmp_path), 30)
    if number != signal.SIGKILL:
        assert list((tmp_path / "tmp").iterdir()) == []


def test_the_doctor_finds_a_sound_machine_and_tries_it(clean: Program, tmp_path: Path) -> None:
    clean.env["HERD_PORT"] = "0"
    done = clean.run("doctor", "--json")
    told = json.loads(done.stdout)
    broken = [finding for finding in told["findings"] if finding["level"] == "broken"]
    assert not broken
    assert done.returncode == 0
    trials = [finding["text"] for finding in told["findings"] if finding["check"] == "trial"]
    assert len(trials) == 3
    assert any("draws" in text for text in trials)
    assert not of(tmp_path)
    assert list((tmp_path / "home").iterdir()) == []


def test_the_doctor_names_what_is_broken_and_what_mends_it(clean: Program, tmp_path: Path) -> None:
    home = tmp_path / "broken"
    home.mkdir()
    (home / "config.toml").write_text("prot = 1\n")
    clean.env["HERD_HOME"] = str(home)
    done = clean.run("doctor", "--no-trial", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    (broken,) = [finding for finding in told["findings"] if finding["level"] == "broken"]
    assert broken["check"] == "settings"
    assert "prot" in broken["text"]
    assert "config.toml" in broken["fix"]
    assert sys.executable in done.stdout
