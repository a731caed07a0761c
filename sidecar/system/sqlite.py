"""SQLite files: is one sound, and how does its content get into another one under its readers.

A file from outside is trusted with nothing: it is opened read-only and every page is checked.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sidecar.errors import PublishError, ReadError, Rejected, SidecarError
from sidecar.system.files import give, replace, temporary

HEADER = b"SQLite format 3\0"
_HEAD = 100
# SQLite's verdicts that only the content of a file can bring about.
_OF_CONTENT = frozenset(
    {
        *(sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT),
        *(sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_TOOBIG),
    }
)
# Those on a file that it cannot open as a database.
_UNUSABLE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_READ_LIMIT = 30.0
_BACKUP_LIMIT = 10.0
# How many virtual machine steps may pass between two looks at the clock, and how many bytes a computed value
# may have: a generated column can make each step as slow as its value is long.
_STEPS = 1_000
_LONGEST_VALUE = 1 << 20
_LARGEST_BLOB = 1 << 28
SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by the ends of the names."""


def check_database(path: Path, what: str) -> None:
    """Check that a file is a sound database; `Rejected` names it as `what`, `ReadError` is not its fault."""
    with reading(path, what, _LARGEST_BLOB) as connection:
        check_sound(connection, path.stat().st_size, what)


@contextmanager
def reading(
    path: Path, what: str, longest: int = _LONGEST_VALUE, limit: float = _READ_LIMIT
) -> Iterator[sqlite3.Connection]:
    """A connection to a file from outside, for at most `limit` seconds; its values have a bounded length.

    What is wrong with the content is `Rejected`, for it will be the same the next time. What keeps this
    machine from reading it is a `ReadError`: the disk, the memory, a time that passed without work.
    """
    worked = time.thread_time()
    try:
        _check_header(path, what)
        with closing(open_immutable(path, longest)) as connection:
            limit_time(connection, limit)
            yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message quotes a damaged name
        if _interrupted(error):
            raise _slow(what, limit, time.thread_time() - worked) from error
        if not _is_content(error):
            raise _unread(what, error) from error
        raise Rejected(
            f"{what} cannot be read: {error}",
            "check the database with `pragma integrity_check` where it is made",
            code="unsound",
        ) from error
    except (OSError, MemoryError) as error:
        raise _unread(what, error) from error


def _check_header(path: Path, what: str) -> None:
    with path.open("rb") as stream:
        if stream.read(len(HEADER)) != HEADER:
            raise Rejected(
                f"{what} is not an SQLite database ({path.stat().st_size} bytes)",
                "put a whole database in the store",
                code="not_sqlite",
            )


def plain_fault(path: Path) -> str:
    """What is plainly wrong with a database's file, in words; empty for nothing. It costs one short read.

    Others may write to it meanwhile: only what no write that is under way looks like counts.
    """
    try:
        in_use = _has_side_files(path)
        with path.open("rb") as stream:
            before, head = os.fstat(stream.fileno()), stream.read(_HEAD)
        after = path.stat()
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not before.st_size:
        return "it is empty"
    if not head.startswith(HEADER):
        return "it is not an SQLite database"
    rested = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    if rested and before.st_size < _least_size(head) and not in_use and not _has_side_files(path):
        return "it is cut off"
    return ""


def _least_size(head: bytes) -> int:
    """How large a database is that begins so; 0 where its header does not tell."""
    size, pages = int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
    # The number of pages holds only when the change counter stands beside it once more.
    known = len(head) == _HEAD and head[24:28] == head[92:96]
    return (65_536 if size == 1 else size) * pages if known else len(HEADER)


def _has_side_files(path: Path) -> bool:
    return any(path.with_name(path.name + end).exists() for end in SIDE_FILES)


def _interrupted(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def _is_content(error: Exception) -> bool:
    """Whether the same bytes would fail in the same way on any machine."""
    code = getattr(error, "sqlite_errorcode", None)
    # Without a code it is Python that could not make anything of a value.
    return code is None or code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _OF_CONTENT


def _slow(what: str, limit: float, worked: float) -> SidecarError:
    if worked < limit / 2:
        return ReadError(
            f"{what} could not be read within {limit:g} s, most of which this machine spent waiting",
            "see what keeps its disk or its processors busy",
            code="read_timeout",
        )
    return Rejected(
        f"{what} cannot be read: it takes too long",
        "check the database with `pragma integrity_check` where it is made",
        code="unsound",
    )


def _unread(what: str, error: Exception) -> ReadError:
    return ReadError(
        f"{what} could not be read on this machine: {str(error) or 'there is not enough memory'}",
        "check the disk, the memory, and the limit of open files; it is tried again with the next update",
    )


def open_immutable(path: Path, longest: int = _LONGEST_VALUE) -> sqlite3.Connection:
    """Open a file that nobody writes to, leaving nothing beside it; `longest` bounds its values, in bytes."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    connection.execute("pragma trusted_schema = off")
    connection.execute("pragma cell_size_check = on")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    return connection


def limit_time(connection: sqlite3.Connection, seconds: float = _READ_LIMIT) -> None:
    """Let every statement fail after so many seconds."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)


def check_sound(connection: sqlite3.Connection, size: int, what: str) -> None:
    """Check every page of an open database of `size` bytes."""
    # SQLite itself takes what is missing of the last page for zeros.
    (pages,) = connection.execute("pragma page_count").fetchone()
    length = page_size(connection)
    if size < pages * length:
        raise Rejected(f"{what} is cut off", "upload it again", code="unsound")
    if behind := size % length:
        # No database ends like this: something on the way has left its own there.
        raise Rejected(f"{what} has {behind} bytes behind its last page", "upload it again", code="unsound")
    problems = [str(row[0]) for row in connection.execute("pragma quick_check(3)")]
    if problems != ["ok"]:
        raise Rejected(
            f"{what} is damaged: {' '.join('; '.join(problems).split())}",
            "restore it where it is made and upload it again",
            code="unsound",
        )


def install_database(
    source: Path, target: Path, modified: float | None, patience: float = _BACKUP_LIMIT
) -> None:
    """Put the content of one database into another under its readers, by SQLite's backup API.

    Readers that have the target open see the old content or the new, never a mixture, and no
    write-ahead log of the old file is left beside the new one. A crash in between is undone by the next
    reader. `modified` becomes the file's mtime (seconds since 1970). A target that is no database is
    replaced as a file. Raises `PublishError`, after `patience` seconds when others keep the target locked;
    the old content stays then.
    """
    try:
        if not is_database(target):
            _replace(source, target)
        else:
            with closing(open_immutable(source)) as old, closing(_open_target(target, patience)) as new:
                _backup(old, new, patience)
        if modified is not None:
            os.utime(target, (modified, modified))
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise PublishError(
            f"{target} could not be replaced: {error}",
            "check the disk's free space, the folder's owner, and that no process keeps the database locked",
        ) from error


def _open_target(path: Path, patience: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    connection.execute("pragma synchronous = normal")
    return connection


class Locked(sqlite3.OperationalError):
    """Another process has kept a database locked for too long."""


def copy_database(source: sqlite3.Connection, target: Path, patience: float) -> None:
    """Copy the content of a database that others may write to into a new file.

    Raises `Locked` when they keep it locked for `patience` seconds, and other `sqlite3.Error`s.
    """
    try:
        with closing(sqlite3.connect(target)) as copy:
            _backup(source, copy, patience)
    except sqlite3.OperationalError as error:
        if isinstance(error, Locked) or error.sqlite_errorcode & 0xFF not in _LOCKED:
            raise
        raise Locked(str(error)) from error


def _backup(source: sqlite3.Connection, target: sqlite3.Connection, patience: float) -> None:
    deadline = time.monotonic() + patience

    def tick(status: int, remaining: int, total: int) -> None:
        if status in _LOCKED and time.monotonic() > deadline:
            raise Locked("the database stayed locked for too long")

    if page_size(source) != page_size(target):
        # With a write-ahead log the size of the pages is fixed.
        target.execute("pragma journal_mode = delete")
    # All pages in one step: other connections wait for a moment instead of restarting the copy.
    source.backup(target, pages=-1, progress=tick, sleep=0.05)


def page_size(connection: sqlite3.Connection) -> int:
    """The size of a database's pages in bytes."""
    (size,) = connection.execute("pragma page_size").fetchone()
    return int(size)


def is_database(path: Path) -> bool:
    """Whether there is a database that SQLite can open, locked or not."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(HEADER)) != HEADER:
                return False
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("select 1 from sqlite_schema").fetchone()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    except sqlite3.Error as error:
        return error.sqlite_errorcode & 0xFF not in _UNUSABLE
    return True


def _replace(source: Path, target: Path) -> None:
    """Replace a file that is no database, or none yet; mode and, where that is allowed, owner stay."""
    there = target.stat() if target.exists() else None

    def adapt() -> None:
        if there is not None:
            with suppress(PermissionError):  # the user of the daemon may not give files away
                give(temporary(target), there.st_uid, there.st_gid)
        for suffix in SIDE_FILES:
            target.with_name(target.name + suffix).unlink(missing_ok=True)

    mode = None if there is None else stat.S_IMODE(there.st_mode)
    replace(target, source.read_bytes(), mode=mode, synced=True, before=adapt)
