"""The index database: a file from outside becomes an `Index`, or is refused with a reason.

The file comes from the internet or from the object store, so it is trusted with nothing: every page is
checked by another process, only plain tables of a bounded size are read, and all of it has a time limit.

What tenants can write costs their own row at the most, with a warning: nobody keeps the others from what is
new. Only what is wrong with the whole, or with the regions, is a refusal.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any

import msgspec

from sidecar.errors import Rejected
from sidecar.generate.ownership import SINGLE, database_name
from sidecar.model.index import Event, Index, Region, Studio, User
from sidecar.system.sqlite import is_plain, reading

TABLES: Mapping[str, tuple[str, ...]] = {
    "users": ("userid", "password"),
    "locations": ("id", "key", "name", "latitude", "longitude", "region", "locale", "logo"),
    "showcases": ("id", "year", "key", "name", "location_id", "order", "date"),
    "regions": ("type", "code", "location", "latitude", "longitude"),
}
"""The tables and columns that are read; others may exist."""

_WHAT = "the index"
# What stands for bytes that are not UTF-8.
_REPLACED = "\ufffd"
# A part of a URL path, a file name, a word in a shell, a line of a list: letters and digits of any script.
_KEY = re.compile(r"(?!.*\.\.)[^\W_][\w.-]{0,99}\Z")
_MAX_NAME_CHARACTERS = 1_000
_MAX_ROWS = 1_000_000
# A default takes no room in a row, and is there as often as there are rows.
_MAX_DEFAULT_CHARACTERS = 100
_UNREADABLE = object()


@dataclass(frozen=True, slots=True)
class DeploymentFiles:
    """The two optional JSON files beside the index, which win over its `regions` table.

    `ignored` says in sentences which of them is there and cannot be used.
    """

    codes: tuple[str, ...] | None = None
    regions: tuple[Region, ...] | None = None
    ignored: tuple[str, ...] = field(default=(), repr=False, compare=False)


def read_index(path: Path, deployed: DeploymentFiles = DeploymentFiles()) -> Index:
    """Check the database file and read it; `Rejected` says what is wrong with it.

    `ReadError` says why this machine cannot tell.
    """
    with reading(path, _WHAT) as connection:
        _check_tables(connection)
        try:
            return _read(connection, deployed)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            return _read_replacing(connection, deployed)


def _check_tables(connection: sqlite3.Connection) -> None:
    for table, columns in TABLES.items():
        if not is_plain(connection, table):
            raise Rejected(f"the index has no table {table!r}", "is this the index database?", code="schema")
        defaults = {row[1]: row[4] or "" for row in connection.execute(f"pragma table_info({table})")}
        if missing := [column for column in columns if column not in defaults]:
            raise Rejected(
                f"the index's table {table!r} lacks the columns {', '.join(missing)}",
                "migrate the index database where it is made",
                code="schema",
            )
        if any(len(defaults[column]) > _MAX_DEFAULT_CHARACTERS for column in columns):
            raise Rejected(
                f"the index's table {table!r} has a default longer than {_MAX_DEFAULT_CHARACTERS} characters",
                code="schema",
            )
        (rows,) = connection.execute(f"select count(*) from {table} not indexed").fetchone()  # noqa: S608 - ours
        if rows > _MAX_ROWS:
            raise Rejected(
                f"the index's table {table!r} has {rows} rows, more than {_MAX_ROWS}", code="schema"
            )


def _read(connection: sqlite3.Connection, deployed: DeploymentFiles) -> Index:
    if connection.execute("select 1 from locations group by id having count(*) > 1 limit 1").fetchone():
        raise Rejected("locations: an id occurs twice", "keep one of them", code="duplicate")
    warnings: list[str] = []
    studios = tuple(_studios(connection, warnings))
    events, partial = _events(connection, {studio.key for studio in studios}, warnings)
    return Index(
        users=tuple(starmap(User, connection.execute(_USERS))),
        studios=studios,
        events=events,
        regions=_regions(connection, deployed, warnings),
        partial=partial,
        warnings=tuple(warnings),
    )


def _read_replacing(connection: sqlite3.Connection, deployed: DeploymentFiles) -> Index:
    """Read an index in which some text is not UTF-8: a name is shown as far as it can be, a login is not."""
    connection.text_factory = _text
    index = _read(connection, deployed)
    unfit = [user for user in index.users if _REPLACED in user.line]
    return msgspec.structs.replace(
        index,
        users=tuple(user for user in index.users if _REPLACED not in user.line),
        warnings=(
            *index.warnings,
            *(f"user {user.userid!r:.80}: the line is not UTF-8; the row is left out" for user in unfit),
        ),
    )


# SQLite does the converting and sorting: at a hundred times the usual size that is most of the work.
_USERS = """
    select coalesce(cast(userid as text), ''), cast(password as text) from users
    where password is not null order by 2 collate binary
"""
_STUDIOS = """
    select key, coalesce(cast(name as text), ''), latitude, longitude, nullif(cast(region as text), ''),
        nullif(cast(locale as text), ''), nullif(cast(logo as text), ''), id
    from locations order by key collate binary, id
"""
# Of equal orders the later row comes first, as in the lists that the application itself makes.
_EVENTS = """
    select s.year, s.key, coalesce(cast(s.name as text), ''), l.key, nullif(cast(s.date as text), ''),
        s.id, s.location_id
    from showcases s left join locations l on l.id = s.location_id
    order by s.year desc, l.key collate binary, s."order", s.id desc
"""


def _studios(connection: sqlite3.Connection, warnings: list[str]) -> Iterator[Studio]:
    before = None
    for key, name, latitude, longitude, region, locale, logo, number in connection.execute(_STUDIOS):
        try:
            key = _key(key)
            if key == before:
                raise Rejected(
                    f"locations: the key {key!r} occurs twice", "keep one of them", code="duplicate"
                )
            before = key
            north, east = _degrees(latitude, 90, "latitude"), _degrees(longitude, 180, "longitude")
        except ValueError as unfit:
            warnings.append(
                f"locations, id {number!r:.80}: {unfit}; the location and its events are left out"
            )
            continue
        yield Studio(
            key,
            _short(name, "locations", number, warnings),
            north,
            east,
            region,
            locale and _short(locale, "locations", number, warnings),
            logo and _short(logo, "locations", number, warnings),
        )


Row = tuple[Any, ...]
"""A row of `_EVENTS`: year, key, name, key of the location, date, id, id of the location."""


def _events(
    connection: sqlite3.Connection, studios: set[str], warnings: list[str]
) -> tuple[tuple[Event, ...], frozenset[tuple[int, str]]]:
    """The events, and the programmes of which one was left out."""
    rows = connection.execute(_EVENTS).fetchall()
    keys = {key for key in {row[1] for row in rows} if _is_key(key)}
    kept: list[Row] = []
    partial: set[tuple[int, str]] = set()
    for row in rows:
        year, key, _, studio, _, number, location = row
        if studio is None:
            problem = f"there is no location {location!r:.80}"
        elif studio not in studios:
            continue  # told already, of the location
        elif type(year) is not int or not 1900 <= year <= 9999:
            problem = f"{year!r:.80} is not a year"
        elif key not in keys:
            problem = _no_key(key)
            partial.add((year, studio))
        else:
            kept.append(row)
            continue
        warnings.append(f"showcases, id {number!r:.80}: {problem}; the event is left out")
    kept = _distinct(kept, partial, warnings)
    return tuple(
        Event(
            year,
            key,
            _short(name, "showcases", number, warnings),
            studio,
            date and _short(date, "showcases", number, warnings),
        )
        for year, key, name, studio, date, number, _ in kept
    ), frozenset(partial)


def _distinct(rows: list[Row], partial: set[tuple[int, str]], warnings: list[str]) -> list[Row]:
    """Without the events whose database belongs to an older one: two keys may make the same name as three.

    Adds their programmes to `partial`.
    """
    sizes = Counter((row[0], row[3]) for row in rows)
    sizes.update(partial)  # which are not single, whatever is left of them
    names = [
        database_name(year, studio, None if key == SINGLE and sizes[year, studio] == 1 else key)
        for year, key, _, studio, _, _, _ in rows
    ]
    if len(set(names)) == len(rows):
        return rows
    owners: dict[str, Row] = {}
    for name, row in zip(names, rows, strict=True):
        owners[name] = min(owners.get(name, row), row, key=_age)
    kept = []
    for name, row in zip(names, rows, strict=True):
        if owners[name] is row:
            kept.append(row)
            continue
        partial.add((row[0], row[3]))
        warnings.append(
            f"showcases, id {row[5]!r:.80}: the database {name!r} belongs to the event of the id "
            f"{owners[name][5]!r:.80}; the event is left out"
        )
    return kept


def _age(row: Row) -> float:
    return row[5] if isinstance(row[5], int) else math.inf


def _regions(
    connection: sqlite3.Connection, deployed: DeploymentFiles, warnings: list[str]
) -> tuple[Region, ...]:
    if deployed.regions is not None:
        known: dict[str, Region] = {region.code: region for region in deployed.regions}
    else:
        known = {}
        for code, name, latitude, longitude in connection.execute(
            "select code, location, latitude, longitude from regions where type = 'fly' order by code"
        ):
            if not _is_key(code):
                raise Rejected(f"regions: {_no_key(code)}", "correct the row", code="value")
            try:
                place: tuple[float | None, float | None] = _place(latitude, longitude)
            except ValueError as unfit:
                place = None, None
                warnings.append(f"region {code!r}: {unfit}; no location is near to it")
            known.setdefault(code, Region(code, _text(name)[:_MAX_NAME_CHARACTERS], *place))
    codes = known.keys() if deployed.codes is None else deployed.codes
    return tuple(region for code, region in known.items() if code in codes)


def _place(latitude: object, longitude: object) -> tuple[float, float]:
    """Where a region is; `ValueError` says why that is not known."""
    north, east = _degrees(latitude, 90, "latitude"), _degrees(longitude, 180, "longitude")
    if north is None or east is None:
        raise ValueError("it has no coordinates")
    return north, east


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.match(value) is not None


def _key(value: object) -> str:
    if isinstance(value, str) and _KEY.match(value):
        return value
    raise ValueError(_no_key(value))


def _no_key(value: object) -> str:
    return f"{value!r:.80} cannot be a key: letters, digits, dashes, dots and underscores, at most 100"


def _degrees(value: object, limit: int, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= limit:
        raise ValueError(f"the {what} {value!r:.80} is not between -{limit} and {limit} degrees")
    return number


def _short(text: str, table: str, number: object, warnings: list[str]) -> str:
    """A text to be shown, as far as that is sensible."""
    if len(text) <= _MAX_NAME_CHARACTERS:
        return text
    warnings.append(f"{table}, id {number!r:.80}: a text of {len(text)} characters is cut off")
    return text[:_MAX_NAME_CHARACTERS]


def _text(value: object) -> str:
    """Any value as text; what is not UTF-8 becomes the replacement character."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_deployed(deployed_json: Path, regions_json: Path) -> DeploymentFiles:
    """The deployment's own JSON files, each of which counts only where it exists and parses."""
    deployed, known = _json(deployed_json), _json(regions_json)
    codes, regions = _deployed_codes(deployed), _known_regions(known)
    ignored = tuple(
        f"{path} is there and cannot be used, torn or of another form: the index's table of regions counts"
        for path, data, found in ((deployed_json, deployed, codes), (regions_json, known, regions))
        if data is not None and found is None
    )
    return DeploymentFiles(codes, regions, ignored)


def read_pending(deployed_json: Path) -> tuple[list[str], list[str]]:
    """The regions that deployed.json says are yet to be added and to be removed."""
    data = _json(deployed_json)
    pending = data.get("pending") if isinstance(data, dict) else None
    lists = [pending.get(name) if isinstance(pending, dict) else None for name in ("add", "delete")]
    added, removed = ([str(code) for code in codes] if isinstance(codes, list) else [] for codes in lists)
    return added, removed


def _json(path: Path) -> Any:
    """What a file says; None where there is none, `_UNREADABLE` for one that says nothing."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return _UNREADABLE
    return _UNREADABLE if data is None else data


def _deployed_codes(data: Any) -> tuple[str, ...] | None:
    try:
        group = next(entry for entry in data["ProcessGroupRegions"] if entry["Name"] == "app")
        pending = data.get("pending") or {}
        lists = group["Regions"], pending.get("add") or [], pending.get("delete") or []
        if not all(isinstance(codes, list) for codes in lists):
            return None
        deployed, added, deleted = lists
        gone = set(deleted)
        return tuple(dict.fromkeys(str(code) for code in (*deployed, *added) if code not in gone))
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None


def _known_regions(data: Any) -> tuple[Region, ...] | None:
    if not isinstance(data, list):
        return None
    try:
        return tuple(
            Region(_key(one["code"]), _text(one["name"]), *_place(one["latitude"], one["longitude"]))
            for one in data
        )
    except (KeyError, TypeError, ValueError):
        return None
