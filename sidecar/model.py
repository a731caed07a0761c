"""What the index database says, and what follows from it, as frozen records.

Records cross every border between modules; dictionaries stop at the parsers. All are hashable, so
that work done for one of them can be remembered (see `memo`).
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True):
    """Base of the records: immutable, compared by value."""


class User(Record, frozen=True, gc=False):
    """A row of `users`: `line` is a whole htpasswd line, `userid:hash`."""

    userid: str
    line: str


class Region(Record, frozen=True, gc=False):
    """A deployed region; coordinates in degrees."""

    code: str
    name: str
    latitude: float
    longitude: float


class Studio(Record, frozen=True, gc=False, cache_hash=True):
    """A row of `locations`; `key` is its token in URLs, coordinates in degrees."""

    key: str
    name: str
    latitude: float | None
    longitude: float | None
    region: str | None
    locale: str | None
    logo: str | None


class Event(Record, frozen=True, gc=False):
    """A row of `showcases`, with the key of its location."""

    year: int
    key: str
    name: str
    studio: str
    date: str | None


class Index(Record, frozen=True):
    """The whole index: users by line, studios by key, events by year (descending), studio and order.

    `regions` are the deployed ones, in the order that decides ties. `warnings` are sentences about
    rows that were passed over.
    """

    users: tuple[User, ...]
    studios: tuple[Studio, ...]
    events: tuple[Event, ...]
    regions: tuple[Region, ...]
    warnings: tuple[str, ...] = ()


class Programme(Record, frozen=True, gc=False, cache_hash=True):
    """One studio's events of one year: a line of showcases.yml.

    A `single` event (one, with the key `showcase`) lies at `/<year>/<studio>/`, the events of any
    other programme at `/<year>/<studio>/<event>/`.
    """

    year: int
    studio: Studio
    region: str | None
    events: tuple[Event, ...]
    single: bool


class Tenant(Record, frozen=True, gc=False):
    """One event as the web server sees it: `scope` is its path below the root, `database` a file's stem."""

    scope: str
    database: str
    owner: str
    logo: str
    locale: str | None


class Page(Record, frozen=True, gc=False):
    """A page worth prerendering: URL path below the root, and file below the public folder."""

    path: str
    file: str


class Artifact(Record, frozen=True, gc=False):
    """One generated file: its name in the set and its bytes."""

    name: str
    content: bytes


class Fetched(Record, frozen=True):
    """An object that was fetched into a file.

    `etag` as the store names this content, `modified` its true age in seconds since 1970 (or None),
    `sha256` in hexadecimal, `size` in bytes.
    """

    etag: str
    modified: float | None
    sha256: str
    size: int


class Stored(Record, frozen=True, gc=False):
    """An object as the store tells of it.

    `modified` is in seconds since 1970: the object's true age where its metadata were asked for, in a listing
    the time of its upload.
    """

    key: str
    etag: str
    modified: float
    size: int


class Problem(Record, frozen=True):
    """An error as data: a stable code, what happened, what to do, the fitting HTTP status."""

    code: str
    message: str
    hint: str
    status: int
