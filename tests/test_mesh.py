"""When a node of a herd begins among the others: not before it knows what it has, and later where its port is taken."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import herd_mcp
from herd_mcp import mesh
from herd_mcp.fleet.alone import Alone
from herd_mcp.fleet.trust import Trust
from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest
from herd_mcp.node import models, shelf
from herd_mcp.settings import Settings, load_settings
from herd_mcp.state import Change, ModelInfo, Recommendation
from tests.conftest import until

BUILTIN = Path(herd_mcp.__file__).parent / "builtin"


@pytest.fixture
async def of_a_herd(herd_home: Path) -> None:
    """The home has a herd of which this node is the first member."""
    async with open_herd(load_settings()) as herd:
        await herd.admin.invite()


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """The port of somebody else, until it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody


def port_of(somebody: socket.socket) -> int:
    return int(somebody.getsockname()[1])


async def findings(herd: Herd) -> list[Recommendation]:
    return [item for item in (await herd.health()).recommendations if item.check_id == "apart"]


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


async def test_a_taken_port_keeps_a_node_from_the_others_until_it_is_free_and_from_nothing_else(
    of_a_herd: None, taken: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of(taken)
    caplog.set_level(logging.WARNING, "herd_mcp.mesh")
    async with open_herd(load_settings(peer_port=port)) as herd:
        assert await herd.models()
        (finding,) = await findings(herd)
        assert f"Port {port} is taken by" in finding.description
        assert f"pid {os.getpid()}" in finding.description
        assert "`peer_port`" in finding.fix
        assert (await herd.health()).vitals.health_score == 90
        for _ in range(2):
            with pytest.raises(HerdError, match="peer_port") as refused:
                await herd.admin.invite()
            assert refused.value.info.code == ErrorCode.NO_NODE
        assert herd.admin.trust.has_herd
        (told,) = [record.message for record in caplog.records if record.name == "herd_mcp.mesh"]
        assert "`peer_port`" in told
        taken.close()
        await until(lambda: herd.mesh.apart is None, "it is among the others", 60)
        assert herd.mesh.state().addresses == (f"127.0.0.1:{port}",)
        assert not await findings(herd)
        assert (await herd.admin.invite()).code
    assert len([record for record in caplog.records if record.name == "herd_mcp.mesh"]) == 1


async def test_it_is_tried_again_and_again_and_nothing_is_left_of_a_try(
    of_a_herd: None, taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def at_once(number: int) -> float:
        tries.append(number)
        return 0.01

    monkeypatch.setattr(mesh, "backoff_s", at_once)
    async with open_herd(load_settings(peer_port=port_of(taken))) as herd:
        await until(lambda: len(tries) > 3, "it tries on", 60)
        assert not herd.mesh.state().addresses
        assert herd.mesh._fleet is None
        assert herd.mesh._peers is None

        async def next_change() -> Change:
            return await anext(herd._changes.read())

        change = asyncio.create_task(next_change())
        taken.close()
        await until(lambda: herd.mesh.apart is None, "it is among the others", 60)
        assert (await asyncio.wait_for(change, 60)).kind == "health"


async def test_a_node_whose_disk_takes_no_key_does_not_start_as_if_its_port_were_taken(
    of_a_herd: None, herd_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trust) -> None:
        raise HerdError(ErrorCode.DISK, "It is full.")

    monkeypatch.setattr(Trust, "client_context", full)
    with pytest.raises(HerdError, match="It is full"):
        async with open_herd(load_settings()):
            pass


async def test_a_node_whose_port_is_taken_ends_and_leaves_as_any_other(of_a_herd: None, taken: socket.socket) -> None:
    async with open_herd(load_settings(peer_port=port_of(taken))) as herd:
        await herd.drain(0)
        assert "return to the herd" not in {task.get_name() for task in asyncio.all_tasks()}
    async with open_herd(load_settings(peer_port=port_of(taken))) as herd:
        await herd.admin.leave()
        assert herd.mesh.apart is None
        assert not await findings(herd)
        assert "return to the herd" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_who_has_no_port_for_a_new_herd_does_not_leave_the_old_one_for_it(
    of_a_herd: None, taken: socket.socket
) -> None:
    async with open_herd(load_settings(peer_port=port_of(taken))) as herd:
        before = herd.admin.trust.herd_id
        with pytest.raises(HerdError, match="peer_port"):
            await herd.admin.leave(rotate=True)
        assert herd.admin.trust.herd_id == before
        taken.close()
        await until(lambda: herd.mesh.apart is None, "it is among the others", 60)


async def test_who_cannot_listen_does_not_join(
    herd_home: Path, taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_herd(load_settings()) as member:
        code = (await member.admin.invite()).code
        monkeypatch.setenv("HERD_HOME", str(herd_home.parent / "other"))
        async with open_herd(load_settings(peer_port=port_of(taken))) as other:
            with pytest.raises(HerdError, match="peer_port"):
                await other.admin.join(code)
            assert not other.admin.trust.has_herd
            assert isinstance(other._owner.placer, Alone)
            assert not await findings(other)


async def test_what_waits_for_another_mac_does_not_fail_while_the_port_is_taken(
    of_a_herd: None, taken: socket.socket, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "models"
    shutil.copytree(BUILTIN / "herd-tiny-image", elsewhere / "mine")
    async with open_herd(load_settings(model_dirs=[elsewhere])) as herd:
        job = await herd.submit(ImageRequest(prompt="a circle", model="mine", steps=200), client="test")
    async with open_herd(load_settings(peer_port=port_of(taken))) as herd:
        assert (await herd.job(job.id)).status == "queued"
        assert (await herd.cancel(job.id)).status == "cancelled"
