"""Checks SQLite files from outside, in a process of its own that may die of them.

In a file that someone else made, a single step of SQLite can take minutes or gigabytes, or end the process:
no limit inside of it binds. So this is a program (see `sqlite`, which starts it and judges how it ended). It
has the standard library only, to be up within milliseconds. Each line of its input asks for one check, each
line of its output is an answer:

    {"path": "/file", "size": 8192, "computed": false, "seconds": 10}
    {"problem": ["is cut off", "upload it again"], "used": 0.01}
    {"error": "what SQLite says", "code": 11, "used": 0.01}

`computed` says whether columns may be; `seconds` is the processor time that it may take, after which the
kernel ends the process; `used` is all that it has taken so far.
"""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

_MAX_MEMORY_BYTES = 512 << 20
# The longest value in bytes: what a file holds is read as it is, what it computes may grow to this.
_MAX_VALUE_BYTES = 64 << 20
# A message may quote a name of any length.
_MAX_MESSAGE_CHARACTERS = 500
# Kinds of columns that are computed, in `pragma table_xinfo`: virtual and stored.
_COMPUTED_KINDS = (2, 3)


def main() -> None:
    """Answer until the input ends, within limits that the kernel keeps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    for line in sys.stdin:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
        answer = _answer(asked["path"], asked["size"], computed=asked["computed"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = _is_memory_used()  # the next one begins with none
        sys.stdout.write(json.dumps(answer | {"used": time.process_time(), "last": is_last}) + "\n")
        sys.stdout.flush()
        if is_last:
            break


def _answer(path: str, size: int, *, computed: bool) -> dict[str, Any]:
    try:
        with closing(open_immutable(path, _MAX_VALUE_BYTES)) as connection:
            return {"problem": next(_problems(connection, size, computed=computed), None)}
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message quotes a damaged name
        code = getattr(error, "sqlite_errorcode", None)
        if code != sqlite3.SQLITE_NOMEM or not _is_memory_used():
            return {"error": str(error)[:_MAX_MESSAGE_CHARACTERS], "code": code}
    except MemoryError:
        if not _is_memory_used():
            raise
    return {"problem": ("cannot be read: it takes too much memory", "see what it computes")}


def _problems(connection: sqlite3.Connection, size: int, *, computed: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with an open database of `size` bytes, and what to do about it."""
    # SQLite itself takes what is missing of the last page for zeros.
    (pages,) = connection.execute("pragma page_count").fetchone()
    (length,) = connection.execute("pragma page_size").fetchone()
    if size < pages * length:
        yield "is cut off", "upload it again"
    if behind := size % length:
        # No database ends like this: something on the way has left its own there.
        yield f"has {behind} bytes behind its last page", "upload it again"
    if not computed and (name := _computing(connection)):
        yield f"has computed columns, in {name!r:.80}", "store what they compute where it is made"
    problems = [str(row[0]) for row in connection.execute("pragma quick_check(3)")]
    if problems != ["ok"]:
        yield (
            f"is damaged: {'; '.join(problems)}"[:_MAX_MESSAGE_CHARACTERS],
            "restore it where it is made and upload it again",
        )


def _computing(connection: sqlite3.Connection) -> str | None:
    """The first table with computed columns."""
    names = [name for (name,) in connection.execute("select name from sqlite_schema where type = 'table'")]
    return next((name for name in names if computed_columns(connection, name)), None)


def computed_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table that hold no values but compute them."""
    rows = connection.execute("select name, hidden from pragma_table_xinfo(?)", (table,))
    return [name for name, hidden in rows if hidden in _COMPUTED_KINDS]


def open_immutable(path: str, longest: int) -> sqlite3.Connection:
    """Open a file that nobody writes to, leaving nothing beside it; `longest` bounds its values, in bytes."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
    connection.execute("pragma trusted_schema = off")
    connection.execute("pragma cell_size_check = on")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    return connection


def _is_memory_used() -> bool:
    """Whether an allocation failed for what this process has taken, rather than for a lack on the machine."""
    with open("/proc/self/status", "rb") as stream:
        peak = next((line.split()[1] for line in stream if line.startswith(b"VmPeak:")), b"0")
    return int(peak) << 10 > _MAX_MEMORY_BYTES // 2


if __name__ == "__main__":
    main()
