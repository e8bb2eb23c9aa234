"""A Mac of a herd whose port is taken when it starts: real processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from herd_mcp.cli.check_herd import herd
from tests.cli.program import until
from tests.fleet.macs import CHAT, macs


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        return int(somebody.getsockname()[1])


def test_a_mac_whose_port_is_taken_works_for_its_owner_says_so_and_joins_the_others_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with macs(tmp_path, {}, {}, each={1: {"HERD_PEER_PORT": str(port)}}) as (first, second):
        second.kill()
        with socket.create_server(("127.0.0.1", port)):
            second.up()
            shown = second.run("status").stdout
            assert "warning: mac1 is not among the other Macs of its herd" in shown
            assert f"Port {port} is taken by" in shown
            assert "`peer_port` in config.toml" in shown
            assert second.stderr.count("`peer_port`") == 1
            monkeypatch.setenv("HERD_HOME", str(second.home))
            (finding,) = herd()
            assert (finding.level, finding.check) == ("broken", "herd")
            assert "peer_port" in finding.fix
            assert second.over(second.submit(CHAT)).status == "completed"
            assert not second.sees(first)
        until(lambda: first.sees(second) and second.sees(first))
        (finding,) = herd()
        assert finding.level == "ok"
