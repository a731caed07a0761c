"""The indexes that the store has held: what is known of each, and which one to go back to. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from sidecar.errors import SidecarError
from sidecar.model.record import Record

MAX_KEPT = 20
KEPT_SECONDS = 90 * 86400.0
"""How many indexes are kept, and for how long; whatever is needed for one step back stays all the same."""
_MIN_KEPT = 2
_MIN_DIGITS = 4

Kind = Literal["found", "update", "rollback"]
TAKEN_BACK = ("taken_back", "frozen")
How = Literal["under_way", "stored", "loaded", "lagging", "taken_back", "frozen"]


class PastIndex(Record, frozen=True):
    """One index that was brought to the fleet.

    `kind` is update, rollback, or found (somebody else had stored it, and an update replaced it). `at` is
    when that began, or when it was found, `modified` how old the index is, both in seconds since 1970; `size`
    in bytes. `changes` are sentences without names, against the index `replaced`. `state` tells how far it
    came: under_way (also when nobody saw it through), stored (nobody followed it), loaded (by all), lagging
    (in the store, but not on every machine), taken_back, frozen (it could not be taken back wholly); `loaded`
    of `machines` had it then, and `note` says why not all.
    """

    sha256: str
    size: int
    modified: float
    at: float
    who: str
    kind: Kind = "update"
    replaced: str | None = None
    changes: tuple[str, ...] = ()
    state: How = "under_way"
    loaded: int = 0
    machines: int = 0
    note: str = ""


class UnknownIndex(SidecarError):
    """There is no such index in the history."""

    code = "fleet_history"
    status = 404


def previous(entries: Sequence[PastIndex], held: str) -> PastIndex:
    """The index before the one that the store holds, else `UnknownIndex`; `entries` are newest first.

    A rollback is no step of its own: the next one goes further back, and never to what was taken back.
    """
    own = _own(entries, held)
    older = entries if own is None else entries[entries.index(own) + 1 :]
    for one in older:
        if one.sha256 != held and was_held(one, entries):
            return one
    raise UnknownIndex(
        "the history has no index before the one that the store holds",
        "`sidecar fleet history` lists those that can be named",
    )


def named(entries: Sequence[PastIndex], digest: str) -> PastIndex:
    """The newest entry whose SHA-256 begins like this."""
    fitting = [one for one in entries if one.sha256.startswith(digest.lower())]
    if len(digest) < _MIN_DIGITS or len({one.sha256 for one in fitting}) != 1:
        few = "names none" if not fitting else "is too short to name one"
        raise UnknownIndex(
            f"{digest!r} {few} of the indexes in the history", "`sidecar fleet history` lists them"
        )
    return fitting[0]


def before(entries: Sequence[PastIndex], moment: float, held: str) -> PastIndex:
    """What the store, which holds `held` now, held just before a moment, in seconds since 1970."""
    for one in entries:
        if one.at < moment and was_held(one, entries, held):
            return one
    raise UnknownIndex("the history does not go back that far", "`sidecar fleet history` lists what it holds")


def was_held(one: PastIndex, entries: Sequence[PastIndex], held: str | None = None) -> bool:
    """Whether the store has held it for more than a try; `held` is what it holds now.

    Of one that nobody saw through to its end it is known once another took its place.
    """
    if one.state == "under_way":
        return one.sha256 == held or any(other.replaced == one.sha256 for other in entries)
    return one.state not in TAKEN_BACK


def ending(entries: Sequence[PastIndex], held: str | None) -> PastIndex | None:
    """The rollback that an update of the store, which holds this, would end."""
    newest = next((one for one in entries if was_held(one, entries, held)), None)
    return newest if newest is not None and (newest.kind, newest.sha256) == ("rollback", held) else None


def superfluous(keys: Sequence[tuple[str, PastIndex]], now: float) -> list[str]:
    """The keys of the entries that are no longer kept; the pairs are newest first."""
    needed = _needed([one for _, one in keys])
    return [
        key
        for number, (key, one) in enumerate(keys)
        if number >= _MIN_KEPT and (number >= MAX_KEPT or now - one.at > KEPT_SECONDS) and one not in needed
    ]


def _needed(entries: Sequence[PastIndex]) -> list[PastIndex]:
    """What one step back needs, however many were tried and taken back since."""
    newest = next((one for one in entries if was_held(one, entries)), None)
    if newest is None:
        return []
    needed = [newest]
    if own := _own(entries, newest.sha256):
        needed.append(own)
    with suppress(UnknownIndex):
        needed.append(previous(entries, newest.sha256))
    return needed


def _own(entries: Sequence[PastIndex], held: str) -> PastIndex | None:
    """The entry by which an index came to the fleet: a rollback to it is none."""
    return next((one for one in entries if one.sha256 == held and one.kind != "rollback"), None)
