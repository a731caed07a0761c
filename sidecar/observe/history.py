"""The history: what ran, who asked, how it ended. A small SQLite database in the state folder.

It is a record, not a part of the machinery: a damaged file is set aside, a full disk costs an entry, and
neither ever stops an update.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.model.record import Record
from sidecar.model.runs import Outcome
from sidecar.model.work import Work

logger = logging.getLogger(__name__)

_SCHEMA = """
create table if not exists runs (
    id integer primary key,
    started real not null,
    generation integer,
    outcome blob not null,
    state text not null,
    settled real,
    reload_seconds real,
    note text,
    ready blob
);
create index if not exists runs_by_generation on runs (generation);
"""
_TIMEOUT = 2.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Result = TypeVar("Result")


class Entry(Record, frozen=True):
    """A run in the history.

    `state` starts as the outcome's and becomes loaded or rolled_back; `settled` says when, in seconds since
    1970, `reload_seconds` how long after the publication the web server had loaded it, `note` why not.
    `ready` is the last ready work for this generation.
    """

    run: int
    state: str
    settled: float | None
    reload_seconds: float | None
    note: str | None
    outcome: Outcome
    ready: Work | None = None


class History:
    """Appends and reads entries; all methods block for a moment and may be called from any thread."""

    def __init__(self, path: Path, keep: int, max_age: float) -> None:
        self._path = path
        self._keep = keep
        self._max_age = max_age
        self._lock = threading.Lock()

    def startup(self) -> None:
        """Open the file once; one that is damaged is set aside and begun anew."""
        try:
            with self._connected() as connection:
                if connection.execute("pragma quick_check(1)").fetchone()[0] != "ok":
                    raise sqlite3.DatabaseError("it is damaged")  # noqa: TRY301 - handled with the rest
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGED:
                # A full disk, say: what is there may be sound.
                logger.warning("the history %s cannot be opened: %s", self._path, error)
                return
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(time.time())}")
            logger.warning("the history %s cannot be used (%s); it is now %s", self._path, error, aside)
            for suffix in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))

    def add(self, outcome: Outcome) -> None:
        """Record a run that ended."""

        def insert(connection: sqlite3.Connection) -> None:
            number = outcome.generation if outcome.state == "published" else None
            connection.execute(
                "insert into runs (started, generation, outcome, state) values (?, ?, ?, ?)",
                (outcome.started, number, msgspec.json.encode(outcome), outcome.state),
            )
            connection.execute(
                "delete from runs where id <= (select max(id) from runs) - ? or started < ?",
                (self._keep, time.time() - self._max_age),
            )

        self._attempt(insert, None)

    def settle(
        self, generation: int, state: str, seconds: float | None = None, note: str | None = None
    ) -> None:
        """Record what became of a published generation."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "update runs set state = ?, settled = ?, reload_seconds = ?, note = ? where generation = ?",
                (state, time.time(), seconds, note, generation),
            )

        self._attempt(update, None)

    def add_ready(self, work: Work) -> None:
        """Record how the ready work for a published generation went."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "update runs set ready = ? where generation = ?", (msgspec.json.encode(work), work.generation)
            )

        self._attempt(update, None)

    def entries(self, limit: int = 50, before: int | None = None) -> list[Entry]:
        """The newest entries first; `before` continues below a run's number."""

        def select(connection: sqlite3.Connection) -> list[Entry]:
            rows = connection.execute(
                "select id, state, settled, reload_seconds, note, outcome, ready from runs "
                "where ? is null or id < ? order by id desc limit ?",
                (before, before, limit),
            )
            return [_entry(row) for row in rows]

        return self._attempt(select, [])

    def generation(self, number: int) -> Entry | None:
        """The entry of a generation, or None."""

        def select(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute(
                "select id, state, settled, reload_seconds, note, outcome, ready from runs "
                "where generation = ? order by id desc limit 1",
                (number,),
            ).fetchone()
            return _entry(row) if row else None

        return self._attempt(select, None)

    def _attempt(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        try:
            with self._lock, self._connected() as connection, connection:
                return work(connection)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            logger.warning("the history %s: %s", self._path, error)
            return otherwise

    def _connected(self) -> closing[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=_TIMEOUT)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.executescript(_SCHEMA)
            _add_column(connection)
        except BaseException:
            connection.close()
            raise
        return closing(connection)


def _add_column(connection: sqlite3.Connection) -> None:
    """A file of the first version lacks a column."""
    if not any(row[1] == "ready" for row in connection.execute("pragma table_info(runs)")):
        connection.execute("alter table runs add column ready blob")


def _entry(row: tuple[int, str, float | None, float | None, str | None, bytes, bytes | None]) -> Entry:
    run, state, settled, seconds, note, outcome, ready = row
    work = msgspec.json.decode(ready, type=Work) if ready else None
    return Entry(run, state, settled, seconds, note, msgspec.json.decode(outcome, type=Outcome), work)
