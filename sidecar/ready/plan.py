"""Decides what becomes of each event database: pure, from what is here, in the store, and remembered.

The region that owns an event writes its database; elsewhere it is a copy. Three versions are compared: the
file, the object, and the one that both once were (`LastSynced`). Either side may have moved on since:

| file \\ object | none         | as it was      | another, or never seen                             |
| -------------- | ------------ | -------------- | -------------------------------------------------- |
| none, or empty | create       | fetch          | fetch                                              |
| as it was      | ours: push   | keep           | ours: conflict; a copy: fetch                      |
| changed, or    | ours: push   | ours: push     | ours: keep if they prove to be equal, else         |
| unknown        | a copy: keep | a copy: by age | conflict; a copy: by age                           |

By age means: the newer one counts, in whole seconds, as the application's own tools have it. That is for
copies alone, which nobody writes. What this machine wrote and has not stored is never replaced, also when its
event has moved to another region since: then *push* becomes a conflict, because the new owner works on
without it. A conflict is told of, and settled by a person.
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

# Ages are kept with so many seconds of precision in an object's metadata.
_PRECISION_SECONDS = 1e-3
_EVENT = re.compile(r"[0-9]{4}-.+\Z")

Action = Literal["fetch", "keep", "create", "push", "conflict", "ask", "compare"]


class LocalDatabase(Record, frozen=True):
    """A file: its size in bytes, its last change in seconds since 1970; `signature` moves with any."""

    size: int
    modified: float
    signature: str


class UnconfirmedUpload(Record, frozen=True):
    """An upload whose end is not known: MD5 and size of what was sent, and the file it was copied from."""

    md5: str
    size: int
    modified: float
    signature: str


class LastSynced(Record, frozen=True, omit_defaults=True):
    """What is remembered of a database: the object it came from or went to.

    `modified` is that object's true age in seconds since 1970, `signature` the file's at that time; without a
    signature the object was only looked at. `ours`: this machine has written it since.
    """

    etag: str = ""
    modified: float = 0.0
    signature: str = ""
    ours: bool = False
    sent: UnconfirmedUpload | None = None


class DesiredDatabase(Record, frozen=True):
    """A database that belongs here: its stem, the owning region, whether this machine writes it."""

    name: str
    owner: str | None
    ours: bool
    served: bool


class Decision(Record, frozen=True):
    """What to do with a database, and why.

    `push` only happens when somebody asks for it, `conflict` is told of. To `ask` means for the object's true
    age, to `compare` that file and object must be looked at byte by byte; then it is decided again.
    """

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
) -> dict[str, DesiredDatabase]:
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
                found[name] = DesiredDatabase(name, programme.region, ours, name in here)
    for name in here:
        found.setdefault(name, DesiredDatabase(name, region, True, True))
    return found


def decide(
    one: DesiredDatabase,
    here: LocalDatabase | None,
    stored: Stored | None,
    known: LastSynced | None,
    age: float | None = None,
    same: bool | None = None,
) -> Decision:
    """What becomes of a database; `age` is its object's true one, `same` whether both have the same bytes."""
    known = known or LastSynced()
    if here is None or here.size == 0:
        if stored is None:
            return Decision("create", "neither here nor in the store")
        return Decision("fetch", "missing here" if here is None else "empty here")
    if stored is None:
        return _only_here(one, known, "not in the store")
    clean = known.signature == here.signature
    if known.signature and known.etag == stored.etag:
        if clean:
            return Decision("keep", "the same as in the store")
        if one.ours or known.ours:
            return _only_here(one, known, "changed here since it was stored")
    elif one.ours or (known.ours and not clean):
        return _both_moved(stored, here, same, clean=clean)
    elif clean:
        return Decision("fetch", "changed in the store")
    if known.etag == stored.etag:
        age = known.modified
    if age is None:
        return Decision("ask", "another object than the one last seen")
    if int(age) > int(here.modified):
        return Decision("fetch", "older here than in the store")
    return Decision("keep", "not older here than in the store")


def _only_here(one: DesiredDatabase, known: LastSynced, what: str) -> Decision:
    """The file holds what the object does not, and nobody has changed that since."""
    if one.ours:
        return Decision("push", what)
    if known.ours:
        return Decision("conflict", f"{what}; its event has moved to another region")
    return Decision("keep", what)


def _both_moved(stored: Stored, here: LocalDatabase, same: bool | None, *, clean: bool) -> Decision:
    """The object is another than the one that this file, which is written here, came from or went to."""
    if same is None and stored.size == here.size and not clean:
        return Decision("compare", "another object than the one last seen")
    if same:
        return Decision("keep", "the same as in the store")
    return Decision(
        "conflict", f"the store holds another copy{'' if clean else ', and this one has changed'}"
    )


def came_through(sent: UnconfirmedUpload, stored: Stored, age: float | None) -> bool:
    """Whether an object is what an upload without an answer has left; `age` is its true one, where known."""
    if stored.etag == sent.md5:
        return True
    return stored.size == sent.size and age is not None and abs(age - sent.modified) < _PRECISION_SECONDS


def orphans(here: Mapping[str, LocalDatabase], belonging: Mapping[str, DesiredDatabase]) -> list[str]:
    """The databases of events that no longer belong here."""
    return sorted(name for name in here if _EVENT.match(name) and name not in belonging)


def keeps(
    here: LocalDatabase, stored: Stored | None, known: LastSynced | None, *, same: bool = False
) -> str | None:
    """Why an orphan must be kept; None when the store surely has all of it, byte by byte."""
    if stored is None:
        return "it is not in the store"
    if same or (known is not None and known.etag == stored.etag and known.signature == here.signature):
        return None
    return "the store holds another copy"


def migrations(names: Iterable[str]) -> frozenset[str]:
    """The versions of the application's migrations, by the names of their files."""
    found = (re.match(r"([0-9]+)_.*\.rb\Z", name) for name in names)
    return frozenset(match[1] for match in found if match)
