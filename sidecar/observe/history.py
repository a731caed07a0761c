"""The history: what ran, who asked, how it ended. A small SQLite database in the state folder.

It is a record, not a part of the machinery: a damaged file is set aside, a full disk costs an entry, and
neither ever stops an update. `History` reads and writes the file; `HistoryWriter` is what a daemon writes
through, in the order in which things happened.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.model.events import LifecycleEvent, Loaded, NotLoaded
from sidecar.model.record import Record
from sidecar.model.runs import Outcome, SettledState
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
_COLUMNS = "id, state, settled, reload_seconds, note, outcome, ready"
_LOCK_TIMEOUT_SECONDS = 2.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# The age of old entries counts from the oldest of so many newest ones, so that it takes more than a run or
# two under a wrong clock to remove all the others.
_CLOCK_ENTRIES = 5

Result = TypeVar("Result")


class Entry(Record, frozen=True):
    """A run in the history.

    `state` starts as the outcome's and becomes loaded or rolled_back; `settled` says when, in seconds since
    1970, `reload_seconds` how long after the publication the web server had loaded it, `note` why not.
    `ready` is the last ready work for this generation.
    """

    run: int
    state: SettledState
    settled: float | None
    reload_seconds: float | None
    note: str | None
    outcome: Outcome
    ready: Work | None = None


class Search(Record, frozen=True):
    """Which entries are wanted; empty: all. `trigger` and `state` are whole words, `who` a part of the name.

    With `published` only runs that published a generation.
    """

    trigger: str = ""
    who: str = ""
    state: str = ""
    published: bool = False


_ALL = Search()


def is_recorded(outcome: Outcome, newest: Outcome | None) -> bool:
    """Whether the history takes an outcome, after its `newest` entry.

    Previews change nothing. Of runs that nobody in particular asked for, the public's and the timer's, those
    that found nothing new are left out: else strangers could fill the history with their pokes. Of a failure
    of theirs that goes on only the first is recorded, and so of a fleet update that is tried again, and of a
    poke that waits for the store to serve what it expects.
    """
    if outcome.is_preview:
        return False
    unasked = outcome.public or outcome.trigger == "timer"
    if unasked and outcome.state == "unchanged":
        return False
    if (
        outcome.error is None
        or newest is None
        or not (unasked or outcome.stale or outcome.trigger == "fleet")
    ):
        return True
    goes_on = (newest.state, newest.error) == (outcome.state, outcome.error)
    return not goes_on or (not unasked and newest.who != outcome.who)


class History:
    """Appends and reads entries; all methods block for a moment and may be called from any thread.

    `keep` entries are kept, for `max_age` seconds, and those of the generations that are `kept` on disk for
    as long as these are.
    """

    def __init__(
        self, path: Path, keep: int, max_age: float, kept: Callable[[], Collection[int]] = lambda: ()
    ) -> None:
        self._path = path
        self._keep = keep
        self._max_age = max_age
        self._kept = kept
        self._lock = threading.Lock()
        self._prepared = False

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
            self._prepared = False
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(time.time())}")
            logger.warning("the history %s cannot be used (%s); it becomes %s", self._path, error, aside)
            try:
                for suffix in ("", "-wal", "-shm"):
                    part = self._path.with_name(self._path.name + suffix)
                    if part.exists():
                        part.rename(aside.with_name(aside.name + suffix))
            except OSError as failure:
                logger.warning("the history %s cannot be set aside: %s", self._path, failure)

    def add(self, outcome: Outcome) -> None:
        """Record a run that ended, if it is one to record, and remove what is too old or too much."""

        def insert(connection: sqlite3.Connection) -> None:
            newest = connection.execute("select outcome from runs order by id desc limit 1").fetchone()
            if not is_recorded(outcome, msgspec.json.decode(newest[0], type=Outcome) if newest else None):
                return
            number = outcome.generation if outcome.state == "published" else None
            connection.execute(
                "insert into runs (started, generation, outcome, state) values (?, ?, ?, ?)",
                (outcome.started, number, msgspec.json.encode(outcome), outcome.state),
            )
            self._prune(connection)

        self._attempt(insert, None)

    def _prune(self, connection: sqlite3.Connection) -> None:
        try:
            kept = sorted(self._kept())
        except OSError as error:
            logger.warning(
                "the history %s was not pruned, because the kept generations cannot be listed: %s",
                self._path,
                error,
            )
            return
        (newest,) = connection.execute(
            "select min(started) from (select started from runs order by id desc limit ?)", (_CLOCK_ENTRIES,)
        ).fetchone()
        connection.execute(
            "delete from runs where (id <= (select max(id) from runs) - :keep or started < :oldest) "
            "and id not in (select max(id) from runs group by generation "
            "having generation in (select value from json_each(:kept)))",
            {
                "keep": self._keep,
                "oldest": newest - self._max_age,
                "kept": msgspec.json.encode(kept).decode(),
            },
        )

    def settle(
        self, generation: int, state: SettledState, seconds: float | None = None, note: str | None = None
    ) -> None:
        """Record what became of a published generation: the newest one of this number."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "update runs set state = ?, settled = ?, reload_seconds = ?, note = ? "
                "where id = (select max(id) from runs where generation = ?)",
                (state, time.time(), seconds, note, generation),
            )

        self._attempt(update, None)

    def add_ready(self, work: Work) -> None:
        """Record how the ready work for a published generation, the newest one of its number, went."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "update runs set ready = ? where id = (select max(id) from runs where generation = ?)",
                (msgspec.json.encode(work), work.generation),
            )

        self._attempt(update, None)

    def entries(self, limit: int = 50, before: int | None = None, search: Search = _ALL) -> list[Entry]:
        """The newest entries first; `before` continues below a run's number."""

        def select(connection: sqlite3.Connection) -> list[Entry]:
            rows = connection.execute(
                f"select {_COLUMNS} from runs "  # noqa: S608 - a constant
                "where (:before is null or id < :before) and (:state = '' or state = :state) "
                "and (:trigger = '' or json_extract(cast(outcome as text), '$.trigger') = :trigger) "
                "and (:who = '' or instr(lower(json_extract(cast(outcome as text), '$.who')), lower(:who))) "
                "and (not :published or generation is not null) order by id desc limit :limit",
                {"before": before, "limit": limit, **msgspec.structs.asdict(search)},
            )
            entries: list[Entry] = []
            for row in rows:
                with suppress(msgspec.MsgspecError):  # written by another version
                    entries.append(_entry(row))
            return entries

        return self._attempt(select, [])

    def generation(self, number: int) -> Entry | None:
        """The entry of a generation, or None."""

        def select(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute(
                f"select {_COLUMNS} from runs "  # noqa: S608 - a constant
                "where generation = ? order by id desc limit 1",
                (number,),
            ).fetchone()
            return _entry(row) if row else None

        return self._attempt(select, None)

    def run(self, number: int) -> Entry | None:
        """The entry of a run, or None."""
        return next((one for one in self.entries(1, number + 1) if one.run == number), None)

    def _attempt(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        try:
            with self._lock, self._connected() as connection, connection:
                return work(connection)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            logger.warning("the history %s: %s", self._path, error)
            self._prepared = False
            return otherwise

    def _connected(self) -> closing[sqlite3.Connection]:
        # Once a start is enough, unless somebody has removed the file.
        anew = not self._prepared or not self._path.exists()
        if anew:
            self._make_private()
        connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_SECONDS)
        try:
            if anew:
                connection.execute("pragma journal_mode = wal")
                connection.executescript(_SCHEMA)
                self._prepared = True
            connection.execute("pragma synchronous = normal")
        except BaseException:
            connection.close()
            raise
        return closing(connection)

    def _make_private(self) -> None:
        """Diffs of htpasswd are in it: nobody else reads the file, nor the logs, which get its mode."""
        with suppress(OSError):  # which opening the database tells of
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            for suffix in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.chmod(0o600)


class HistoryWriter:
    """Writes to the history behind an event loop, one thing after the other.

    All methods but `close` only put something into the queue; they belong to the event loop.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._threads = ThreadPoolExecutor(1, "history")
        self._expected: dict[int, list[Callable[[], None]]] = {}

    def track(self, generation: int) -> None:
        """A generation was published; its entry follows when the run has ended.

        It may be loaded before that: what is told of it until then is written behind its entry.
        """
        self._expected[generation] = []

    def add(self, outcome: Outcome) -> None:
        """Record a run that ended."""
        self._threads.submit(self._history.add, outcome)
        if outcome.generation is not None:
            for write in self._expected.pop(outcome.generation, ()):
                self._threads.submit(write)

    def settle(
        self, generation: int, state: SettledState, seconds: float | None = None, note: str | None = None
    ) -> None:
        """Record what became of a published generation."""
        self._write(generation, partial(self._history.settle, generation, state, seconds, note))

    def add_ready(self, work: Work) -> None:
        """Record how the ready work for a published generation went."""
        self._write(work.generation, partial(self._history.add_ready, work))

    def on_event(self, event: LifecycleEvent) -> None:
        """Record what became of a generation."""
        if isinstance(event, Loaded):
            self.settle(event.generation, "loaded", event.seconds)
        elif isinstance(event, NotLoaded):
            self.settle(event.generation, "rolled_back", note=event.message)

    def _write(self, generation: int, write: Callable[[], None]) -> None:
        waiting = self._expected.get(generation)
        if waiting is not None:
            waiting.append(write)
        else:
            self._threads.submit(write)

    async def close(self) -> None:
        """Wait until all is written; each entry takes no longer than the limit for the file's lock."""
        await asyncio.to_thread(self._threads.shutdown)


def _entry(row: tuple[int, str, float | None, float | None, str | None, bytes, bytes | None]) -> Entry:
    run, state, settled, seconds, note, outcome, ready = row
    return Entry(
        run,
        msgspec.convert(state, SettledState),
        settled,
        seconds,
        note,
        msgspec.json.decode(outcome, type=Outcome),
        msgspec.json.decode(ready, type=Work) if ready else None,
    )
