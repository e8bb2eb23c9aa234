"""What every test gets: a home of its own, engines that do not compile, no setting of the person who runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from herd_mcp.herd import Herd, open_herd
from herd_mcp.settings import load_settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has them ignore Ctrl-C, and so would every program they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The seed of a failing run is printed, so that it can be run again.
hypothesis_settings.register_profile("default", print_blob=True, deadline=None)
hypothesis_settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=30, help="length of the long run among the slow tests")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def herd_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HERD_HOME and an empty home; ports are free ones."""
    for name in [name for name in os.environ if name.startswith(("HERD_", "HF_", "MLX_MODEL"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "herd"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HERD_HOME", str(home))
    monkeypatch.setenv("HERD_PORT", "0")
    monkeypatch.setenv("HERD_PEER_PORT", "0")
    monkeypatch.setenv("HERD_PEER_BIND", "127.0.0.1")
    monkeypatch.setenv("HERD_BONJOUR", "false")
    monkeypatch.setenv("HERD_HF_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    return home


@pytest.fixture
async def herd() -> AsyncIterator[Herd]:
    """A herd of one node with the built-in models and real engine processes."""
    async with open_herd(load_settings()) as opened:
        yield opened


@pytest.fixture(scope="session")
async def warm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Herd]:
    """A herd that the tests of several files share, so that its engines are warm: for those that end what they begin,
    and that look at their own jobs alone."""
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HERD_")]:
            patch.delenv(name)
        patch.setenv("HERD_HOME", str(folder / "herd"))
        patch.setenv("HERD_HF_CACHE", str(folder / "hub"))
        async with open_herd(load_settings()) as opened:
            patch.undo()  # the tests have an environment of their own
            yield opened


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 30.0) -> None:
    """Wait until the condition holds; fails with `what` when it does not in time."""
    end = time.monotonic() + timeout_s
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return
        if time.monotonic() > end:
            pytest.fail(f"after {timeout_s:g} s still not: {what}")
        await asyncio.sleep(0.01)
