"""What a node tells of its models and of itself, for others to place work by."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import ChatRequest, Completed, ImageRequest, Message
from herd_mcp.node.events import Submit, Warm
from herd_mcp.node.lanes import Plan
from herd_mcp.node.memory import Needs
from herd_mcp.node.node import Node
from herd_mcp.node.offers import Offer, look, told
from herd_mcp.node.rates import Rates
from herd_mcp.settings import GIB, MIB, load_settings
from herd_mcp.state import MAX_MODELS_TOLD, ModelInfo, ModelState, NodeState
from tests.conftest import until
from tests.node.test_decide import LIMITS, new_state, play, ready

pytestmark = pytest.mark.anyio

CHAT, IMAGE = "herd-tiny-chat", "herd-tiny-image"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "run").mkdir()
    node = Node(load_settings(), tmp_path, "0" * 10, "1")
    node.start()
    yield node
    await node.close()


def offered(name: str, size: int = GIB, **fields: object) -> Offer:
    facts = {"kind": "chat", "family": "any", "source": "herd", "path": f"/{name}", "complete": True}
    model = ModelInfo.model_validate({"name": name, "bytes": size} | facts | fields)
    plan: Plan = look([model], load_settings(), Path("/home"), 100 * GIB, {})[1][0].plan
    return Offer(model, plan, model.aliases)


def by_name(state: NodeState) -> dict[str, ModelState]:
    return {model.name: model for model in state.models}


async def test_a_node_tells_its_models_soon_after_its_start(node: Node) -> None:
    changes = []
    node.on_change = lambda: changes.append(1)
    assert node.state().models == ()
    await until(lambda: len(node.state().models) == 2, "the built-in models are told")
    await until(lambda: bool(changes), "it is told that there are others")
    models = by_name(node.state())
    image, chat = models[IMAGE], models[CHAT]
    assert (image.kind, image.builtin, image.loaded, image.fits, image.capacity) == ("image", True, False, True, 1)
    assert (chat.kind, chat.capacity, chat.image, image.chat) == ("chat", 32, None, None)
    assert image.image is not None
    assert chat.chat is not None
    assert image.default_px
    assert image.largest_px is not None
    assert image.default_px <= image.largest_px
    assert image.default_steps
    assert chat.context_tokens
    assert image.load_s >= 1
    await until(lambda: node.state().disk_free_bytes is not None, "the disk was looked at")


async def test_a_plan_is_kept_until_the_disk_is_looked_at_again(node: Node) -> None:
    first = await node.plan_model(CHAT)
    assert await node.plan_model(CHAT) is first
    await node.models(fresh_s=0)
    again = await node.plan_model(CHAT)
    assert again is not first
    assert again == first


async def test_telling_the_state_waits_for_no_disk_and_no_other_process(node: Node) -> None:
    await node.models()
    await until(lambda: node._watch.available_bytes is not None, "memory was looked at")
    node.state()
    asked: list[tuple[str, Any]] = []
    watching, mine = True, threading.get_ident()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and threading.get_ident() == mine and event.split(".")[0] in ("open", "os", "subprocess", "socket"):
            asked.append((event, arguments))

    sys.addaudithook(note)
    state = node.state()
    watching = False
    assert asked == []
    assert len(state.models) == 2


def test_the_loaded_and_the_largest_come_first_and_no_more_than_may_be_told() -> None:
    state = new_state(replace(LIMITS, budget_bytes=100 * GIB))
    offers = [offered(f"m{number}", (number + 1) * MIB) for number in range(MAX_MODELS_TOLD + 10)]
    play(state, Warm(offers[0].plan))
    ready(state, "m0")
    names = [model.name for model in told(offers, state, Rates(), 0.0)]
    assert names[:3] == ["m0", "m73", "m72"]
    assert len(names) == MAX_MODELS_TOLD


def test_a_model_that_will_never_fit_is_told_with_the_reason() -> None:
    state = new_state(replace(LIMITS, budget_bytes=2 * GIB))
    small, large = told([offered("small", MIB), offered("large", 4 * GIB)], state, Rates(), 0.0)[::-1]
    assert (small.fits, small.reason, large.fits) == (True, "", False)
    assert "large" in large.reason


def test_names_that_are_too_long_to_be_told_are_left_out() -> None:
    long = offered("x").model.model_copy(update={"name": "o/" + "x" * 300})
    many = offered("y").model.model_copy(update={"aliases": ("a" * 300, *(f"a{n}" for n in range(30)))})
    models, offers = look([long, many], load_settings(), Path("/home"), 100 * GIB, {})
    assert len(models) == 2
    (model,) = told(offers, new_state(), Rates(), 0.0)
    assert model.aliases == tuple(f"a{n}" for n in range(16))


def test_an_image_is_no_larger_than_memory_allows() -> None:
    image = offered("i", kind="image", family="z-image-turbo").model
    _, (large,) = look([image], load_settings(), Path("/home"), 100 * GIB, {})
    _, (tight,) = look([image], load_settings(), Path("/home"), large.plan.needs.bytes_for([1024 * 1024]), {})
    assert large.largest_px == 2048
    assert tight.largest_px == 1024


def test_what_runs_and_waits_is_counted_by_model_over_all_its_engines() -> None:
    state = new_state(replace(LIMITS, budget_bytes=100 * GIB))
    offer = offered("m")
    asked = ChatRequest(messages=(Message(role="user", content="x"),))
    other = replace(offer.plan, key=replace(offer.plan.key, quantize=4), needs=Needs(1))
    for number, plan in enumerate((offer.plan, offer.plan, other)):
        play(state, Submit(f"j{number}", 1, asked, plan, "", 1e9, size=1))
    (model,) = told([offer], state, Rates(), 0.0)
    assert (model.waiting, model.running, model.loading) == (3, 0, None)


async def run(herd: Herd, request: ChatRequest | ImageRequest) -> None:
    job = await herd.submit(request, client="test")
    last = [event async for event in herd.watch(job.id)][-1]
    assert isinstance(last, Completed)


@pytest.mark.slow
async def test_what_was_measured_is_told_and_is_known_after_a_restart(herd_home: Path) -> None:
    async with open_herd(load_settings()) as herd:
        for _ in range(2):
            await run(herd, ImageRequest(model=IMAGE, prompt="a red circle", steps=4, width=64, height=64))
        await run(herd, ChatRequest(model=CHAT, messages=(Message(role="user", content="word " * 80),), max_tokens=40))
        (before,) = await herd.nodes()
        figures = {place[2] for place in herd._node.learning.rates.seen}
        assert {"step_s", "fixed_s", "load_s", "decode", "prefill", "per_byte"} <= figures
        assert before.work.image_s == before.work.chat_s == 0
    async with open_herd(load_settings()) as herd:
        await herd.models()
        (after,) = await herd.nodes()
        assert by_name(after)[IMAGE].image == by_name(before)[IMAGE].image
        assert by_name(after)[CHAT].chat == by_name(before)[CHAT].chat
        assert by_name(after)[CHAT].load_s == by_name(before)[CHAT].load_s
