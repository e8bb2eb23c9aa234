"""`invite`, `join` and `leave` with real nodes; and a node that has no herd."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.program import Program, ended, interrupt, until
from tests.surfaces.http_node import TOKEN, serve
from tests.test_floors import modules_after


def files(program: Program) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (program.home / "trust").iterdir()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program]]:
    """Two nodes on this machine, which every test leaves without a herd."""
    folder = tmp_path_factory.mktemp("two")
    one, other = (
        Program(
            folder / name, HERD_NODE_NAME=name, HERD_PEER_BIND="127.0.0.1", HERD_PEER_PORT="0", HERD_BONJOUR="false"
        )
        for name in ("alpha", "beta")
    )
    try:
        with ended(one.up()), ended(other.up()):
            yield one, other
    finally:
        one.end()
        other.end()


def test_two_nodes_become_a_herd_and_part_again(two: tuple[Program, Program]) -> None:
    one, other = two
    assert files(one) == {"node_id": 0o600}
    inviting = one.start("invite")
    with ended(inviting):
        assert inviting.stdout is not None
        code = inviting.stdout.readline().strip()
        joined = other.run("join", code.lower())
        assert joined.returncode == 0, joined.stderr
        assert "in the herd of alpha" in joined.stdout
        assert inviting.wait(60) == 0
        assert inviting.stderr is not None
        assert "beta" in inviting.stderr.read()
    assert files(one) == {"node_id": 0o600, "herd.json": 0o600, "members.json": 0o600}
    assert files(other) == files(one)
    keys = [json.loads((program.home / "trust" / "herd.json").read_text()) for program in two]
    assert keys[0] == keys[1]

    refused = other.run("leave")
    assert refused.returncode == 4
    assert "--yes" in refused.stderr
    assert other.run("leave", "--yes").returncode == 0
    assert files(other) == {"node_id": 0o600}
    again = other.run("join", code, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["error"]["hint"]
    assert one.run("leave", "--yes").returncode == 0
    for program in two:
        for secret in ("PRIVATE KEY", keys[0]["prefix_key"], code, code.replace("-", "")):
            assert secret not in program.stderr


def test_ctrl_c_takes_the_code_back(two: tuple[Program, Program]) -> None:
    one, other = two
    inviting = one.start("invite", "--json")
    with ended(inviting):
        assert inviting.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(inviting.stdout.readline())
        code = json.loads("".join(lines))["code"]
        interrupt(inviting)
        assert inviting.wait(60) == 1
        assert inviting.stderr is not None
        assert "taken back" in inviting.stderr.read()
    assert other.run("join", code).returncode == 3
    assert one.run("leave", "--yes").returncode == 0


async def test_the_herd_is_administered_with_the_token_only(tmp_path: Path) -> None:
    async with serve(tmp_path, peer_bind="127.0.0.1") as node:
        asked = [("POST", "invite"), ("GET", "invite"), ("DELETE", "invite"), ("POST", "join"), ("POST", "leave")]
        for method, path in asked:
            answer = await node.http.request(method, f"/herd/api/herd/{path}", json={})
            assert answer.status_code == 401
        assert list((tmp_path / "herd" / "trust").iterdir()) == [tmp_path / "herd" / "trust" / "node_id"]
        async with httpx.AsyncClient(
            base_url=node.http.base_url.join("/herd/api/herd/"),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        ) as http:
            assert (await http.get("invite")).json() is None
            for path, body in (
                ("join", {"code": 5}),
                ("join", {}),
                ("leave", {"nod": "x"}),
                ("join", {"code": "AAAA"}),
            ):
                answer = await http.post(path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
            made = (await http.post("invite")).json()
            assert (await http.get("invite")).json()["state"] == "open"
            assert (await http.delete("invite")).json()["id"] == made["id"]
            assert (await http.get("invite")).json()["state"] == "closed"
            assert (await http.post("leave", json={"rotate": True})).json()["invite"]["herd_id"] != made["herd_id"]


def test_a_node_without_a_herd_holds_nothing_that_only_a_herd_needs() -> None:
    loaded = modules_after(
        "import asyncio, herd_mcp.surfaces.app, herd_mcp.cli.up\n"
        "from herd_mcp.herd import open_herd\n"
        "from herd_mcp.settings import load_settings\n"
        "async def run():\n"
        "    async with open_herd(load_settings()) as herd:\n"
        "        assert not herd.admin.trust.has_herd\n"
        "asyncio.run(run())\n"
        "assert 'cryptography.x509' not in sys.modules\n"  # the MCP library brings parts of cryptography along
        "assert 'herd_mcp.fleet.certificates' not in sys.modules"
    )
    assert not loaded & {"httpx", "zeroconf"}


def test_rotate_and_node_do_not_go_together(tmp_path: Path) -> None:
    done = Program(tmp_path / "home").run("leave", "--rotate", "--node", "x", "--yes")
    assert done.returncode == 2
    assert "--rotate" in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_member_is_taken_out_and_a_herd_is_made_anew(two: tuple[Program, Program]) -> None:
    one, other = two
    code = one.data("invite", "--no-wait")["code"]
    assert other.data("join", code)["members"][0]["name"] == "alpha"
    until(lambda: (one.home / "trust" / "members.json").exists())
    assert one.data("leave", "--node", "beta", "--yes")["revoked"] == "beta"
    assert one.data("leave", "--rotate", "--yes")["invite"]["code"] != code
    for program in two:
        assert program.run("leave", "--yes").returncode == 0
