"""How a machine is doing, in two words: sync and health, each with its reason."""

from __future__ import annotations

from typing import Literal, get_args

from sidecar.model.record import Record

SyncState = Literal["synced", "out_of_sync", "pinned", "unknown"]
HealthState = Literal["healthy", "progressing", "degraded", "waiting"]
FleetWord = Literal["idle", "running", "done", "failed"]
Tone = Literal["good", "busy", "note", "bad", "quiet"]
SYNC: tuple[SyncState, ...] = get_args(SyncState)
HEALTH: tuple[HealthState, ...] = get_args(HealthState)

STATES: dict[str, tuple[Tone, str]] = {
    # sync
    "synced": ("good", "Synced"),
    "out_of_sync": ("bad", "Out of sync"),
    "pinned": ("note", "Pinned"),
    "unknown": ("note", "Unknown"),
    # health
    "healthy": ("good", "Healthy"),
    "progressing": ("busy", "Progressing"),
    "degraded": ("bad", "Degraded"),
    "waiting": ("note", "Waiting"),
    "updating": ("busy", "Updating"),
    # of a machine in the fleet
    "in_sync": ("good", "In sync"),
    # of a run
    "published": ("note", "Published"),
    "never_loaded": ("quiet", "Never loaded"),
    "loaded": ("good", "Loaded"),
    "ready": ("good", "Ready"),
    "unchanged": ("quiet", "Unchanged"),
    "rejected": ("bad", "Rejected"),
    "rolled_back": ("bad", "Rolled back"),
    "failed": ("bad", "Failed"),
    # of a machine or of work in the background
    "ok": ("good", "Done"),
    "done": ("good", "Done"),
    "running": ("busy", "Running"),
    "idle": ("quiet", "Idle"),
    "skipped": ("quiet", "Nothing to do"),
    "stale": ("note", "Behind"),
    "behind": ("note", "Behind"),
    "unreachable": ("bad", "No answer"),
    "unseen": ("quiet", "Not looked at"),
    "down": ("bad", "Down"),
    # of a machine in a fleet update, and of that itself
    "poking": ("busy", "Poking"),
    "retrying": ("busy", "Trying again"),
    "stopped": ("quiet", "Stopped"),
    "refused": ("bad", "Refused"),
    "wrong_machine": ("bad", "Wrong machine"),
    "failing": ("bad", "Failing"),
    "hanging": ("bad", "No end"),
    "denied": ("bad", "Denied"),
    "lagging": ("bad", "Lagging"),
    "returned": ("good", "Taken back"),
    "untouched": ("quiet", "Not asked"),
    "fleet_updated": ("good", "Fleet updated"),
}
"""A state of anything, by its tone and in words. The tone becomes a colour, which never stands alone."""


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
