"""What nodes write and read: versions, JSON, states, orders, lines. Recorded messages of older and newer nodes."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.fleet import wire
from herd_mcp.jobs import (
    MAX_CHAT_CHARS,
    MAX_PICTURE_BYTES,
    Completed,
    Delta,
    ErrorCode,
    ErrorInfo,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
)
from herd_mcp.orders import Line, Order, Returned
from herd_mcp.state import ChatRates, ImageRates, ModelState

from .scripted import ALPHA, BETA, job_id_of, order_of, state_of

NEWER_STATE: dict[str, Any] = {
    "node_id": BETA,
    "name": "studio",
    "version": "0.9.0",
    "wire": [1, 1],
    "incarnation": 1763700000000,
    "revision": 12,
    "status": "online",
    "platform": "Darwin 27",
    "chip": "Apple M5 Max",
    "cpu_cores": 18,
    "gpu_cores": 40,
    "neural_cores": 16,
    "memory": {
        "total_bytes": 137438953472,
        "available_bytes": 99000000000,
        "budget_bytes": 103079215104,
        "reserved_bytes": 0,
        "swap": {"used_bytes": 0},
    },
    "engines": [
        {
            "model": "qwen",
            "kind": "chat",
            "phase": "ready",
            "reserved_bytes": 5000000000,
            "running": 0,
            "queued": 0,
            "idle_s": 2.5,
            "adapters": ["one"],
        }
    ],
    "models": [{"name": "qwen", "kind": "chat", "bytes": 4000000000, "speculative": True, "chat": None}],
    "work": {"image_s": 0.0, "chat_s": 1.5, "video_s": 3.0},
    "power": {"source": "ac", "watts": 12.5},
    "started_at": 1763700000.0,
    "voices": [{"name": "anna"}],
}
"""As a node with version 1.1 of the wire wrote it."""

BARE_STATE: dict[str, Any] = {
    "node_id": BETA,
    "name": "mini",
    "version": "0.1.0",
    "status": "online",
    "platform": "Darwin",
    "chip": "Apple M1",
    "cpu_cores": 8,
    "memory": {"total_bytes": 16, "available_bytes": 8, "budget_bytes": 8, "reserved_bytes": 0},
    "started_at": 1.0,
}
"""Of a node that tells nothing that it need not."""

NEWER_ORDER: dict[str, Any] = {
    "job": {
        "id": job_id_of(ALPHA),
        "kind": "chat",
        "client": "mcp",
        "created_at": 1763700000.0,
        "priority": 3,
        "request": {
            "kind": "chat",
            "messages": [{"role": "user", "content": "hello", "mood": "good", "name": None}],
            "sampling": {"temperature": 0.5, "smoothing": 1},
            "tools": [{"name": "look", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}],
            "cache_hint": "keep",
        },
    },
    "attempt": 2,
    "expects_s": 4.5,
    "deadline_s": 60,
}

NEWER_LINES = [
    {"attempt": 2, "seq": 1, "event": {"type": "queued", "position": 0, "lane": "fast"}, "sent_at": 1.0},
    {"attempt": 2, "seq": 2, "event": {"type": "thumbnail", "png": "AAAA"}},
    {"attempt": 2, "beat": 7},
    {"attempt": 2, "seq": 3, "event": {"type": "returned", "reason": "drain", "to": "elsewhere"}},
]


def told(data: Any) -> bytes:
    return json.dumps(data).encode()


def test_a_state_of_a_newer_node_is_read_without_what_is_new() -> None:
    state = wire.unpack_state(zlib.compress(told(NEWER_STATE)))
    assert (state.wire, state.gpu_cores, state.work.chat_s, state.power.source) == ((1, 1), 40, 1.5, "ac")
    assert state.engines[0].idle_s == 2.5
    assert state.models[0].name == "qwen"


def test_a_state_without_what_may_be_left_out_is_read() -> None:
    state = wire.unpack_state(zlib.compress(told(BARE_STATE)))
    assert state.models == ()
    assert state.wire == (1, 0)


def test_an_order_of_a_newer_node_is_read_without_what_is_new_at_any_depth() -> None:
    order = wire.unpack_order(told(NEWER_ORDER), ALPHA)
    request = order.job.request
    assert request is not None
    assert request.kind == "chat"
    assert request.messages[0].content == "hello"
    assert request.sampling.temperature == 0.5
    assert request.tools[0].parameters["properties"] == {"x": {"type": "string"}}, "what is data stays whole"


def test_an_order_that_needs_what_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(HerdError, match="too old for the job: it does not know voice") as caught:
        wire.unpack_order(told(NEWER_ORDER | {"needs": ["voice"]}), ALPHA)
    assert caught.value.info.code == ErrorCode.KIND_NOT_SUPPORTED
    assert wire.unpack_order(told(NEWER_ORDER | {"needs": []}), ALPHA).attempt == 2


def test_lines_of_a_newer_node_are_read_and_unknown_events_are_signs_of_life() -> None:
    lines = [wire.unpack_line(told(line)) for line in NEWER_LINES]
    assert [line.event and line.event.type for line in lines] == ["queued", None, None, "returned"]
    assert lines[3].event == Returned(reason="drain")


def test_an_error_of_a_newer_node_keeps_its_words() -> None:
    said = {"error": {"code": "too_hot", "message": "It glows.", "retryable": True, "degrees": 99}}
    error = wire.unpack_error(said)
    assert (error.info.code, error.info.message, error.info.retryable) == (ErrorCode.INTERNAL, "It glows.", True)


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.0", "Update herd-mcp on this node"), ("0.9", "Update herd-mcp on the other node"), ("", "names no version")],
)
def test_another_major_version_is_refused_with_what_to_do(version: str, words: str) -> None:
    with pytest.raises(HerdError, match=words):
        wire.check_version(version)


def test_newer_minor_versions_are_fine() -> None:
    wire.check_version("1.0")
    wire.check_version("1.99")


@pytest.mark.parametrize(
    "raw",
    [
        b"NaN",
        b'{"a": [Infinity]}',
        b"[-Infinity]",
        b"1e400",
        b'{"a": {"b": [-1e400]}}',
        b"[" * 300 + b"]" * 300,
        b"1" * 5000,
        b'"\\ud800"',
        b'"\xff"',
        b"",
        b"{",
        b"[" + b"0," * wire.MAX_VALUES + b"0]",
    ],
    ids=range(12),
)
def test_what_is_no_clean_json_is_refused(raw: bytes) -> None:
    with pytest.raises(wire.Garbled):
        wire.parse(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 0},
        {"attempt": 10**30},
        {"expects_s": -1},
        {"expects_s": 1e30},
        {"job": NEWER_ORDER["job"] | {"id": "job-../../etc-0"}},
        {"job": NEWER_ORDER["job"] | {"request": None}},
        {"job": NEWER_ORDER["job"] | {"kind": "image"}},
        {"job": NEWER_ORDER["job"] | {"request": {"kind": "chat", "messages": []}}},
        {"needs": "voice"},
        {"needs": [1]},
    ],
    ids=str,
)
def test_an_order_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(wire.Garbled):
        wire.unpack_order(told(NEWER_ORDER | change), ALPHA)


def test_a_node_orders_its_own_jobs_only() -> None:
    with pytest.raises(HerdError, match="its own jobs only") as caught:
        wire.unpack_order(told(NEWER_ORDER), BETA)
    assert caught.value.info.code == ErrorCode.FORBIDDEN


def test_no_path_comes_or_goes_with_an_order() -> None:
    assert b"secret" not in wire.pack_order(order_of(ALPHA, spool="/secret"))
    assert wire.unpack_order(told(NEWER_ORDER | {"spool": "/etc/passwd"}), ALPHA).spool == ""


def test_no_path_goes_with_the_end_of_an_image() -> None:
    result = ImageResult(image_id="i", model="m", node="n", width=1, height=1, steps=1, seed=1, path="/secret")
    assert b"secret" not in wire.pack_line(Line(attempt=1, seq=1, event=Completed(result=result)))


@given(st.text(), st.integers(1, 9), st.integers(0, 2**53))
def test_a_line_is_one_line_in_ascii_and_is_read_as_it_was(text: str, attempt: int, seq: int) -> None:
    line = Line(attempt=attempt, seq=seq, event=Delta(text=text))
    raw = wire.pack_line(line)
    assert raw.isascii()
    assert raw.count(b"\n") == 1
    assert wire.unpack_line(raw) == line


@given(st.lists(st.binary().map(lambda raw: raw.replace(b"\n", b"")), max_size=9), st.integers(1, 50))
def test_lines_are_whole_however_they_are_cut(lines: list[bytes], size: int) -> None:
    sent = b"".join(line + b"\n" for line in lines)
    rest = bytearray()
    got = [line for start in range(0, len(sent), size) for line in wire.split_lines(rest, sent[start : start + size])]
    assert got == lines
    assert not rest


@pytest.mark.parametrize("told", [b"-1000000", b'"none"', b"7"])
def test_how_long_a_line_is_says_who_read_it(told: bytes) -> None:
    assert wire.unpack_line(b'{"attempt":1,"seq":1,"size":' + told + b"}", 42).size == 42


def test_a_line_without_an_end_is_refused() -> None:
    rest = bytearray()
    assert list(wire.split_lines(rest, b"a" * wire.LINE_BYTES)) == []
    with pytest.raises(wire.Garbled):
        list(wire.split_lines(rest, b"a"))


def test_a_state_that_inflates_without_end_is_refused() -> None:
    bomb = zlib.compress(b" " * 50_000_000, 9)
    assert len(bomb) < wire.STATE_BYTES
    with pytest.raises(wire.Garbled, match="does not end"):
        wire.unpack_state(bomb)


@pytest.mark.parametrize("raw", [b"", b"garbage", zlib.compress(b"{}")[:-3], zlib.compress(b"{}") + b"x"], ids=range(4))
def test_a_state_that_is_not_one_is_refused(raw: bytes) -> None:
    with pytest.raises(wire.Garbled):
        wire.unpack_state(raw)


@pytest.mark.parametrize(
    "change",
    [{"cpu_cores": -1}, {"cpu_cores": 10**30}, {"name": "../x"}, {"node_id": "../x"}, {"heard_s": 1e30}],
    ids=str,
)
def test_absurd_states_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(wire.Garbled):
        wire.unpack_state(zlib.compress(told(BARE_STATE | change)))


def model(number: int) -> ModelState:
    return ModelState(
        name=f"mlx-community/Qwen3-{number}B-Instruct-4bit",
        aliases=(f"qwen3-{number}b", f"Qwen3-{number}B"),
        kind="chat",
        bytes=10**9 * (number + 1),
        load_s=2.531 + number,
        capacity=32,
        context_tokens=40960,
        chat=ChatRates(
            prefill_tokens_per_s=913.17 / (number + 1),
            decode_tokens_per_s=77.7 / (number + 1),
            answer_tokens=211.5 + number,
        ),
        image=ImageRates(step_s_per_mpx=1.234567 + number),
    )


def test_a_state_with_twenty_models_is_small_and_the_largest_can_be_told() -> None:
    state = state_of(ALPHA, models=tuple(model(number) for number in range(20)))
    raw = wire.pack_state(state)
    assert len(raw) < 4096
    assert wire.unpack_state(raw) == state
    prefixes = tuple(f"{number:016x}" for number in range(64))
    many = state_of(ALPHA, models=tuple(model(number) for number in range(64)), prefixes=prefixes)
    assert wire.unpack_state(wire.pack_state(many)) == many


def test_a_state_that_nobody_would_read_is_not_told() -> None:
    wordy = tuple(model(number).model_copy(update={"reason": "x" * 1000}) for number in range(64))
    with pytest.raises(HerdError, match="can be told"):
        wire.pack_state(state_of(ALPHA, models=wordy))


def test_the_longest_order_fits_into_its_bound() -> None:
    request = ImageRequest(prompt="🐑" * 8000, image=b"\xff" * MAX_PICTURE_BYTES)
    job = Job(id=job_id_of(ALPHA), kind="image", client="test", request=request, created_at=1.0)
    raw = wire.pack_order(Order(job=job, attempt=1))
    assert len(raw) < wire.ORDER_BYTES
    assert wire.unpack_order(raw, ALPHA).job == job
    assert MAX_CHAT_CHARS * 6 < wire.ORDER_BYTES


def test_an_error_is_written_as_it_is_read() -> None:
    info = ErrorInfo(code=ErrorCode.BUSY, message="é", hint="h", retryable=True, details={"a": [1]})
    assert wire.unpack_error(wire.parse(wire.pack_error(info))).info == info


@pytest.mark.parametrize(("lease_s", "beat_s"), [(0.1, 0.5), (3, 0.5), (12, 2), (30, 5), (3600, 5)])
def test_beats_follow_the_lease_within_bounds(lease_s: float, beat_s: float) -> None:
    assert wire.beat_s(lease_s) == beat_s
