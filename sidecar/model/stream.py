"""What `GET /events` tells, and the stream of a run: a record a kind of event.

Moments are seconds since 1970, durations seconds. The last event of a run's stream is `outcome`, with what
the same request answers as JSON, or `error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sidecar.model.record import Record
from sidecar.model.states import FleetWord
from sidecar.model.work import Step, WorkState


class StreamEvent(Record, frozen=True):
    """Base of the events: `kind` is the name in the stream."""

    kind: ClassVar[str]


Emit = Callable[[StreamEvent], None]
"""Tells whoever listens."""


class RunStarted(StreamEvent, frozen=True):
    """A run has begun: what asked for it, on whose behalf."""

    kind: ClassVar[str] = "started"
    trigger: str
    who: str


class LogLine(StreamEvent, frozen=True):
    """The run under way says something, with the time of day (UTC) in front."""

    kind: ClassVar[str] = "log"
    line: str


class StageEnded(StreamEvent, frozen=True):
    """A stage of the run has ended, after so long."""

    kind: ClassVar[str] = "stage"
    stage: str
    seconds: float


class RunFinished(StreamEvent, frozen=True):
    """A run has ended; `generation` is the one in place now."""

    kind: ClassVar[str] = "finished"
    state: str
    generation: int | None
    seconds: float


class GenerationLoaded(StreamEvent, frozen=True):
    """Navigator serves a generation, so long after its publication (null: unknown)."""

    kind: ClassVar[str] = "loaded"
    generation: int
    seconds: float | None


class GenerationNotLoaded(StreamEvent, frozen=True):
    """Navigator did not load a generation: a code and a sentence."""

    kind: ClassVar[str] = "not_loaded"
    generation: int
    reason: str
    message: str


class NavigatorChanged(StreamEvent, frozen=True):
    """Navigator's process is another one (null: it is down)."""

    kind: ClassVar[str] = "navigator"
    process: str | None


class NavigatorReloaded(StreamEvent, frozen=True):
    """Navigator has loaded its configuration again, though nothing was published."""

    kind: ClassVar[str] = "reloaded"
    at: float


class ReadyProgress(StreamEvent, frozen=True):
    """How far the ready work for a generation is, or how it ended."""

    kind: ClassVar[str] = "ready"
    generation: int
    state: WorkState
    steps: tuple[Step, ...]


class ReadyLogLine(StreamEvent, frozen=True):
    """A command of a step of the ready work has printed a line."""

    kind: ClassVar[str] = "ready_log"
    step: str
    line: str


class FleetEvent(StreamEvent, frozen=True):
    """Something about a fleet update; where a machine stands is a `fleet.report.Result`."""

    kind: ClassVar[str] = "fleet"


class FleetStarted(FleetEvent, frozen=True):
    """An update of all machines has begun: when, on whose behalf."""

    started: float
    who: str


class FleetSize(FleetEvent, frozen=True):
    """So many machines will be poked."""

    machines: int


class FleetLogLine(FleetEvent, frozen=True):
    """A sentence about the whole."""

    line: str


class FleetEnded(FleetEvent, frozen=True):
    """The update of all machines has ended."""

    state: FleetWord


STREAM_EVENTS: tuple[type[StreamEvent], ...] = (
    RunStarted,
    LogLine,
    StageEnded,
    RunFinished,
    GenerationLoaded,
    GenerationNotLoaded,
    NavigatorChanged,
    NavigatorReloaded,
    ReadyProgress,
    ReadyLogLine,
    FleetStarted,
    FleetSize,
    FleetLogLine,
    FleetEnded,
)
"""All of them but a machine's result, which is the fleet's own."""
