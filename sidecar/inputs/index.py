"""The index database: a file from outside becomes an `Index`, or is refused with a reason.

The file comes from the internet or from the object store, so it is trusted with nothing: it is opened
read-only, every page is checked, only real tables are read (a view could run for ever), and all of it
has a time limit.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import msgspec

from sidecar.errors import Rejected
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
# A part of a URL path, a file name, a line of a list: so no slash, no control character, nothing hidden.
_KEY = re.compile(
    r"[^\x00-\x20\x7f-\xa0\u2028\u2029\ufffd/\\.:%?\"'{}<>]"
    r"[^\x00-\x20\x7f-\xa0\u2028\u2029\ufffd/\\%?\"'{}<>]{0,99}\Z"
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """The two optional JSON files beside the index, which win over its `regions` table."""

    codes: tuple[str, ...] | None = None
    regions: tuple[Region, ...] | None = None


def read_index(path: Path, deployed: Deployed = Deployed()) -> Index:
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
        present = {row[1] for row in connection.execute(f"pragma table_info({table})")}
        if missing := [column for column in columns if column not in present]:
            raise Rejected(
                f"the index's table {table!r} lacks the columns {', '.join(missing)}",
                "migrate the index database where it is made",
                code="schema",
            )


def _read(connection: sqlite3.Connection, deployed: Deployed) -> Index:
    if connection.execute("select 1 from locations group by id having count(*) > 1 limit 1").fetchone():
        raise Rejected("locations: an id occurs twice", "keep one of them", code="duplicate")
    events, warnings = _events(connection)
    return Index(
        users=tuple(starmap(User, connection.execute(_USERS))),
        studios=tuple(_studios(connection)),
        events=events,
        regions=_regions(connection, deployed),
        warnings=tuple(warnings),
    )


def _read_replacing(connection: sqlite3.Connection, deployed: Deployed) -> Index:
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


def _studios(connection: sqlite3.Connection) -> Iterator[Studio]:
    before = None
    for key, name, latitude, longitude, region, locale, logo, number in connection.execute(_STUDIOS):
        if _key(key, f"locations, id {number}") == before:
            raise Rejected(f"locations: the key {key!r} occurs twice", "keep one of them", code="duplicate")
        before = key
        north = _degrees(latitude, 90, key, "latitude")
        east = _degrees(longitude, 180, key, "longitude")
        yield Studio(key, name, north, east, region, locale, logo)


def _events(connection: sqlite3.Connection) -> tuple[tuple[Event, ...], list[str]]:
    rows = connection.execute(_EVENTS).fetchall()
    warnings = [
        f"showcases, id {number}: there is no location {location!r:.80}; the event is left out"
        for *_, studio, _, number, location in rows
        if studio is None
    ]
    if warnings:
        rows = [row for row in rows if row[3] is not None]
    for year in {row[0] for row in rows}:
        if not isinstance(year, int) or not 1900 <= year <= 9999:
            raise Rejected(f"showcases: {year!r:.80} is not a year", "correct the row", code="value")
    for key in {row[1] for row in rows}:
        _key(key, "showcases")
    return tuple(
        Event(year, key, name, studio, date) for year, key, name, studio, date, _, _ in rows
    ), warnings


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
    north = _degrees(latitude, 90, code, "latitude")
    east = _degrees(longitude, 180, code, "longitude")
    if north is None or east is None:
        raise Rejected(f"region {code!r} has no coordinates", "fill them in", code="value")
    return Region(code, _text(name), north, east)


def _key(value: object, place: str) -> str:
    if isinstance(value, str) and _KEY.match(value):
        return value
    raise Rejected(
        f"{place}: {value!r:.80} cannot be a key",
        "keys become parts of URLs and file names: letters, digits and dashes",
        code="value",
    )


def _degrees(value: object, limit: int, key: str, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= limit:
        raise Rejected(
            f"{key!r}: the {what} {value!r:.80} is not between -{limit} and {limit} degrees", code="value"
        )
    return number


def _text(value: object) -> str:
    """Any value as text; what is not UTF-8 becomes the replacement character."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_deployed(deployed_json: Path, regions_json: Path) -> Deployed:
    """The deployment's own JSON files, each of which counts only where it exists and parses."""
    return Deployed(_deployed_codes(_json(deployed_json)), _known_regions(_json(regions_json)))


def read_pending(deployed_json: Path) -> tuple[list[str], list[str]]:
    """The regions that deployed.json says are yet to be added and to be removed."""
    data = _json(deployed_json)
    pending = data.get("pending") if isinstance(data, dict) else None
    lists = [pending.get(name) if isinstance(pending, dict) else None for name in ("add", "delete")]
    added, removed = ([str(code) for code in codes] if isinstance(codes, list) else [] for codes in lists)
    return added, removed


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


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
            _region(_key(entry["code"], "regions"), entry["name"], entry["latitude"], entry["longitude"])
            for entry in data
        )
    except (KeyError, TypeError, Rejected):
        return None
