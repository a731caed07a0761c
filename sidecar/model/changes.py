"""What changes from one index to the next, for people: a summary by kind, and unified diffs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sidecar.model.artifacts import HTPASSWD, without_own_user
from sidecar.model.index import Index, User
from sidecar.model.record import Record

_MAX_NAMES = 200
_WAYS = ("added", "removed", "moved", "changed")
# What a changed field is called, and those whose values are worth reading.
_FIELDS = {"latitude": "place", "longitude": "place", "locale": "language"}
_WITH_VALUES = ("name", "date", "region")
_MAX_VALUE_CHARACTERS = 60


class NamedCount(Record, frozen=True):
    """How many, and the first of their names."""

    count: int = 0
    names: tuple[str, ...] = ()


class Delta(Record, frozen=True):
    """What happened to one kind of thing. Only studios move: from one region to another.

    Of users `changed` has the names alone; of all else also what changed: `york: name York to New York`.
    """

    added: NamedCount = NamedCount()
    removed: NamedCount = NamedCount()
    changed: NamedCount = NamedCount()
    moved: NamedCount = NamedCount()


class RegionLoss(Record, frozen=True):
    """A region (None: the studios of none) has fewer events; of a studio that moved, where it was before."""

    region: str | None
    before: int
    after: int


class Changes(Record, frozen=True):
    """The changes between two indexes. The names of users are for administrators only.

    `losses` are the regions that have fewer events, the worst first.
    """

    users: Delta = Delta()
    studios: Delta = Delta()
    events: Delta = Delta()
    regions: Delta = Delta()
    losses: tuple[RegionLoss, ...] = ()

    def each(self) -> Iterator[tuple[str, str, NamedCount]]:
        """What was added, removed, moved or changed of each kind, where that is any."""
        for kind in ("events", "studios", "users", "regions"):
            for what in _WAYS:
                names: NamedCount = getattr(getattr(self, kind), what)
                if names.count:
                    yield kind, what, names

    def sentences(self) -> list[str]:
        """One line a kind that changed, with numbers only: fit for the public."""
        lines = []
        for kind in ("users", "studios", "events", "regions"):
            delta: Delta = getattr(self, kind)
            parts = [f"{names.count} {what}" for what in _WAYS if (names := getattr(delta, what)).count]
            if parts:
                lines.append(f"{kind}: {', '.join(parts)}")
        return lines


class Differences(Record, frozen=True):
    """The way from one generation to another.

    `changes` is None where an index of theirs cannot be read any more. `files` has a unified diff of each
    artifact that differs, without the hashes of passwords.
    """

    before: int
    after: int
    changes: Changes | None
    files: dict[str, str]


def changes(
    old: Index, old_owners: Mapping[str, str | None], new: Index, new_owners: Mapping[str, str | None]
) -> Changes:
    """The changes from `old` to `new`; the owners tell which region each studio belongs to."""
    moved = [
        f"{key}: {old_owners[key] or 'everywhere'} to {region or 'everywhere'}"
        for key, region in new_owners.items()
        if key in old_owners and old_owners[key] != region
    ]
    return Changes(
        users=_delta(old.users, new.users, lambda user: user.userid),
        studios=_delta(old.studios, new.studios, lambda studio: studio.key, moved),
        events=_delta(old.events, new.events, lambda event: (event.year, event.studio, event.key)),
        regions=_delta(old.regions, new.regions, lambda region: region.code),
        losses=_losses(old, new, {**new_owners, **old_owners}),
    )


def _losses(old: Index, new: Index, owners: Mapping[str, str | None]) -> tuple[RegionLoss, ...]:
    if old.events == new.events:
        return ()
    before, after = (Counter(owners[event.studio] for event in one.events) for one in (old, new))
    lost = [RegionLoss(region, before[region], after[region]) for region in before - after]
    return tuple(sorted(lost, key=lambda one: one.after - one.before))


def _delta(
    old: Sequence[Any], new: Sequence[Any], name: Callable[[Any], Hashable], moved: Iterable[str] = ()
) -> Delta:
    if old == new:
        return Delta(moved=_names(moved))
    before, after = {name(one): one for one in old}, {name(one): one for one in new}
    return Delta(
        added=_names(key for key in after if key not in before),
        removed=_names(key for key in before if key not in after),
        changed=_names(
            _name(key) if isinstance(value, User) else f"{_name(key)}: {_difference(before[key], value)}"
            for key, value in after.items()
            if key in before and before[key] != value
        ),
        moved=_names(moved),
    )


def _names(keys: Iterable[Any]) -> NamedCount:
    found = sorted(map(_name, keys))
    return NamedCount(len(found), tuple(found[:_MAX_NAMES]))


def _name(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _difference(old: Any, new: Any) -> str:
    """What changed of one thing, in words."""
    words = []
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            values = f" {_value(before)} to {_value(after)}" if field in _WITH_VALUES else ""
            words.append(f"{_FIELDS.get(field, field)}{values}")
    return ", ".join(dict.fromkeys(words))


def _value(value: Any) -> str:
    text = str(value or "none")
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}…"


def unified(name: str, old: bytes | None, new: bytes) -> str:
    """A unified diff of one artifact; empty when nothing changed but the sidecar's own account."""
    if name == HTPASSWD:
        old, new = None if old is None else without_own_user(old), without_own_user(new)
    before = [] if old is None else old.decode("utf-8", "replace").splitlines(keepends=True)
    after = new.decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}"))
