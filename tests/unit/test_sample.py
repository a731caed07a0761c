"""The sample index databases: as large as asked, always the same, sound, varied, and editable row by row."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.demo.sample import (
    DEMO_PASSWORD,
    DEMO_USER,
    REAL,
    YEARS,
    Size,
    add_event,
    add_user,
    remove_event,
    remove_user,
    rename_studio,
    set_password,
    write_index,
)
from sidecar.inputs.index import read_index

Row = tuple[object, ...]
Tables = dict[str, set[Row]]

TABLES = ("users", "locations", "showcases", "regions", "schema_migrations", "ar_internal_metadata")
COLUMNS = {
    "users": "id userid password email name1 name2 token link sites created_at updated_at",
    "locations": "id key name latitude longitude user_id sisters trust_level region locale logo"
    " created_at updated_at",
    "showcases": "id year key name location_id order date created_at updated_at",
    "regions": "id type code location latitude longitude created_at updated_at",
    "schema_migrations": "version",
    "ar_internal_metadata": "key value created_at updated_at",
}
TINY = Size(events=3, studios=2, users=1)
SHA_LINE = "someone:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="


def rows(path: Path, query: str) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def tables(path: Path) -> Tables:
    return {table: set(rows(path, f"select * from {table}")) for table in TABLES}


def column(path: Path, query: str) -> list[object]:
    return [row[0] for row in rows(path, query)]


def texts(path: Path, query: str) -> list[str]:
    return [str(value) for value in column(path, query)]


def dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def size_of(path: Path) -> Size:
    users, studios, events = (
        len(rows(path, f"select 1 from {table}")) for table in ("users", "locations", "showcases")
    )
    return Size(events, studios, users)


def check_sound(path: Path) -> None:
    assert rows(path, "pragma integrity_check") == [("ok",)]
    for table, unique in [
        ("users", "userid"),
        ("locations", "key"),
        ("showcases", "year, location_id, key"),
        ("showcases", '"order"'),
    ]:
        assert rows(path, f"select {unique} from {table} group by {unique} having count(*) > 1") == []
    assert rows(path, "select 1 from showcases where location_id not in (select id from locations)") == []


def changes(before: Tables, after: Tables) -> tuple[dict[str, set[Row]], dict[str, set[Row]]]:
    """Per table: rows that are gone, and rows that are new."""
    gone = {table: before[table] - after[table] for table in TABLES if before[table] - after[table]}
    new = {table: after[table] - before[table] for table in TABLES if after[table] - before[table]}
    return gone, new


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of real size, for reading only."""
    path = tmp_path_factory.mktemp("real") / "index.sqlite3"
    write_index(path)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A small sample of a test's own; its file name needs quoting in an address."""
    path = tmp_path / "index 100%?#.sqlite3"
    write_index(path, Size(events=12, studios=6, users=8))
    return path


@pytest.mark.parametrize("size", [REAL, TINY, Size(0, 0, 0), Size(0, 1, 0), Size(0, 0, 2), Size(1, 1, 0)])
def test_counts_are_exact(tmp_path: Path, size: Size) -> None:
    """There are exactly as many events, studios and users as asked for."""
    write_index(tmp_path / "index.sqlite3", size)
    assert size_of(tmp_path / "index.sqlite3") == size


@settings(max_examples=40)
@given(
    size=st.builds(Size, st.integers(0, 120), st.integers(1, 40), st.integers(0, 60)),
    seed=st.integers(0, 2**32),
)
def test_every_size_and_seed_gives_a_sound_index(
    tmp_path_factory: pytest.TempPathFactory, size: Size, seed: int
) -> None:
    """Whatever the size and seed: exact counts, unique keys, no event without a studio, an intact file."""
    path = tmp_path_factory.mktemp("any") / "index.sqlite3"
    write_index(path, size, seed)
    assert size_of(path) == size
    check_sound(path)
    path.unlink()


def test_a_busy_studio_has_distinct_events(tmp_path: Path) -> None:
    """More events than there are kinds of them still have distinct keys."""
    path = tmp_path / "index.sqlite3"
    write_index(path, Size(events=500, studios=1, users=1))
    assert size_of(path).events == 500
    check_sound(path)


def test_times_keeps_the_proportions() -> None:
    """A size times a factor has each count times that factor."""
    assert Size(1, 2, 3).times(10) == Size(10, 20, 30)


def test_a_hundredfold_index_is_sound(tmp_path: Path) -> None:
    """A hundred times the real size has exact counts and unique keys too, and is accepted by the reader."""
    path = tmp_path / "index.sqlite3"
    write_index(path, REAL.times(100))
    assert size_of(path) == Size(events=37_000, studios=20_000, users=30_000)
    check_sound(path)
    assert read_index(path).warnings == ()


@pytest.mark.parametrize("size", [Size(-1, 1, 1), Size(1, -1, 1), Size(1, 1, -1), Size(1, 0, 1)])
def test_an_impossible_size_is_refused(tmp_path: Path, size: Size) -> None:
    """A negative count, or an event without any studio, is a ValueError, and no file is left."""
    with pytest.raises(ValueError):
        write_index(tmp_path / "index.sqlite3", size)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A path that is taken is refused, and what lies there stays."""
    path = tmp_path / "index.sqlite3"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_index(path, TINY)
    assert path.read_text() == "precious"


def test_same_size_and_seed_give_the_same_rows(tmp_path: Path, real: Path) -> None:
    """The rows depend on size and seed only, not on the process: its hashes of texts are random."""
    path = tmp_path / "index.sqlite3"
    program = "import sys, pathlib, sidecar.demo.sample as s; s.write_index(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, path], check=True, env=environment, cwd=root)
    assert dump(path) == dump(real)


def test_another_seed_gives_other_rows(tmp_path: Path, real: Path) -> None:
    """Another seed gives another index of the same size."""
    path = tmp_path / "index.sqlite3"
    write_index(path, seed=2)
    assert size_of(path) == REAL
    for table in ("users", "locations", "showcases"):
        assert rows(path, f"select * from {table}") != rows(real, f"select * from {table}")


def test_the_file_is_sound(real: Path) -> None:
    """The file is an intact database in journal mode delete, alone in its folder, with unique keys."""
    check_sound(real)
    assert rows(real, "pragma journal_mode") == [("delete",)]
    assert [path.name for path in real.parent.iterdir()] == [real.name]


def test_the_schema_is_the_applications(real: Path) -> None:
    """Each table has all columns of the application's, in their order."""
    for table, expected in COLUMNS.items():
        assert texts(real, f"select name from pragma_table_info('{table}')") == expected.split()


def test_the_reader_accepts_it(real: Path) -> None:
    """The sidecar's own reader takes every row, without a warning."""
    index = read_index(real)
    locked = len(rows(real, "select 1 from users where password is null"))
    assert (len(index.events), len(index.studios), len(index.users) + locked) == REAL
    assert index.warnings == ()


def test_regions(real: Path) -> None:
    """Eight Fly regions and one of Kamal exist, with coordinates."""
    assert Counter(texts(real, "select type from regions")) == {"fly": 8, "kamal": 1}
    assert {"iad", "ord", "dfw", "lax", "lhr", "syd", "nrt"} < set(texts(real, "select code from regions"))
    assert rows(real, "select 1 from regions where latitude is null or longitude is null") == []


def test_studios_spread_over_the_world(real: Path) -> None:
    """About three quarters of the located studios are in the USA, and every other part has some."""
    known = rows(real, "select latitude, longitude from locations where latitude + longitude is not null")

    def inside(south: float, north: float, west: float, east: float) -> int:
        return sum(south < float(str(lat)) < north and west < float(str(lon)) < east for lat, lon in known)

    assert 0.65 < inside(18, 64, -161, -66) / len(known) < 0.85
    assert inside(35, 75, -25, 45) > 5
    assert inside(-45, -10, 110, 155) > 2
    assert inside(24, 46, 122, 153) > 2
    assert 0.8 < len(known) / REAL.studios < 1


def test_studio_columns_have_every_form(real: Path) -> None:
    """Keys are slugs, some with a hyphen; region, locale and logo come in every form that exists."""
    keys = texts(real, "select key from locations")
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", key) for key in keys)
    assert 0 < sum("-" in key for key in keys) < len(keys)
    fly = set(column(real, "select code from regions where type = 'fly'"))
    regions = set(column(real, "select region from locations"))
    assert {None, ""} < regions
    assert regions & fly
    assert regions - fly - {None, ""}
    locales = Counter(column(real, "select locale from locations"))
    assert set(locales) == {None, "en_US", "en_GB", "ja-JP", "en-AU"}
    assert locales[None] + locales["en_US"] > REAL.studios / 2
    logos = set(column(real, "select logo from locations"))
    assert {None, "", "arthur-murray-logo.gif"} < logos
    assert any(str(logo).endswith(".png") for logo in logos)


def test_awkward_names_occur_a_few_times(real: Path) -> None:
    """Names that a careless YAML writer would spoil all occur, but rarely."""
    names = texts(real, "select name from locations")
    assert {"Yes", "No", "1234"} < set(names)
    for character in "'\"&#:é":
        assert any(character in name for name in names), character
    plain = sum(re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)*", name) is not None for name in names)
    assert 0.9 < plain / len(names) < 1


def test_events_have_every_form(real: Path) -> None:
    """Every year has events; single ones and several of one studio are both common; dates take every form."""
    programmes: dict[tuple[object, object], list[object]] = {}
    for year, studio, key in rows(real, "select year, location_id, key from showcases"):
        programmes.setdefault((year, studio), []).append(key)
    assert {year for year, _ in programmes} == set(YEARS)
    single = sum(keys == ["showcase"] for keys in programmes.values())
    several = sum(len(keys) > 1 for keys in programmes.values())
    assert single > 50
    assert several > 50
    assert single + several < len(programmes), "a lone event of another key occurs"
    forms = Counter(
        date and re.sub(r"\d", "9", str(date)) for date in column(real, "select date from showcases")
    )
    assert set(forms) == {None, "", "9999-99-99", "9999-99-99 - 9999-99-99"}
    assert (
        rows(real, "select 1 from showcases where date <> '' and substr(date, 1, 4) <> cast(year as text)")
        == []
    )


def test_order_ascends(real: Path) -> None:
    """The later a row, the higher its `order`."""
    orders = column(real, 'select "order" from showcases order by id')
    assert orders == list(range(1, REAL.events + 1))


def test_no_two_events_share_a_database(real: Path) -> None:
    """Databases are told apart by name, whether `showcase` is a single event or one of several."""
    names: list[str] = []
    for year, studio, event in rows(
        real, "select year, l.key, s.key from showcases s join locations l on l.id = location_id"
    ):
        names.append(f"{year}-{studio}-{event}")
        if event == "showcase":
            names.append(f"{year}-{studio}")
    assert len(names) == len(set(names))


def test_htpasswd_lines(real: Path) -> None:
    """A line is its user's and holds a hash of one of three well-formed kinds; about 2 % have none."""
    users = rows(real, "select userid, password from users")
    assert 0.01 < sum(line is None for _, line in users) / len(users) < 0.03
    forms = {
        "apr1": r"\$apr1\$[./0-9A-Za-z]{8}\$[./0-9A-Za-z]{22}",
        "bcrypt": r"\$2y\$05\$[./0-9A-Za-z]{53}",
        "sha": r"\{SHA\}[+/0-9A-Za-z]{27}=",
    }
    counts: Counter[str] = Counter()
    for userid, line in users:
        if line is not None:
            name, _, hashed = str(line).partition(":")
            assert name == userid
            counts.update(form for form, pattern in forms.items() if re.fullmatch(pattern, hashed))
    assert counts.total() == sum(line is not None for _, line in users)
    assert set(counts) == set(forms)


def test_bcrypt_hashes_can_be_checked(real: Path) -> None:
    """A made-up bcrypt hash is well-formed: checking a password against it says no, instead of failing."""
    (line,) = texts(real, "select password from users where password like '%$2y$%' limit 1")
    assert not bcrypt.checkpw(b"demo", line.partition(":")[2].encode())


@pytest.mark.parametrize("users", [1, 30])
def test_the_demo_user_can_log_in(tmp_path: Path, users: int) -> None:
    """The known user is the first, counts among the users, and its line is a hash of the known password."""
    path = tmp_path / "index.sqlite3"
    write_index(path, Size(events=1, studios=1, users=users), seed=9)
    assert texts(path, "select userid from users order by id")[:2] == [DEMO_USER, "user0001"][:users]
    (line,) = texts(path, f"select password from users where userid = '{DEMO_USER}'")
    digest = base64.b64decode(line.removeprefix(f"{DEMO_USER}:{{SHA}}"), validate=True)
    assert digest == hashlib.sha1(DEMO_PASSWORD.encode()).digest()


def test_add_user(index: Path) -> None:
    """Adding a user adds one row with that line."""
    before = tables(index)
    add_user(index, "someone", SHA_LINE)
    gone, new = changes(before, tables(index))
    assert gone == {}
    assert [row[1:3] for row in new.pop("users")] == [("someone", SHA_LINE)]
    assert new == {}


def test_remove_user(index: Path) -> None:
    """Removing a user removes its row only."""
    before = tables(index)
    remove_user(index, "user0003")
    gone, new = changes(before, tables(index))
    assert [row[1] for row in gone.pop("users")] == ["user0003"]
    assert (gone, new) == ({}, {})


@pytest.mark.parametrize("line", [SHA_LINE, None])
def test_set_password(index: Path, line: str | None) -> None:
    """Setting a password changes that column of that row only; None locks the user out."""
    before = tables(index)
    set_password(index, "user0003", line)
    gone, new = changes(before, tables(index))
    (old,), (changed,) = gone.pop("users"), new.pop("users")
    assert changed == (*old[:2], line, *old[3:])
    assert old[1] == "user0003"
    assert (gone, new) == ({}, {})


def some_studio(path: Path) -> tuple[int, str]:
    ((number, key),) = rows(path, "select id, key from locations order by id limit 1 offset 2")
    return int(str(number)), str(key)


def test_add_event(index: Path) -> None:
    """Adding an event adds one row, of that studio and year, behind all others."""
    before = tables(index)
    number, studio = some_studio(index)
    add_event(index, studio, 2030, "gala", "Gala")
    gone, new = changes(before, tables(index))
    assert gone == {}
    assert [row[1:7] for row in new.pop("showcases")] == [(2030, "gala", "Gala", number, 13, None)]
    assert new == {}


def test_add_event_to_an_index_without_events(tmp_path: Path) -> None:
    """The first event of all gets the first place."""
    path = tmp_path / "index.sqlite3"
    write_index(path, Size(events=0, studios=3, users=0))
    add_event(path, some_studio(path)[1], 2030, "gala", "Gala")
    assert column(path, 'select "order" from showcases') == [1]


def test_remove_event(index: Path) -> None:
    """Removing an event undoes its adding, and touches no other of the same key, year or studio."""
    before = tables(index)
    _, studio = some_studio(index)
    (other,) = texts(index, "select key from locations order by id limit 1")
    others = [(studio, 2030, "ball"), (studio, 2031, "gala"), (other, 2030, "gala")]
    for place in [(studio, 2030, "gala"), *others]:
        add_event(index, *place, "An Event")
    with_events = tables(index)
    remove_event(index, studio, 2030, "gala")
    gone, new = changes(with_events, tables(index))
    assert len(gone.pop("showcases")) == 1
    assert (gone, new) == ({}, {})
    for place in others:
        remove_event(index, *place)
    assert tables(index) == before


def test_rename_studio(index: Path) -> None:
    """Renaming a studio changes the name in its row only; the key stays."""
    before = tables(index)
    number, studio = some_studio(index)
    rename_studio(index, studio, "New: 'Name'")
    gone, new = changes(before, tables(index))
    (old,), (changed,) = gone.pop("locations"), new.pop("locations")
    assert changed == (number, studio, "New: 'Name'", *old[3:])
    assert (gone, new) == ({}, {})


@pytest.mark.parametrize(
    ("refused", "change"),
    [
        (ValueError, lambda path, _: add_user(path, DEMO_USER, SHA_LINE)),
        (KeyError, lambda path, _: remove_user(path, "nobody")),
        (KeyError, lambda path, _: set_password(path, "nobody", SHA_LINE)),
        (KeyError, lambda path, _: add_event(path, "nowhere", 2030, "gala", "Gala")),
        (ValueError, lambda path, studio: add_event(path, studio, 2029, "gala", "Gala")),
        (KeyError, lambda path, _: remove_event(path, "nowhere", 2029, "gala")),
        (KeyError, lambda path, studio: remove_event(path, studio, 2028, "gala")),
        (KeyError, lambda path, studio: remove_event(path, studio, 2029, "ball")),
        (KeyError, lambda path, _: rename_studio(path, "nowhere", "Name")),
    ],
)
def test_the_impossible_is_refused(
    index: Path, refused: type[Exception], change: Callable[[Path, str], None]
) -> None:
    """A change of what is not there, or an addition of what is, raises and changes nothing."""
    _, studio = some_studio(index)
    add_event(index, studio, 2029, "gala", "Gala")
    before = dump(index)
    with pytest.raises(refused):
        change(index, studio)
    assert dump(index) == before


def test_a_change_never_makes_a_file(tmp_path: Path) -> None:
    """A change of an index that does not exist fails and leaves no file behind."""
    with pytest.raises(sqlite3.OperationalError):
        remove_user(tmp_path / "index.sqlite3", DEMO_USER)
    assert list(tmp_path.iterdir()) == []
