"""Each setting does something: for every one a small check that another value changes what the node does."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from herd_mcp import pipe
from herd_mcp.fleet.code import read as read_code
from herd_mcp.health import fleet_health
from herd_mcp.herd import open_herd
from herd_mcp.jobs import ChatRequest, ErrorCode, HerdError, ImageRequest, Job, Message
from herd_mcp.node import plans
from herd_mcp.node.decide import decide
from herd_mcp.node.events import (
    Effect,
    EndEngine,
    Event,
    Heard,
    Measured,
    Refuse,
    Release,
    Send,
    StartEngine,
    Submit,
    Tick,
    Warm,
)
from herd_mcp.node.lanes import EngineKey, Plan, State
from herd_mcp.node.memory import Needs
from herd_mcp.node.models import BUILTIN_FOLDER, find_models, hub_cache
from herd_mcp.node.needs import needs_of
from herd_mcp.node.node import Node
from herd_mcp.node.pause import Pauses
from herd_mcp.orders import Order
from herd_mcp.settings import GIB, Settings, load_settings
from herd_mcp.state import DayFigures, ModelInfo, Power
from herd_mcp.surfaces.app import make_app
from tests.surfaces.mcp.clients import TALK, connected, data_of

CHAT, IMAGE = "herd-tiny-chat", "herd-tiny-image"
Check = Callable[[Path], Awaitable[None] | None]
CHECKS: dict[str, Check] = {}
NO_JOBS = DayFigures()
HELLO = ChatRequest(messages=(Message(role="user", content="hello"),))


def acts(check: Check) -> Check:
    """Registers the check of the setting that it is named after."""
    CHECKS[check.__name__] = check
    return check


@pytest.mark.parametrize("name", list(Settings.model_fields))
async def test_a_setting_changes_what_the_node_does(name: str, tmp_path: Path) -> None:
    done = CHECKS[name](tmp_path)
    if isinstance(done, Awaitable):
        await done


# ── What the checks look at ───────────────────────────────────────────────────────────────────────────────────────────


def model(kind: Any = "chat", **fields: object) -> ModelInfo:
    facts = {"name": "org/one", "aliases": ("one",), "kind": kind, "family": "any", "source": "herd", "path": "/one"}
    return ModelInfo.model_validate(facts | {"bytes": GIB, "complete": True, "context_tokens": 8192} | fields)


def plan_with(**settings: object) -> Plan:
    """How a chat model is loaded under these settings."""
    return plans.plan_for(model(), load_settings(**settings), Path("/home"), None, Needs(GIB), 8 * GIB)


def node_with(folder: Path, **settings: object) -> Node:
    return Node(load_settings(**settings), folder, "0" * 10, "1")


class Decisions:
    """The decisions of a node with these settings; engines are as the test says."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.state: State = node_with(folder, **{"memory_budget_bytes": 8 * GIB, **settings})._state

    def play(self, *events: Event, now: float = 0.0) -> list[Effect]:
        return [effect for event in events for effect in decide(self.state, event, now)]

    def warm(self, name: str = "a", **fields: Any) -> list[Effect]:
        spec = pipe.EngineSpec(kind="chat", model=name, path="/")
        return self.play(Warm(replace(Plan(EngineKey(name), spec, Needs(GIB), capacity=4), **fields)))

    def submit(self, job_id: str, request: ChatRequest = HELLO) -> list[Effect]:
        spec = pipe.EngineSpec(kind="chat", model="a", path="/")
        plan = Plan(EngineKey("a"), spec, Needs(GIB), capacity=4)
        return self.play(Submit(job_id, 1, request, plan, spool="", timeout_s=1e9), Release(job_id))

    def ready(self) -> list[Effect]:
        message = pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1)
        return self.play(Heard(EngineKey("a"), self.generation, message))

    @property
    def generation(self) -> int:
        engine = self.state.lanes[EngineKey("a")].engine
        assert engine is not None
        return engine.generation

    def tick(self, now: float) -> list[str]:
        """Why engines end then."""
        return reasons(self.play(Tick(), now=now))


def reasons(effects: list[Effect]) -> list[str]:
    return [effect.reason for effect in effects if isinstance(effect, EndEngine)]


def count(effects: list[Effect], kind: type) -> int:
    return sum(isinstance(effect, kind) for effect in effects)


def refused(code: ErrorCode, do: Callable[[], object]) -> HerdError:
    with pytest.raises(HerdError) as caught:
        do()
    assert caught.value.info.code == code
    return caught.value


def up(**variables: str) -> str:
    """What a node that ends at once writes to its log."""
    command = [sys.executable, "-P", "-m", "herd_mcp", "up", "--until-eof"]
    env = {"PATH": "/usr/bin:/bin", **{f"HERD_{name.upper()}": value for name, value in variables.items()}}
    done = subprocess.run(command, input=b"", env=env, capture_output=True, timeout=120, check=True)
    return done.stderr.decode()


# ── The node ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@acts
def node_name(home: Path) -> None:
    assert node_with(home, node_name="studio").state().name == "studio"


@acts
def port(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert f"http://127.0.0.1:{free}," in up(home=str(home), port=str(free))


@acts
def log_level(home: Path) -> None:
    assert "is up" not in up(home=str(home), port="0", log_level="error")  # as it is in the check of `port`


@acts
def model_dirs(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "toy").symlink_to(BUILTIN_FOLDER / CHAT)
    names = [
        {info.name for info in find_models(load_settings(model_dirs=dirs), home)} for dirs in ((), (home / "mine",))
    ]
    assert names[1] - names[0] == {"toy"}


@acts
def hf_cache(home: Path) -> None:
    assert hub_cache(load_settings(hf_cache=home)) == home != hub_cache(load_settings(hf_cache=home / "other"))


@acts
async def chat_model(home: Path) -> None:
    with pytest.raises(HerdError, match="'absent'"):
        await node_with(home, chat_model="absent").plan(HELLO)
    assert (await node_with(home).plan(HELLO)).spec.model == CHAT


@acts
async def image_model(home: Path) -> None:
    picture = ImageRequest(prompt="a fox")
    with pytest.raises(HerdError, match="'absent'"):
        await node_with(home, image_model="absent").plan(picture)
    assert (await node_with(home).plan(picture)).spec.model == IMAGE


@acts
async def preload(home: Path) -> None:
    async with open_herd(load_settings(preload=(CHAT,))) as herd:
        await herd.preload()
        assert [engine.model for engine in (await herd.nodes())[0].engines] == [CHAT]


# ── Plans: how an engine is loaded ────────────────────────────────────────────────────────────────────────────────────


@acts
def image_quantize(home: Path) -> None:
    bits = [plans.quantize_for(model("image"), load_settings(image_quantize=setting)) for setting in (0, 4, 8)]
    assert bits == [None, 4, 8]


@acts
def chat_batch(home: Path) -> None:
    plan = plan_with(chat_batch=3)
    assert (plan.capacity, plan.spec.max_batch) == (3, 3)


@acts
def prompt_cache_bytes(home: Path) -> None:
    assert needs_of(model(), None, load_settings(prompt_cache_bytes=5), 8 * GIB).prompt_cache_bytes == 5


@acts
def image_hand_over(home: Path) -> None:
    settings = ("auto", "step", "block")
    assert [plan_with(image_hand_over=each).spec.between_blocks for each in settings] == [None, False, True]


@acts
def wired_limit_bytes(home: Path) -> None:
    assert [plan_with(wired_limit_bytes=each).spec.wired_limit_bytes for each in (0, 7)] == [0, 7]


@acts
def context_tokens(home: Path) -> None:
    assert [plan_with(context_tokens=each).spec.context_tokens for each in (None, 100, 99_999)] == [8192, 100, 8192]


@acts
def max_tokens(home: Path) -> None:
    request = plans.with_limits(HELLO, plan_with(max_tokens=7))
    assert isinstance(request, ChatRequest)
    assert request.max_tokens == 7
    longer = HELLO.model_copy(update={"max_tokens": 9})
    assert plans.with_limits(longer, plan_with(max_tokens=7)) == longer
    assert plan_with(max_tokens=10_000).max_tokens == 8192  # a default shall not be refused for being over the context


@acts
def models(home: Path) -> None:
    own = {"pinned": True, "idle_unload_s": 5.0, "max_tokens": 11, "context_tokens": 64, "batch": 2}
    for name in ("org/one", "ONE"):
        plan = plan_with(models={name: own}, max_tokens=7, context_tokens=99, chat_batch=3)
        told = (plan.pinned, plan.idle_unload_s, plan.max_tokens, plan.spec.context_tokens, plan.capacity)
        assert told == (True, 5.0, 11, 64, 2)
    plan = plan_with(models={"org/other": own}, max_tokens=7)
    assert (plan.pinned, plan.idle_unload_s, plan.max_tokens, plan.capacity) == (False, None, 7, 32)


# ── Limits of what is asked ───────────────────────────────────────────────────────────────────────────────────────────


def ask_for(asked: ImageRequest, **settings: object) -> None:
    plans.check_image(asked, model("image"), load_settings(**settings))


@acts
def max_image_px(home: Path) -> None:
    asked = ImageRequest(prompt="x", width=1024)
    ask_for(asked, max_image_px=1024)
    error = refused(ErrorCode.INVALID_REQUEST, lambda: ask_for(asked, max_image_px=512))
    assert "at most 512 px" in str(error)


@acts
def max_steps(home: Path) -> None:
    asked = ImageRequest(prompt="x", steps=20)
    ask_for(asked, max_steps=20)
    error = refused(ErrorCode.INVALID_REQUEST, lambda: ask_for(asked, max_steps=19))
    assert "at most 19 steps" in str(error)


@acts
async def max_body_bytes(home: Path) -> None:
    for limit, status in ((1024, 413), (1_000_000, 400)):
        async with open_herd(load_settings(max_body_bytes=limit)) as herd:
            app = make_app(herd, token="", stop=lambda: None)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                assert (await http.post("/v1/chat/completions", content=b" " * 2000)).status_code == status


@acts
def queue_limit(home: Path) -> None:
    for limit, refusals in ((1, 1), (2, 0)):
        node = Decisions(home, queue_limit=limit)
        assert count(node.submit("1") + node.submit("2"), Refuse) == refusals


@acts
async def job_timeout_s(home: Path) -> None:
    node = node_with(home, job_timeout_s=77)
    job = Job(id="job-1", kind="chat", client="test", request=HELLO, created_at=0)
    node.reserve(job, 1, await node.plan(HELLO))
    run = node._state.runs["job-1", 1]
    assert run.deadline_at - run.submitted_at == pytest.approx(77)
    await node.close()


# ── Engines and memory ────────────────────────────────────────────────────────────────────────────────────────────────


@acts
def idle_unload_s(home: Path) -> None:
    for setting, ended in ((10, ["idle"]), (100, []), (0, [])):
        node = Decisions(home, idle_unload_s=setting)
        node.warm()
        node.ready()
        assert node.tick(50) == ended


@acts
def load_timeout_s(home: Path) -> None:
    for setting, ended in ((10, 1), (100, 0)):
        node = Decisions(home, load_timeout_s=setting)
        node.warm()
        assert len(node.tick(50)) == ended


@acts
def engine_stall_s(home: Path) -> None:
    for setting, ended in ((10, 1), (100, 0)):
        node = Decisions(home, engine_stall_s=setting)
        node.submit("1")
        node.ready()
        assert len(node.tick(50)) == ended


@acts
def max_loaded(home: Path) -> None:
    for setting, started in ((0, 2), (1, 1), (2, 2)):
        node = Decisions(home, max_loaded=setting)
        assert count(node.warm("a") + node.warm("b"), StartEngine) == started


@acts
def memory_budget_bytes(home: Path) -> None:
    assert count(Decisions(home, memory_budget_bytes=GIB - 1).submit("1"), Refuse) == 1
    assert count(Decisions(home, memory_budget_bytes=GIB).submit("1"), Refuse) == 0


@acts
def memory_floor_bytes(home: Path) -> None:
    free, kept = (node_with(home, memory_floor_bytes=each).state().memory.budget_bytes for each in (0, GIB))
    assert free - kept == GIB


@acts
def memory_margin(home: Path) -> None:
    for setting, ended in ((0.2, 1), (4, 0)):
        node = Decisions(home, memory_margin=setting)
        node.submit("1")
        node.ready()
        held = Measured("normal", ((EngineKey("a"), node.generation, 2 * GIB),))
        assert len(reasons(node.play(*[held] * 3))) == ended


@acts
def pressure_max_tokens(home: Path) -> None:
    for setting, longest in (({"high": 10}, 10), ({"high": 20}, 20), ({"critical": 10}, 50)):
        node = Decisions(home, pressure_max_tokens=setting)
        node.play(Measured("high"))
        node.submit("1", HELLO.model_copy(update={"max_tokens": 50}))
        (start,) = [e.command for e in node.ready() if isinstance(e, Send) and isinstance(e.command, pipe.Start)]
        assert isinstance(start.request, ChatRequest)
        assert start.request.max_tokens == longest


def refused_at_high(home: Path, request: ChatRequest | ImageRequest, size: int, **settings: object) -> list[int]:
    """What the refusals of a request of this size say that goes now."""
    node = Decisions(home, **settings)
    node.play(Measured("high"))
    spec = pipe.EngineSpec(kind=request.kind, model="a", path="/", context_tokens=99_999)
    plan = Plan(EngineKey("a"), spec, Needs(GIB), capacity=1)
    effects = node.play(Submit("1", 1, request, plan, spool="", timeout_s=1e9, size=size))
    details = [effect.error.details for effect in effects if isinstance(effect, Refuse)]
    return [told.get("fits_px") or told["fits_tokens"] for told in details]


@acts
def pressure_max_image_px(home: Path) -> None:
    for setting, fits in (({"high": 512}, [512 * 512]), ({"high": 768}, []), ({"critical": 512}, [])):
        asked = ImageRequest(prompt="x", width=768, height=768)
        assert refused_at_high(home, asked, 768 * 768, pressure_max_image_px=setting) == fits


@acts
def pressure_context_tokens(home: Path) -> None:
    asked = ChatRequest(messages=(Message(role="user", content="abc" * 1000),), max_tokens=10)
    for setting, fits in (({"high": 500}, [500]), ({"high": 2000}, []), ({"critical": 500}, [])):
        assert refused_at_high(home, asked, 1100, pressure_context_tokens=setting) == fits


@acts
def pressure_max_steps(home: Path) -> None:
    for setting, steps in (({}, 30), ({"high": 10}, 10), ({"critical": 10}, 30)):
        node = Decisions(home, pressure_max_steps=setting)
        node.play(Measured("high"))
        plan = Plan(EngineKey("a"), pipe.EngineSpec(kind="image", model="a", path="/"), Needs(GIB), capacity=1)
        node.play(Submit("1", 1, ImageRequest(prompt="x", steps=30), plan, spool="", timeout_s=1e9), Release("1"))
        (start,) = [e.command for e in node.ready() if isinstance(e, Send) and isinstance(e.command, pipe.Start)]
        assert isinstance(start.request, ImageRequest)
        assert start.request.steps == steps


# ── What is done for others ───────────────────────────────────────────────────────────────────────────────────────────


@acts
def pause_times(home: Path) -> None:
    for setting, paused in (((), False), (("0:00-24:00",), True)):
        assert bool(node_with(home, pause_times=setting).paused) is paused


@acts
def pause_on_battery(home: Path) -> None:
    for setting in (True, False):
        pauses = Pauses(home, load_settings(pause_on_battery=setting))
        assert bool(pauses.why(Power(source="battery"), now=0.0)) is setting


# ── What people and programs are told ─────────────────────────────────────────────────────────────────────────────────


@acts
async def wait_s(home: Path) -> None:
    async with open_herd(load_settings(wait_s=0)) as herd, connected(herd) as client:
        assert data_of(await client.call_tool("chat", TALK))["status"] == "running"


@acts
async def chat_keep_s(home: Path) -> None:
    """A chat whose answer nobody could fetch later is waited for."""
    async with open_herd(load_settings(wait_s=0, chat_keep_s=0)) as herd, connected(herd) as client:
        answer = data_of(await client.call_tool("chat", TALK))
        assert answer["status"] == "completed"
        assert (await herd.job(answer["job_id"])).result is not None  # as long as this node lives


@acts
async def confirm(home: Path) -> None:
    for setting, sentence in (("ask", "confirm_token"), ("terminal", "in a terminal only")):
        async with open_herd(load_settings(confirm=setting)) as herd, connected(herd) as client:
            assert sentence in str(await client.call_tool("pull_model", {"model": "z-image-turbo"}))


@acts
def gallery_warn_bytes(home: Path) -> None:
    for setting, warned in ((10, True), (100, False)):
        settings = load_settings(gallery_warn_bytes=setting)
        health = fleet_health([], [], NO_JOBS, settings=settings, gallery_bytes=50, disk_free_bytes=99 * GIB)
        assert ("gallery_large" in [each.check_id for each in health.recommendations]) is warned


# ── The herd ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@acts
async def peer_bind(home: Path) -> None:
    async with open_herd(load_settings(peer_bind="127.0.0.1", peer_port=0, bonjour=False)) as herd:
        assert read_code((await herd.admin.invite()).code).addresses == ("127.0.0.1",)
    nobodys = load_settings(peer_bind="192.0.2.1", peer_port=0)
    async with open_herd(nobodys) as herd:
        assert herd.mesh.apart is not None, "it cannot listen there"
        assert "peer_bind" in herd.mesh.apart.hint


@acts
async def peer_port(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_herd(load_settings(peer_bind="127.0.0.1", peer_port=port, bonjour=False)) as herd:
            with pytest.raises(HerdError, match="peer_port"):
                await herd.admin.invite()
    async with open_herd(load_settings(peer_bind="127.0.0.1", peer_port=port, bonjour=False)) as herd:
        await herd.admin.invite()
        assert herd.mesh.state().addresses == (f"127.0.0.1:{port}",)


@acts
async def peers(home: Path) -> None:
    called = asyncio.Event()

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = load_settings(peer_bind="127.0.0.1", peer_port=0, bonjour=False, peers=(address,))
        async with open_herd(settings) as herd:
            await herd.admin.invite()
            await asyncio.wait_for(called.wait(), 30)


@acts
async def bonjour(home: Path) -> None:
    for setting in (False, True):
        async with open_herd(load_settings(peer_bind="127.0.0.1", peer_port=0, bonjour=setting)) as herd:
            await herd.admin.invite()
            assert ("bonjour" in {task.get_name() for task in asyncio.all_tasks()}) is setting
            await herd.admin.leave()


@acts
async def lease_s(home: Path) -> None:
    for setting, kept in ((3600.0, 1), (1e-6, 0)):
        async with open_herd(load_settings(lease_s=setting)) as herd:
            asked = Job(id=f"job-{'a' * 10}-{'0' * 12}", kind="chat", client="test", request=HELLO, created_at=0)
            await herd.mesh.guests.submit("a" * 10, Order(job=asked, attempt=1))
            await asyncio.sleep(0)  # its owner does not listen
            herd.mesh.guests.sweep()
            assert len(herd.mesh.guests) == kept
            herd.mesh.guests.cancel("a" * 10, asked.id, 1)
