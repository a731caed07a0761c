"""What happens, told to whoever listens: each listener has a bounded queue of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.model.events import LifecycleEvent, Loaded, NavigatorSeen, NotLoaded
from sidecar.model.record import Record
from sidecar.model.stream import (
    GenerationLoaded,
    GenerationNotLoaded,
    NavigatorChanged,
    NavigatorReloaded,
    StreamEvent,
)

_MAX_BACKLOG = 1000


class StreamedEvent(Record, frozen=True):
    """Something that happened, with its running number."""

    number: int
    data: StreamEvent


class Broker:
    """Hands events to its listeners.

    A listener that does not keep up loses the oldest ones, and can tell by the numbers.
    """

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[StreamedEvent | None]] = set()
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def startup(self) -> None:
        """Remember the loop, so that other threads can emit."""
        self._loop = asyncio.get_running_loop()

    def emit(self, data: StreamEvent) -> None:
        """Tell of an event, from any thread."""
        if self._loop is None or not self._listeners:
            return
        event = StreamedEvent(next(self._numbers), data)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._deliver(event)
        else:
            self._loop.call_soon_threadsafe(self._deliver, event)

    def on_event(self, event: LifecycleEvent) -> None:
        """Tell of what became of a generation."""
        if isinstance(event, Loaded):
            self.emit(GenerationLoaded(event.generation, event.seconds))
        elif isinstance(event, NotLoaded):
            self.emit(GenerationNotLoaded(event.generation, event.reason, event.message))
        elif isinstance(event, NavigatorSeen):
            self.emit(NavigatorChanged(None if event.process is None else str(event.process)))
        else:
            self.emit(NavigatorReloaded(time.time()))

    def _deliver(self, event: StreamedEvent | None) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[StreamedEvent | None]]:
        """A queue of the events from now on; None says that the daemon stops."""
        queue: asyncio.Queue[StreamedEvent | None] = asyncio.Queue(_MAX_BACKLOG)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """Let every listener end."""
        self._deliver(None)
