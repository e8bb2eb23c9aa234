"""Small files of a node: written beside what it does, the last text of each, and told of when the disk takes none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from herd_mcp.fleet.private_files import PrivateFolder
from herd_mcp.jobs import ErrorCode, HerdError
from tests.conftest import until


async def test_what_is_put_is_on_the_disk_soon_though_nobody_waits_for_it(tmp_path: Path) -> None:
    files, file = PrivateFolder(tmp_path), tmp_path / "one"
    for text in ("old", "new"):
        files.put("one", text)
    await until(lambda: file.exists() and file.read_text() == "new", "the last text is on the disk")
    assert file.stat().st_mode & 0o777 == 0o600
    await files.saved()
    assert list(tmp_path.iterdir()) == [file]


async def test_what_came_while_the_disk_failed_counts_and_not_what_failed(tmp_path: Path) -> None:
    class Failing(PrivateFolder):
        def _write(self, name: str, text: str) -> None:
            if text == "old":
                self._unsaved[name] = "new"  # from the loop's thread
                raise HerdError(ErrorCode.DISK, "It is full.")
            super()._write(name, text)

    files = Failing(tmp_path)
    files._unsaved["one"] = "old"
    with pytest.raises(HerdError, match="full"):
        await files.saved()
    await files.saved()
    assert (tmp_path / "one").read_text() == "new"


async def test_a_disk_that_fails_is_told_once_each_time_that_it_begins_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    files = PrivateFolder(tmp_path / "there")
    for _ in range(2):
        files.path.mkdir()
        files.put("one", "text")
        await files.saved()
        away = files.path.rename(tmp_path / "away")
        for _ in range(3):
            files.put("one", "text")
            with pytest.raises(HerdError):
                await files.saved()
        (away / "one").unlink()
        away.rmdir()
    assert len(caplog.records) == 2
