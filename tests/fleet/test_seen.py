"""What people see of a herd: nodes, figures, models, and why a job ran where it did. Two real nodes, shared."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.cli.check_herd import herd
from herd_mcp.cli.findings import Finding
from tests.cli.program import ended, until
from tests.faults.node_process import stopped
from tests.fleet.macs import CHAT, IMAGE, Mac, at_once, macs, warm

DRAW = ("image", "a hill", "--model", "herd-tiny-image", "--width", "64", "--height", "64", "--steps", "2")
BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mac, Mac]]:
    """Two Macs that have drawn; the second has a chat model that the first does not."""
    folder = tmp_path_factory.mktemp("two")
    own = folder / "mac1" / "models"
    own.mkdir(parents=True)
    (own / "only-there").symlink_to(BUILTIN / "herd-tiny-chat")
    with macs(folder, {"step_s": 0.05}, {"step_s": 0.05}) as (first, second):
        warm(first, second)
        yield first, second


def test_status_and_top_show_both_macs_with_the_work_ahead(two: tuple[Mac, Mac]) -> None:
    first, second = two
    for command in (("status",), ("top", "--once")):
        shown = first.run(*command).stdout
        assert "mac0 (this Mac)" in shown
        assert "mac1" in shown
        assert "work ahead" in shown
    assert "mac1 (this Mac)" in second.run("top").stdout
    told = first.data("top")
    assert [node["name"] for node in told["nodes"]] == ["mac0", "mac1"]
    assert told["nodes"][1]["work"]["image_s"] >= 0
    assert {"nodes", "strangers", "health", "jobs"} <= first.data("status").keys()


def test_a_pause_is_told_with_its_reason_on_the_other_mac(two: tuple[Mac, Mac]) -> None:
    first, second = two
    assert second.run("pause").returncode == 0
    try:
        until(lambda: first.states()["mac1"]["paused"])
        assert "mac1 does nothing for others: it is paused" in first.run("status").stdout
        explained = first.run(*DRAW, "--explain")
        assert "it is paused" in explained.stderr
        nobody = first.refusal(CHAT | {"model": "only-there"})
        assert nobody["code"] == "no_node"
        assert "it is paused" in nobody["details"]["nodes"]["mac1"]
        assert "only-there" in nobody["details"]["nodes"]["mac0"]
    finally:
        assert second.run("resume").returncode == 0
    until(lambda: not first.states()["mac1"]["paused"])


def test_top_moves_in_a_terminal_until_q(two: tuple[Mac, Mac]) -> None:
    ours, theirs = pty.openpty()
    top = two[0].start("top", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with ended(top):
        seen = b""
        while b"mac1" not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"q")
        while True:  # what it still writes has to be read, or it would wait
            try:
                if not os.read(ours, 65536):
                    break
            except OSError:
                break
        assert top.wait(30) == 0
    os.close(ours)


def test_a_job_says_where_it_ran_and_why_in_seconds(two: tuple[Mac, Mac]) -> None:
    first, _ = two
    jobs = at_once(*(lambda: first.submit(IMAGE) for _ in range(2)))
    over = {job.attempts[-1].node: job for job in map(first.over, jobs)}
    assert over.keys() == {"mac0", "mac1"}
    routed = over["mac1"].routed
    assert routed is not None
    rows = {row.node: row for row in routed.estimates}
    assert rows.keys() == {"mac0", "mac1"}
    assert (rows["mac1"].finish_s or 0) < (rows["mac0"].finish_s or 0)
    listed = {job["id"]: job for job in first.data("jobs")}
    assert [row["node"] for row in listed[over["mac1"].id]["routed"]["estimates"]] == ["mac1", "mac0"]
    assert "mac1" in first.run("jobs").stdout

    tool = call(first, "get_job", {"job_id": over["mac1"].id})
    assert tool["node"] == "mac1"
    assert tool["placement"]["why"].startswith("On mac1 because it is done there in ")
    assert "here it would be" in tool["placement"]["why"]
    assert len(tool["placement"]["estimates"]) == 2


def test_explain_prints_the_table_that_decided(two: tuple[Mac, Mac]) -> None:
    first, _ = two
    drawn = first.run(*DRAW, "--explain")
    assert drawn.returncode == 0, drawn.stderr
    assert "done in" in drawn.stderr
    assert "mac0 (this Mac)" in drawn.stderr
    assert "done in" not in drawn.stdout
    asked = first.data("chat", "hello", "--model", "herd-tiny-chat", "--max-tokens", "4", "--explain")
    assert {row["node"] for row in asked["placement"]["estimates"]} == {"mac0", "mac1"}
    assert asked["placement"]["why"]
    assert len(asked["placement"]["attempts"]) == 1


def test_models_are_those_of_the_herd_each_with_its_macs(two: tuple[Mac, Mac]) -> None:
    first, second = two
    there = {model["name"]: model for model in first.data("models")}
    assert len(there) == len(first.data("models"))
    assert [place["node"] for place in there[IMAGE["model"]]["nodes"]] == ["mac0", "mac1"]
    assert [place["loaded"] for place in there[IMAGE["model"]]["nodes"]] == [True, True]
    only = there["only-there"]
    assert [place["node"] for place in only["nodes"]] == ["mac1"]
    assert only["source"] == "peer"
    assert "mac1" in first.run("models").stdout
    ids = {model["id"] for model in first.get("/v1/models")["data"]}
    assert ids == {model["id"] for model in second.get("/v1/models")["data"]} >= {"only-there"}
    assert first.get("/api/models/only-there")["nodes"][0]["node"] == "mac1"
    assert {model["name"] for model in call(first, "list_models", {})["models"]} == ids

    chat = first.over(first.submit(CHAT | {"model": "only-there"}))
    assert chat.attempts[-1].node == "mac1"


def test_a_model_that_no_mac_has_is_refused_with_the_nearest_of_all(two: tuple[Mac, Mac]) -> None:
    error = two[0].refusal(CHAT | {"model": "only-their"})
    assert error["code"] == "model_not_found"
    assert "on any Mac of the herd" in error["message"]
    assert "only-there" in error["hint"]
    refused = two[0].refusal(CHAT | {"model": "only-there", "max_tokens": None} | {"kind": "image", "prompt": "x"})
    assert refused["code"] in ("invalid_request", "kind_not_supported")


def test_health_and_nodes_over_mcp_show_every_mac(two: tuple[Mac, Mac]) -> None:
    told = call(two[0], "fleet_health", {})
    assert [node["name"] for node in told["nodes"]] == ["mac0", "mac1"]
    assert told["vitals"]["nodes_online"] == 2
    health = read(two[0], "herd://fleet/health")
    assert [node["name"] for node in health["nodes"]] == ["mac0", "mac1"]
    node = read(two[0], "herd://fleet/nodes/mac1")
    assert {"work", "memory", "models", "queued", "reason", "status"} <= node.keys()


def test_figures_are_of_all_macs_and_those_that_hang_are_named_in_time(two: tuple[Mac, Mac]) -> None:
    first, second = two
    assert second.over(second.submit(IMAGE | {"steps": 2, "tags": ["asked-of-mac1"]})).status == "completed"
    both = first.get("/dashboard/api/image-stats")
    assert both["by_tag"]["asked-of-mac1"] == 1
    assert both["absent"] == []
    assert sum(both["by_node"].values()) == both["completed"]
    assert both["completed"] == second.get("/dashboard/api/image-stats")["completed"]
    assert both["p95_generation_ms"] > 0
    assert first.get("/dashboard/api/health")["vitals"]["image_generations_24h"] == both["completed"]
    assert second.node is not None
    with stopped(second.node.pid):
        alone = first.get("/dashboard/api/image-stats")
        assert alone["absent"] == ["mac1"]
        assert "asked-of-mac1" not in alone["by_tag"]
        assert first.get("/dashboard/api/health")["absent"] == ["mac1"]
    until(lambda: first.sees(second) and second.sees(first))


def findings(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the doctor says of the others, on this Mac."""
    monkeypatch.setenv("HERD_HOME", str(mac.home))
    return list(herd())


def test_the_doctor_asks_the_other_mac_from_the_node_itself(
    two: tuple[Mac, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    (well,) = findings(first, monkeypatch)
    assert well.level == "ok"
    assert "mac1 (127.0.0.1:" in well.text
    assert second.node is not None
    with stopped(second.node.pid):
        (silent,) = findings(first, monkeypatch)
        assert silent.level == "note"
        assert "silent" in silent.text or "did not answer" in silent.text
        assert "herd-mcp up" in silent.fix
    until(lambda: first.sees(second) and second.sees(first))


def test_a_mac_that_was_not_heard_of_since_the_start_is_shown_and_the_doctor_says_how_to_wake_it(
    two: tuple[Mac, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two  # the last test of both: the second stays dead
    second.kill()
    first.kill()
    first.up()
    shown = first.run("status").stdout
    assert "mac1 is offline: not heard of since this Mac started" in shown
    assert "Not in the figures, since not reached: mac1" in shown
    assert first.get("/dashboard/api/health")["vitals"]["nodes_offline"] == 1
    (finding,) = findings(first, monkeypatch)
    assert finding.level == "note"
    assert "connection was refused" in finding.text
    assert "herd-mcp leave --node mac1" in finding.fix


# ── an MCP client, as far as it is needed ──


def call(mac: Mac, tool: str, arguments: dict[str, Any]) -> Any:
    answer = _rpc(mac, "tools/call", {"name": tool, "arguments": arguments})
    return answer["structuredContent"]


def read(mac: Mac, uri: str) -> Any:
    return json.loads(_rpc(mac, "resources/read", {"uri": uri})["contents"][0]["text"])


def _rpc(mac: Mac, method: str, params: dict[str, Any]) -> Any:
    """One question over stdio, through the bridge."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": method, "params": params},
    ]
    client = mac.start("mcp", stdin=subprocess.PIPE)
    with ended(client):
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines))
        client.stdin.flush()
        for line in client.stdout:
            told = json.loads(line)
            if told.get("id") == 2:
                return told["result"]
    raise AssertionError("no answer")
