"""What `GET /status` tells: the state of a machine, with nothing secret and no names of users in it.

Moments are seconds since 1970, durations seconds, digests SHA-256 in hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from sidecar.model.record import Problem, Record
from sidecar.model.states import Health, Sync
from sidecar.model.work import Step, WorkState

Count = Annotated[int, msgspec.Meta(ge=0)]
NavigatorWord = Literal["up", "down"]
ReadyWord = Literal["idle", "waiting", WorkState]


class GenerationNumbers(Record, frozen=True):
    """Which generation stands where, each None while there is none.

    `current` is in place, `loaded` served by the living Navigator, `ready` the one whose ready work is done,
    `pending` is being loaded. `source` is the one that `current` is a copy of; a `pinned` one stays until a
    person asks for an update.
    """

    current: Count | None
    loaded: Count | None
    ready: Count | None
    pending: Count | None
    source: Count | None
    pinned: bool


class PublishedIndex(Record, frozen=True):
    """The index that is in place: `etag` as the store names it, its digest, and how old it is."""

    etag: str | None
    sha256: str | None
    modified: float | None


class NavigatorState(Record, frozen=True):
    """Whether the web server runs, and as which `process`, in words."""

    state: NavigatorWord
    process: str | None


class ReadyState(Record, frozen=True):
    """The ready work, under way or as it ended; its steps without what their commands printed.

    `waiting`: another process on the machine does it. `superseded`: a newer generation was loaded meanwhile.
    """

    state: ReadyWord
    generation: Count | None
    started: float | None
    seconds: float | None
    steps: tuple[Step, ...]


class RunUnderWay(Record, frozen=True):
    """A run that has not ended: what asked for it, and when it began."""

    trigger: str
    since: float


class LastRun(Record, frozen=True):
    """How the last run ended; `stages` are how long each took."""

    state: str
    trigger: str
    started: float
    seconds: float
    stages: dict[str, float]
    error: Problem | None


class Status(Record, frozen=True):
    """The state of a machine.

    `app` and `region` are Fly's names, None elsewhere. `fingerprint` names the content of the generation in
    place, and `published` tells when it was put there, with so many `tenants` and `users`. `drift` are the
    files that somebody else has changed since, `waiting` the requests that wait for their run. `last` is the
    last run, and `error` what the last one failed of whose failure says something about this machine.
    `problems` are sentences about what does not work besides. `started` is when the daemon began.
    """

    version: str
    machine: str
    app: str | None
    region: str | None
    sync: Sync
    health: Health
    generation: GenerationNumbers
    fingerprint: str | None
    index: PublishedIndex
    published: float | None
    tenants: Count | None
    users: Count | None
    navigator: NavigatorState
    ready: ReadyState
    drift: tuple[str, ...]
    waiting: Count
    running: RunUnderWay | None
    last: LastRun | None
    error: Problem | None
    problems: tuple[str, ...]
    started: float

    def fields(self) -> dict[str, Any]:
        """Each field by its name, in order."""
        return msgspec.structs.asdict(self)
