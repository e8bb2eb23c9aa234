"""A node from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cli.program import SLOW_IMAGE, TINY_CHAT, Program, ended, interrupt, until


def test_up_tells_where_it_is_to_this_user_only(running: Program) -> None:
    record = running.record
    assert record is not None
    assert set(record) >= {"pid", "port", "token", "version", "socket", "node_id", "node_name", "started_at"}
    assert stat.S_IMODE((running.home / "run" / "node.json").stat().st_mode) == 0o600
    for folder in (running.home, running.home / "run", running.home / "logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Path(record["socket"]).is_socket()
    with socket.create_connection(("127.0.0.1", record["port"]), 5):
        pass


def test_a_lone_node_listens_on_loopback_only(running: Program) -> None:
    """As the system itself lists its sockets, also those that need no connection."""
    sockets = [one for process in running.processes() for one in process.net_connections("inet")]
    listening = {one.laddr[0] for one in sockets if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)}
    assert listening == {"127.0.0.1"}


def test_the_token_is_in_no_log(running: Program) -> None:
    assert running.record is not None
    assert running.data("status")["nodes"]
    assert running.record["token"] not in running.stderr


def test_a_second_up_in_the_same_home_is_refused_and_changes_nothing(running: Program) -> None:
    before = running.record
    done = running.run("up")
    assert done.returncode == 1
    assert before is not None
    assert f"pid {before['pid']}" in done.stderr
    assert "herd-mcp stop" in done.stderr
    assert running.record == before


def test_a_taken_port_is_told_with_who_has_it_and_the_setting(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = program.run("up", HERD_PORT=str(port))
    assert done.returncode == 3
    assert f"Port {port} is taken" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "HERD_PORT" in done.stderr
    assert program.record is None


def test_stop_ends_the_node_and_its_engines(program: Program) -> None:
    node = program.up()
    with ended(node):
        assert program.run(*TINY_CHAT, "hello").returncode == 0
        engines = [engine for node in program.data("status")["nodes"] for engine in node["engines"]]
        assert any(process.pid == engines[0]["pid"] for process in program.processes())
        assert program.data("stop")["stopped"]
        assert node.wait(10) == 0
    assert program.record is None
    assert not program.processes()


def test_ctrl_c_lets_the_running_job_end_first_and_a_second_one_does_not(program: Program) -> None:
    node = program.up()
    with ended(node):
        job = program.start(*SLOW_IMAGE, "--json")
        with ended(job):
            until(lambda: program.data("jobs", "--status", "running"))
            interrupt(node)
            until(lambda: "draining" in program.stderr)
            assert node.poll() is None
            refused = program.run(*TINY_CHAT, "hello")
            assert refused.returncode != 0
            interrupt(node)
            assert node.wait(20) == 0
            job.communicate(timeout=20)
            assert job.returncode == 1
    assert not program.processes()


def test_a_killed_node_leaves_no_engine_and_does_not_stand_in_the_way(program: Program) -> None:
    first = program.up()
    with ended(first):
        assert program.run(*TINY_CHAT, "hello").returncode == 0
        first.kill()
        first.wait(10)
    until(lambda: not program.processes(), 10)
    assert program.record is not None
    assert program.run("status").returncode == 3
    (program.home / "run" / "node.json").touch()
    second = program.start("up", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with ended(second):
        until(lambda: program.record is not None and program.record["pid"] == second.pid)
        assert program.run("status").returncode == 0
        assert program.run("stop").returncode == 0


def test_a_node_that_belongs_to_a_pipe_ends_with_it(program: Program) -> None:
    read, write = os.pipe()
    node = program.start("up", "--until-eof", stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(read)
    with ended(node):
        until(lambda: program.record is not None)
        os.close(write)
        assert node.wait(20) == 0


@pytest.mark.parametrize("stdin", ["null", "file"])
def test_a_node_that_is_to_end_with_a_stdin_that_cannot_be_watched_ends_well(
    program: Program, tmp_path: Path, stdin: str
) -> None:
    (tmp_path / "empty").touch()
    with (Path(os.devnull) if stdin == "null" else tmp_path / "empty").open() as given:
        node = program.start("up", "--until-eof", stdin=given, stdout=subprocess.DEVNULL)
    with ended(node):
        _, said = node.communicate(timeout=60)
        assert (node.returncode, "is up" in said) == (0, True), said


def test_a_detached_node_logs_to_a_file(program: Program) -> None:
    done = program.run("models")  # starts one, as MCP clients do
    assert done.returncode == 0, done.stderr
    assert "is up" in (program.home / "logs" / "node.log").read_text()
    assert program.run("stop").returncode == 0


def test_a_home_that_cannot_be_used_is_named(program: Program, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = program.run("up", HERD_HOME=str(blocked))
    assert done.returncode == 3
    assert str(blocked) in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_ends_the_node_with_code_0(program: Program) -> None:
    node = program.up()
    with ended(node):
        node.send_signal(signal.SIGTERM)
        assert node.wait(20) == 0
    assert json.dumps(program.record) == "null"


def test_the_doctor_knows_the_port_of_our_own_node(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        program.env["HERD_PORT"] = str(free.getsockname()[1])
    with ended(program.up()):
        findings = {finding["check"]: finding for finding in program.data("doctor", "--no-trial")["findings"]}
        assert "held by the node of this home" in findings["port"]["text"]
        assert findings["node"]["level"] == "ok"
