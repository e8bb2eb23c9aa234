"""When a Mac does nothing for others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node import pause
from herd_mcp.node.pause import ByHand, Pauses, scheduled, why
from herd_mcp.settings import load_settings, pause_time
from herd_mcp.state import Power

pytestmark = pytest.mark.anyio

AC, BATTERY = Power(source="ac"), Power(source="battery", battery_percent=40)
NOW = 1_800_000_000.0


def at(day: int, clock: str) -> time.struct_time:
    """A moment of that day of the week, 0 is Monday."""
    hour, minute = clock.split(":")
    return time.struct_time((2026, 11, 16 + day, int(hour), int(minute), 0, day, 320 + day, 0))


@pytest.mark.parametrize(
    ("times", "day", "clock", "paused"),
    [
        ("9:00-17:30", 6, "9:00", True),
        ("9:00-17:30", 6, "17:29", True),
        ("9:00-17:30", 6, "17:30", False),
        ("9:00-17:30", 6, "8:59", False),
        ("mon-fri 9:00-17:30", 4, "12:00", True),
        ("mon-fri 9:00-17:30", 5, "12:00", False),
        ("Sat 0:00-24:00", 5, "23:59", True),
        ("sat 0:00-24:00", 6, "0:00", False),
        ("fri-mon 9:00-10:00", 6, "9:30", True),
        ("fri-mon 9:00-10:00", 2, "9:30", False),
        ("22:00-6:00", 0, "23:00", True),
        ("22:00-6:00", 0, "5:59", True),
        ("22:00-6:00", 0, "6:00", False),
        ("fri 22:00-6:00", 5, "5:00", True),  # what began on Friday
        ("fri 22:00-6:00", 4, "5:00", False),
        ("sun 22:00-6:00", 0, "5:00", True),
    ],
)
def test_a_schedule_holds_at_its_times(times: str, day: int, clock: str, paused: bool) -> None:
    assert scheduled(["tue 3:00-3:01", times], at(day, clock)) == (times if paused else "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "9-17", "9:00", "9:00-9:00", "9:60-10:00", "25:00-26:00", "24:00-1:00", "0:00-24:01", "foo 9:00-10:00"),
        *("mon fri 9:00-10:00", "9:00-17:30; rm", "mon-fri9:00-17:30", "9:00-17:30\n10:00-11:00", "-1:00-2:00"),
    ],
)
def test_a_time_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"no time such as|no such hours"):
        pause_time(text)
    with pytest.raises(HerdError, match="pause_times") as caught:
        load_settings(pause_times=(text,))
    assert caught.value.info.code == ErrorCode.INVALID_REQUEST


def test_every_reason_is_told() -> None:
    assert why(None, (), True, AC, NOW) == ""
    assert why(ByHand(), (), True, AC, NOW) == "its owner paused it"
    assert why(ByHand(NOW + 60), (), True, AC, NOW).startswith("its owner paused it until ")
    assert why(ByHand(NOW - 1), (), True, AC, NOW) == ""
    assert why(None, (), True, BATTERY, NOW) == "it runs on battery, 40% left (pause_on_battery)"
    assert why(None, (), False, BATTERY, NOW) == ""
    assert why(None, (), True, Power(), NOW) == ""  # unknown is no reason
    every = why(ByHand(), ("0:00-24:00",), True, BATTERY, NOW)
    assert every.count(";") == 2
    assert "pause_times: 0:00-24:00" in every


async def test_a_pause_by_hand_outlives_the_node(tmp_path: Path) -> None:
    settings = load_settings(pause_on_battery=False)
    pauses = Pauses(tmp_path, settings)
    assert pauses.why(BATTERY, NOW) == ""
    await pauses.begin()
    assert pause.file_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert Pauses(tmp_path, settings).why(AC, NOW) == "its owner paused it"
    await pauses.begin(for_s=3600)
    again = Pauses(tmp_path, settings)
    assert again.why(AC, time.time() + 3500)
    assert not again.why(AC, time.time() + 3700)
    await again.end()
    await again.end()
    assert not Pauses(tmp_path, settings).why(AC, NOW)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"until": "x"}', '{"until": 1e999}', "null"])
def test_a_pause_that_cannot_be_read_has_no_end(tmp_path: Path, content: str) -> None:
    path = pause.file_of(tmp_path)
    path.parent.mkdir()
    path.write_text(content)
    assert pause.read(tmp_path) == ByHand()


async def test_a_pause_that_cannot_be_kept_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    pauses = Pauses(tmp_path, load_settings())
    with pytest.raises(HerdError) as caught:
        await pauses.begin()
    assert caught.value.info.code == ErrorCode.DISK


def test_what_is_kept_is_plain_json(tmp_path: Path) -> None:
    pause.write(tmp_path, ByHand(5.0))
    assert json.loads(pause.file_of(tmp_path).read_text()) == {"until": 5.0}
