"""SQLite files: is one sound, and how does its content get into another one under its readers.

A file from outside is trusted with nothing: every page is checked, by a process that may die of it (see
`checker`), before it is opened here, read-only.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import PublishError, ReadError, Rejected, SidecarError
from sidecar.model.text import printable
from sidecar.system import checker
from sidecar.system.files import give, replace, temporary

HEADER = b"SQLite format 3\0"
_HEAD_BYTES = 100
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
_BACKUP_SECONDS = 10.0
# How many virtual machine steps may pass between two looks at the clock.
_STEPS_BETWEEN_LOOKS = 1_000
# The longest value in bytes that is read; where nothing is computed, the file itself bounds them all.
_MAX_VALUE_BYTES = 1 << 28
_SHORT_CHARACTERS = 100
# How much of what SQLite says is passed on: it quotes names, which may be as long as a file.
_MAX_MESSAGE_CHARACTERS = 300
# How many files are checked at once by threads of the same niceness.
_MAX_AT_ONCE = 2
_CHECKER = [sys.executable, "-ISs", checker.__file__]
# How a process ends by what a file has SQLite do; other signals come from elsewhere.
_DEADLY = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by the ends of the names."""


class ReadLimit(NamedTuple):
    """How long a file from outside may take, in seconds, and how much work, from which on it is at fault."""

    wall: float = 30.0
    work: float = 10.0


_LIMIT = ReadLimit()


def check_database(path: Path, what: str, limit: ReadLimit = _LIMIT) -> None:
    """Check that a file is a sound database; `Rejected` names it as `what`, `ReadError` is not its fault."""
    with _judging(what, limit):
        _check(path, what, limit, computed=True)


@contextmanager
def reading(path: Path, what: str, limit: ReadLimit = _LIMIT) -> Iterator[sqlite3.Connection]:
    """A connection to a file from outside that is sound and computes nothing, within `limit`.

    What is wrong with the content is `Rejected`, for it will be the same the next time. What keeps this
    machine from reading it is a `ReadError`: the disk, the memory, a time that passed without work.
    """
    until = time.monotonic() + limit.wall
    with _judging(what, limit):
        _check(path, what, limit, computed=False)
        with closing(open_immutable(path)) as connection:
            limit_time(connection, until - time.monotonic())
            yield connection


@contextmanager
def _judging(what: str, limit: ReadLimit) -> Iterator[None]:
    worked = time.thread_time()
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message quotes a damaged name
        if _interrupted(error):
            raise _slow(what, limit, time.thread_time() - worked) from error
        if not _is_content(error):
            raise _unread(what, error) from error
        raise Rejected(
            f"{what} cannot be read: {_said(error)}",
            "check the database with `pragma integrity_check` where it is made",
            code="unsound",
        ) from error
    except (OSError, MemoryError) as error:
        raise _unread(what, error) from error


def _said(said: object) -> str:
    """What SQLite says, without what a terminal would obey, and no longer than a sentence."""
    return printable(" ".join(str(said).split())[:_MAX_MESSAGE_CHARACTERS])


def _check(path: Path, what: str, limit: ReadLimit, *, computed: bool) -> None:
    """Check every page, in another process, within `limit`.

    `computed` says whether columns may be computed: whoever reads them runs what the file says.
    """
    _check_header(path, what)
    answer = _ask(path, what, limit, computed=computed)
    if problem := answer.get("problem"):
        said, hint = problem
        raise Rejected(f"{what} {_said(said)}", hint, code="unsound")
    if said := answer.get("error"):
        error = sqlite3.DatabaseError(said)
        if (code := answer["code"]) is not None:
            error.sqlite_errorcode = code
        raise error


class _Checker:
    """A process that checks, one file at a time; whoever took it from `_Checkers` has it alone."""

    def __init__(self) -> None:
        # Neither the daemon's environment, with its secrets, nor its group, with a terminal's signals.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            _CHECKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout  # noqa: S101, PT018 - they are pipes
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self._used = 0.0
        self._is_last = False

    def ask(self, request: Mapping[str, object], seconds: float) -> dict[str, Any] | None:
        """The answer, None when it ended instead; `TimeoutError` when it is at it after `seconds`."""
        with suppress(BrokenPipeError):
            self._asks.write(msgspec.json.encode(request) + b"\n")
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError
        if not (line := self._answers.readline()).endswith(b"\n"):
            return None
        answer: dict[str, Any] = msgspec.json.decode(line)
        self._used, self._is_last = answer["used"], answer["last"]
        return answer

    @property
    def alive(self) -> bool:
        """Whether it takes another file; one that said it was its last may be ending just now."""
        return not self._is_last and self._process.poll() is None

    def end(self) -> tuple[int, float]:
        """End it; its exit status, negative for a signal, and the seconds that it worked on the last file."""
        process, used = self._process, 0.0
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)  # which changes nothing where it has ended
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            used = usage.ru_utime + usage.ru_stime - self._used
        self._asks.close()
        self._answers.close()
        return process.returncode, used


class _Checkers:
    """Checkers of one niceness, which cannot be lowered again; those that are started stay."""

    def __init__(self) -> None:
        self._idle: list[_Checker] = []
        self._free = threading.Semaphore(_MAX_AT_ONCE)

    def warm_up(self) -> None:
        """Start one, if there is none yet."""
        with self._free:
            if not self._idle:
                self._idle.append(_Checker())

    @contextmanager
    def one(self) -> Iterator[_Checker]:
        """A checker to have alone, when there is one."""
        with self._free:
            one = self._take()
            yield one
            self._idle.append(one)  # it has answered, or nobody comes here

    def _take(self) -> _Checker:
        with suppress(IndexError):
            while not (one := self._idle.pop()).alive:
                one.end()
            return one
        return _Checker()

    def end(self) -> None:
        """End those that have nothing to do."""
        while self._idle:
            self._idle.pop().end()


_checkers: defaultdict[int, _Checkers] = defaultdict(_Checkers)


def _checkers_here() -> _Checkers:
    return _checkers[os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]


def warm_up() -> None:
    """Have a checker ready: the first check need not wait for its start."""
    _checkers_here().warm_up()


@atexit.register
def _end_checkers() -> None:
    for checkers in _checkers.values():
        checkers.end()


def _ask(path: Path, what: str, limit: ReadLimit, *, computed: bool) -> dict[str, Any]:
    """What a checker says of a file, or why there is none that could say anything."""
    request = {"path": str(path), "size": path.stat().st_size, "computed": computed, "seconds": limit.work}
    with _checkers_here().one() as one:
        try:
            answer = one.ask(request, limit.wall)
        except TimeoutError:
            _, worked = one.end()
            raise _slow(what, limit, worked) from None
        if answer is None:
            status, _ = one.end()
            raise _ended(what, limit, status)
    return answer


def _ended(what: str, limit: ReadLimit, status: int) -> SidecarError:
    if status == -signal.SIGPROF:
        return _slow(what, limit, limit.work)
    if -status in _DEADLY:
        return Rejected(
            f"{what} makes SQLite crash ({signal.Signals(-status).name})",
            "restore it where it is made and upload it again",
            code="unsound",
        )
    return ReadError(
        f"{what} could not be checked: the process that does it ended with status {status}",
        "see what ended it, the lack of memory, for one; it is tried again with the next update",
    )


def _check_header(path: Path, what: str) -> None:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.startswith(HEADER):
        raise Rejected(
            f"{what} is not an SQLite database ({path.stat().st_size} bytes)",
            "upload the index again, whole; `sidecar doctor` names the store and the object",
            code="not_sqlite",
        )
    if not _is_writable(head):
        raise Rejected(
            f"{what} has a header that lets nobody write to it (bytes 18 and 19: {head[18:20].hex(' ')})",
            "upload it again, or restore it where it is made",
            code="unsound",
        )


def _is_writable(head: bytes) -> bool:
    """Whether SQLite knows the version that a header asks of those who write and read: a log, or none."""
    return all(version in (1, 2) for version in head[18:20])


def plain_fault(path: Path) -> str:
    """What is plainly wrong with a database's file, in words; empty for nothing. It costs one short read.

    Others may write to it meanwhile: only what no write that is under way looks like counts.
    """
    try:
        in_use = _has_side_files(path)
        with open(path, "rb", opener=_without_waiting) as stream:
            before, head = os.fstat(stream.fileno()), stream.read(_HEAD_BYTES)
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


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe in its place is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _least_size(head: bytes) -> int:
    """How large a database is that begins so; 0 where its header does not tell."""
    size, pages = int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
    # The number of pages holds only when the change counter stands beside it once more.
    known = len(head) == _HEAD_BYTES and head[24:28] == head[92:96]
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


def _slow(what: str, limit: ReadLimit, worked: float) -> SidecarError:
    if worked < limit.work:
        return ReadError(
            f"{what} could not be read within {limit.wall:g} s, most of which this machine spent waiting",
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
        f"{what} could not be read on this machine: {_said(error) or 'there is not enough memory'}",
        "check the disk, the memory, and the limit of open files; it is tried again with the next update",
    )


def open_immutable(path: Path) -> sqlite3.Connection:
    """Open a sound file that nobody writes to, leaving nothing beside it."""
    return checker.open_immutable(str(path), _MAX_VALUE_BYTES)


def limit_time(connection: sqlite3.Connection, seconds: float = _LIMIT.wall) -> None:
    """Let every statement fail after so many seconds."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)


def is_plain(connection: sqlite3.Connection, table: str) -> bool:
    """Whether there is a table of this name that holds what is read from it.

    Views and virtual tables, whatever the schema calls them, and columns that are computed are programs
    rather than data: nothing bounds what these cost.
    """
    # SQLite runs this text to know what is there; and nothing but a table begins so and has a page.
    found = connection.execute(
        "select 1 from sqlite_schema where name = ? and type = 'table' and rootpage > 0"
        " and sql like 'create table %'",
        (table,),
    ).fetchone()
    return found is not None and not checker.computed_columns(connection, table)


def read_plainly(connection: sqlite3.Connection, table: str, column: str, most: int) -> list[Any]:
    """A column's first short values, within a time limit; none where the table is not plain."""
    limit_time(connection)
    if not is_plain(connection, table):
        return []
    # A default may be long, and takes no room in a row.
    short = f"case when length({column}) <= {_SHORT_CHARACTERS} then {column} end"
    query = f"select {short} from {table} limit {most}"  # noqa: S608 - the names are our code's own
    return [value for (value,) in connection.execute(query)]


def install_database(
    source: Path, target: Path, modified: float | None, patience: float = _BACKUP_SECONDS
) -> None:
    """Put the content of one database into another under its readers, by SQLite's backup API.

    Readers that have the target open see the old content or the new, never a mixture, and no
    write-ahead log of the old file is left beside the new one. A crash in between is undone by the next
    reader. `modified` becomes the file's mtime (seconds since 1970). A target that is no database, one that
    nobody can write to, or one whose time only its owner may set, is replaced as a file. Raises
    `PublishError`, after `patience` seconds when others keep the target locked; the old content stays then.
    """
    try:
        if not is_database(target) or not _overwrite(source, target, patience):
            _replace(source, target)
        if modified is not None:
            try:
                os.utime(target, (modified, modified))
            except PermissionError:
                _replace(source, target)
                os.utime(target, (modified, modified))
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise PublishError(
            f"{target} could not be replaced: {_said(error)}",
            "check the disk's free space, the folder's owner, and that no process keeps the database locked",
        ) from error


def _overwrite(source: Path, target: Path, patience: float) -> bool:
    """Whether the target's content could be replaced by SQLite; it cannot where it is read-only."""
    try:
        with closing(open_immutable(source)) as old, closing(_open_target(target, patience)) as new:
            _backup(old, new, patience)
    except sqlite3.OperationalError as error:
        if isinstance(error, DatabaseLocked) or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        return False
    return True


def _open_target(path: Path, patience: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    connection.execute("pragma synchronous = normal")
    return connection


class DatabaseLocked(sqlite3.OperationalError):
    """Another process has kept a database locked for too long."""


def copy_database(source: sqlite3.Connection, target: Path, patience: float) -> None:
    """Copy the content of a database that others may write to into a new file.

    Raises `DatabaseLocked` when they keep it locked for `patience` seconds, and other `sqlite3.Error`s.
    """
    try:
        with closing(sqlite3.connect(target)) as copy:
            _backup(source, copy, patience)
    except sqlite3.OperationalError as error:
        if isinstance(error, DatabaseLocked) or error.sqlite_errorcode & 0xFF not in _LOCKED:
            raise
        raise DatabaseLocked(str(error)) from error


def _backup(source: sqlite3.Connection, target: sqlite3.Connection, patience: float) -> None:
    deadline = time.monotonic() + patience

    def tick(status: int, remaining: int, total: int) -> None:
        if status in _LOCKED and time.monotonic() > deadline:
            raise DatabaseLocked("the database stayed locked for too long")

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
