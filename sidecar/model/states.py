"""How a machine is doing, in two words: sync and health, each with its reason."""

from __future__ import annotations

from typing import Literal, get_args

from sidecar.model.record import Record

SyncState = Literal["synced", "out_of_sync", "pinned", "unknown"]
HealthState = Literal["healthy", "progressing", "degraded", "waiting"]
FleetWord = Literal["idle", "running", "done", "failed"]
SYNC: tuple[SyncState, ...] = get_args(SyncState)
HEALTH: tuple[HealthState, ...] = get_args(HealthState)


class Sync(Record, frozen=True):
    """The store's index against what is published here.

    `synced`: the same, or one that was sent along, while the store may be behind. `out_of_sync`: another, or
    files that somebody changed. `pinned`: a person restored an older generation, which stays. `unknown`: the
    last look at the store failed, or there was none. `reason` is a sentence; `store` the SHA-256 of the
    store's index when it was seen last, `looked` when that was, `next` when the regular look is due, both in
    seconds since 1970.
    """

    state: SyncState
    reason: str
    store: str | None = None
    looked: float | None = None
    next: float | None = None


class Health(Record, frozen=True):
    """What the living Navigator serves.

    `healthy`: the published set. `progressing`: a boot or a load is under way. `degraded`: something older or
    foreign after a failure. `waiting`: there is no Navigator. `reason` is a sentence; `phase` the phase of
    `update.lifecycle` behind it, or `rolled_back`; `since` when it began, in seconds since 1970.
    """

    state: HealthState
    reason: str
    phase: str
    since: float
