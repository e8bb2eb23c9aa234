"""Commands that make jobs and look at them, on one shared node."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import COMMAND, SLOW_IMAGE, TINY_CHAT, TINY_IMAGE, Program, ended, interrupt, until

PNG = b"\x89PNG\r\n\x1a\n"


def test_image_prints_the_path_of_the_png(running: Program) -> None:
    done = running.run(*TINY_IMAGE, "a red circle")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes().startswith(PNG)
    assert "64×64" in done.stderr


def test_image_json_names_the_seed_and_writes_to_the_file_that_was_wanted(running: Program, tmp_path: Path) -> None:
    target = tmp_path / "fox.png"
    told = running.data(*TINY_IMAGE, "a fox", "--seed", "7", "--tag", "t1", "--output", str(target))
    assert told["seed"] == 7
    assert told["job_id"].startswith("job-")
    assert told["output"] == str(target)
    assert target.read_bytes() == Path(told["path"]).read_bytes()
    (job,) = [job for job in running.data("jobs") if job["id"] == told["job_id"]]
    assert job["tags"] == ["t1"]
    assert job["client"] == "cli"


def test_image_bytes_go_to_a_pipe_and_nothing_else_does(running: Program) -> None:
    done = subprocess.run(
        [*COMMAND, *TINY_IMAGE, "--output", "-", "a fox"], capture_output=True, env=running.env, timeout=60, check=True
    )
    assert done.stdout.startswith(PNG)
    assert done.stdout.endswith(b"IEND\xaeB`\x82")


def test_image_starts_from_a_picture(running: Program) -> None:
    first = running.data(*TINY_IMAGE, "a fox", "--seed", "1")
    done = running.run(*TINY_IMAGE, "a fox at night", "--image", first["path"], "--strength", "0.5")
    assert done.returncode == 0, done.stderr


def test_a_prompt_that_begins_with_a_dash_works_after_two(running: Program) -> None:
    assert running.run(*TINY_IMAGE, "--", "-5 degrees").returncode == 0
    assert running.run(*TINY_CHAT, "--", "-h").returncode == 0


def test_an_unknown_model_fails_with_its_message(running: Program) -> None:
    done = running.run("image", "--model", "herd-tiny-imag", "a fox", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "model_not_found"
    assert "herd-tiny-image" in done.stderr


def test_ctrl_c_cancels_the_running_image(running: Program) -> None:
    image = running.start(*SLOW_IMAGE)
    with ended(image):
        until(lambda: running.data("jobs", "--status", "running"))
        interrupt(image)
        _, stderr = image.communicate(timeout=30)
    assert image.returncode == 1
    assert "was cancelled" in stderr
    (job,) = running.data("jobs", "--limit", "1")
    assert job["status"] == "cancelled"


def test_cancel_ends_a_job_of_another_terminal(running: Program) -> None:
    image = running.start(*SLOW_IMAGE)
    with ended(image):
        until(lambda: running.data("jobs", "--status", "running"))
        (job,) = running.data("jobs", "--status", "running")
        assert running.data("status")["jobs"][0]["id"] == job["id"]
        assert running.data("cancel", job["id"])["status"] == "cancelled"
        _, stderr = image.communicate(timeout=30)
    assert image.returncode == 1
    assert job["id"] in stderr
    again = running.run("cancel", job["id"])
    assert again.returncode == 0
    assert "was cancelled" in again.stdout


@pytest.mark.parametrize("job_id", ["job-0123456789-0123456789ab", "../../healthz", "job-x?a=b"])
def test_cancel_of_an_unknown_job_fails(running: Program, job_id: str) -> None:
    done = running.run("cancel", job_id)
    assert done.returncode == 1
    assert "herd-mcp jobs" in done.stderr


def test_chat_prints_the_answer_and_json_the_result(running: Program) -> None:
    assert running.run(*TINY_CHAT, "hello", "--seed", "1").returncode == 0
    told = running.data(*TINY_CHAT, "hello", "--system", "Be short.", "--temperature", "0")
    assert told["model"] == "herd-tiny-chat"
    assert 1 <= told["usage"]["completion_tokens"] <= 8
    assert told["finish_reason"] in ("stop", "length")


def test_chat_reads_the_question_from_a_pipe(running: Program) -> None:
    for words in (TINY_CHAT, (*TINY_CHAT, "-")):
        done = running.run(*words, text="hello from a pipe")
        assert done.returncode == 0, done.stderr
    assert running.run(*TINY_CHAT, text="").returncode == 2


def test_a_nul_in_a_question_is_refused(running: Program) -> None:
    done = running.run(*TINY_CHAT, text="a\0b")
    assert done.returncode == 2
    assert "NUL" in done.stderr


def test_chat_converses_in_a_terminal_until_ctrl_d(running: Program) -> None:
    ours, theirs = pty.openpty()
    chat = running.start(*TINY_CHAT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""

    def wait_for(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(ours, 4096)
        seen = seen[seen.index(words) + len(words) :]

    with ended(chat):
        wait_for("› ".encode())
        os.write(ours, b"hello\n")
        wait_for(b"[herd-tiny-chat on")
        wait_for("› ".encode())
        os.write(ours, b"/reset\n")
        wait_for(b"forgotten")
        os.write(ours, b"/model herd-tiny-image\n")
        wait_for(b"herd-tiny-image")
        wait_for("› ".encode())
        os.write(ours, b"hello\n")
        wait_for(b"serves image")
        wait_for("› ".encode())
        os.write(ours, b"\x04")
        assert chat.wait(20) == 0
    os.close(ours)


def test_models_lists_the_built_in_ones(running: Program) -> None:
    names = {model["name"]: model["kind"] for model in running.data("models")}
    assert names["herd-tiny-chat"] == "chat"
    assert names["herd-tiny-image"] == "image"
    assert {model["kind"] for model in running.data("models", "--kind", "chat")} == {"chat"}
    assert "herd-tiny-image" in running.run("models").stdout


def test_status_and_jobs_are_tables_for_people(running: Program) -> None:
    assert running.run(*TINY_CHAT, "hello").returncode == 0
    status = running.run("status")
    assert status.returncode == 0
    assert "online" in status.stdout
    assert "herd-tiny-chat" in status.stdout
    jobs = running.run("jobs", "--limit", "1")
    assert jobs.returncode == 0
    assert "completed" in jobs.stdout
