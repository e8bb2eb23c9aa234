"""A home that is not as a node left it: it starts where it can, and says what is wrong where it cannot."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd_mcp.node.gallery import Gallery
from tests.faults.node_process import IMAGE, Faulty, a_home, read_only


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    with a_home(tmp_path) as it:
        it.home.mkdir(mode=0o700)
        yield it


def database(home: Path) -> Path:
    """A database with jobs in it, as a node of this home left it."""
    path = home / "herd.db"
    script = """
import asyncio, sys
from pathlib import Path
from tests.node.test_history import image_job
from herd_mcp.node.history import History

async def main():
    history = await History.open(Path(sys.argv[1]))
    await asyncio.gather(*(history.save(image_job(number)) for number in range(200)))
    await history.close()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60, cwd=Path(__file__).parents[2])
    return path


def random_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def damaged_pages(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8192] + os.urandom(len(data) - 8192))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "kept.txt").write_text("somebody's")


@pytest.mark.parametrize(
    "damage", [damaged_pages, a_folder, *(pytest.param(it, marks=pytest.mark.slow) for it in (random_bytes, cut_short))]
)
def test_a_database_that_cannot_be_read_is_kept_aside_and_the_node_starts(
    faulty: Faulty, damage: Callable[[Path], None]
) -> None:
    damage(database(faulty.home))
    with faulty.running():
        (aside,) = [path for path in faulty.home.iterdir() if path.name.startswith("herd.db.damaged-")]
        assert f"It is kept as {aside}; the jobs in it are lost" in faulty.stderr
        advice = faulty.get("/herd/api/status")["health"]["recommendations"]
        (told,) = [row["description"] for row in advice if row["check_id"] == "history_damaged"]
        assert aside.name in told
        assert "the jobs in it are lost" in told
        assert faulty.get("/herd/api/jobs") == []
    assert aside.is_dir() == (damage is a_folder)


def test_a_database_of_a_newer_version_stays_and_the_node_says_which_program_reads_it(faulty: Faulty) -> None:
    path = database(faulty.home)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    words = refused(faulty)
    assert "newer herd-mcp" in words
    assert "move herd.db out of HERD_HOME" in words
    assert os.listdir(faulty.home).count("herd.db") == 1


def refused(faulty: Faulty) -> str:
    """What `up` says when it does not start: sentences, no traceback."""
    done = faulty.run("up")
    assert done.returncode in (1, 3), done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("herd.db", lambda path: path.symlink_to("/nowhere/herd.db"), "a link to /nowhere/herd.db, which is not there"),
        ("images", lambda path: path.symlink_to("/nowhere/images"), "a link to /nowhere/images, which is not there"),
        ("images", lambda path: path.write_text("x"), "is a file where the folder of the images should be"),
        ("trust", lambda path: path.write_text("x"), "trust: "),
    ],
    ids=["database linked to nowhere", "images linked to nowhere", "images a file", "trust a file"],
)
def test_what_stands_in_the_way_is_named(faulty: Faulty, name: str, make: Callable[[Path], None], words: str) -> None:
    make(faulty.home / name)
    assert words in refused(faulty)


def test_a_home_that_cannot_be_written_is_named_also_for_root(faulty: Faulty) -> None:
    with faulty.running():
        pass
    with read_only(faulty.home):
        words = refused(faulty)
    assert f"{faulty.home}/run" in words
    assert "Read-only file system" in words


@pytest.mark.slow
def test_an_images_folder_that_goes_away_under_the_node_comes_again_and_a_file_in_its_place_is_told(
    faulty: Faulty,
) -> None:
    with faulty.running():
        first = faulty.over(faulty.submit(IMAGE))
        assert first.status == "completed"
        faulty.images.rename(faulty.home / "moved")
        assert faulty.get("/herd/api/status")["health"]["vitals"]["image_generations_24h"] == 1
        assert faulty.over(faulty.submit(IMAGE)).status == "completed"
        assert len(faulty.pictures()) == 1
        faulty.images.rename(faulty.home / "moved too")
        faulty.images.write_text("x")
        refusal = faulty.refusal(IMAGE)
        assert (refusal["code"], "is a file where" in refusal["message"]) == ("disk", True)
        faulty.images.unlink()
        assert faulty.over(faulty.submit(IMAGE)).status == "completed"


def test_a_folder_among_the_unfinished_pictures_does_not_keep_the_node_from_starting(tmp_path: Path) -> None:
    left = tmp_path / "images" / ".spool" / "folder"
    left.mkdir(parents=True)
    (left.parent / "half.png").write_bytes(b"half")
    assert list(Gallery(tmp_path / "images").spool.iterdir()) == [left]
