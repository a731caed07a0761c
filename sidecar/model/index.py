"""What the index database says, and what follows from it, as frozen records.

Records cross every border between modules; dictionaries stop at the parsers. All are hashable, so
that work done for one of them can be remembered (see `generate.cache`).
"""

from __future__ import annotations

from sidecar.model.record import Record


class User(Record, frozen=True, gc=False):
    """A row of `users`: `line` is a whole htpasswd line, `userid:hash`."""

    userid: str
    line: str


class Region(Record, frozen=True, gc=False):
    """A deployed region; coordinates in degrees, both or none."""

    code: str
    name: str
    latitude: float | None
    longitude: float | None


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

    `regions` are the deployed ones, in the order that decides ties. `partial` are the programmes, by year
    and studio, of which an event was left out. `warnings` are sentences about rows that were passed over.
    """

    users: tuple[User, ...]
    studios: tuple[Studio, ...]
    events: tuple[Event, ...]
    regions: tuple[Region, ...]
    partial: frozenset[tuple[int, str]] = frozenset()
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
