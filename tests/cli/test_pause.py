"""`pause` and `resume`, and where a pause is told."""

from __future__ import annotations

import pytest
import typer

from herd_mcp.cli.pause import seconds_of
from tests.cli.program import Program


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("3D", 259_200), ("5s", 5)]
)
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0m", "2 hours", "1e3s", "9999d", "2h\n3m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="2h"):
        seconds_of(text)


def test_a_pause_is_told_by_status_and_doctor_until_it_is_resumed(running: Program) -> None:
    assert "does nothing for others: its owner paused it until" in running.run("pause", "--for", "2h").stdout
    assert "does nothing for others" in running.run("status").stdout
    assert "herd-mcp resume" in running.run("doctor", "--no-trial").stdout
    assert running.data("pause")["paused"] == "its owner paused it"
    assert running.run("resume").stdout.endswith("works for others.\n")
    assert "does nothing for others" not in running.run("status").stdout
    assert running.run("pause", "--for", "soon").returncode == 2
