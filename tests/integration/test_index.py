"""The index as hostile as it can be, and its replacement under readers."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.demo.sample import Size, write_index
from sidecar.errors import PublishError, ReadError, Rejected
from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import owners, programmes, tenants
from sidecar.inputs.index import DeploymentFiles, read_deployed, read_index
from sidecar.model.index import Event, Index, Region, Studio, User
from sidecar.system.sqlite import (
    ReadLimit,
    _checkers,
    check_database,
    install_database,
    open_immutable,
    reading,
)

SIZE = Size(events=12, studios=8, users=8)
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n)"
FLIPS = 4000

STUDIO = {
    "id": 1,
    "key": "boston",
    "name": "Boston",
    "latitude": 42.4,
    "longitude": -71.1,
    "region": None,
    "locale": None,
    "logo": None,
}
EVENT = {
    "id": 1,
    "year": 2026,
    "key": "showcase",
    "name": "Showcase",
    "location_id": 1,
    "order": 1,
    "date": None,
}
REGION = {"type": "fly", "code": "iad", "location": "Ashburn", "latitude": 39.0, "longitude": -77.5}
USER = {"userid": "user1", "password": "user1:x"}
COLUMNS: dict[str, list[str]] = {
    "users": list(USER),
    "locations": list(STUDIO),
    "showcases": list(EVENT),
    "regions": list(REGION),
}


def make(path: Path, **tables: list[dict[str, Any]]) -> Path:
    """An index of these rows, in tables whose columns take any type."""
    rows: dict[str, list[dict[str, Any]]] = {
        "users": [USER],
        "locations": [STUDIO],
        "showcases": [EVENT],
        "regions": [REGION],
        **tables,
    }
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, names in COLUMNS.items():
            connection.execute(f"create table {table} ({', '.join(map(quoted, names))})")
            for row in rows[table]:
                marks = ", ".join("?" * len(row))
                listed = ", ".join(map(quoted, row))
                connection.execute(f"insert into {table} ({listed}) values ({marks})", list(row.values()))
    return path


def quoted(name: str) -> str:
    return f'"{name}"'


def change(path: Path, *statements: str) -> Path:
    """Run statements on a database."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def text(content: bytes) -> str:
    """Bytes as an SQL expression of the type text, valid or not."""
    return f"cast(x'{content.hex()}' as text)"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A sample index as the application makes them."""
    path = tmp_path / "sample.sqlite3"
    write_index(path, SIZE)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A place for an index."""
    return tmp_path / "index.sqlite3"


# Files that are no index


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"<!DOCTYPE html><title>Not found</title>",
        b"SQLite format 3",
        random.Random(1).randbytes(10_000),
        b"\x1f\x8b" + random.Random(2).randbytes(5000),
    ],
    ids=["empty", "a zero", "a page", "a header cut short", "random bytes", "gzip"],
)
def test_no_database(index: Path, content: bytes) -> None:
    """What does not begin like an SQLite database is rejected as such, with its size."""
    index.write_bytes(content)
    with pytest.raises(Rejected, match=f"not an SQLite database.*{len(content)} bytes") as caught:
        read_index(index)
    assert (caught.value.code, caught.value.status) == ("not_sqlite", 422)
    assert caught.value.hint


def test_random_bytes_behind_a_header(index: Path) -> None:
    """A sound header before random bytes does not help."""
    rng = random.Random(3)
    for _ in range(200):
        index.write_bytes(b"SQLite format 3\0" + rng.randbytes(rng.choice((0, 50, 84, 5000))))
        with pytest.raises(Rejected):
            read_index(index)


def test_truncated(sample: Path, index: Path) -> None:
    """A database that was cut off anywhere is rejected, never read as far as it goes."""
    content = sample.read_bytes()
    rng = random.Random(4)
    lengths = [*range(0, 120, 7), *range(512, len(content), 512), len(content) - 1]
    for length in [*lengths, *(rng.randrange(len(content)) for _ in range(100))]:
        index.write_bytes(content[:length])
        with pytest.raises(Rejected):
            read_index(index)


def test_something_behind_the_last_page(sample: Path) -> None:
    """A checksum that some transfer has left behind the content is no part of a database."""
    with sample.open("ab") as stream:
        stream.write(b"\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n")
    with pytest.raises(Rejected, match="38 bytes behind its last page") as caught:
        read_index(sample)
    assert caught.value.code == "unsound"


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(sample: Path, index: Path, seed: int) -> None:
    """With any bytes changed the index is read or rejected: nothing else escapes."""
    content = sample.read_bytes()
    rng = random.Random(seed)
    rejected = 0
    for _ in range(FLIPS // 4):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 20))):
            # The first page holds the header and the schema: more can go wrong there.
            place = rng.randrange(rng.choice((100, 4096, len(content))))
            damaged[place] = rng.randrange(256)
        index.write_bytes(damaged)
        try:
            found = read_index(index)
        except Rejected:
            rejected += 1
        else:
            assert isinstance(found, Index)
    assert 0.2 < rejected / (FLIPS // 4) < 0.95


def test_a_damaged_name_in_the_schema(sample: Path, index: Path) -> None:
    """SQLite's own message quotes the damage, which need not be text: that is a rejection like any other."""
    content = sample.read_bytes()
    place = content.index(b'"users"')
    index.write_bytes(content[: place + 1] + b"\xff\xfe" + content[place + 3 :])
    with pytest.raises(Rejected) as caught:
        read_index(index)
    assert caught.value.code == "unsound"


def test_damage_in_another_table(sample: Path, index: Path) -> None:
    """A damaged page is found even where no row is read from it."""
    change(sample, "create table other (content)", *["insert into other values (hex(randomblob(2000)))"] * 20)
    content = bytearray(sample.read_bytes())
    content[-4096:] = bytes(4096)
    index.write_bytes(content)
    with pytest.raises(Rejected) as caught:
        read_index(index)
    assert caught.value.code == "unsound"


# Other schemas


@pytest.mark.parametrize("table", ["users", "locations", "showcases", "regions"])
def test_a_missing_table(sample: Path, table: str) -> None:
    """A table that is not there is named."""
    change(sample, f"drop table {table}")
    with pytest.raises(Rejected, match=f"no table '{table}'") as caught:
        read_index(sample)
    assert caught.value.code == "schema"


@pytest.mark.parametrize(
    ("table", "column"),
    [("users", "password"), ("locations", "logo"), ("showcases", "order"), ("regions", "code")],
)
def test_a_missing_column(sample: Path, table: str, column: str) -> None:
    """A column that is not there is named, a quoted one too: it must not turn into a text."""
    change(sample, f'alter table {table} rename column "{column}" to other')
    with pytest.raises(Rejected, match=f"'{table}' lacks the columns {column}") as caught:
        read_index(sample)
    assert caught.value.code == "schema"


def test_other_tables_and_columns_do_not_matter(sample: Path) -> None:
    """More tables, columns, indexes, views and triggers, and another order of columns, change nothing."""
    before = read_index(sample)
    change(
        sample,
        "alter table users add column other",
        "alter table showcases add column stamp default 7",
        "create table other (content blob)",
        "insert into other values (zeroblob(3000000))",
        f"create view endless as {ENDLESS} select i from n",
        "create index by_name on locations (name)",
        "create trigger bang after insert on users begin select raise(abort, 'bang'); end",
        "create table turned (password, other, userid)",
        "insert into turned select password, 1, userid from users",
        "drop table users",
        "alter table turned rename to users",
    )
    assert read_index(sample) == before


@pytest.mark.parametrize("table", ["users", "locations", "showcases", "regions"])
def test_an_endless_view_is_no_table(sample: Path, table: str) -> None:
    """A view in a table's place is not run: it could take for ever."""
    listed = ", ".join(f"i as {quoted(name)}" for name in COLUMNS[table])
    change(sample, f"drop table {table}", f"create view {table} as {ENDLESS} select {listed} from n")
    with pytest.raises(Rejected, match=f"no table '{table}'"):
        read_index(sample)


def test_a_virtual_table_is_no_table(sample: Path) -> None:
    """Nor is code of an extension run in a table's place."""
    try:
        change(sample, "drop table users", "create virtual table users using fts5(userid, password)")
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no virtual tables")
    with pytest.raises(Rejected, match="no table 'users'"):
        read_index(sample)


def quoted_text(expression: str) -> str:
    return expression.replace("'", "''")


def forged(column: str, value: str) -> list[str]:
    """Statements that write into the schema what SQLite itself never would, of the table of the users."""
    return [
        "pragma writable_schema = on",
        f"update sqlite_schema set {column} = {value} where name = 'users'",
    ]


PROGRAM = f"as {ENDLESS} select i as userid, i as password from n"
FORGED = {
    "a view with a page": forged("sql", f"'create view users {PROGRAM}'"),
    "a view that is called one": forged(
        "type = 'view', sql", f"'create view users (userid, password) {PROGRAM}'"
    ),
    "a view for a while": forged("sql", f"'create temp view users {PROGRAM}'"),
    "a virtual table with a page": forged("sql", "'create virtual table users using fts5(userid, password)'"),
    "a table of a query": forged("sql", f"'create table users {PROGRAM}'"),
    "another table's page": forged(
        "rootpage", "(select rootpage from sqlite_schema where name = 'locations')"
    ),
    "a page before all": forged("rootpage", "-1"),
    "no page": forged("rootpage", "0"),
    "a page behind all": forged("rootpage", "1000000"),
    "the schema's page": forged("rootpage", "1"),
}


@pytest.mark.parametrize("statements", FORGED.values(), ids=FORGED)
def test_a_forged_schema_is_refused(sample: Path, statements: list[str]) -> None:
    """Whatever the schema calls a table that is none, or whose pages are another's: it is not read."""
    read_index(sample)
    with pytest.raises(Rejected) as caught:
        read_index(change(sample, *statements))
    assert caught.value.code in ("schema", "unsound")


def checked(expression: str) -> list[str]:
    """Statements that have the table of the users check each row by something that takes long."""
    return [
        "create table turned (userid, password, check (1))",
        "insert into turned select userid, password from users",
        "drop table users",
        "alter table turned rename to users",
        "pragma writable_schema = on",
        *forged("sql", f"replace(sql, 'check (1)', 'check ({quoted_text(expression)})')"),
    ]


ODD = {
    "a check that takes long": checked(
        "length(replace(hex(zeroblob(450000)), substr(hex(zeroblob(225000)), 1) || 'b', '')) > 0"
    ),
    "a pattern that takes long": checked(f"hex(zeroblob(5000)) like '{'%0' * 5000}%1' or 1"),
    "statistics that are none": [
        "create index by_user on users (userid)",
        "analyze",
        "update sqlite_stat1 set stat = '99999999999999999999 0 -1 x'",
    ],
    "a text index beside": ["create virtual table words using fts5(word)"],
    "many tables": [f"create table t{number} (x)" for number in range(500)],
    "a wide table": [f"create table wide ({', '.join(f'c{number}' for number in range(1900))})"],
}


@pytest.mark.parametrize("statements", ODD.values(), ids=ODD)
def test_an_odd_index_is_read(sample: Path, statements: list[str]) -> None:
    """What is odd, and costs the reader nothing, changes nothing."""
    before = read_index(sample)
    assert read_index(change(sample, *statements)) == before


def test_an_index_in_another_encoding(index: Path) -> None:
    """Text is text, in two bytes a letter as well."""
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("pragma encoding = 'UTF-16le'")
        connection.execute("create table other (x)")
        assert connection.execute("pragma encoding").fetchone() == ("UTF-16le",)
    assert read_index(make(index)) == read_index(make(index.with_name("other.sqlite3")))


# What a file has SQLite do: `gen`'s column is computed by every check of it, its definition never ran before.
COMPUTED = {
    "instr": ("x'61'", "instr(zeroblob(900000 + length(a)), x'00' || zeroblob(450000) || x'62')"),
    "replace": ("1", "length(replace(hex(zeroblob(450000)), substr(hex(zeroblob(225000)), a) || 'b', ''))"),
    "zeroblob": ("1", "length(max(" + ", ".join(["hex(zeroblob(30000000 + a))"] * 12) + "))"),
}


def compute(path: Path, kind: str, rows: int = 1) -> Path:
    """Give a database a table with a computed column."""
    value, expression = COMPUTED[kind]
    return change(
        path,
        "create table gen (a)",
        *[f"insert into gen values ({value})"] * rows,
        "pragma writable_schema = on",
        f"update sqlite_schema set sql = 'create table gen (a, b as ({quoted_text(expression)}) not null)'"
        " where name = 'gen'",
    )


@pytest.mark.parametrize("kind", COMPUTED)
def test_an_index_that_computes(sample: Path, kind: str) -> None:
    """An index holds its values: a column that is computed can cost any time and memory, so none is."""
    compute(sample, kind, 50)
    with pytest.raises(Rejected, match="computed columns, in 'gen'") as caught:
        read_index(sample)
    assert caught.value.code == "unsound"


@pytest.mark.parametrize("kind", ["instr", "replace"])
def test_a_database_that_computes_for_ever(sample: Path, kind: str) -> None:
    """Where columns may be computed, the limit of work binds, whatever a single step costs."""
    compute(sample, kind, 50)
    before = os.times()
    with pytest.raises(Rejected, match="takes too long") as caught:
        check_database(sample, "the database", ReadLimit(60, 1))
    assert caught.value.code == "unsound"
    # Not the other limit, of 60 s, has ended it.
    assert os.times().children_user - before.children_user < 20


def test_a_database_that_computes_what_no_memory_holds(sample: Path) -> None:
    """Nor can it take more memory than a checker has; and that is the content's fault."""
    compute(sample, "zeroblob")
    with pytest.raises(Rejected, match="too much memory") as caught:
        check_database(sample, "the database")
    assert caught.value.code == "unsound"


def test_a_checker_is_given_nothing_behind_its_last_file(sample: Path, tmp_path: Path) -> None:
    """One that has used its memory ends; the file that comes at that moment is for another one."""
    sound = tmp_path / "sound.sqlite3"
    shutil.copy(sample, sound)
    compute(sample, "zeroblob")
    for _ in range(5):
        with pytest.raises(Rejected):
            check_database(sample, "the database")
        check_database(sound, "the database")


def test_a_checker_that_something_else_ends(sample: Path) -> None:
    """Whatever ends a checker from outside is no fault of the content, and the next check has another one."""

    over = threading.Event()

    def end() -> None:
        while not over.is_set() and not (found := checkers()):
            pass
        for number in [] if over.is_set() else found:
            os.kill(number, signal.SIGKILL)

    compute(sample, "replace", 50)
    thread = threading.Thread(target=end)
    thread.start()
    try:
        with pytest.raises(ReadError, match="ended with status -9") as caught:
            check_database(sample, "the database")
    finally:
        over.set()
        thread.join(60)
    assert caught.value.code == "read_failed"
    change(sample, "drop table gen")
    check_database(sample, "the database")


def checkers() -> list[int]:
    """The processes of this one that have a file to check."""
    # Of whichever thread: that which started one may have ended.
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    children = map(int, chain(*lists))
    return [number for number in children if any(name.endswith(".sqlite3") for name in opened(number))]


def opened(process: int) -> list[str]:
    """What a process has open; it may open and close files, or end, meanwhile."""
    with suppress(FileNotFoundError):
        return [str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir()]
    return []


def test_idle_checkers_that_have_gone(sample: Path) -> None:
    """A checker that was killed while it had nothing to do is noticed before the next file."""
    check_database(sample, "the database")
    idle = list(_checkers[os.getpriority(os.PRIO_PROCESS, 0)]._idle)
    assert idle
    for one in idle:
        one._process.kill()
        os.waitid(os.P_PID, one._process.pid, os.WEXITED | os.WNOWAIT)
    check_database(sample, "the database")


def test_a_database_that_computes_a_little(sample: Path) -> None:
    """A computed column in an event database is nobody's fault."""
    change(sample, "create table sums (a not null, b as (a + 1) not null)", "insert into sums values (1)")
    check_database(sample, "the database")


def test_a_tree_that_is_too_deep(sample: Path, index: Path) -> None:
    """A file that makes SQLite itself crash is refused, and the next one is read as ever."""
    size, depth = 512, 100_000
    change(index, f"pragma page_size = {size}", "create table deep (a)")
    first = bytearray(index.read_bytes()[:size])
    first[28:32] = depth.to_bytes(4, "big")
    # Pages without any content, each of which says that all is in the next one.
    pages = (
        b"\x05" + bytes(4) + b"\x02" + bytes(2) + number.to_bytes(4, "big") for number in range(3, depth + 1)
    )
    last = b"\x0d" + bytes(4) + b"\x02"
    index.write_bytes(first + b"".join(page.ljust(size, b"\0") for page in (*pages, last)))
    with pytest.raises(Rejected, match=r"makes SQLite crash \(SIGSEGV\)|is damaged|malformed") as caught:
        read_index(index)
    assert caught.value.code == "unsound"
    assert read_index(sample).events


def test_a_long_message_is_cut(sample: Path) -> None:
    """What SQLite says may quote a name of any length and kind: neither a terminal nor a log obeys it."""
    name = "\x1b[2J" + "x" * 900_000
    change(
        sample,
        f'create table "{name}" (a)',
        "pragma writable_schema = on",
        "update sqlite_schema set sql = 'create nothing' where name like '%xxx%'",
    )
    with pytest.raises(Rejected) as caught:
        read_index(sample)
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("place", [18, 19])
@pytest.mark.parametrize("version", [0, 3, 5, 255])
def test_a_header_that_forbids_to_write(sample: Path, place: int, version: int) -> None:
    """A version that SQLite does not know makes a database read-only, and what is made of it too."""
    content = bytearray(sample.read_bytes())
    content[place] = version
    sample.write_bytes(content)
    for check in (read_index, lambda path: check_database(path, "the database")):
        with pytest.raises(Rejected, match="header that lets nobody write") as caught:
            check(sample)
        assert caught.value.code == "unsound"


# Machines that cannot read it


def test_a_disk_that_fails_says_nothing_about_the_content(tmp_path: Path) -> None:
    """What the kernel cannot read is no refusal, wherever it fails: else it would not be tried again."""
    broken = Path("/proc/self/mem")  # opens, and gives an input/output error at its beginning
    for path, words in [(broken, "Input/output error"), (tmp_path / "gone", "No such file")]:
        with pytest.raises(ReadError, match=words) as caught:
            read_index(path)
        assert (caught.value.code, caught.value.status) == ("read_failed", 503)
        assert caught.value.hint


def test_a_disk_that_fails_under_sqlite_says_nothing_about_the_content(sample: Path) -> None:
    """Nor is it one when the file begins well and SQLite meets the error."""
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with (
            pytest.raises(ReadError, match="disk I/O error"),
            reading(sample, "the index"),
            closing(open_immutable(Path(f"/proc/self/fd/{descriptor}"))) as failing,
        ):
            failing.execute("select * from sqlite_schema")
    finally:
        os.close(descriptor)


def test_a_lack_of_memory_says_nothing_about_the_content(sample: Path) -> None:
    """An allocation that fails is this machine's matter."""
    script = (
        "import sqlite3, sys, pathlib\n"
        "from sidecar.errors import ReadError\n"
        "from sidecar.inputs.index import read_index\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "read_index(path)\n"
        "sqlite3.connect(':memory:').execute('pragma hard_heap_limit = 60000')\n"
        "try:\n"
        "    read_index(path)\n"
        "except ReadError as error:\n"
        "    print(error.code, error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(sample)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("read_failed the index could not be read on this machine: ")
    assert "memory" in done.stdout


def read_for_ever(sample: Path, before: Callable[[], None]) -> None:
    """Do something, and then ask what has no end."""
    with reading(sample, "the index", ReadLimit(0.5, 0.2)) as connection:
        before()
        connection.execute(f"{ENDLESS} select count(*) from n")


def wait() -> None:
    """What a machine does that is out of memory, or whose disk is busy."""
    time.sleep(0.6)


def work() -> None:
    """As long as the limit, however busy the machine is with other things."""
    until = time.thread_time() + 0.5
    while time.thread_time() < until:
        pass


def test_a_machine_that_waits_says_nothing_about_the_content(sample: Path) -> None:
    """A time limit that passes without work is this machine's; one that passes with work, the content's."""
    with pytest.raises(ReadError, match="spent waiting") as waited:
        read_for_ever(sample, wait)
    assert waited.value.code == "read_timeout"
    with pytest.raises(Rejected, match="takes too long") as worked:
        read_for_ever(sample, work)
    assert worked.value.code == "unsound"


def test_many_matches_are_not_multiplied(index: Path) -> None:
    """Locations that share an id would multiply the events; that is rejected before it is tried."""
    count = 20_000
    studios = [{"id": 1, "key": f"k{number}"} for number in range(count)]
    events = [{"id": number, "year": 2026, "key": "e", "location_id": 1} for number in range(count)]
    make(index, locations=studios, showcases=events)
    with pytest.raises(Rejected, match="an id occurs twice") as caught:
        read_index(index)
    assert caught.value.code == "duplicate"


def test_a_source_in_wal_mode(sample: Path) -> None:
    """A database whose last writer used a write-ahead log is read, and no file appears beside it."""
    before = read_index(sample)
    with closing(sqlite3.connect(sample)) as connection:
        assert connection.execute("pragma journal_mode = wal").fetchone() == ("wal",)
    sample.parent.chmod(0o500)
    try:
        assert read_index(sample) == before
    finally:
        sample.parent.chmod(0o700)
    assert [path.name for path in sample.parent.iterdir()] == [sample.name]


def test_reading_leaves_no_trace(sample: Path) -> None:
    """Reading changes neither the file nor its folder, and a log left beside it is not taken for a part."""
    before = read_index(sample)
    stat = sample.stat()
    log = sample.with_name(sample.name + "-wal")
    log.write_bytes(random.Random(5).randbytes(5000))
    assert read_index(sample) == before
    assert log.stat().st_size == 5000
    after = sample.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (stat.st_mtime_ns, stat.st_ctime_ns)


def test_a_name_that_needs_quoting(sample: Path, tmp_path: Path) -> None:
    """The file's name is a name, not a part of an address."""
    odd = tmp_path / "index?mode=rw&x=%41#1.sqlite3"
    sample.rename(odd)
    assert read_index(odd).events


# Values


@pytest.mark.parametrize("column", ["latitude", "longitude"])
@pytest.mark.parametrize(
    "value",
    ["north", "nan", "NaN", "inf", "-Infinity", 1e400, "1e999", 90.001 * 2.01, -181, b"\xff", "0x10", " "],
    ids=repr,
)
def test_a_coordinate_that_is_none(index: Path, column: str, value: object) -> None:
    """A coordinate that is no number, or not on Earth, costs its location, with its value in a warning."""
    other = {**STUDIO, "id": 2, "key": "salem"}
    events = [EVENT, {**EVENT, "id": 2, "location_id": 2}]
    make(index, locations=[{**STUDIO, column: value}, other], showcases=events)
    found = read_index(index)
    assert ([one.key for one in found.studios], [one.studio for one in found.events]) == (
        ["salem"],
        ["salem"],
    )
    (warning,) = found.warnings
    assert re.match(
        f"locations, id 1: the {column} .* is not between .*; the location and its events", warning
    )


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ("12.5", 12.5), (-90, -90.0)])
def test_a_coordinate(index: Path, value: object, expected: float | None) -> None:
    """A number, also one that is written as text, or none at all."""
    make(index, locations=[{**STUDIO, "latitude": value}])
    assert read_index(index).studios[0].latitude == expected


@pytest.mark.parametrize("value", ["north", None, "", 91])
def test_a_region_without_coordinates(index: Path, value: object) -> None:
    """A region of which nobody knows where it is owns what names it, and is near to nothing."""
    nowhere = {**REGION, "code": "aaa", "latitude": value}
    studios = [STUDIO, {**STUDIO, "id": 2, "key": "named", "region": "aaa"}]
    make(index, regions=[nowhere, REGION], locations=studios)
    found = read_index(index)
    assert found.regions[0] == Region("aaa", "Ashburn", None, None)
    assert len(found.warnings) == 1
    assert "region 'aaa'" in found.warnings[0]
    assert owners(found, ResultCache()) == {"boston": "iad", "named": "aaa"}
    make(index.with_name("alone"), regions=[nowhere], locations=studios)
    assert owners(read_index(index.with_name("alone")), ResultCache()) == {"boston": None, "named": "aaa"}


KEYS = [
    None,
    "",
    7,
    2.5,
    b"boston",
    "a/b",
    "..",
    ".hidden",
    "a\nb",
    "a b",
    "a\tb",
    "a\0b",
    "a'b",
    'a"b',
    "a\\b",
    "a?b",
    "a%2fb",
    "{a}",
    "<a>",
    "a\u2028b",
    "a\u00a0b",
    "a\x7fb",
    "x" * 101,
    "a..b",
    "a+b",
    "-rf",
    "_a",
    "--help",
    "$(reboot)",
    "`id`",
    ";reboot;",
    "&&",
    "x|.*",
    "a#b",
    "a\n",
    "a\u202eb",
    "a\u200bb",
    "\ufeffa",
    "a\ufffe",
]


@pytest.mark.parametrize("key", KEYS, ids=ascii)
@pytest.mark.parametrize("table", ["locations", "showcases"])
def test_a_key_that_cannot_be_one(index: Path, table: str, key: object) -> None:
    """What cannot be a part of paths, file names and commands costs its row, with a warning."""
    row = {"locations": STUDIO, "showcases": EVENT}[table]
    make(index)
    make(index.with_name("other"), **{table: [{**row, "key": key, "id": 2}, {**row}]})
    found = read_index(index.with_name("other"))
    assert (found.studios, found.events) == (read_index(index).studios, read_index(index).events)
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(f"{table}, id 2: ")
    assert "cannot be a key" in found.warnings[0]


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_a_region_s_code_that_cannot_be_one(index: Path, key: object) -> None:
    """A region's code decides where everybody's events are: without a sound one the index is refused."""
    make(index, regions=[{**REGION, "code": key}])
    with pytest.raises(Rejected, match=r"regions: .* cannot be a key") as caught:
        read_index(index)
    assert caught.value.code == "value"


@pytest.mark.parametrize(
    "key", ["boston", "a-b_c", "UPPER", "\u00e9t\u00e9", "v1.0", "1", "x" * 100], ids=ascii
)
def test_a_key(index: Path, key: str) -> None:
    """Letters of all scripts, digits and the usual signs are fit."""
    make(index, locations=[{**STUDIO, "key": key}], showcases=[{**EVENT, "key": key}])
    found = read_index(index)
    assert (found.studios[0].key, found.events[0].key, found.events[0].studio) == (key, key, key)


def test_a_huge_value_is_not_quoted_in_full(index: Path) -> None:
    """A sentence about a value stays a sentence, whatever the value."""
    make(index, locations=[{**STUDIO, "id": "y" * 500_000, "key": "x" * 500_000}], showcases=[])
    (warning,) = read_index(index).warnings
    assert len(warning) < 300


def test_a_long_text_is_cut(index: Path) -> None:
    """A name of any length is shown as far as that is sensible, and keeps nobody from what is new."""
    long = "n" * 3_000_000
    make(
        index,
        locations=[{**STUDIO, "name": long, "logo": long, "locale": long}],
        showcases=[{**EVENT, "name": long, "date": long}],
    )
    found = read_index(index)
    assert {len(text or "") for text in (found.studios[0].name, found.studios[0].logo)} == {1000}
    assert {len(text or "") for text in (found.events[0].name, found.events[0].date)} == {1000}
    assert len(found.warnings) == 5
    assert all("3000000 characters is cut off" in warning for warning in found.warnings)


def test_what_a_bad_event_leaves(index: Path) -> None:
    """An event keeps its address and its database, whatever of its programme is left out."""
    make(index, showcases=[EVENT, {**EVENT, "id": 2, "key": "a..b"}])
    found = read_index(index)
    (programme,) = programmes(found, owners(found, ResultCache()), ResultCache())
    assert [tenant.database for tenant in tenants(programme)] == ["2026-boston-showcase"]
    assert programmes(msgspec.structs.replace(found, partial=frozenset()), {"boston": None}, ResultCache())[
        0
    ].single


@pytest.mark.parametrize("older", [1, 2])
def test_one_database_for_two_events(index: Path, older: int) -> None:
    """Of two events whose keys make the same name the older one has the database, the other is left out."""
    studios = [STUDIO, {**STUDIO, "id": 2, "key": "boston-north"}]
    events = [
        {**EVENT, "id": older, "key": "north-fall", "location_id": 1},
        {**EVENT, "id": 3 - older, "key": "fall", "location_id": 2},
        {**EVENT, "id": 3, "key": "showcase", "location_id": 1},
        {**EVENT, "id": 4, "key": "showcase", "location_id": 2},
    ]
    make(index, locations=studios, showcases=events)
    found = read_index(index)
    kept = [(event.studio, event.key) for event in found.events if event.key != "showcase"]
    assert kept == [("boston", "north-fall") if older == 1 else ("boston-north", "fall")]
    (warning,) = found.warnings
    assert warning.startswith(
        "showcases, id 2: the database '2026-boston-north-fall' belongs to the event of"
    )
    made = [
        one.database
        for each in programmes(found, owners(found, ResultCache()), ResultCache())
        for one in tenants(each)
    ]
    assert sorted(made) == [
        "2026-boston-north-fall",
        "2026-boston-north-showcase",
        "2026-boston-showcase",
    ]


def test_an_event_twice(index: Path) -> None:
    """The same keys twice are the same database: the older row counts."""
    make(index, showcases=[{**EVENT, "id": 9, "name": "New"}, EVENT, {**EVENT, "id": 5, "name": "Newer"}])
    found = read_index(index)
    assert [event.name for event in found.events] == ["Showcase"]
    assert len(found.warnings) == 2


def test_a_default_takes_no_memory(index: Path) -> None:
    """A long default would be there for each of many small rows."""
    make(index)
    change(index, "alter table users rename column password to old")
    change(index, f"alter table users add column password default '{'x' * 50_000}'")
    with pytest.raises(Rejected, match="default longer than 100") as caught:
        read_index(index)
    assert caught.value.code == "schema"


def test_more_rows_than_any_index_has(index: Path) -> None:
    """Rows cost memory, however small they are."""
    make(index)
    change(index, f"insert into users (userid) select i from ({ENDLESS} select i from n limit 1000000)")
    with pytest.raises(Rejected, match="1000001 rows") as caught:
        read_index(index)
    assert caught.value.code == "schema"


def test_a_location_key_twice(index: Path) -> None:
    """Two locations of one key would be one in every file."""
    make(index, locations=[STUDIO, {**STUDIO, "id": 2}])
    with pytest.raises(Rejected, match="'boston' occurs twice") as caught:
        read_index(index)
    assert caught.value.code == "duplicate"


@pytest.mark.parametrize("location", [None, 99, "boston", b"\0", 1.5], ids=repr)
def test_an_event_of_no_location(index: Path, location: object) -> None:
    """An event whose location is not there is left out, with a warning that names its row."""
    other = {**EVENT, "id": 7, "location_id": location, "key": "a/b", "year": None}
    make(index, showcases=[other, EVENT])
    found = read_index(index)
    assert [event.key for event in found.events] == ["showcase"]
    assert len(found.warnings) == 1
    assert "id 7" in found.warnings[0]


@pytest.mark.parametrize("year", [None, "", "next", b"2026", 26, 20260, -1, 2026.5, 2026.0], ids=repr)
def test_a_year_that_is_none(index: Path, year: object) -> None:
    """A year has four digits; an event of another one is left out."""
    make(index, showcases=[{**EVENT, "id": 2, "year": year}, EVENT])
    found = read_index(index)
    assert found.events == (Event(2026, "showcase", "Showcase", "boston", None),)
    assert found.warnings == (f"showcases, id 2: {year!r} is not a year; the event is left out",)


def test_names_of_any_type(index: Path) -> None:
    """A name that is no text is shown as text; none is empty."""
    names = [None, 7, 2.5, b"bytes", "text"]
    events = [{**EVENT, "id": n, "order": n, "key": f"k{n}", "name": name} for n, name in enumerate(names)]
    make(index, showcases=events)
    assert [event.name for event in read_index(index).events] == ["", "7", "2.5", "bytes", "text"]


def test_empty_is_none(index: Path) -> None:
    """An empty region, locale, logo or date is none."""
    make(
        index,
        locations=[{**STUDIO, "region": "", "locale": "", "logo": ""}],
        showcases=[{**EVENT, "date": ""}],
    )
    found = read_index(index)
    assert found.studios == (Studio("boston", "Boston", 42.4, -71.1, None, None, None),)
    assert found.events == (Event(2026, "showcase", "Showcase", "boston", None),)


def test_nothing_at_all(index: Path) -> None:
    """An index without any row is an empty one; whether it may be published is decided later."""
    make(index, users=[], locations=[], showcases=[], regions=[])
    assert read_index(index) == Index((), (), (), ())


# Text that is not UTF-8


@pytest.mark.parametrize("line", [b"user3:\xff\xfe", b"\xe9ser3:x", b"user3:\xc3"], ids=repr)
def test_a_user_that_is_not_utf8(index: Path, line: bytes) -> None:
    """A line of htpasswd that is not UTF-8 costs that row alone, with a warning."""
    make(index)
    change(
        index,
        f"insert into users values ('user3', {text(line)})",
        "insert into users values ('user4', 'user4:x')",
    )
    found = read_index(index)
    assert found.users == (User("user1", "user1:x"), User("user4", "user4:x"))
    assert len(found.warnings) == 1
    assert "'user3'" in found.warnings[0]
    assert "UTF-8" in found.warnings[0]


def test_a_user_of_bytes(index: Path) -> None:
    """A line that is stored as bytes is a line all the same."""
    make(index, users=[{"userid": b"user1", "password": b"user1:x"}, {"userid": None, "password": "user2:x"}])
    assert read_index(index).users == (User("user1", "user1:x"), User("", "user2:x"))


def test_a_name_that_is_not_utf8(index: Path) -> None:
    """A name that is not UTF-8 is shown as far as it can be."""
    make(index)
    change(index, f"update locations set name = {text(b'Caf' + bytes([0xE9]))}")
    found = read_index(index)
    assert found.studios[0].name == "Caf\ufffd"
    assert found.users == (User("user1", "user1:x"),)


@pytest.mark.parametrize("table", ["locations", "showcases"])
def test_a_key_that_is_not_utf8(index: Path, table: str) -> None:
    """A key that is not UTF-8 is none: two of them might look the same."""
    make(index)
    change(index, f"update {table} set key = {text(b'caf' + bytes([0xE9]))}")
    found = read_index(index)
    assert found.events == ()
    assert ["cannot be a key" in warning for warning in found.warnings] == [True]


# Order


def test_users_are_ordered_by_the_text_of_their_line(index: Path) -> None:
    """Lines come in the order of their bytes, those without one not at all."""
    lines = ["b:1", "B:1", "a:2", None, "\u00e4:1", "a:10", "~:1"]
    make(index, users=[{"userid": line, "password": line} for line in lines])
    assert [user.line for user in read_index(index).users] == ["B:1", "a:10", "a:2", "b:1", "~:1", "\u00e4:1"]


def test_studios_are_ordered_by_key(index: Path) -> None:
    """Whatever collation the column has, keys ascend by their bytes."""
    make(index)
    change(
        index,
        "drop table locations",
        "create table locations (id integer primary key, key text collate nocase, name, latitude, longitude,"
        " region, locale, logo)",
        *(f"insert into locations (key) values ('{key}')" for key in ("b", "B", "a", "C")),
    )
    assert [studio.key for studio in read_index(index).studios] == ["B", "C", "a", "b"]


def test_events_are_ordered(index: Path) -> None:
    """Years descend, studios and `order` ascend; no order is the first, and of equal ones the later row."""
    studios = [{**STUDIO, "id": 1, "key": "b"}, {**STUDIO, "id": 2, "key": "a"}]
    rows = [
        (1, 2025, 1, 5),
        (2, 2026, 1, 10),
        (3, 2026, 1, 9),
        (4, 2026, 2, 1),
        (5, 2026, 1, None),
        (6, 2026, 1, 9),
        (7, 2026, 1, None),
    ]
    events = [
        {**EVENT, "id": n, "key": f"k{n}", "year": year, "location_id": location, "order": order}
        for n, year, location, order in rows
    ]
    make(index, locations=studios, showcases=events)
    assert [(event.studio, event.key) for event in read_index(index).events] == [
        ("a", "k4"),
        ("b", "k7"),
        ("b", "k5"),
        ("b", "k6"),
        ("b", "k3"),
        ("b", "k2"),
        ("b", "k1"),
    ]


# Regions

TABLE = [
    {**REGION, "code": "syd", "location": "Sydney", "latitude": -33.9, "longitude": 151.2},
    {**REGION, "code": "iad"},
    {**REGION, "code": "fsn1", "type": "kamal"},
    {**REGION, "code": "lhr", "location": "London", "latitude": 51.5, "longitude": 0},
    {**REGION, "code": None, "type": None},
]


def codes(index: Path, deployed: DeploymentFiles) -> list[str]:
    return [region.code for region in read_index(index, deployed).regions]


def deployed(folder: Path, codes: object = None, regions: object = None) -> DeploymentFiles:
    """What these two files say; None for a file that is not there, bytes as they are."""
    paths = folder / "deployed.json", folder / "regions.json"
    for path, content in zip(paths, (codes, regions), strict=True):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_deployed(*paths)


def app(regions: object, **pending: object) -> dict[str, object]:
    others = {"Name": "worker", "Regions": ["fsn1"]}
    return {"ProcessGroupRegions": [others, {"Name": "app", "Regions": regions}], "pending": pending}


def test_regions_of_the_table(index: Path, tmp_path: Path) -> None:
    """Without files the regions are the rows of type fly, by code."""
    make(index, regions=TABLE)
    assert codes(index, deployed(tmp_path)) == ["iad", "lhr", "syd"]
    assert read_index(index).regions[0] == Region("iad", "Ashburn", 39.0, -77.5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (app(["syd", "iad"]), {"syd", "iad"}),
        (app(["iad"], add=["lhr"]), {"iad", "lhr"}),
        (app(["iad", "lhr"], delete=["lhr"]), {"iad"}),
        (app(["iad"], add=["syd", "lhr"], delete=["syd"]), {"iad", "lhr"}),
        (app(["iad"], add=None, delete=None), {"iad"}),
        ({"ProcessGroupRegions": [{"Name": "app", "Regions": ["lhr"]}]}, {"lhr"}),
        ({"ProcessGroupRegions": [{"Name": "app", "Regions": ["lhr"]}], "pending": None}, {"lhr"}),
        (app(["iad", "xxx"]), {"iad"}),
        (app([]), set()),
    ],
)
def test_deployed_json(index: Path, tmp_path: Path, content: object, expected: set[str]) -> None:
    """Deployed are the regions of the group app, plus those to add, without those to delete, if known."""
    make(index, regions=TABLE)
    assert set(codes(index, deployed(tmp_path, content))) == expected


def test_regions_json(index: Path, tmp_path: Path) -> None:
    """regions.json wins over the table, deployed.json selects from it."""
    make(index, regions=TABLE)
    known = [
        {"code": "nrt", "name": "Tokyo", "latitude": "35.6", "longitude": 139.8},
        {"code": "iad", "name": "Elsewhere", "latitude": 1, "longitude": 2},
    ]
    assert codes(index, deployed(tmp_path, None, known)) == ["nrt", "iad"]
    found = read_index(index, deployed(tmp_path, app(["iad", "lhr"]), known)).regions
    assert found == (Region("iad", "Elsewhere", 1.0, 2.0),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b"null",
        b"7",
        b'"app"',
        b"{}",
        b"[]",
        b'{"ProcessGroupRegions": {}}',
        b'{"ProcessGroupRegions": [{"Name": "worker", "Regions": ["iad"]}]}',
        b'{"ProcessGroupRegions": [{"Name": "app"}]}',
        b'{"ProcessGroupRegions": [{"Name": "app", "Regions": null}]}',
        b'{"ProcessGroupRegions": [{"Name": "app", "Regions": "iad"}]}',
        b'{"ProcessGroupRegions": [{"Name": "app", "Regions": [["iad"]]}]}',
        b'{"ProcessGroupRegions": ["app"]}',
        b'{"ProcessGroupRegions": [{"Name": "app", "Regions": ["iad"]}], "pending": [1]}',
    ],
    ids=lambda content: repr(content[:60]),
)
def test_a_broken_deployed_json_is_ignored(index: Path, tmp_path: Path, content: bytes) -> None:
    """A file that does not parse, or says nothing of the kind, is as if it were not there, but for a word."""
    make(index, regions=TABLE)
    found = deployed(tmp_path, content)
    assert codes(index, found) == ["iad", "lhr", "syd"]
    (sentence,) = found.ignored
    assert sentence.startswith(f"{tmp_path}/deployed.json is there and cannot be used")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"[" * 200_000,
        b"null",
        b"{}",
        b'{"iad": {}}',
        b"[7]",
        b'["iad"]',
        b'[{"code": "nrt"}]',
        b'[{"code": "nrt", "name": "Tokyo", "latitude": null, "longitude": 1}]',
        b'[{"code": "nrt", "name": "Tokyo", "latitude": NaN, "longitude": 1}]',
        b'[{"code": "nrt", "name": "Tokyo", "latitude": [], "longitude": 1}]',
        b'[{"code": "../x", "name": "Tokyo", "latitude": 1, "longitude": 1}]',
        b'[{"code": ["nrt"], "name": "Tokyo", "latitude": 1, "longitude": 1}]',
    ],
    ids=lambda content: repr(content[:60]),
)
def test_a_broken_regions_json_is_ignored(index: Path, tmp_path: Path, content: bytes) -> None:
    """The same for regions.json: the table counts."""
    make(index, regions=TABLE)
    found = deployed(tmp_path, None, content)
    assert codes(index, found) == ["iad", "lhr", "syd"]
    (sentence,) = found.ignored
    assert sentence.startswith(f"{tmp_path}/regions.json is there and cannot be used")


def test_a_folder_in_their_place_is_ignored(index: Path, tmp_path: Path) -> None:
    """Files that cannot be read are as if they were not there; only of what is not there nothing is said."""
    make(index, regions=TABLE)
    found = read_deployed(tmp_path, tmp_path)
    assert codes(index, found) == ["iad", "lhr", "syd"]
    assert len(found.ignored) == 2
    assert read_deployed(tmp_path / "none", index / "none").ignored == ()


# Replacement under readers


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An index, and the target that holds another."""
    source, target = tmp_path / "source.sqlite3", tmp_path / "db" / "index.sqlite3"
    target.parent.mkdir()
    write_index(source, Size(events=300, studios=60, users=200), seed=1)
    write_index(target, SIZE, seed=2)
    return source, target


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def into_wal(path: Path) -> sqlite3.Connection:
    """A connection to a database that now has a write-ahead log with something in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute("pragma journal_mode = wal").fetchone() == ("wal",)
    connection.execute("insert into users (userid, created_at, updated_at) values ('log', '', '')")
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    return connection


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


@pytest.mark.parametrize("modified", [None, 1_700_000_000.5])
def test_install(pair: tuple[Path, Path], modified: float | None) -> None:
    """The target has the source's content, the age that is given, and nothing is left beside it."""
    source, target = pair
    inode = target.stat().st_ino
    started = time.time()
    install_database(source, target, modified)
    assert dump(target) == dump(source)
    assert beside(target) == []
    assert target.stat().st_ino == inode
    if modified is None:
        assert target.stat().st_mtime > started - 1
    else:
        assert target.stat().st_mtime == modified


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"SQLite format", bytes(5000)], ids=repr)
def test_a_target_that_is_no_database(pair: tuple[Path, Path], content: bytes | None) -> None:
    """No target, or one that is garbage, is replaced as a file, together with the logs of what was there."""
    source, target = pair
    target.unlink()
    if content is not None:
        target.write_bytes(content)
    for suffix in ("-wal", "-shm", "-journal"):
        target.with_name(target.name + suffix).write_bytes(b"of something else")
    install_database(source, target, 1_700_000_000.0)
    assert target.read_bytes() == source.read_bytes()
    assert beside(target) == []
    assert target.stat().st_mtime == 1_700_000_000.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_database_of_somebody_else_is_replaced(open_folder: Path) -> None:
    """Who may write to it, and not set its time, as only its owner may, puts a file in its place."""
    folder = open_folder / "db"
    folder.mkdir()
    folder.chmod(0o777)
    source, target = folder / "source.sqlite3", folder / "target.sqlite3"
    write_index(source, SIZE, 1)
    write_index(target, SIZE, 2)
    source.chmod(0o644)
    target.chmod(0o666)
    if not (child := os.fork()):
        os.setegid(65534)
        os.seteuid(65534)
        with suppress(BaseException):
            install_database(source, target, 1_700_000_000.0)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target.read_bytes() == source.read_bytes()
    assert (target.stat().st_mtime, target.stat().st_mode & 0o777) == (1_700_000_000.0, 0o666)


def test_a_damaged_database_is_replaced(pair: tuple[Path, Path]) -> None:
    """A target that begins like a database and is damaged is replaced: it serves nobody."""
    source, target = pair
    content = target.read_bytes()
    rng = random.Random(6)
    for length in (100, 512, 4096, len(content) // 2, len(content)):
        for _ in range(10):
            damaged = bytearray(content[:length])
            for _ in range(20 if length > 100 else 0):
                damaged[rng.randrange(100, length)] = rng.randrange(256)
            target.write_bytes(damaged)
            install_database(source, target, None, patience=0.1)
            assert dump(target) == dump(source)
            assert beside(target) == []


@pytest.mark.parametrize("place", [18, 19])
def test_a_target_that_sqlite_cannot_write_to(pair: tuple[Path, Path], place: int) -> None:
    """A target whose header forbids it is replaced as a file, with its mode: else it would stay for ever."""
    source, target = pair
    content = bytearray(target.read_bytes())
    content[place] = 5
    target.write_bytes(content)
    target.chmod(0o640)
    install_database(source, target, 1_700_000_000.0)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640
    assert beside(target) == []


def test_what_is_read_can_be_replaced(pair: tuple[Path, Path], index: Path) -> None:
    """Whatever byte of a header is changed: an index that is read is installed, and another one over it."""
    source, target = pair
    content = source.read_bytes()
    read = 0
    for place in range(16, 100):
        for value in {5, content[place] ^ 1} - {content[place]}:
            index.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            with suppress(Rejected):
                read_index(index)
                read += 1
                install_database(index, target, None)
                install_database(source, target, None)
                assert target.stat().st_size == len(content)
    assert read > 50
    assert dump(target) == dump(source)


def test_a_target_in_wal_mode(pair: tuple[Path, Path]) -> None:
    """Nothing of the old write-ahead log outlives the replacement: later readers see the new content."""
    source, target = pair
    with closing(into_wal(target)) as application:
        application.execute("select count(*) from users").fetchone()
        install_database(source, target, 1_700_000_000.0)
        assert list(application.iterdump()) == dump(source)
        assert dump(target) == dump(source)
        copy = target.with_name("copy")
        with closing(sqlite3.connect(copy)) as other:
            application.backup(other)
        assert dump(copy) == dump(source)
        copy.unlink()
    assert beside(target) == []
    assert dump(target) == dump(source)


def test_the_log_of_a_killed_application(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A write-ahead log that a killed application left behind does not come back over the new content."""
    source, target = pair
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with closing(into_wal(target)):
        for name in (target.name, f"{target.name}-wal"):
            shutil.copyfile(target.with_name(name), elsewhere / name)
    target = elsewhere / target.name
    assert beside(target) == [f"{target.name}-wal"]
    install_database(source, target, None)
    assert beside(target) == []
    assert dump(target) == dump(source)


def test_a_reader_in_wal_mode_keeps_what_it_reads(pair: tuple[Path, Path]) -> None:
    """A transaction that was begun before goes on reading the old content; the next one reads the new."""
    source, target = pair
    into_wal(target).close()
    old, new = dump(target), dump(source)
    with closing(sqlite3.connect(target, isolation_level=None)) as reader:
        reader.execute("begin")
        assert list(reader.iterdump()) == old
        install_database(source, target, None)
        assert list(reader.iterdump()) == old
        reader.execute("commit")
        assert list(reader.iterdump()) == new


def soon(work: Callable[[], None]) -> None:
    """Do something that must not last: a test that waits for ever says nothing."""
    result: Future[None] = Future()

    def run() -> None:
        try:
            work()
            result.set_result(None)
        except PublishError as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    result.result(timeout=60)


@pytest.mark.parametrize("lock", ["begin", "begin immediate", "begin exclusive"])
def test_a_locked_target(pair: tuple[Path, Path], lock: str) -> None:
    """While others keep the target locked it is given up after the limit, with the old content in place."""
    source, target = pair
    old, stat = dump(target), target.stat()
    with closing(sqlite3.connect(target, isolation_level=None)) as other:
        other.execute(lock)
        other.execute("select count(*) from users").fetchone()
        with pytest.raises(PublishError, match="locked") as caught:
            soon(lambda: install_database(source, target, 1_700_000_000.0, patience=0.2))
        assert str(target) in caught.value.message
        assert caught.value.hint
        assert list(other.iterdump()) == old
    assert target.stat().st_mtime == stat.st_mtime
    assert beside(target) == []
    install_database(source, target, None)
    assert dump(target) == dump(source)


def test_a_lock_that_ends_in_time(pair: tuple[Path, Path]) -> None:
    """A reader that ends its transaction within the limit only delays the replacement."""
    source, target = pair
    old = dump(target)
    started = threading.Event()

    def install() -> None:
        started.set()
        install_database(source, target, None, patience=60)

    with closing(sqlite3.connect(target, isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from users").fetchone()
        thread = threading.Thread(target=install)
        thread.start()
        started.wait(10)
        # Once the installer waits, it lets no new reader in.
        deadline = time.monotonic() + 30
        while not refuses_readers(target):
            assert time.monotonic() < deadline
        assert list(reader.iterdump()) == old
        reader.execute("commit")
        thread.join(60)
    assert dump(target) == dump(source)


def refuses_readers(target: Path) -> bool:
    with closing(sqlite3.connect(target, timeout=0, isolation_level=None)) as probe:
        try:
            probe.execute("select count(*) from users").fetchone()
        except sqlite3.OperationalError:
            return True
    return False


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_readers_see_the_old_or_the_new(pair: tuple[Path, Path], tmp_path: Path, journal: str) -> None:
    """However often the index is replaced under them, readers see one whole content or the other."""
    source, target = pair
    second = tmp_path / "second.sqlite3"
    shutil.copyfile(target, second)
    if journal == "wal":
        into_wal(target).close()
    tables = ("users", "locations", "showcases", "regions")
    queries = [f"select * from {table} order by id" for table in tables]

    def contents(connection: sqlite3.Connection) -> list[list[Any]]:
        return [connection.execute(query).fetchall() for query in queries]

    whole = []
    for path in (source, second):
        with closing(sqlite3.connect(path)) as connection:
            whole.append(contents(connection))
    install_database(source, target, None)
    stop = threading.Event()
    problems: list[str] = []
    seen: list[set[int]] = [set(), set()]

    def read(keep_open: bool, found: set[int]) -> None:
        connection = sqlite3.connect(target, timeout=60, isolation_level=None)
        while not stop.is_set():
            try:
                connection.execute("begin")
                found.add(whole.index(contents(connection)))
                connection.execute("commit")
            except (sqlite3.Error, ValueError) as error:
                problems.append(repr(error)[:200])
                break
            if not keep_open:
                connection.close()
                connection = sqlite3.connect(target, timeout=60, isolation_level=None)
        connection.close()

    readers = [threading.Thread(target=read, args=(bool(number), seen[number])) for number in range(2)]
    for reader in readers:
        reader.start()
    try:
        deadline = time.monotonic() + 30
        turn = 0
        while turn < 100 or seen != [{0, 1}, {0, 1}]:
            assert time.monotonic() < deadline, (turn, seen, problems)
            turn += 1
            install_database((source, second)[turn % 2], target, float(turn), patience=20)
    finally:
        stop.set()
        for reader in readers:
            reader.join(60)
    assert problems == []
    assert beside(target) == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_page_size(pair: tuple[Path, Path], journal: str) -> None:
    """An index with another page size takes the place of the old one like any other."""
    source, target = pair
    change_page_size(source, 1024)
    if journal == "wal":
        into_wal(target).close()
    install_database(source, target, None)
    assert dump(target) == dump(source)
    assert beside(target) == []


def change_page_size(path: Path, size: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"pragma page_size = {size}")
        connection.execute("vacuum")
        assert connection.execute("pragma page_size").fetchone() == (size,)


def test_another_page_size_under_a_reader(pair: tuple[Path, Path]) -> None:
    """Where a write-ahead log is in use that cannot be done: an error, and the old content stays."""
    source, target = pair
    change_page_size(source, 1024)
    with closing(into_wal(target)) as reader:
        old = list(reader.iterdump())
        with pytest.raises(PublishError):
            soon(lambda: install_database(source, target, None, patience=0.2))
        assert list(reader.iterdump()) == old
    install_database(source, target, None)
    assert dump(target) == dump(source)


def test_a_source_in_wal_mode_is_installed(pair: tuple[Path, Path]) -> None:
    """A source that comes in WAL mode is content like any other, over any target."""
    source, target = pair
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("pragma journal_mode = wal")
    install_database(source, target, 1_700_000_000.0)
    assert target.stat().st_mtime == 1_700_000_000.0
    assert read_index(target) == read_index(source)
    install_database(source, target, None)
    assert read_index(target) == read_index(source)


@pytest.mark.parametrize("exists", [True, False])
def test_a_target_that_cannot_be_written(pair: tuple[Path, Path], exists: bool) -> None:
    """A folder in the target's place, or a file in its folder's, is an error that names the target."""
    source, target = pair
    target.unlink()
    if exists:
        target.mkdir()
    else:
        target.parent.rmdir()
        target.parent.write_text("a file")
    with pytest.raises(PublishError, match="could not be replaced") as caught:
        install_database(source, target, None)
    assert str(target) in caught.value.message


def test_no_source(pair: tuple[Path, Path]) -> None:
    """Without a source there is an error, and the old content stays."""
    source, target = pair
    old = dump(target)
    source.unlink()
    with pytest.raises(PublishError):
        install_database(source, target, None)
    assert dump(target) == old
    target.write_bytes(b"garbage")
    with pytest.raises(PublishError):
        install_database(source, target, None)
    assert target.read_bytes() == b"garbage"
    assert beside(target) == []
