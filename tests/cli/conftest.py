from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program, ended


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The program in an empty home, in which no node runs."""
    it = Program(tmp_path / "home")
    yield it
    it.end()


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program in a home with a node that several tests share."""
    it = Program(tmp_path_factory.mktemp("running") / "home")
    with ended(it.up()):
        yield it
    it.end()
