"""What is told, when it is worth telling, and how long it is."""

from __future__ import annotations

import ipaddress
import random
import zlib
from typing import Any

import pytest

from benchmarks.parts.mesh import GIB, node_id, state_of
from herd_mcp.fleet import wire
from herd_mcp.fleet.prefixes import HASH_BYTES
from herd_mcp.fleet.reports import LONGEST_BYTES, Reporter, bounded, matters, rounded
from herd_mcp.jobs import Kind
from herd_mcp.state import (
    MAX_ADDRESSES,
    MAX_ESTIMATES_TOLD,
    MAX_PREFIXES_TOLD,
    MAX_REVOKED_TOLD,
    ChatRates,
    EngineState,
    Estimate,
    ImageRates,
    ModelState,
    NodeState,
    Power,
    Work,
)

CHATS = [
    "mlx-community/" + name
    for name in (
        "Qwen3-4B-Instruct-2507-4bit",
        "Qwen3-30B-A3B-Instruct-2507-4bit",
        "Meta-Llama-3.1-8B-Instruct-4bit",
        "Llama-3.3-70B-Instruct-4bit",
        "gemma-3-12b-it-qat-4bit",
        "gemma-3-27b-it-qat-4bit",
        "gpt-oss-20b-MXFP4-Q8",
        "Mistral-Small-3.2-24B-Instruct-2506-4bit",
        "DeepSeek-R1-Distill-Qwen-14B-4bit",
        "Phi-4-mini-instruct-4bit",
        "SmolLM3-3B-4bit",
        "GLM-4.5-Air-4bit",
        "Qwen2.5-Coder-32B-Instruct-4bit",
    )
]
IMAGES = [
    "black-forest-labs/FLUX.1-schnell",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.1-Kontext-dev",
    "black-forest-labs/FLUX.2-klein-4B",
    "Qwen/Qwen-Image",
    "Tongyi-MAI/Z-Image-Turbo",
    "briaai/FIBO",
]


def model(name: str, kind: Kind, n: int) -> ModelState:
    chat = ChatRates(prefill_tokens_per_s=411.3 + 97 * n, decode_tokens_per_s=21.7 + 3 * n, answer_tokens=211.0 + n)
    image = ImageRates(step_s_per_mpx=1.371 + n / 7, fixed_s_per_mpx=0.913 + n / 11)
    return ModelState(
        name=name,
        aliases=(name.split("/")[1].lower(), name.split("/")[1].split("-")[0].lower() + str(n)),
        kind=kind,
        bytes=2_263_022_417 + 1_131_911_233 * n,
        loaded=n < 3,
        fits=n < 12,
        reason="" if n < 12 else f"it takes {20 + n}.{n} GB and this Mac gives models 36.0 GB",
        load_s=3.417 + n,
        capacity=32 if kind == "chat" else 1,
        context_tokens=32_768 + 1024 * n if kind == "chat" else None,
        largest_px=2048 if kind == "image" else None,
        default_px=1024 if kind == "image" else None,
        default_steps=4 + n if kind == "image" else None,
        image=image if kind == "image" else None,
        chat=chat if kind == "chat" else None,
    )


def full(**update: Any) -> NodeState:
    models = [model(name, "chat", n) for n, name in enumerate(CHATS)]
    models += [model(name, "image", n) for n, name in enumerate(IMAGES)]
    engines = tuple(
        EngineState(
            model=one.name,
            kind=one.kind,
            phase="ready",
            pid=4000 + n,
            reserved_bytes=one.bytes + 517_341_184,
            resident_bytes=one.bytes + 391_118_848,
            running=n,
            queued=0,
            idle_s=17.3 * n,
        )
        for n, one in enumerate(models[:4])
    )
    estimates = tuple(
        Estimate(model=one.name, factor=1.0371 + n / 1000, measured_at=1_790_000_123.4 + 977 * n)
        for n, one in enumerate(models)
    )
    return state_of(
        7,
        models=tuple(models),
        engines=engines,
        estimates=estimates,
        work=Work(image_s=31.217, chat_s=4.731),
        power=Power(source="battery", battery_percent=73, thermal="nominal"),
        disk_free_bytes=211 * GIB + 12345,
        addresses=("192.168.1.23:11436", "169.254.17.3:11436"),
        prefixes=tuple(
            zlib.crc32(bytes([n])).to_bytes(4, "big").hex() + f"{n * 2654435761 % 2**32:08x}" for n in range(16)
        ),
        revoked=tuple(f"{n * 2654435761 % 2**40:010x}" for n in range(4)),
    ).model_copy(update=update)


def test_a_state_of_twenty_models_takes_four_kilobytes_compressed() -> None:
    state = rounded(full(incarnation=1_790_000_000_000, revision=12_345))
    assert len(state.models) == 20
    packed = zlib.compress(state.model_dump_json(exclude_defaults=True).encode())
    assert len(packed) <= 4096, len(packed)


def fullest() -> NodeState:
    """Twenty models, each with an engine and an estimate, all fields of their kinds set and all lists full, with
    figures that do not compress."""
    chance = random.Random(7)
    some = chance.uniform

    def told(one: ModelState) -> ModelState:
        chat, image = one.kind == "chat", one.kind == "image"
        update = {
            "builtin": True,
            "loaded": chance.random() < 0.5,
            "loading": some(0, 1),
            "fits": False,
            "reason": f"it takes {some(20, 90):.1f} GB and this Mac gives models 36.0 GB",
            "bytes": chance.randrange(10**9, 10**11),
            "load_s": some(1, 60),
            "capacity": chance.choice((1, 4, 8, 32)),
            "running": chance.randrange(32),
            "waiting": chance.randrange(100),
            "context_tokens": chance.randrange(2**17) if chat else None,
            "largest_px": chance.randrange(512, 4096, 16) if image else None,
            "default_px": 1024 if image else None,
            "default_steps": chance.choice((4, 9, 20, 25)) if image else None,
            "image": ImageRates(step_s_per_mpx=some(0.1, 9), fixed_s_per_mpx=some(0.1, 9)) if image else None,
            "chat": ChatRates(
                prefill_tokens_per_s=some(50, 2000),
                decode_tokens_per_s=some(5, 200),
                answer_tokens=some(20, 900),
                tokens_per_byte=some(0.2, 0.4),
            )
            if chat
            else None,
        }
        return one.model_copy(update=update)

    def engine_of(one: ModelState) -> EngineState:
        return EngineState(
            model=one.name,
            kind=one.kind,
            phase=chance.choice(("starting", "ready", "stopping")),
            quantize=chance.choice((4, 8)),
            pid=chance.randrange(10**5),
            reserved_bytes=chance.randrange(10**11),
            resident_bytes=chance.randrange(10**11),
            pinned=True,
            loading=some(0, 1),
            running=chance.randrange(32),
            queued=chance.randrange(100),
            idle_s=some(0, 10_000),
        )

    def estimate_of(one: ModelState) -> Estimate:
        return Estimate(
            model=one.name,
            quantize=chance.choice((4, 8)),
            factor=some(0.3, 4),
            by_work_mib={2**shape: round(some(0.3, 4), 3) for shape in range(16)},
            held_bytes=chance.randrange(10**11),
            measured_at=1_790_000_000 + some(0, 10**7),
        )

    def gone(n: int) -> ModelState:
        return models[n % 20].model_copy(update={"name": f"{models[n % 20].name}-{chance.randrange(1000)}"})

    hosts = [f"192.168.{chance.randrange(256)}.{chance.randrange(256)}" for _ in range(MAX_ADDRESSES // 2)]
    hosts += [f"[{ipaddress.IPv6Address(chance.getrandbits(128))}]" for _ in hosts]
    models = tuple(told(one) for one in full().models)
    return full(
        incarnation=1_790_000_000_000,
        revision=12_345,
        reason="it is ending: it was stopped",
        paused="its owner said so, until 17:30",
        models=models,
        engines=tuple(engine_of(one) for one in models),
        estimates=(
            *(estimate_of(one) for one in models),
            *(estimate_of(gone(n)) for n in range(MAX_ESTIMATES_TOLD - len(models))),
        ),
        memory=BASE.memory.model_copy(update={"pressure": "moderate", "begun_px": 1024**2, "begun_tokens": 8192}),
        work=Work(image_s=123.4, chat_s=1234.5, load_s=12.3),
        queued=13,
        running=20,
        addresses=tuple(f"{host}:11436" for host in hosts),
        prefixes=tuple(chance.randbytes(HASH_BYTES).hex() for _ in range(MAX_PREFIXES_TOLD)),
        revoked=tuple(chance.randbytes(5).hex() for _ in range(MAX_REVOKED_TOLD)),
    )


def test_the_largest_state_of_twenty_models_takes_four_kilobytes_too() -> None:
    state = rounded(fullest())
    unset = [name for name in NodeState.model_fields if getattr(state, name) in (None, (), "", 0)]
    assert unset == ["heard_s"], "a field that came since must be in the figure"
    assert len(wire.pack_state(state)) <= 4096


def test_what_is_told_is_a_state_again() -> None:
    state = rounded(full())
    assert NodeState.model_validate_json(state.model_dump_json(exclude_defaults=True)) == state


def test_the_longest_state_is_cut_and_what_is_loaded_stays() -> None:
    long = "x" * 250
    models = tuple(
        ModelState(name=f"{n:03}{long}", aliases=(long,) * 16, kind="chat", bytes=1, loaded=n == 63, reason="y" * 1000)
        for n in range(64)
    )
    cut = bounded(state_of(1, models=models, prefixes=("0" * 16,) * 64, reason="z" * 1000))
    assert len(cut.model_dump_json(exclude_defaults=True)) <= LONGEST_BYTES
    assert any(one.loaded for one in cut.models)
    assert bounded(full()) == full(), "a usual one loses nothing"


@pytest.mark.parametrize("letter", ["x", "ü"])
@pytest.mark.parametrize("spare", [0, 100, 2000])
def test_a_state_as_long_as_may_be_told_is_told_with_those_who_are_shut_out(spare: int, letter: str) -> None:
    def with_models(sizes: list[int]) -> NodeState:
        return state_of(
            1,
            models=tuple(
                ModelState(name=f"{n:03}{'n' * 200}", kind="chat", bytes=1, reason=letter * size)
                for n, size in enumerate(sizes)
            ),
        )

    count, empty = 60, len(with_models([0] * 60).model_dump_json(exclude_defaults=True)) + 60 * len(',"reason":""')
    share, rest = divmod((wire.STATE_BYTES - spare - empty) // len(letter.encode()), count)
    state = with_models([share + (n < rest) for n in range(count)])
    assert wire.STATE_BYTES - spare - 2 <= len(state.model_dump_json(exclude_defaults=True).encode())
    told = bounded(state).model_copy(update={"revoked": (node_id(1),) * MAX_REVOKED_TOLD})
    assert wire.unpack_state(wire.pack_state(told)) == told


def engine(**update: Any) -> dict[str, Any]:
    return {"engines": (full().engines[0].model_copy(update=update), *full().engines[1:])}


def first_model(**update: Any) -> dict[str, Any]:
    return {"models": (full().models[0].model_copy(update=update), *full().models[1:])}


BASE = full()
RATES = BASE.models[0].chat
assert RATES


@pytest.mark.parametrize(
    ("update", "matter"),
    [
        ({"queued": 1}, True),
        ({"running": 1}, True),
        ({"status": "draining"}, True),
        ({"paused": "on battery"}, True),
        ({"revoked": ("0" * 10,)}, True),
        ({"addresses": ("10.0.0.1:1",)}, True),
        ({"memory": BASE.memory.model_copy(update={"pressure": "high"})}, True),
        ({"memory": BASE.memory.model_copy(update={"available_bytes": 28 * GIB})}, False),
        ({"memory": BASE.memory.model_copy(update={"available_bytes": 20 * GIB})}, True),
        ({"memory": BASE.memory.model_copy(update={"reserved_bytes": GIB})}, False),
        ({"memory": BASE.memory.model_copy(update={"reserved_bytes": 8 * GIB})}, True),
        ({"work": Work(image_s=32.0, chat_s=5.9)}, False),
        ({"work": Work(image_s=0.0, chat_s=0.0)}, False),
        ({"work": Work(image_s=45.0, chat_s=4.7)}, True),
        ({"work": Work(image_s=31.2, chat_s=4.7, load_s=3)}, True),
        ({"power": Power(source="ac", battery_percent=73, thermal="nominal")}, True),
        ({"power": Power(source="battery", battery_percent=72, thermal="nominal")}, False),
        ({"power": Power(source="battery", battery_percent=67, thermal="nominal")}, True),
        ({"disk_free_bytes": 205 * GIB}, False),
        ({"disk_free_bytes": 20 * GIB}, True),
        ({"disk_free_bytes": None}, True),
        ({"prefixes": ()}, False),
        ({"estimates": ()}, False),
        (engine(idle_s=500.0, resident_bytes=1, pid=1), False),
        (engine(loading=0.4), False),
        (engine(phase="stopping"), True),
        (engine(running=1), True),
        (first_model(loaded=False), True),
        (first_model(loading=0.5), True),
        (first_model(load_s=4.0), False),
        (first_model(load_s=9.0), True),
        (first_model(chat=None), True),
        (first_model(chat=RATES.model_copy(update={"decode_tokens_per_s": 23.0})), False),
        (first_model(chat=RATES.model_copy(update={"decode_tokens_per_s": 43.0})), True),
        ({"models": BASE.models[1:]}, True),
        ({"revision": 5}, False),
    ],
)
def test_what_is_told_at_once_and_what_can_wait(update: dict[str, Any], matter: bool) -> None:
    assert matters(rounded(BASE), rounded(full(**update))) == matter


def test_the_revision_rises_with_each_change_that_is_told_and_with_nothing_else() -> None:
    now = [full()]
    reporter = Reporter(lambda: now[0], incarnation=7)
    assert age(reporter) == (7, 1)
    assert not reporter.look()
    now[0] = full(memory=BASE.memory.model_copy(update={"available_bytes": BASE.memory.available_bytes + 1000}))
    assert not reporter.look()
    assert age(reporter) == (7, 1), "finer than what is told"
    now[0] = full(work=Work(image_s=30.0, chat_s=4.7))
    assert not reporter.look()
    assert age(reporter) == (7, 2), "told with the next report"
    now[0] = full(queued=1)
    assert reporter.look()
    assert age(reporter) == (7, 3)
    assert reporter.look(status="offline", reason="it was stopped")
    assert (reporter.state.status, reporter.matter) == ("offline", reporter.state)


def test_slow_drift_is_told_when_it_has_become_much() -> None:
    now = [100 * GIB]
    reporter = Reporter(lambda: full(disk_free_bytes=now[0]), incarnation=1)
    told = 0
    for _ in range(80):
        now[0] -= GIB
        told += reporter.look()
    assert 4 <= told <= 7


def age(reporter: Reporter) -> tuple[int, int]:
    return reporter.state.incarnation, reporter.state.revision
