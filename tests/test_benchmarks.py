"""The benchmarks' arithmetic, and that they run: each quick one once, against its real peer."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as program
from benchmarks import chat, images, prefix, soak
from benchmarks.parts import knowing, machine, model, processes
from benchmarks.parts.http import Burst, Stream
from benchmarks.parts.measure import Goal, Quartiles, growth_per, interleave, quartiles, row
from benchmarks.parts.report import Report, parser

ROOT = Path(__file__).parent.parent


# ── Arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        ([5], (5, 5, 5)),
        ([1, 2], (1.25, 1.5, 1.75)),
        ([4, 1, 3, 2, 5], (2, 3, 4)),
        ([7, 1, 3, 5, 100, 9, 11], (4, 7, 10)),
    ],
)
def test_quartiles_lie_where_the_sorted_samples_are_cut(samples: list[float], wanted: tuple[float, ...]) -> None:
    found = quartiles(samples)
    assert (found.q1, found.median, found.q3, found.count) == (*wanted, len(samples))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_quartiles_rise_and_stay_within_the_samples(samples: list[float]) -> None:
    found = quartiles(samples)
    slack = 1e-6 * max(1.0, *map(abs, samples))
    assert min(samples) - slack <= found.q1 <= found.median + slack
    assert found.median - slack <= found.q3 <= max(samples) + slack


def test_no_samples_have_no_quartiles() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quartiles([])


def test_sides_are_measured_in_turn_and_know_the_pair() -> None:
    order: list[str] = []

    def side(name: str, pair: int) -> str:
        order.append(f"{name}{pair}")
        return order[-1]

    assert interleave([partial(side, "a"), partial(side, "b")], 3) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_ratio_is_that_of_the_medians_and_is_held_against_its_goal() -> None:
    found = row("x", "ms", [1, 2, 90], [10, 20, 30], Goal("<=", 0.1))
    assert found.ratio == 0.1
    assert found.met is True
    assert row("x", "ms", [2.1], [20], Goal("<=", 0.1)).met is False
    assert row("x", "tok/s", [12], [10], Goal(">=", 1.2)).met is True
    assert row("x", "tok/s", [11.9], [10], Goal(">=", 1.2)).met is False
    assert row("x", "ms", [1], [2]).met is None


def test_a_goal_of_a_value_needs_no_peer_and_alternatives_count_each() -> None:
    assert row("x", "MiB", [129], (), Goal("<=", 130, of="value")).met is True
    assert row("x", "MiB", [131], (), Goal("<=", 130, of="value")).met is False
    either = (Goal("<=", 30, of="value"), Goal("<=", 50, of="value"))
    assert [row("x", "ms", [ms], (), *either).met for ms in (20, 40, 60)] == [True, True, False]


def test_within_a_factor_is_off_neither_way_by_more() -> None:
    goal = Goal("within", 1.2)
    assert [row("x", "MiB", [ours], [100], goal).met for ours in (83, 84, 119, 121)] == [False, True, True, False]
    report = Report("test", "Both ways.", (row("x", "MiB", [90], [100], goal),), machine.look(0.5), 1)
    assert "| within 1.2× | yes |" in report.text()


def test_without_a_peer_or_against_nothing_a_goal_of_a_ratio_is_missed() -> None:
    assert row("x", "ms", [1], (), Goal("<=", 1)).met is False
    assert row("x", "ms", [1], [0], Goal("<=", 1)).met is False


def test_growth_is_the_slope_per_hundred() -> None:
    assert growth_per([(0, 10), (50, 11), (100, 12)], 100) == pytest.approx(2)
    assert growth_per([(10, 10)], 100) == 0


def _stream(sent_at: float, first_at: float, ended_at: float, tokens: int, error: str = "") -> Stream:
    return Stream(sent_at, first_at, ended_at, completion_tokens=tokens, error=error)


def test_a_burst_counts_whole_answers_over_the_time_of_all() -> None:
    burst = Burst((_stream(1, 2, 5, 40), _stream(1, 3, 6, 60), _stream(1, 0, 0, 7, "ConnectionResetError: ")))
    assert burst.tokens_per_s == 20
    assert burst.errors == 1
    assert burst.ttfts_ms == [1000, 2000]
    assert Burst((_stream(1, 0, 0, 0, "gone"),)).tokens_per_s == 0


def test_the_chat_table_has_the_goals_where_they_stand_and_counts_broken_streams() -> None:
    whole = [Burst((_stream(0, 1, 2, 100),))] * 3
    broken = [Burst((_stream(0, 1, 2, 100), _stream(0, 0, 0, 0, "reset")))] * 3
    assert [line.met for line in chat.rows_of(1, whole, whole)] == [True, None]
    assert [line.met for line in chat.rows_of(16, whole, whole)] == [False, True]
    most = chat.rows_of(48, whole, broken)
    assert [(line.ours.median, line.peer and line.peer.median) for line in most][-1] == (0, 3)
    assert chat.rows_of(48, broken, whole)[-1].met is False


def test_images_tell_start_and_drawing_apart_and_what_the_node_adds() -> None:
    seconds = images.Seconds
    rows = images.rows_of([seconds(1.02, 1.0)] * 3, [seconds(1.0, 1.0)] * 3, [seconds(3, 1)] * 3, [(0.1, 0.2)] * 3)
    assert [line.ours.median for line in rows] == pytest.approx([1020, 1000, 20, 1020, 20, 100])
    assert rows[2].peer == Quartiles(2000, 2000, 2000, 3)
    assert [line.met for line in rows] == [None, None, None, None, True, True]
    slow = images.rows_of([seconds(1.06, 1.0)], [seconds(1.0, 1.0)], [seconds(3, 1)], [(0.3, 0.2)])
    assert [line.met for line in slow[-2:]] == [False, False]


def test_a_second_turn_hits_when_all_of_the_first_comes_from_the_cache() -> None:
    whole = prefix.HISTORY_CHARS + prefix.ANSWER_TOKENS
    assert prefix.is_hit(Stream(cached_tokens=whole))
    assert not prefix.is_hit(Stream(cached_tokens=prefix.HISTORY_CHARS // 2))


def test_the_growth_of_a_soak_leaves_its_first_quarter_out() -> None:
    held = [(25.0, 10.0), (50.0, 60.0), (75.0, 61.0), (100.0, 62.0)]
    grows, holds, *_ = soak.rows_of("chats", 104, [{"node": held, "engine": held}])
    assert grows.ours.median == pytest.approx(4)
    assert holds.ours.median == 62


def test_texts_have_their_length_and_begin_like_no_other() -> None:
    texts = [model.text(seed, 40) for seed in range(200)]
    assert {len(text) for text in texts} == {40}
    assert len({text[:6] for text in texts}) == 200
    assert model.kv_bytes_per_token(4, 256) == 4096


def test_what_a_herd_in_memory_costs_is_counted_in_virtual_time() -> None:
    told = knowing.told(size=4, count=2)
    assert 0 < told.state_bytes < 4096
    # Three others, each told at least every 5 s and at most every 4, both ways.
    exchanges = told.bytes_per_s / (2 * told.state_bytes)
    assert 3 / 5 <= exchanges <= 3 / 4 * 1.5
    assert 0 < max(told.known_s) <= 0.5
    assert 0 < max(told.placing_ms) < 1000


# ── Tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def report() -> Report:
    rows = (row("one", "ms", [1, 2, 3], [20], Goal("<=", 0.05)), row("two", "MiB", [1234.5]))
    return Report("test", "One against another.", rows, machine.look(0.5), 3, ("A note.",))


def test_a_table_shows_medians_quartiles_ratio_goal_and_misses(report: Report) -> None:
    lines = report.text().splitlines()
    assert "| one  | 2 [1.5–2.5] ms | 20 ms | 0.10× | ≤ 0.05× | NO  |" in lines
    assert "| two  | 1,234 MiB      | –     | –     | –       | –   |" in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert "Median [quartiles] of 3 interleaved runs." in lines[-1]


def test_json_holds_the_same(report: Report) -> None:
    told = json.loads(report.json())
    assert told["rows"][0]["ratio"] == 0.1
    assert told["rows"][0]["met"] is False
    assert told["rows"][0]["ours"] == {"q1": 1.5, "median": 2, "q3": 2.5, "count": 3}


def test_the_machine_is_described_without_names_and_paths(report: Report) -> None:
    import platform

    words = str(report.machine)
    assert "cores" in words
    assert "load average 0.5 before" in words
    assert not [name for name in (platform.node(), str(Path.home()), sys.prefix) if name and name in words]


# ── The program ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_module_is_listed_with_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert {"chat", "coldstart", "idle", "images", "prefix", "soak"} <= set(program.names())
    for name in program.names():
        assert f"{name:<10} {program.about(name)}" in listed
        assert callable(program.load(name))


def test_a_name_that_is_none_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["nonsense"]) == 2
    assert "coldstart" in capsys.readouterr().out


def test_what_is_no_table_comes_into_a_fence() -> None:
    assert program.markdown("a\n| b |\n") == "a\n| b |"
    assert program.markdown("plain") == "```\nplain\n```"


def test_seven_pairs_are_the_least_without_a_word() -> None:
    assert parser("x", None).parse_args([]).pairs == 7


# ── Smoke ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_cold_start_is_measured(tmp_path: Path) -> None:
    told = run("coldstart", "--pairs", "1")
    up, down = told["rows"]
    assert 0 < up["ours"]["median"] < down["ours"]["median"]
    assert up["peer"]["count"] == 1


@pytest.mark.slow
def test_the_idle_node_is_measured_and_all_writes_its_table(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "benchmarks", "all", "--only", "idle", "--markdown", str(file)]
    subprocess.run([*command, "--", "--seconds", "0.2"], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert "## idle\n" in file.read_text()
    assert "| resident memory " in file.read_text()


def run(*words: str) -> Any:
    command = [sys.executable, "-m", "benchmarks", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "words",
    [
        ("chat", "--pairs", "1", "--clients", "1", "4"),
        ("prefix", "--pairs", "3"),
        ("images", "--pairs", "1"),
        ("soak", "--chats", "16", "--images", "2"),
        ("swap", "--rounds", "1"),
        ("endure", "--minutes", "0.2"),
        ("herd", "--pairs", "1", "--counts", "2", "--sizes", "2", "--seconds", "1"),
    ],
    ids=lambda words: words[0],
)
def test_every_other_benchmark_runs(words: tuple[str, ...]) -> None:
    told = run(*words)
    assert told["rows"]
    assert all(line["ours"]["count"] for line in told["rows"])


def test_a_node_that_does_not_come_up_says_why() -> None:
    with pytest.raises(RuntimeError, match="chat_batch"), processes.node(chat_batch="none"):
        pytest.fail("it came up")
