"""What the doctor says of another Mac, by what came of asking it."""

from __future__ import annotations

import errno

import httpx
import pytest

from herd_mcp.cli.check_herd import of_peer
from herd_mcp.fleet import trouble
from herd_mcp.fleet.words import PeerCheck

ADDRESS = "192.168.1.7:11436"


def of(error: BaseException) -> PeerCheck:
    """The check of a Mac that was not reached for this, on macOS."""
    info = trouble.of_failure(error, ADDRESS, "darwin").info
    return PeerCheck(
        node_id="a" * 10, name="mini", reason=str(info.details["reason"]), problem=info.message, hint=info.hint
    )


def blocked() -> BaseException:
    error = httpx.ConnectError("x")
    error.__cause__ = OSError(errno.EHOSTUNREACH, "No route to host")
    return error


@pytest.mark.parametrize(
    ("check", "level", "text", "fix"),
    [
        (PeerCheck(node_id="a", name="mini", took_s=0.012, version="1"), "ok", "answers in 12 ms", ""),
        (PeerCheck(node_id="a", name="mini", took_s=0.012, version="2"), "note", "this Mac has 1", "same version"),
        (PeerCheck(node_id="a", name="mini", stopped=True), "note", "was stopped", "herd-mcp up"),
        (of(blocked()), "broken", "does not let this program into the local network", "Privacy & Security"),
        (of(httpx.ConnectTimeout("x")), "note", "off, asleep", "herd-mcp leave --node mini"),
    ],
)
def test_each_trouble_has_its_mend(check: PeerCheck, level: str, text: str, fix: str) -> None:
    finding = of_peer(check, "1")
    assert finding.level == level
    assert text in finding.text
    assert fix in finding.fix
