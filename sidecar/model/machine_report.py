"""What a machine tells everyone at `<root>/update_status`: its state and digests, and nothing else."""

from __future__ import annotations

import msgspec

from sidecar.model.record import Record
from sidecar.model.status import Status


class MachineReport(Record, frozen=True):
    """A machine's word about itself.

    `sync` and `health` are its two words (see `model.states`), `busy` while an update is under way.
    `generation` is the one in place, `published` the SHA-256 of its index; `loaded` and `sha256` are those
    that the living web server serves, `since` and `modified` when that was published and how old its index
    is, both in seconds since 1970. `ready` is the generation whose ready work is done, `unready` the one
    whose ready work has failed. `refused` is the SHA-256 of the index that was refused last, `reason` the
    code that says why.
    """

    machine: str
    region: str | None
    sync: str
    health: str
    busy: bool = False
    generation: int | None = None
    published: str | None = None
    loaded: int | None = None
    sha256: str | None = None
    since: float | None = None
    modified: float | None = None
    ready: int | None = None
    refused: str | None = None
    reason: str | None = None
    unready: int | None = None


class LoadedIndex(Record, frozen=True):
    """Of the generation that is loaded: its index's SHA-256 and age, and when it was made."""

    sha256: str
    modified: float | None
    created: float


def served(status: Status, loaded: LoadedIndex | None, refusal: tuple[str, str] | None) -> MachineReport:
    """What `GET /status` tells, cut down to what the public may know.

    `refusal` is the SHA-256 of the index that was refused last, with the code of the reason.
    """
    generation, work = status.generation, status.ready
    in_force = loaded is not None and generation.loaded is not None
    return MachineReport(
        machine=status.machine,
        region=status.region,
        sync=status.sync.state,
        health=status.health.state,
        busy=status.running is not None,
        generation=generation.current,
        published=status.index.sha256,
        loaded=generation.loaded,
        sha256=loaded.sha256 if loaded and in_force else None,
        since=(status.published if generation.loaded == generation.current else loaded.created)
        if loaded and in_force
        else None,
        modified=loaded.modified if loaded and in_force else None,
        ready=generation.ready,
        unready=work.generation if work.state == "failed" else None,
        refused=refusal[0] if refusal else None,
        reason=refusal[1] if refusal else None,
    )


def decode(body: bytes) -> MachineReport | None:
    """A machine's answer, or None when it is nothing of the kind."""
    try:
        return msgspec.json.decode(body, type=MachineReport)
    except msgspec.MsgspecError:
        return None
