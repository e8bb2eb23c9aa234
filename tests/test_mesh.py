"""When a node of a herd begins among the others: not before it knows what it has, and later where its port is taken."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from herd_mcp import mesh
from herd_mcp.herd import open_herd
from herd_mcp.node import models, shelf
from herd_mcp.settings import Settings, load_settings
from herd_mcp.state import ModelInfo
from tests.conftest import until


@pytest.fixture
async def of_a_herd(herd_home: Path) -> None:
    """The home has a herd of which this node is the first member."""
    async with open_herd(load_settings()) as herd:
        await herd.admin.invite()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Looks at the disk come to no end before this is set."""
    go, find_models = threading.Event(), models.find_models

    def slowly(settings: Settings, home: Path) -> list[ModelInfo]:
        assert go.wait(60)
        return find_models(settings, home)

    monkeypatch.setattr(shelf, "find_models", slowly)
    return go


async def test_a_node_tells_the_others_its_models_from_its_first_word_on(
    of_a_herd: None, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "FIRST_LOOK_S", 60)  # the machine may be busy
    asyncio.get_running_loop().call_later(1, slow_disk.set)
    async with open_herd(load_settings()) as herd:
        first = herd.mesh.state()
        slow_disk.set()
    assert {"herd-tiny-chat", "herd-tiny-image"} <= {model.name for model in first.models}


async def test_a_disk_that_does_not_answer_keeps_no_node_from_its_herd(
    of_a_herd: None, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "FIRST_LOOK_S", 0.01)
    async with open_herd(load_settings()) as herd:
        assert herd.mesh.state().addresses
        assert not herd.mesh.state().models
        slow_disk.set()
        await until(lambda: bool(herd.mesh.state().models), "it tells its models when it knows them")


async def test_a_lone_node_does_not_wait_for_its_disk(herd_home: Path, slow_disk: threading.Event) -> None:
    async with open_herd(load_settings()) as herd:
        assert not herd.mesh.state().models
        slow_disk.set()
