"""The byte pump between a client's pipes and the node: small, careful about whom it trusts, clear when it cannot."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from herd_mcp import bridge
from herd_mcp.settings import home
from tests.cli.program import Program, ended

COMMAND = [sys.executable, "-P", "-m", "herd_mcp"]
ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": ENVELOPE}}).encode() + b"\n"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    it = Program(tmp_path / "home")
    yield it
    it.end()


def test_the_bridge_imports_nothing_but_the_standard_library() -> None:
    """Read from the interpreter that a client starts, with no node to talk to."""
    code = (
        "import sys; sys.argv = ['herd-mcp', 'mcp']\n"
        "from herd_mcp import bridge, __main__\n"
        "bridge.find_or_start = lambda home: (_ for _ in ()).throw(bridge.NoNode('none'))\n"
        "bridge.main()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "none" in done.stderr
    others = set(done.stdout.split()) - sys.stdlib_module_names - {"__main__", "herd_mcp", "_virtualenv"}
    assert {name for name in others if not name.startswith(("__editable__", "_editable"))} == set()
    assert not set(done.stdout.split()) & {"asyncio", "typing", "subprocess", "pathlib", "logging", "dataclasses"}


def test_the_first_answer_comes_far_sooner_than_a_server_could_be_imported(
    program: Program,
) -> None:
    with ended(program.up()):
        seconds = []
        for _ in range(5):
            begun = time.monotonic()
            with subprocess.Popen(
                [*COMMAND, "mcp"], env=program.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(LIST)
                client.stdin.flush()
                answer = json.loads(client.stdout.readline())
                seconds.append(time.monotonic() - begun)
                client.stdin.close()
                assert client.wait(20) == 0
            assert len(answer["result"]["tools"]) == 7
    print(f"first tools/list with a node up: median {statistics.median(seconds) * 1000:.0f} ms")
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import mcp.server"], check=True)
    assert statistics.median(seconds) < time.monotonic() - begun


def test_the_home_is_the_same_as_the_settings_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bridge.herd_home() == str(home().absolute())
    monkeypatch.delenv("HERD_HOME")
    assert bridge.herd_home() == str(home()) == str(tmp_path / ".herd")
    monkeypatch.setenv("HERD_HOME", "")
    assert bridge.herd_home() == str(home())


def test_a_socket_path_is_short_enough_however_long_the_home_is(tmp_path: Path) -> None:
    assert bridge.socket_path("/h") == "/h/run/mcp.sock"
    long, longer = (bridge.socket_path(tmp_path / ("é" * 60) / name) for name in ("a", "b"))
    assert long != longer
    assert long == bridge.socket_path(tmp_path / ("é" * 60) / "a")
    assert len(os.fsencode(long)) <= 100
    found = Path(long).parent.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.getuid(), 0o700)


def test_a_record_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = run / "node.json"
    assert bridge.read_record(str(tmp_path)) is None
    record.write_text(json.dumps({"socket": "/x", "pid": 1}))
    record.chmod(0o644)
    with pytest.raises(bridge.NoNode, match="0600"):
        bridge.read_record(str(tmp_path))
    record.chmod(0o600)
    assert bridge.read_record(str(tmp_path)) == {"socket": "/x", "pid": 1}
    record.write_text("{")
    assert bridge.read_record(str(tmp_path)) is None
    record.rename(run / "elsewhere")
    record.symlink_to(run / "elsewhere")
    with pytest.raises(bridge.NoNode):
        bridge.read_record(str(tmp_path))


def test_a_record_whose_socket_is_gone_or_dead_or_no_socket(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record, path = tmp_path / "run" / "node.json", tmp_path / "s"
    record.touch(mode=0o600)
    record.write_text(json.dumps({"socket": str(path)}))
    assert bridge.find(str(tmp_path)) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert bridge.find(str(tmp_path)) is None
    path.unlink()
    path.write_text("")
    with pytest.raises(bridge.NoNode, match="not a socket"):
        bridge.find(str(tmp_path))


def pumping(node: socket.socket) -> tuple[int, int, list[bool], threading.Thread]:
    """A pump between `node` and two pipes; returns their far ends, and what it will return."""
    source, to_pump = os.pipe()
    from_pump, target = os.pipe()
    result: list[bool] = []

    def run() -> None:
        result.append(bridge.pump(node, source, target))
        os.close(target)

    thread = threading.Thread(target=run)
    thread.start()
    return to_pump, from_pump, result, thread


def test_bytes_pass_both_ways_and_the_end_is_passed_on_before_the_answer() -> None:
    ours, theirs = socket.socketpair()
    to_pump, from_pump, result, thread = pumping(theirs)
    os.write(to_pump, b"question\n")
    assert ours.recv(100) == b"question\n"
    os.close(to_pump)
    assert ours.recv(100) == b""
    ours.sendall(b"late answer\n")
    assert os.read(from_pump, 100) == b"late answer\n"
    ours.close()
    thread.join(10)
    assert result == [True]
    os.close(from_pump)


def test_large_messages_pass_while_nobody_reads_the_other_way() -> None:
    ours, theirs = socket.socketpair()
    to_pump, from_pump, result, thread = pumping(theirs)
    block = os.urandom(1 << 16) * 64

    def talk() -> None:
        ours.sendall(block)
        ours.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=talk)
    sender.start()  # the node talks, and the client talks, before either listens
    writer = threading.Thread(target=lambda: os.write(to_pump, b"x" * 1000))
    writer.start()
    got = b""
    while len(got) < len(block):
        assert select.select([from_pump], [], [], 10)[0]
        got += os.read(from_pump, 1 << 20)
    assert got == block
    for one in (sender, writer, thread):
        one.join(10)
    assert result == [False]
    for descriptor in (to_pump, from_pump):
        os.close(descriptor)
    ours.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_bridge_quietly_and_the_node_stays(program: Program, number: int, code: int) -> None:
    with (
        ended(program.up()),
        subprocess.Popen(
            [*COMMAND, "mcp"],
            env=program.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(LIST)
        client.stdin.flush()
        client.stdout.readline()
        client.send_signal(number)
        out, err = client.communicate(timeout=20)
        assert (client.returncode, out, err) == (code, b"", b"")
        node = bridge.find(str(program.home))
        assert node is not None
        node.close()


def test_a_node_that_cannot_start_is_told_with_its_log_and_a_mend(program: Program) -> None:
    done = subprocess.run(
        [*COMMAND, "mcp"],
        env={**program.env, "HERD_PORT": "no-port"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "port" in done.stderr
    assert "herd-mcp doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_node_starts_in_a_home_with_a_long_name(tmp_path: Path) -> None:
    program = Program(tmp_path / ("long " * 30) / "home")
    try:
        with subprocess.Popen(
            [*COMMAND, "mcp"], env=program.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(LIST)
            client.stdin.flush()
            assert b'"tools"' in client.stdout.readline()
            client.stdin.close()
            assert client.wait(20) == 0
        assert program.record is not None
        assert len(program.record["socket"]) <= 100
    finally:
        program.end()
        Path(bridge.socket_path(program.home)).unlink(missing_ok=True)  # a killed node leaves it


def test_a_folder_that_cannot_be_written_is_told(program: Program) -> None:
    program.home.parent.joinpath("file").write_text("")
    done = subprocess.run(
        [*COMMAND, "mcp"],
        env={**program.env, "HERD_HOME": str(program.home.parent / "file" / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "set HERD_HOME" in done.stderr
    assert "Traceback" not in done.stderr
