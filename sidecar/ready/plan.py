"""Decides what becomes of each event database: pure, from what is here, in the store, and remembered.

The rules that keep data safe: the region that owns an event writes its database, and a machine never
overwrites an existing, non-empty database that its own region owns. Elsewhere a newer object replaces the
file. A missing or empty file is always fetched. Ages are compared in whole seconds, as the application's
own tools do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sidecar.generate.ownership import tenants
from sidecar.model.index import Programme
from sidecar.model.objects import Stored
from sidecar.model.record import Record

SUFFIX = ".sqlite3"
PREFIX = "db/"
INDEX = "index"

_EVENT = re.compile(r"[0-9]{4}-.+\Z")

Action = Literal["fetch", "keep", "ask", "create"]


class Here(Record, frozen=True):
    """A file: its size in bytes, its last change in seconds since 1970; `signature` moves with any."""

    size: int
    modified: float
    signature: str


class Known(Record, frozen=True):
    """What is remembered of a database: the object it came from or went to.

    `modified` is that object's true age, `signature` the file's at that time.
    """

    etag: str
    modified: float
    signature: str


class Wanted(Record, frozen=True):
    """A database that belongs here: its stem, the owning region, whether this machine writes it."""

    name: str
    owner: str | None
    ours: bool
    served: bool


class Verdict(Record, frozen=True):
    """What to do with a database, and why; `ask` means that its object's true age must be asked for."""

    action: Action
    reason: str


def key(name: str) -> str:
    """The key of a database's object."""
    return f"{PREFIX}{name}{SUFFIX}"


def wanted(
    programmes: Sequence[Programme],
    served: Iterable[str],
    region: str | None,
    *,
    owns_all: bool,
    copies: bool,
) -> dict[str, Wanted]:
    """The databases that belong here by stem: those of the served tenants, with `copies` those of all events.

    The index is not among them. A tenant that is no event (the demonstration, say) is written here.
    """
    here = dict.fromkeys(name for name in served if name != INDEX)
    found = {}
    for programme in programmes:
        for tenant in tenants(programme):
            name = tenant.database
            if name in here or copies:
                ours = owns_all or (region is not None and programme.region == region)
                found[name] = Wanted(name, programme.region, ours, name in here)
    for name in here:
        found.setdefault(name, Wanted(name, region, True, True))
    return found


def decide(
    one: Wanted, here: Here | None, stored: Stored | None, known: Known | None, age: float | None = None
) -> Verdict:
    """What becomes of a database; `age` is its object's true one, where that was asked for."""
    empty = here is None or here.size == 0
    if stored is None:
        if empty:
            return Verdict("create", "neither here nor in the store")
        return Verdict("keep", "not in the store")
    if here is None or here.size == 0:
        return Verdict("fetch", "missing here" if here is None else "empty here")
    if one.ours:
        return Verdict("keep", "written here")
    untouched = known is not None and known.signature == here.signature
    if known is not None and known.etag == stored.etag:
        if untouched:
            return Verdict("keep", "the same as in the store")
        age = known.modified
    if age is None:
        return Verdict("ask", "another object than the one last seen")
    mine = known.modified if known is not None and untouched else here.modified
    if int(age) > int(mine):
        return Verdict("fetch", "older here than in the store")
    return Verdict("keep", "not older here than in the store")


def orphans(here: Mapping[str, Here], belonging: Mapping[str, Wanted]) -> list[str]:
    """The databases of events that no longer belong here."""
    return sorted(name for name in here if _EVENT.match(name) and name not in belonging)


def keeps(here: Here, stored: Stored | None, known: Known | None) -> str | None:
    """Why an orphan must be kept; None when the store surely has all of it, by the object's own true age."""
    if stored is None:
        return "it is not in the store"
    if known is not None and known.etag == stored.etag and known.signature == here.signature:
        return None
    return "it is newer here than in the store" if int(here.modified) > int(stored.modified) else None


def pushes(here: Here | None, stored: Stored | None, known: Known | None, age: float | None) -> bool:
    """Whether a database that is written here has something that the store has not."""
    if here is None or here.size == 0:
        return False
    if stored is None:
        return True
    if known is not None and known.etag == stored.etag and known.signature == here.signature:
        return False
    return age is None or int(here.modified) > int(age)


def migrations(names: Iterable[str]) -> frozenset[str]:
    """The versions of the application's migrations, by the names of their files."""
    found = (re.match(r"([0-9]+)_.*\.rb\Z", name) for name in names)
    return frozenset(match[1] for match in found if match)
