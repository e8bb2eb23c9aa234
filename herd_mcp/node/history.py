"""Every job in SQLite: written before its id is told, read after a crash. One writer thread, commits in groups.

Reads go through a connection of their own in worker threads; WAL lets them run beside the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from herd_mcp.jobs import ErrorCode, HerdError, Job
from herd_mcp.node.measured import Known
from herd_mcp.node.rates import MAX_KEPT, Place, Seen
from herd_mcp.node.shapes import Factors
from herd_mcp.pipe import CacheShape

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_PENDING_WRITES = 10_000
CLOSE_S = 10.0

MIGRATIONS: tuple[str, ...] = (
    # Append only; PRAGMA user_version counts what was applied.
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, client TEXT NOT NULL,
        created_at REAL NOT NULL, finished_at REAL, model TEXT NOT NULL, node TEXT NOT NULL, job TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_time ON jobs (created_at);
    CREATE INDEX jobs_by_status ON jobs (status, created_at);
    CREATE INDEX jobs_by_kind ON jobs (kind, created_at);
    """,
    """
    CREATE TABLE measured (
        model TEXT NOT NULL, quantize INTEGER NOT NULL, factor REAL NOT NULL, weights_bytes INTEGER NOT NULL,
        cache TEXT NOT NULL, held_bytes INTEGER NOT NULL, measured_at REAL NOT NULL, PRIMARY KEY (model, quantize)
    ) STRICT;
    """,
    """
    CREATE TABLE rates (
        model TEXT NOT NULL, quantize INTEGER NOT NULL, figure TEXT NOT NULL, recent REAL NOT NULL,
        usual REAL NOT NULL, count INTEGER NOT NULL, measured_at REAL NOT NULL, PRIMARY KEY (model, quantize, figure)
    ) STRICT;
    """,
    """
    ALTER TABLE measured DROP COLUMN factor;
    ALTER TABLE measured ADD COLUMN factors TEXT NOT NULL DEFAULT '[]';
    """,
)

NOT_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""Errors of the disk and the system; with any other it is the database itself that is damaged."""

_UPSERT = """
INSERT INTO jobs (id, kind, status, client, created_at, finished_at, model, node, job) VALUES (?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET status=excluded.status, finished_at=excluded.finished_at, model=excluded.model,
node=excluded.node, job=excluded.job
"""


_MEASURED = """
INSERT OR REPLACE INTO measured (model, quantize, factors, weights_bytes, cache, held_bytes, measured_at)
VALUES (?,?,?,?,?,?,?)
"""
"""Quantised to 0 bits is as it came."""

_RATE = """
INSERT OR REPLACE INTO rates (model, quantize, figure, recent, usual, count, measured_at) VALUES (?,?,?,?,?,?,?)
"""

_SELECT_RATES = """
SELECT * FROM (SELECT model, quantize, figure, recent, usual, count, measured_at FROM rates
ORDER BY measured_at DESC LIMIT ?) ORDER BY measured_at
"""

_SELECT_MEASURED = "SELECT model, quantize, factors, weights_bytes, cache, held_bytes, measured_at FROM measured"

_Write = tuple[str, Sequence[Any], "asyncio.Future[None]"]


class History:
    """The jobs of one node. Open with `await History.open(path)`, end with `await history.close()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.moved_aside: Path | None = None
        """Where a database that could not be read was put, for a message to the owner."""
        self._writes: queue.Queue[_Write | None] = queue.Queue(MAX_PENDING_WRITES)
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._write_loop, name="history-writer", daemon=True)
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, path: Path) -> History:
        """Open or create the database; one that is damaged is moved aside, never deleted. Raises HerdError(disk)."""
        history = cls(path)
        await asyncio.to_thread(history._prepare)
        history._thread.start()
        return history

    def write(self, job: Job) -> asyncio.Future[None]:
        """Queue the job as it is now; the future is done when it is on disk. Writes keep their order."""
        row = (
            job.id, job.kind, job.status, job.client, job.created_at, job.finished_at, job.model,
            job.attempts[-1].node if job.attempts else "", job.model_dump_json(exclude_none=True),
        )  # fmt: skip
        return self._put(_UPSERT, row)

    def write_measured(self, model: str, quantize: int | None, known: Known) -> None:
        """Queue what was measured of a model. That it could not be written is not worth more than a line in the log."""
        cache = known.cache.model_dump_json() if known.cache else ""
        factors = json.dumps(known.factors)
        row = (model, quantize or 0, factors, known.weights_bytes, cache, known.held_bytes, known.measured_at)
        self._put(_MEASURED, row).add_done_callback(lambda future: future.cancelled() or future.exception())

    async def measured(self) -> list[tuple[str, int | None, Known]]:
        """Everything that was ever measured. Raises HerdError(disk)."""
        rows = await self.read(lambda connection: connection.execute(_SELECT_MEASURED).fetchall())
        return [
            (model, quantize or None, Known(_factors(factors), weights, _shape(cache), held, at))
            for model, quantize, factors, weights, cache, held, at in rows
        ]

    def write_rate(self, place: Place, seen: Seen) -> None:
        """Queue what was measured of a rate; as for `write_measured`."""
        model, quantize, figure = place
        row = (model, quantize or 0, figure, seen.recent, seen.usual, seen.count, seen.at)
        self._put(_RATE, row).add_done_callback(lambda future: future.cancelled() or future.exception())

    async def rates(self) -> list[tuple[Place, Seen]]:
        """The rates that were measured, the last confirmed last. Raises HerdError(disk)."""
        rows = await self.read(lambda connection: connection.execute(_SELECT_RATES, (MAX_KEPT,)).fetchall())
        return [((model, quantize or None, figure), Seen(*seen)) for model, quantize, figure, *seen in rows]

    def _put(self, statement: str, row: Sequence[Any]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._writes.put_nowait((statement, row, future))
        except queue.Full:
            future.set_exception(_disk_error("more writes wait than the disk can take"))
        return future

    async def save(self, job: Job) -> None:
        """Write the job; returns when it is on disk. Raises HerdError(disk)."""
        await self.write(job)

    async def get(self, job_id: str) -> Job | None:
        rows = await self._select("SELECT job FROM jobs WHERE id = ?", job_id)
        return rows[0] if rows else None

    async def newest(self, limit: int, status: str | None = None) -> list[Job]:
        """The newest jobs first."""
        if status:
            return await self._select(
                "SELECT job FROM jobs WHERE status = ? ORDER BY created_at DESC LIMIT ?", status, limit
            )
        return await self._select("SELECT job FROM jobs ORDER BY created_at DESC LIMIT ?", limit)

    async def unfinished(self) -> list[Job]:
        """What was accepted and has no outcome, oldest first: the work of a node that was killed."""
        return await self._select(
            "SELECT job FROM jobs WHERE status IN ('queued', 'loading', 'running') ORDER BY created_at"
        )

    async def forget_answers(
        self, finished_before: float, *, keep: Iterable[str] = (), also: Iterable[str] = ()
    ) -> int:
        """Drop the answers of chats that ended before this Unix time, but for the jobs in `keep`, and those of the
        jobs in `also`; at most 1,000 at once. Returns how many."""
        jobs = await self._select(
            "SELECT job FROM jobs WHERE kind = 'chat' AND json_extract(job, '$.result') IS NOT NULL AND"
            " (finished_at < ? AND id NOT IN (SELECT value FROM json_each(?))"
            " OR id IN (SELECT value FROM json_each(?))) LIMIT 1000",
            finished_before,
            json.dumps(list(keep)),
            json.dumps(list(also)),
        )
        await asyncio.gather(*(self.save(job.model_copy(update={"result": None})) for job in jobs))
        return len(jobs)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` with a connection in a worker thread. Raises HerdError(disk)."""

        def work() -> T:
            with self._reading:
                if self._reader is None:
                    self._reader = self._connect()
                return query(self._reader)

        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise _disk_error(str(error)) from error

    async def close(self) -> None:
        """Write what waits, then end the writer."""
        await asyncio.to_thread(self._writes.put, None, True, CLOSE_S)
        await asyncio.to_thread(self._thread.join, CLOSE_S)
        with self._reading:
            if self._reader is not None:
                self._reader.close()

    async def _select(self, statement: str, *parameters: Any) -> list[Job]:
        rows = await self.read(lambda connection: connection.execute(statement, parameters).fetchall())
        return [job for row in rows if (job := _job(row[0])) is not None]

    # ── in threads ──

    def _connect(self) -> sqlite3.Connection:
        # Used by one thread at a time: the writer's own, or a worker thread that holds `_reading`.
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if sys.platform == "darwin":  # fsync alone does not reach the platter there
                connection.execute("PRAGMA fullfsync = 1")
                connection.execute("PRAGMA checkpoint_fullfsync = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        if self.path.is_dir():
            return self._start_anew("it is a folder")
        if self.path.is_symlink() and not self.path.exists():
            raise _disk_error(f"{self.path} is a link to {self.path.readlink()}, which is not there")
        try:
            self._migrate()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in NOT_THE_FILE:
                raise _disk_error(str(error)) from error
            self._start_anew(str(error))

    def _start_anew(self, why: str) -> None:
        self.moved_aside = _move_aside(self.path)
        log.error(
            "%s cannot be read (%s). It is kept as %s; the jobs in it are lost: they are not listed, and those that "
            "were not over are not run. Images are kept.",
            self.path,
            why,
            self.moved_aside,
        )
        self._migrate()

    def _migrate(self) -> None:
        connection = self._connect()
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise HerdError(
                    ErrorCode.DISK,
                    f"The job history was written by a newer herd-mcp (version {version} of its layout).",
                    "Install the newer herd-mcp again, or move herd.db out of HERD_HOME.",
                )
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
            connection.execute("SELECT id, job FROM jobs LIMIT 1").fetchall()
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        finally:
            connection.close()
        self.path.chmod(0o600)

    def _write_loop(self) -> None:
        try:
            while (first := self._writes.get()) is not None:
                batch = [first]
                last = False
                while not self._writes.empty():
                    following = self._writes.get()
                    if following is None:
                        last = True
                        break
                    batch.append(following)
                self._commit(batch)
                if last:
                    break
        finally:
            self._drop_writer()

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

    def _commit(self, batch: list[_Write]) -> None:
        problem: HerdError | None = None
        try:
            if self._writer is None:
                self._writer = self._connect()
            self._writer.execute("BEGIN")
            for statement, parameters, _ in batch:
                self._writer.execute(statement, parameters)
            self._writer.execute("COMMIT")
        except Exception as error:  # of any kind: who waits for a write must hear of it
            log.error("cannot write %s: %s", self.path, error)
            problem = _disk_error(str(error))
            self._drop_writer()  # rolls back; after an error of the disk only a new connection is sure to be sound
        futures = [future for _, _, future in batch]
        self._loop.call_soon_threadsafe(_resolve, futures, problem)


def _resolve(futures: list[asyncio.Future[None]], problem: HerdError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(HerdError.of(problem.info))


def _job(text: str) -> Job | None:
    try:
        return Job.model_validate_json(text)
    except ValidationError:
        log.exception("a job in the database cannot be read; it is left out")
        return None


def _shape(text: str) -> CacheShape | None:
    try:
        return CacheShape.model_validate_json(text) if text else None
    except ValidationError:
        return None


_FACTORS: TypeAdapter[Factors] = TypeAdapter(tuple[tuple[int, FiniteFloat], ...])


def _factors(text: str) -> Factors:
    try:
        return _FACTORS.validate_json(text)
    except ValidationError:
        return ()


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    while os.path.lexists(aside):  # an earlier one
        aside = aside.with_name(f"{aside.name}x")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def _disk_error(reason: str) -> HerdError:
    return HerdError(
        ErrorCode.DISK,
        f"The job history cannot be written or read: {reason}.",
        "Check free space and permissions with `herd-mcp doctor`.",
        retryable=True,
    )
