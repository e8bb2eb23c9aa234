"""Power, as psutil and macOS tell it: recorded answers, and the one of this machine."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from herd_mcp.node import power, surroundings
from herd_mcp.node.surroundings import UNKNOWN, Surroundings
from herd_mcp.state import Power
from tests.conftest import until

pytestmark = pytest.mark.anyio


class Battery(NamedTuple):
    """As psutil has it."""

    percent: float | None
    secsleft: int
    power_plugged: bool | None


@pytest.mark.parametrize(
    ("battery", "level", "mac", "told"),
    [
        (Battery(82, 12_540, False), 0, True, Power(source="battery", battery_percent=82, thermal="nominal")),
        (Battery(100, -2, True), 1, True, Power(source="ac", battery_percent=100, thermal="fair")),
        (None, 2, True, Power(source="ac", thermal="serious")),
        (Battery(3.6, -1, None), 3, True, Power(source="unknown", battery_percent=4, thermal="critical")),
        (Battery(104, -1, True), 4, True, Power(source="ac", battery_percent=100, thermal="critical")),
        (Battery(None, -1, False), 99, True, Power(source="battery")),
        (None, -1, True, Power(source="ac")),
        (None, None, False, Power()),
    ],
)
def test_what_the_system_tells_is_told_on_and_the_rest_is_unknown(
    battery: Battery | None, level: int | None, mac: bool, told: Power
) -> None:
    assert power.power_of(battery, level, mac=mac) == told


def test_this_machine_answers() -> None:
    told = power.read()
    assert sys.platform == "darwin" or told.thermal == "unknown"


async def test_the_system_is_asked_beside_what_is_done_and_not_again_at_once(tmp_path: Path) -> None:
    answer = threading.Event()
    asked: list[int] = []

    def read() -> Power:
        asked.append(1)
        answer.wait(60)
        return Power(source="ac")

    around = Surroundings(tmp_path, read)
    assert around.facts() == UNKNOWN
    answer.set()
    await until(lambda: around.facts().power.source == "ac", "it has answered")
    assert around.facts().disk_free_bytes
    assert len(asked) == 1


async def test_a_system_that_does_not_answer_is_asked_once_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    asked: list[int] = []

    def hang() -> Power:
        asked.append(1)
        answer.wait(60)
        return Power(source="ac")

    monkeypatch.setattr(surroundings, "FRESH_S", 0.0)
    monkeypatch.setattr(surroundings, "LIMIT_S", 0.0)
    around = Surroundings(tmp_path, hang)
    assert [around.facts() for _ in range(50)] == [UNKNOWN] * 50
    assert len(asked) <= 1
    answer.set()
    await until(lambda: around.facts().power.source == "ac", "it has answered")


async def test_a_system_that_fails_tells_nothing(tmp_path: Path) -> None:
    def fail() -> Power:
        raise ZeroDivisionError

    around = Surroundings(tmp_path, fail)
    around.facts()
    await until(lambda: around._answered, "it has failed")
    assert around.facts() == UNKNOWN
