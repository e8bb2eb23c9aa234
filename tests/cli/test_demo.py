"""`demo` and `doctor`: everything for real, and nothing of it stays."""

from __future__ import annotations

import contextlib
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


def homes_with_engines(tmp_path: Path) -> set[str]:
    """Homes of the nodes that have started an engine."""
    found = set()
    for process in of(tmp_path):
        with contextlib.suppress(psutil.Error):
            if "worker" in " ".join(process.cmdline()):
                found.add(process.environ()["HERD_HOME"])
    return found


def test_the_demo_chats_draws_and_leaves_nothing_but_its_pictures(clean: Program, tmp_path: Path) -> None:
    done = clean.run("demo", "--json", "--out", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {step["what"] for step in told["steps"]} >= {"herd", "connect", "list_models", "chat", "image 1", "kill -9"}
    assert told["chat"]["usage"]["completion_tokens"] > 0
    assert (told["stats"]["completed"], told["stats"]["absent"]) == (5, ["mac-2"])
    assert {image["node"] for image in told["images"][:2]} == {"mac-1", "mac-2"}
    (again,) = [image for image in told["images"] if image["job_id"] == told["killed"]["job_id"]]
    assert [attempt["node"] for attempt in again["placement"]["attempts"]] == ["mac-2", "mac-1"]
    assert "mac-2 was lost, then mac-1 did it" in again["placement"]["why"]
    assert (told["health"]["vitals"]["nodes_total"], told["health"]["vitals"]["nodes_online"]) == (2, 1)
    assert [Path(file).parent for file in told["files"]] == [tmp_path / "here"] * 4
    for file in told["files"]:
        assert Path(file).read_bytes().startswith(b"\x89PNG")
    assert not of(tmp_path)
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "number", [*(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL]
)
def test_an_ended_demo_leaves_no_process(clean: Program, tmp_path: Path, number: signal.Signals) -> None:
    demo = clean.start("demo", "--out", str(tmp_path / "here"))
    with ended(demo):
        until(lambda: len(homes_with_engines(tmp_path)) == 2)  # both nodes have one
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
