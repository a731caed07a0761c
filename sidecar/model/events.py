"""What happens to a generation after its publication, told to whoever subscribes."""

from __future__ import annotations

from sidecar.model.navigator import Process
from sidecar.model.record import Record


class Loaded(Record, frozen=True):
    """Navigator serves a generation and the probes passed; `seconds` after its publication, None: unknown."""

    generation: int
    seconds: float | None


class NotLoaded(Record, frozen=True):
    """A generation was not loaded: a code and a sentence; `goes_back` is the one to restore, or None."""

    generation: int
    reason: str
    message: str
    goes_back: int | None


class NavigatorSeen(Record, frozen=True):
    """Navigator's process has changed; None: it is down."""

    process: Process | None


class Reloaded(Record, frozen=True):
    """Navigator has loaded its configuration again, though nothing was published."""


LifecycleEvent = Loaded | NotLoaded | NavigatorSeen | Reloaded
