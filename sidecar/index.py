"""The index database: a file from outside becomes an `Index`, or is refused with a reason.

The file comes from the internet or from the object store, so it is trusted with nothing: it is opened
read-only, every page is checked, only real tables are read (a view could run for ever), and all of it
has a time limit.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sidecar.errors import PublishError, Rejected
from sidecar.model import Event, Index, Region, Studio, User

TABLES: Mapping[str, tuple[str, ...]] = {
    "users": ("userid", "password"),
    "locations": ("id", "key", "name", "latitude", "longitude", "region", "locale", "logo"),
    "showcases": ("id", "year", "key", "name", "location_id", "order", "date"),
    "regions": ("type", "code", "location", "latitude", "longitude"),
}
"""The tables and columns that are read; others may exist."""

_HEADER = b"SQLite format 3\0"
_READ_LIMIT = 30.0
_BACKUP_LIMIT = 10.0
# How many virtual machine steps may pass between two looks at the clock.
_STEPS = 100_000
# A part of a URL path, a file name, a line of a list: so no slash, no control character, nothing hidden.
_KEY = re.compile(
    r"[^\x00-\x20\x7f-\xa0\u2028\u2029/\\.%?\"'{}<>][^\x00-\x20\x7f-\xa0\u2028\u2029/\\%?\"'{}<>]{0,99}\Z"
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """The two optional JSON files beside the index, which win over its `regions` table."""

    codes: tuple[str, ...] | None = None
    regions: tuple[Region, ...] | None = None


def read_index(path: Path, deployed: Deployed = Deployed()) -> Index:
    """Check the database file and read it; `Rejected` says what is wrong with it."""
    with path.open("rb") as stream:
        if stream.read(len(_HEADER)) != _HEADER:
            raise Rejected(
                f"the index is not an SQLite database ({path.stat().st_size} bytes)",
                "put a whole index.sqlite3 in the store",
                code="not_sqlite",
            )
    try:
        with closing(_open_immutable(path)) as connection:
            _limit_time(connection, _READ_LIMIT)
            _check_sound(connection)
            _check_tables(connection)
            return _read(connection, deployed)
    except sqlite3.DatabaseError as error:
        slow = "interrupted" in str(error)
        raise Rejected(
            f"the index cannot be read: {'it takes too long' if slow else error}",
            "check the database with `sqlite3 index.sqlite3 'pragma integrity_check'` where it is made",
            code="unsound",
        ) from error


def _open_immutable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    connection.execute("pragma trusted_schema = off")
    connection.execute("pragma cell_size_check = on")
    return connection


def _limit_time(connection: sqlite3.Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)


def _check_sound(connection: sqlite3.Connection) -> None:
    problems = [str(row[0]) for row in connection.execute("pragma quick_check(3)")]
    if problems != ["ok"]:
        raise Rejected(
            f"the index is damaged: {'; '.join(problems)}",
            "restore it where it is made and upload it again",
            code="unsound",
        )


def _check_tables(connection: sqlite3.Connection) -> None:
    real = {str(row[0]) for row in connection.execute("select name from sqlite_schema where type = 'table'")}
    for table, columns in TABLES.items():
        if table not in real:
            raise Rejected(f"the index has no table {table!r}", "is this the index database?", code="schema")
        present = {row[1] for row in connection.execute(f"pragma table_info({table})")}
        if missing := [column for column in columns if column not in present]:
            raise Rejected(
                f"the index's table {table!r} lacks the columns {', '.join(missing)}",
                "migrate the index database where it is made",
                code="schema",
            )


def _read(connection: sqlite3.Connection, deployed: Deployed) -> Index:
    studios, keys = _studios(connection)
    events, warnings = _events(connection, keys)
    return Index(
        users=tuple(_users(connection)),
        studios=studios,
        events=events,
        regions=_regions(connection, deployed),
        warnings=tuple(warnings),
    )


def _users(connection: sqlite3.Connection) -> Iterator[User]:
    for userid, line in connection.execute(
        "select userid, password from users where password is not null order by cast(password as text)"
    ):
        yield User(str(userid), line if isinstance(line, str) else _text(line))


def _studios(connection: sqlite3.Connection) -> tuple[tuple[Studio, ...], dict[Any, str]]:
    keys: dict[Any, str] = {}
    studios: list[Studio] = []
    seen: set[str] = set()
    for number, key, name, latitude, longitude, region, locale, logo in connection.execute(
        "select id, key, name, latitude, longitude, region, locale, logo from locations order by key, id"
    ):
        key = _key(key, f"locations, id {number}")
        if key in seen:
            raise Rejected(f"locations: the key {key!r} occurs twice", "keep one of them", code="duplicate")
        seen.add(key)
        keys[number] = key
        place = f"location {key!r}"
        studios.append(
            Studio(
                key,
                _text(name),
                _degrees(latitude, 90, f"{place}: latitude"),
                _degrees(longitude, 180, f"{place}: longitude"),
                _optional(region),
                _optional(locale),
                _optional(logo),
            )
        )
    return tuple(studios), keys


def _events(connection: sqlite3.Connection, keys: Mapping[Any, str]) -> tuple[tuple[Event, ...], list[str]]:
    rows: list[tuple[int, str, Event]] = []
    warnings: list[str] = []
    # Of equal orders the later row comes first, as in the lists that the application itself makes.
    for number, year, key, name, location, date in connection.execute(
        'select id, year, key, name, location_id, date from showcases order by "order", id desc'
    ):
        studio = keys.get(location)
        place = f"showcases, id {number}"
        if studio is None:
            warnings.append(f"{place}: there is no location {location!r}; the event is left out")
            continue
        if not isinstance(year, int) or not 1900 <= year <= 9999:
            raise Rejected(f"{place}: {year!r} is not a year", "correct the row", code="value")
        rows.append((-year, studio, Event(year, _key(key, place), _text(name), studio, _optional(date))))
    rows.sort(key=lambda row: row[:2])
    return tuple(event for _, _, event in rows), warnings


def _regions(connection: sqlite3.Connection, deployed: Deployed) -> tuple[Region, ...]:
    if deployed.regions is not None:
        known: dict[str, Region] = {region.code: region for region in deployed.regions}
    else:
        known = {}
        for code, name, latitude, longitude in connection.execute(
            "select code, location, latitude, longitude from regions where type = 'fly' order by code"
        ):
            code = _key(code, "regions")
            known.setdefault(code, _region(code, name, latitude, longitude))
    codes = known.keys() if deployed.codes is None else deployed.codes
    return tuple(region for code, region in known.items() if code in codes)


def _region(code: str, name: object, latitude: object, longitude: object) -> Region:
    north = _degrees(latitude, 90, f"region {code!r}: latitude")
    east = _degrees(longitude, 180, f"region {code!r}: longitude")
    if north is None or east is None:
        raise Rejected(f"region {code!r} has no coordinates", "fill them in", code="value")
    return Region(code, _text(name), north, east)


def _key(value: object, place: str) -> str:
    if isinstance(value, str) and _KEY.match(value):
        return value
    raise Rejected(
        f"{place}: {value!r} cannot be a key",
        "keys become parts of URLs and file names: letters, digits and dashes",
        code="value",
    )


def _degrees(value: object, limit: int, place: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= limit:
        raise Rejected(f"{place}: {value!r} is not between -{limit} and {limit} degrees", code="value")
    return number


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _optional(value: object) -> str | None:
    return _text(value) or None


def read_deployed(deployed_json: Path, regions_json: Path) -> Deployed:
    """The deployment's own JSON files, each of which counts only where it exists and parses."""
    return Deployed(_deployed_codes(_json(deployed_json)), _known_regions(_json(regions_json)))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _deployed_codes(data: Any) -> tuple[str, ...] | None:
    try:
        group = next(entry for entry in data["ProcessGroupRegions"] if entry["Name"] == "app")
        pending = data.get("pending") or {}
        codes = [*group["Regions"], *(pending.get("add") or [])]
        gone = set(pending.get("delete") or [])
        return tuple(dict.fromkeys(str(code) for code in codes if code not in gone))
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None


def _known_regions(data: Any) -> tuple[Region, ...] | None:
    try:
        return tuple(
            _region(str(entry["code"]), entry["name"], entry["latitude"], entry["longitude"])
            for entry in data
        )
    except (KeyError, TypeError, Rejected):
        return None


def install_index(source: Path, target: Path, modified: float | None) -> None:
    """Put the content of one database into another under its readers, by SQLite's backup API.

    Readers that have the target open see the old content or the new, never a mixture, and no
    write-ahead log of the old file is left beside the new one. A crash in between is undone by the next
    reader. `modified` becomes the file's mtime (seconds since 1970). A target that is no database is
    replaced as a file. Raises `PublishError`; the old content stays then.
    """
    try:
        if not _is_database(target):
            _replace_index(source, target)
        else:
            with closing(_open_immutable(source)) as old, closing(_open_target(target)) as new:
                _backup(old, new, target)
        if modified is not None:
            os.utime(target, (modified, modified))
    except (OSError, sqlite3.Error) as error:
        raise PublishError(
            f"the index {target} could not be replaced: {error}",
            "check the disk's free space, the folder's owner, and whether a process keeps the database locked",
        ) from error


def _open_target(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BACKUP_LIMIT, isolation_level=None)
    connection.execute("pragma synchronous = full")
    return connection


def _backup(source: sqlite3.Connection, target: sqlite3.Connection, path: Path) -> None:
    deadline = time.monotonic() + _BACKUP_LIMIT

    def tick(status: int, remaining: int, total: int) -> None:
        if remaining and time.monotonic() > deadline:
            raise sqlite3.OperationalError("the database stayed locked for too long")

    # All pages in one step: other connections wait for a moment instead of restarting the copy.
    source.backup(target, pages=-1, progress=tick, sleep=0.05)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_HEADER)) == _HEADER
    except FileNotFoundError:
        return False


def _replace_index(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.sidecar-new")
    with temporary.open("wb") as stream:
        stream.write(source.read_bytes())
        stream.flush()
        os.fsync(stream.fileno())
    for suffix in ("-wal", "-shm", "-journal"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    temporary.replace(target)
