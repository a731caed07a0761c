"""Sample index databases for the demo, the tests and the benchmark, and edits of them.

Everything is made up from a seed: towns, events and logins stand for nobody's. The shape is a real
deployment's, awkward rows included (names that YAML could misread, missing coordinates, unknown regions).
"""

from __future__ import annotations

import base64
import hashlib
import random
import sqlite3
import string
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
_Row = tuple[object, ...]


class Size(NamedTuple):
    """How many rows a sample has."""

    events: int
    studios: int
    users: int

    def times(self, factor: int) -> Size:
        """The same proportions, `factor` times as large."""
        return Size(self.events * factor, self.studios * factor, self.users * factor)


class _Area(NamedTuple):
    """A part of the world: its weight in percent, cities, own Fly regions, and locales with weights."""

    weight: int
    cities: Sequence[tuple[float, float]]
    regions: Sequence[str]
    locales: Sequence[tuple[str | None, int]]


class _Studio(NamedTuple):
    """What the other tables need of a studio."""

    number: int
    key: str


REAL = Size(events=370, studios=200, users=300)
"""About as large as the real deployment."""

DEMO_USER = "demo"
DEMO_PASSWORD = "demo"  # noqa: S105 - a made-up login, known on purpose

YEARS = range(2022, 2027)

_SCHEMA = (
    """
    create table "schema_migrations" ("version" varchar not null primary key)
    """,
    """
    create table "ar_internal_metadata" (
      "key" varchar not null primary key, "value" varchar,
      "created_at" datetime(6) not null, "updated_at" datetime(6) not null)
    """,
    """
    create table "users" (
      "id" integer primary key autoincrement not null, "userid" varchar, "password" varchar, "email" varchar,
      "name1" varchar, "name2" varchar, "token" varchar, "link" varchar, "sites" varchar,
      "created_at" datetime not null, "updated_at" datetime not null)
    """,
    """
    create table "locations" (
      "id" integer primary key autoincrement not null, "key" varchar, "name" varchar, "latitude" float,
      "longitude" float, "user_id" integer, "sisters" varchar, "trust_level" integer default 0,
      "region" varchar, "locale" varchar default 'en_US', "logo" varchar,
      "created_at" datetime not null, "updated_at" datetime not null)
    """,
    """
    create table "showcases" (
      "id" integer primary key autoincrement not null, "year" integer, "key" varchar, "name" varchar,
      "location_id" integer not null, "order" integer, "date" varchar,
      "created_at" datetime not null, "updated_at" datetime not null)
    """,
    """
    create table "regions" (
      "id" integer primary key autoincrement not null, "type" varchar, "code" varchar, "location" varchar,
      "latitude" float, "longitude" float, "created_at" datetime not null, "updated_at" datetime not null)
    """,
)
_INSERT_MIGRATION = "insert into schema_migrations (version) values (?)"
_INSERT_METADATA = "insert into ar_internal_metadata (key, value, created_at, updated_at) values (?, ?, ?, ?)"
_INSERT_USER = (
    "insert into users (userid, password, email, token, sites, created_at, updated_at)"
    " values (?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_STUDIO = (
    "insert into locations (id, key, name, latitude, longitude, user_id, trust_level, region, locale, logo,"
    " created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_EVENT = (
    'insert into showcases (year, key, name, location_id, "order", date, created_at, updated_at)'
    " values (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_REGION = (
    "insert into regions (type, code, location, latitude, longitude, created_at, updated_at)"
    " values (?, ?, ?, ?, ?, ?, ?)"
)

_NOW = "2026-01-01 00:00:00"
_STAMPS = (_NOW, _NOW)
_MIGRATIONS = ("20220101000001", "20230101000001", "20240101000001", "20250101000001")

_REGIONS = (
    ("fly", "iad", "Ashburn, Virginia (US)", 39.02, -77.46),
    ("fly", "ord", "Chicago, Illinois (US)", 41.89, -87.63),
    ("fly", "dfw", "Dallas, Texas (US)", 32.78, -96.81),
    ("fly", "lax", "Los Angeles, California (US)", 33.94, -118.41),
    ("fly", "lhr", "London, United Kingdom", 51.47, -0.46),
    ("fly", "fra", "Frankfurt, Germany", 50.11, 8.68),
    ("fly", "syd", "Sydney, Australia", -33.87, 151.21),
    ("fly", "nrt", "Tokyo, Japan", 35.62, 139.78),
    ("kamal", "fsn1", "Falkenstein, Germany", 50.48, 12.37),
)
_UNDEPLOYED = ("bos", "den", "gru")

# fmt: off
_USA = _Area(
    75,
    (
        (42.36, -71.06), (40.71, -74.01), (39.95, -75.17), (38.91, -77.04), (35.78, -78.64), (35.23, -80.84),
        (33.75, -84.39), (30.33, -81.66), (28.54, -81.38), (25.76, -80.19), (27.95, -82.46), (36.16, -86.78),
        (38.25, -85.76), (39.96, -83.00), (40.44, -79.99), (41.50, -81.69), (42.33, -83.05), (41.88, -87.63),
        (43.04, -87.91), (44.98, -93.27), (38.63, -90.20), (39.10, -94.58), (41.26, -95.93), (29.95, -90.07),
        (29.76, -95.37), (30.27, -97.74), (32.78, -96.80), (35.47, -97.52), (39.74, -104.99),
        (35.08, -106.65), (33.45, -112.07), (40.76, -111.89), (43.62, -116.20), (36.17, -115.14),
        (32.72, -117.16), (34.05, -118.24), (37.77, -122.42), (45.52, -122.68), (47.61, -122.33),
        (21.31, -157.86), (61.22, -149.90),  # Honolulu is on the map of the USA, Anchorage is not
    ),
    ("iad", "ord", "dfw", "lax"),
    (("en_US", 70), (None, 30)),
)
_EUROPE = _Area(
    11,
    (
        (51.51, -0.13), (53.48, -2.24), (55.95, -3.19), (53.35, -6.26), (48.86, 2.35), (52.37, 4.90),
        (52.52, 13.41), (48.14, 11.58), (48.21, 16.37), (52.23, 21.01), (45.46, 9.19), (40.42, -3.70),
        (38.72, -9.14), (59.33, 18.07), (59.44, 24.75),
    ),
    ("lhr", "fra"),
    (("en_GB", 60), ("en_US", 25), (None, 15)),
)
_AUSTRALIA = _Area(
    6,
    (
        (-33.87, 151.21), (-37.81, 144.96), (-27.47, 153.03), (-31.95, 115.86), (-34.93, 138.60),
        (-42.88, 147.33), (-35.28, 149.13), (-12.46, 130.84),
    ),
    ("syd",),
    (("en-AU", 70), ("en_US", 20), (None, 10)),
)
_JAPAN = _Area(
    5,
    (
        (35.68, 139.69), (34.69, 135.50), (35.18, 136.91), (43.06, 141.35), (33.59, 130.40), (38.27, 140.87),
        (34.39, 132.46),
    ),
    ("nrt",),
    (("ja-JP", 80), ("en_US", 15), (None, 5)),
)
_ELSEWHERE = _Area(
    3,
    (
        (43.65, -79.38), (51.05, -114.07), (53.55, -113.49), (19.43, -99.13), (-23.55, -46.63),
        (-33.92, 18.42), (25.20, 55.27), (1.35, 103.82), (-36.85, 174.76),
    ),
    ("iad", "lhr", "syd"),
    (("en_US", 60), ("en_GB", 20), (None, 20)),
)
# fmt: on
_AREAS = (_USA, _EUROPE, _AUSTRALIA, _JAPAN, _ELSEWHERE)
# Around a city, in degrees.
_SUBURB_DEGREES = 0.25

# No word of a studio's key is a word of an event's key: so `<studio>-<event>` splits in one way only, and no
# two events share a database.
# fmt: off
_BEGINNINGS = (
    "ash", "bay", "beech", "birch", "black", "blue", "bridge", "brook", "cedar", "clear", "clover", "copper",
    "cross", "dale", "deer", "eagle", "elm", "fair", "fern", "fox", "glen", "green", "harbor", "hazel",
    "hill", "iron", "juniper", "king", "lark", "lime", "maple", "marsh", "mill", "moss", "oak", "orchard",
    "pine", "pleasant", "queen", "red", "river", "rock", "rose", "sand", "silver", "stone", "thorn", "walnut",
    "wheat", "white", "wild", "willow", "wolf",
)
_ENDINGS = (
    "borough", "burg", "bury", "by", "castle", "cliff", "combe", "den", "field", "ford", "gate", "grove",
    "ham", "haven", "hurst", "land", "ley", "mere", "mont", "mouth", "port", "ridge", "shire", "stead",
    "ton", "vale", "ville", "water", "wick", "worth",
)
_FIRST_WORDS = (
    "east", "fort", "grand", "lake", "little", "mount", "new", "north", "old", "port", "south", "west",
)
# fmt: on
_AWKWARD_NAMES = (
    "O'{town}",
    '"{town}"',
    "{town} & Lakes",
    "Café {town}",
    "{town} #2",
    "Studio: {town}",
    "Yes",
    "No",
    "1234",
    "Ōmiya",
    "{town}, Downtown",
    "null",
    "- {town} -",
)
_AWKWARD_EVERY = 14
_DEFAULT_LOGO = "arthur-murray-logo.gif"

_SINGLE = ("showcase", "Showcase")
_KINDS = (
    _SINGLE,
    ("summer", "Summer Showcase"),
    ("medal-ball", "Medal Ball"),
    ("disney", "Disney Night"),
    ("spring", "Spring Showcase"),
    ("fall", "Fall Showcase"),
    ("winter", "Winter Ball"),
    ("solo-night", "Solo Night"),
    ("80s", "Back to the '80s"),
    ("latin", "Latin & Rhythm Night"),
    ("2nd-annual", "2nd Annual: Gala"),
    ("mini-match", "Mini Match"),
)
_SIZES = ((1, 62), (2, 18), (3, 12), (4, 8))

_CRYPT_ALPHABET = "./" + string.digits + string.ascii_letters
# The last character of a bcrypt salt or hash, or of an apr1 hash, holds fewer bits than the others.
_BCRYPT_SALT_ENDS = ".Oeu"
_BCRYPT_HASH_ENDS = ".CGKOSWaeimquy26"
_APR1_HASH_ENDS = "./01"
# One user in 50 has no password.
_LOCKED_EVERY = 50
_LOCKED = 25


def write_index(path: Path, size: Size = REAL, seed: int = 1) -> None:
    """Write a new index database; the same size and seed always give the same rows.

    Raises `FileExistsError` when the path is taken, `ValueError` when there cannot be such a size.
    """
    if min(size) < 0 or (size.events and not size.studios):
        raise ValueError(f"there is no sample with {size}: counts are at least 0, and events need a studio")
    rng = random.Random(seed)  # noqa: S311 - made-up rows, not secrets
    towns = _towns(rng, size.studios)
    studios = [_Studio(number, key) for number, (key, _) in enumerate(towns, 1)]
    studio_rows = [
        _studio_row(rng, studio, town, size.users) for studio, (_, town) in zip(studios, towns, strict=True)
    ]
    event_rows = list(_event_rows(rng, size.events, studios))
    user_rows = list(_user_rows(rng, size.users, studios))
    path.open("xb").close()
    with _transaction(path) as connection:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.executemany(_INSERT_MIGRATION, [(version,) for version in _MIGRATIONS])
        connection.execute(_INSERT_METADATA, ("environment", "production", *_STAMPS))
        connection.executemany(_INSERT_REGION, [(*region, *_STAMPS) for region in _REGIONS])
        connection.executemany(_INSERT_USER, user_rows)
        connection.executemany(_INSERT_STUDIO, studio_rows)
        connection.executemany(_INSERT_EVENT, event_rows)


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on an existing file; an exception undoes it."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        yield connection
        connection.execute("commit")


def _weighted(rng: random.Random, pairs: Sequence[tuple[_T, int]]) -> _T:
    values, weights = zip(*pairs, strict=True)
    chosen: _T = rng.choices(values, weights)[0]
    return chosen


def _towns(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Distinct keys, each with the name of its town."""
    names: dict[str, str] = {}
    for _ in range(count):
        words = [_town_word(rng)]
        if rng.random() < 0.2:
            words.insert(0, rng.choice(_FIRST_WORDS))
        between = "-" if rng.random() < 0.7 else ""
        while (key := between.join(words)) in names:
            words.insert(0, _town_word(rng))
        names[key] = " ".join(words).title()
    return list(names.items())


def _town_word(rng: random.Random) -> str:
    return rng.choice(_BEGINNINGS) + rng.choice(_ENDINGS)


def _studio_row(rng: random.Random, studio: _Studio, town: str, users: int) -> _Row:
    area = _weighted(rng, [(area, area.weight) for area in _AREAS])
    owner = rng.randint(1, users) if users else None
    return (
        *studio,
        _studio_name(studio.number, town),
        *_coordinates(rng, area),
        owner,
        _weighted(rng, ((0, 80), (25, 10), (50, 10))),
        _explicit_region(rng, area),
        _weighted(rng, area.locales),
        _weighted(rng, ((None, 50), ("", 15), (_DEFAULT_LOGO, 15), (f"{studio.key}.png", 20))),
        *_STAMPS,
    )


def _studio_name(number: int, town: str) -> str:
    """The town, or now and then, each kind in turn, something that a careless writer would spoil."""
    turn, rest = divmod(number, _AWKWARD_EVERY)
    return town if rest else _AWKWARD_NAMES[(turn - 1) % len(_AWKWARD_NAMES)].format(town=town)


def _coordinates(rng: random.Random, area: _Area) -> tuple[float | None, float | None]:
    city = rng.choice(area.cities)
    latitude, longitude = (
        round(degrees + rng.uniform(-_SUBURB_DEGREES, _SUBURB_DEGREES), 4) for degrees in city
    )
    return _weighted(rng, (((latitude, longitude), 93), ((None, None), 5), ((latitude, None), 2)))


def _explicit_region(rng: random.Random, area: _Area) -> str | None:
    own = rng.choice(area.regions)
    other = rng.choice(_UNDEPLOYED)
    return _weighted(rng, ((None, 75), ("", 5), (own, 15), (other, 5)))


def _event_rows(rng: random.Random, count: int, studios: Sequence[_Studio]) -> Iterator[_Row]:
    """Events by year and studio, in the order of their `order`."""
    order = 0
    for year, studio, events in _programmes(rng, count, studios):
        days = sorted(rng.randrange(360) for _ in range(events))
        for (key, name), day in zip(_events_of_a_programme(rng, events), days, strict=True):
            order += 1
            yield year, key, name, studio.number, order, _date(rng, year, day), *_STAMPS


def _programmes(rng: random.Random, count: int, studios: Sequence[_Studio]) -> list[tuple[int, _Studio, int]]:
    """How many events which studio has in which year: `count` in all, more of them in later years."""
    chances = [(rng.random() / (year - 2020), year, studio) for year in YEARS for studio in studios]
    pairs = [(year, studio) for _, year, studio in sorted(chances)]
    sizes: list[int] = []
    while count and len(sizes) < len(pairs):
        sizes.append(min(count, _weighted(rng, _SIZES)))
        count -= sizes[-1]
    # When every studio is busy every year, the rest is spread evenly.
    for place in range(count):
        sizes[place % len(sizes)] += 1
    return sorted((year, studio, events) for (year, studio), events in zip(pairs, sizes, strict=False))


def _events_of_a_programme(rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Distinct keys and their names; a lone event mostly is a single one."""
    if count == 1 and rng.random() < 0.85:
        yield _SINGLE
        return
    kinds = rng.sample(_KINDS, len(_KINDS))
    for place in range(count):
        again, kind = divmod(place, len(kinds))
        key, name = kinds[kind]
        yield (f"{key}-{again + 1}", f"{name} {again + 1}") if again else (key, name)


def _date(rng: random.Random, year: int, day: int) -> str | None:
    first = date(year, 1, 1) + timedelta(day)
    last = first + timedelta(rng.randint(1, 3))
    return _weighted(rng, ((f"{first}", 45), (f"{first} - {last}", 30), (None, 15), ("", 10)))


def _user_rows(rng: random.Random, count: int, studios: Sequence[_Studio]) -> Iterator[_Row]:
    for number in range(count):
        userid = f"user{number:04d}" if number else DEMO_USER
        usual = f"{userid}:{_made_up_hash(rng)}" if number else htpasswd_line(userid, DEMO_PASSWORD)
        line = None if number % _LOCKED_EVERY == _LOCKED else usual
        token = f"{rng.getrandbits(128):032x}" if rng.random() < 0.1 else None
        site = rng.choice(studios).key if studios else ""
        yield (
            userid,
            line,
            f"{userid}@example.com",
            token,
            _weighted(rng, ((site, 80), ("", 15), ("*", 5))),
            *_STAMPS,
        )


def htpasswd_line(userid: str, password: str) -> str:
    """A user's line in the plainest form that Navigator takes; the same password gives the same line."""
    return f"{userid}:{_sha_form(hashlib.sha1(password.encode(), usedforsecurity=False).digest())}"


def _sha_form(digest: bytes) -> str:
    return "{SHA}" + base64.b64encode(digest).decode()


def _made_up_hash(rng: random.Random) -> str:
    """A hash in one of the usual forms, of no known password."""
    form = _weighted(rng, (("apr1", 65), ("bcrypt", 25), ("sha", 10)))
    if form == "sha":
        return _sha_form(rng.randbytes(20))
    if form == "apr1":
        return f"$apr1${_crypt_text(rng, 8)}${_crypt_text(rng, 21)}{rng.choice(_APR1_HASH_ENDS)}"
    salt = _crypt_text(rng, 21) + rng.choice(_BCRYPT_SALT_ENDS)
    return f"$2y$05${salt}{_crypt_text(rng, 30)}{rng.choice(_BCRYPT_HASH_ENDS)}"


def _crypt_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(_CRYPT_ALPHABET, k=length))


def add_user(path: Path, userid: str, line: str | None) -> None:
    """Add a user with this htpasswd line (or none); `ValueError` when there is one of that name."""
    with _transaction(path) as connection:
        if connection.execute("select 1 from users where userid = ?", (userid,)).fetchone():
            raise ValueError(f"there is a user {userid!r} already")
        connection.execute(_INSERT_USER, (userid, line, f"{userid}@example.com", None, "", *_STAMPS))


def remove_user(path: Path, userid: str) -> None:
    """Remove a user; `KeyError` when there is none of that name."""
    with _transaction(path) as connection:
        if not connection.execute("delete from users where userid = ?", (userid,)).rowcount:
            raise KeyError(userid)


def set_password(path: Path, userid: str, line: str | None) -> None:
    """Give a user another htpasswd line (or none); `KeyError` when there is none of that name."""
    with _transaction(path) as connection:
        if not connection.execute("update users set password = ? where userid = ?", (line, userid)).rowcount:
            raise KeyError(userid)


def keep_users(path: Path, count: int) -> None:
    """Remove all but the first users."""
    with _transaction(path) as connection:
        connection.execute(
            "delete from users where id not in (select id from users order by id limit ?)", (count,)
        )


def add_event(path: Path, studio_key: str, year: int, key: str, name: str) -> None:
    """Add an event behind all others; `KeyError` without such a studio, `ValueError` when it is there."""
    with _transaction(path) as connection:
        studio = _studio_number(connection, studio_key)
        if _event_number(connection, studio, year, key) is not None:
            raise ValueError(f"there is an event {key!r} of {studio_key!r} in {year} already")
        (order,) = connection.execute('select coalesce(max("order"), 0) + 1 from showcases').fetchone()
        connection.execute(_INSERT_EVENT, (year, key, name, studio, order, None, *_STAMPS))


def remove_event(path: Path, studio: str, year: int, key: str) -> None:
    """Remove an event; `KeyError` when the studio or the event is not there."""
    with _transaction(path) as connection:
        number = _event_number(connection, _studio_number(connection, studio), year, key)
        if number is None:
            raise KeyError((studio, year, key))
        connection.execute("delete from showcases where id = ?", (number,))


def rename_studio(path: Path, key: str, name: str) -> None:
    """Give a studio another name; its key stays. `KeyError` when there is no such studio."""
    with _transaction(path) as connection:
        number = _studio_number(connection, key)
        connection.execute("update locations set name = ? where id = ?", (name, number))


def move_studio(path: Path, key: str, region: str) -> None:
    """Have another region serve a studio. `KeyError` when there is no such studio."""
    with _transaction(path) as connection:
        number = _studio_number(connection, key)
        connection.execute("update locations set region = ? where id = ?", (region, number))


def write_events(index: Path, folder: Path) -> None:
    """A small database for each event of an index, as the application names them; those there are kept."""
    with closing(sqlite3.connect(index)) as connection:
        rows = connection.execute(
            "select s.year, l.key, s.key, s.name, s.date,"
            " count(*) over (partition by s.year, s.location_id)"
            " from showcases s join locations l on l.id = s.location_id"
        ).fetchall()
    incoming = folder / "incoming"
    for year, studio, event, name, day, count in rows:
        stem = f"{year}-{studio}" if count == 1 and event == "showcase" else f"{year}-{studio}-{event}"
        path = folder / f"{stem}.sqlite3"
        if path.exists():
            continue
        incoming.unlink(missing_ok=True)
        with closing(sqlite3.connect(incoming, isolation_level=None)) as connection:
            connection.execute("pragma synchronous = off")
            connection.execute("pragma journal_mode = memory")
            connection.execute("create table events (id integer primary key, name text, date text)")
            connection.execute("insert into events (name, date) values (?, ?)", (name, day))
        incoming.rename(path)


def _studio_number(connection: sqlite3.Connection, key: str) -> int:
    row = connection.execute("select id from locations where key = ?", (key,)).fetchone()
    if row is None:
        raise KeyError(key)
    return int(row[0])


def _event_number(connection: sqlite3.Connection, studio: int, year: int, key: str) -> int | None:
    row = connection.execute(
        "select id from showcases where location_id = ? and year = ? and key = ?", (studio, year, key)
    ).fetchone()
    return None if row is None else int(row[0])
