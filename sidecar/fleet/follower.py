"""Starts work after something has changed and been left alone for a while, but not for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sidecar.errors import SidecarError

logger = logging.getLogger(__name__)


def due(first: float, last: float, quiet: float, longest: float) -> float:
    """When to start: `quiet` after the last change, but no later than `longest` after the first."""
    return min(last + quiet, first + longest)


class Follower:
    """One run at a time; what changes during a run makes another one."""

    def __init__(
        self,
        work: Callable[[], Awaitable[object]],
        quiet: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._quiet = quiet
        self._longest = longest
        self._clock = clock
        self._changed = asyncio.Event()
        self._first: float | None = None
        self._last = 0.0

    def changed(self) -> None:
        """Something changed now."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last
        self._changed.set()

    async def run(self) -> None:
        """Wait and work, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._first is None:
                continue
            pause = due(self._first, self._last, self._quiet, self._longest) - self._clock()
            if pause > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause)
                self._changed.set()
                continue
            self._first = None
            try:
                await self._work()
            except SidecarError as error:
                if error.code == "fleet_busy":
                    self.changed()  # what changed may be newer than what is on its way
                    continue
                logger.warning("the fleet was not updated: %s", error)
