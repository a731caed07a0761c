"""Event databases for tests: real SQLite files with a table of events and a list of migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

VERSIONS = ("20220101000000", "20230101000000")


def write_event(
    path: Path, text: str = "", *, versions: Sequence[str] = VERSIONS, size: int = 4096, wal: bool = False
) -> bytes:
    """A database whose event carries a text; its bytes."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if wal:
            connection.execute("pragma journal_mode = wal")
        connection.execute("create table events (id integer primary key, name text, date text, filler blob)")
        connection.execute("insert into events values (1, ?, '2026-05-01', zeroblob(?))", (text, size))
        connection.execute("create table schema_migrations (version text primary key)")
        connection.executemany("insert into schema_migrations values (?)", [(one,) for one in versions])
    return path.read_bytes()


def read_event(path: Path) -> str:
    """The text that the database carries; an error when it is not sound."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        assert connection.execute("pragma quick_check").fetchone() == ("ok",)
        return str(connection.execute("select name from events").fetchone()[0])


def change_event(path: Path, text: str) -> None:
    """Write to the database, as the application does."""
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        connection.execute("update events set name = ?", (text,))
