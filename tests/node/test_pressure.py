"""What the systems tell of their memory, recorded, and the level that follows from it."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.node import darwin, linux, pressure
from herd_mcp.node.pressure import EASE, HOLD_S, LEVELS, Hysteresis, Reading, at_least, in_group, level, of_meminfo
from herd_mcp.settings import GIB
from herd_mcp.state import Level

MEMINFO = """\
MemTotal:       24684084 kB
MemFree:        20948756 kB
MemAvailable:   22649388 kB
Buffers:           47696 kB
Cached:           668256 kB
SwapTotal:       2097148 kB
SwapFree:        1048572 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""
PSI = """\
some avg10=12.34 avg60=0.50 avg300=0.09 total=1262492
full avg10=1.20 avg60=0.00 avg300=0.00 total=822986
"""
GROUPS_V1 = """\
9:name=systemd:/
4:memory:/process_api/94545ec3
3:cpuset:/
0::/
"""
GROUPS_V2 = "0::/user.slice/herd.service\n"
STAT_V1 = "cache 100\ninactive_file 5\ntotal_cache 4096\ntotal_inactive_file 2048\ntotal_active_file 100\n"
STAT_V2 = "anon 1000\nfile 2000\ninactive_file 1500\nactive_file 50\n"

# A Mac mini with 16 GB under work, as `vm_stat` and `sysctl vm.swapusage` print it.
MAC_FREE, MAC_ACTIVE, MAC_INACTIVE, MAC_WIRED, MAC_SPECULATIVE = 4518, 194947, 191193, 159117, 3014
MAC_SWAPOUTS, MAC_COMPRESSOR = 929703, 454496
MAC_PAGES = 1048576
VM_STATISTICS64 = struct.pack(
    "<4I9Q2I4Q4IQ",
    MAC_FREE + MAC_SPECULATIVE, MAC_ACTIVE, MAC_INACTIVE, MAC_WIRED,
    320571840, 75978152, 7854456, 320741, 574921966, 38671927, 0, 0, 16666917,
    630, MAC_SPECULATIVE,
    73011127, 92304380, 470789, MAC_SWAPOUTS,
    MAC_COMPRESSOR, 0, 141843, 247311,
    1022243,
)  # fmt: skip


def mac(available: float, *, of: int = 8 * GIB, **fields: float) -> Reading:
    return Reading(of, int(of * available), **fields)  # type: ignore[arg-type]


# ── What the systems say ──────────────────────────────────────────────────────────────────────────────────────────────


def test_meminfo_says_what_is_available_and_what_lies_in_swap() -> None:
    reading = of_meminfo(linux.meminfo_bytes(MEMINFO))
    assert reading == Reading(24684084 * 1024, 22649388 * 1024, swap_used_bytes=1048576 * 1024)


@pytest.mark.parametrize(
    "text", ["", "MemTotal\n", "MemTotal: much kB\n", ":\n\n", "MemTotal:       1000 kB\nSwapFree: -1 kB\n"]
)
def test_a_system_that_tells_little_or_nonsense_is_not_short_of_memory_for_that(text: str) -> None:
    facts = linux.meminfo_bytes(text)
    if "MemTotal" in facts:
        facts["MemFree"] = facts["MemTotal"] // 2  # an old kernel: no MemAvailable
    assert level(of_meminfo(facts)) == "normal"


def test_the_share_of_time_that_processes_wait_for_memory_is_read() -> None:
    assert linux.stalled_pct(PSI) == 12.34
    assert [linux.stalled_pct(text) for text in ("", "some", "some avg10=", "full avg10=9\n", "some total=1\n")] == [
        0
    ] * 5


def test_a_counter_is_found_and_a_missing_one_is_nothing() -> None:
    assert linux.counter("pswpin 3\npswpout 47\nodd\n", "pswpout") == 47
    assert linux.counter("pswpout many\n", "pswpout") == 0


def test_the_groups_around_this_process_are_found_in_both_versions() -> None:
    v1 = linux.group_folders(GROUPS_V1)
    assert v1[:3] == [
        linux.GROUPS / "memory/process_api/94545ec3",
        linux.GROUPS / "memory/process_api",
        linux.GROUPS / "memory",
    ]
    v2 = linux.group_folders(GROUPS_V2)
    assert v2 == [linux.GROUPS / "user.slice/herd.service", linux.GROUPS / "user.slice", linux.GROUPS]
    assert linux.group_folders("") == linux.group_folders("nonsense\n1:memory\n") == []


def test_a_limited_group_tells_limit_and_what_is_left_of_it_with_files_that_can_go() -> None:
    assert linux.group_of("8192\n", "6144\n", STAT_V1) == linux.Group(8192, 4196)
    assert linux.group_of("8192\n", "6144\n", STAT_V2) == linux.Group(8192, 3598)
    assert linux.group_of("8192", "9000", "") == linux.Group(8192, 0)


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n", "", "-1\n"])
def test_a_group_without_a_limit_limits_nothing(limit: str) -> None:
    assert linux.group_of(limit, "6144\n", STAT_V2) is None


def test_the_tightest_of_the_groups_around_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = tmp_path / "a/b", tmp_path / "a"
    inner.mkdir(parents=True)
    for folder, limit, used in ((inner, "8000", "1000"), (outer, "5000", "4500"), (tmp_path, "max", "9999")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(used)
    (tmp_path / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(linux, "GROUPS", tmp_path)
    monkeypatch.setattr(linux, "OWN_GROUPS", tmp_path / "own")
    assert linux.group() == linux.Group(5000, 500)


def test_in_a_limited_group_its_limit_is_all_the_memory_there_is() -> None:
    reading = Reading(16 * GIB, 12 * GIB)
    assert in_group(reading, None) == reading
    assert in_group(reading, linux.Group(64 * GIB, 64 * GIB)) == reading
    grouped = in_group(reading, linux.Group(GIB, GIB // 50))
    assert (grouped.total_bytes, grouped.available_bytes) == (GIB, GIB // 50)
    assert level(reading) == "normal"
    assert level(grouped) == "critical"


def test_this_system_is_read_and_swapping_is_counted_from_the_reading_before() -> None:
    first = pressure.read()
    assert 0 < first.available_bytes <= first.total_bytes
    assert first.swapping_bytes_s == 0
    second = pressure.read(replace(first, at=first.at - 10, swapped_out_bytes=first.swapped_out_bytes - 1000))
    assert 0 < second.swapping_bytes_s <= (1000 + second.swapped_out_bytes - first.swapped_out_bytes) / 10


def test_the_swapping_of_a_mac_is_taken_from_its_statistics() -> None:
    assert len(VM_STATISTICS64) == darwin.VM_STATISTICS64.size == 152
    assert darwin.swapouts_of(VM_STATISTICS64) == MAC_SWAPOUTS


def test_the_footprint_of_a_process_on_a_mac_is_taken_from_its_record() -> None:
    fields = {"user_time": 1, "system_time": 2, "pkg_idle": 3, "interrupt": 4, "pageins": 5, "wired": 6, "resident": 7}
    record = struct.pack("<16s10Q", b"\xff" * 16, *fields.values(), 5 * GIB, 8, 9)
    assert len(record) == 96
    assert darwin.footprint_of(record) == 5 * GIB


# ── Levels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (mac(0.50), "normal"),
        (mac(0.13), "normal"),
        (mac(0.11), "moderate"),
        (mac(0.05), "high"),
        (mac(0.02), "critical"),
        (mac(0.20, stalled_pct=11), "moderate"),
        (mac(0.11, swapping_bytes_s=0.002 * 8 * GIB), "high"),
        (mac(0.05, stalled_pct=50), "critical"),
        (mac(0.50, swapping_bytes_s=0.01 * 8 * GIB), "normal"),
        (mac(0.40, told=2), "moderate"),
        (mac(0.11, told=2), "high"),
        (mac(0.60, told=4), "critical"),
        (Reading(0, 0), "normal"),
    ],
)
def test_the_level_is_of_fractions_of_this_machine(reading: Reading, expected: Level) -> None:
    assert level(reading) == expected
    larger = replace(
        reading,
        total_bytes=reading.total_bytes * 16,
        available_bytes=reading.available_bytes * 16,
        swapping_bytes_s=reading.swapping_bytes_s * 16,
    )
    assert level(larger) == expected


@pytest.mark.parametrize("total", [8 * GIB, 16 * GIB])
@pytest.mark.parametrize("used", [0.70, 0.75, 0.80])
def test_a_healthy_small_mac_with_some_old_swap_is_not_short_of_memory(total: int, used: float) -> None:
    reading = mac(1 - used, of=total, swap_used_bytes=3 * GIB, told=1)
    assert level(reading) == "normal"


def test_a_recorded_mac_that_compressed_much_and_swapped_once_is_not_short_of_memory() -> None:
    page = 16384
    available = (MAC_FREE + MAC_SPECULATIVE + MAC_INACTIVE) * page
    assert level(Reading(MAC_PAGES * page, available, swap_used_bytes=2 * GIB, told=1)) == "normal"


READINGS = st.builds(
    lambda available, stalled, told: mac(available, stalled_pct=stalled, told=told),
    st.sampled_from([0.5, 0.13, 0.11, 0.07, 0.05, 0.02]), st.sampled_from([0.0, 20.0]), st.sampled_from([1, 1, 2, 4]),
)  # fmt: skip


STEPS = st.lists(st.tuples(READINGS, st.sampled_from([0.5, 5.0, 6.0, 20.0])), max_size=60)


@given(STEPS)
def test_a_level_falls_to_the_worst_of_readings_that_were_all_better_for_long_enough(
    steps: list[tuple[Reading, float]],
) -> None:
    felt, now, seen = Hysteresis(), 0.0, [(0.0, level(mac(1.0)))]
    for reading, after_s in steps:
        now += after_s
        before, felt = felt.level, felt.after(reading, now)
        seen.append((now, level(reading, EASE)))
        if not at_least(felt.level, before):
            lately = [eased for at, eased in seen if at >= now - HOLD_S]
            assert not any(at_least(eased, before) for eased in lately)
            assert all(at_least(felt.level, eased) for eased in lately)


@given(STEPS)
def test_a_level_rises_at_once_and_falls_at_most_once_in_its_time(steps: list[tuple[Reading, float]]) -> None:
    felt, now, rose_or_fell = Hysteresis(), 0.0, float("-inf")
    for reading, after_s in steps:
        now += after_s
        before, felt = felt.level, felt.after(reading, now)
        assert at_least(felt.level, level(reading)), "it is milder than what the system says"
        if felt.level != before:
            assert at_least(felt.level, before) or now - rose_or_fell >= HOLD_S, "it flaps"
            rose_or_fell = now


@given(STEPS)
def test_it_is_normal_again_when_readings_were_normal_for_long_enough(steps: list[tuple[Reading, float]]) -> None:
    felt, now = Hysteresis(), 0.0
    for reading, after_s in steps:
        now += after_s
        felt = felt.after(reading, now)
    for _ in range(len(LEVELS) * (int(HOLD_S) + 2)):
        now += 1
        felt = felt.after(mac(0.5, told=1), now)
    assert felt.level == "normal"


def test_between_the_thresholds_a_level_stays() -> None:
    felt = Hysteresis().after(mac(0.11), 0)
    for now in range(1, 100):
        felt = felt.after(mac(0.13), now)
    assert felt.level == "moderate"


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ([(1, 0.5), (10, 0.5), (16, 0.5)], "normal"),
        ([(1, 0.5), (10, 0.5), (15, 0.5)], "critical"),
        ([(1, 0.5), (10, 0.11), (16, 0.5)], "moderate"),
        ([(1, 0.11), (10, 0.5), (16, 0.5)], "moderate"),
        ([(1, 0.5), (10, 0.02), (16, 0.5), (24, 0.5)], "critical"),
        ([(1, 0.5), (10, 0.03), (16, 0.5), (24, 0.5)], "critical"),
        ([(1, 0.5), (10, 0.02), (16, 0.5), (31, 0.5)], "normal"),
    ],
)
def test_a_level_is_left_for_the_worst_of_an_unbroken_better_time(
    then: list[tuple[float, float]], expected: Level
) -> None:
    felt = Hysteresis().after(mac(0.01), 0)
    for now, available in then:
        felt = felt.after(mac(available), now)
    assert felt.level == expected
