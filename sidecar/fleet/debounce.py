"""Starts fleet updates after something has changed and been left alone for a while, but not for ever.

What was not done, for whatever reason, is tried again, later and later, until it is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from sidecar.errors import SidecarError
from sidecar.system.tasks import happens

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 10.0
_MAX_RETRY_SECONDS = 600.0


def due(first: float, last: float, quiet: float, longest: float) -> float:
    """When to start: `quiet` after the last change, but no later than `longest` after the first."""
    return min(last + quiet, first + longest)


def pause_after(failures: int, first: float, longest: float = _MAX_RETRY_SECONDS) -> float:
    """Seconds until the next attempt after so many failures in a row: doubling, bounded."""
    return min(longest, first * 2.0 ** min(failures - 1, 30))


class Debounce:
    """One run of `work` at a time, which says whether all is done; a change during a run makes another one.

    `quiet`, `longest` and `retry` are seconds: after the last change, after the first one, and after a run
    that was the first to fail.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[bool]],
        quiet: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        retry: float = _RETRY_SECONDS,
    ) -> None:
        self._work = work
        self._quiet = quiet
        self._longest = longest
        self._clock = clock
        self._retry = retry
        self._changed = asyncio.Event()
        self._first: float | None = None
        self._last = 0.0
        self._failures = 0
        self._again: float | None = None

    def changed(self) -> None:
        """Something changed now."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last
        self._changed.set()

    async def run(self) -> None:
        """Wait and work, until cancelled."""
        while True:
            await self._until_due()
            self._first = self._again = None
            if await self._attempt():
                self._failures = 0
            elif self._first is None:
                self._failures += 1
                pause = pause_after(self._failures, self._retry)
                self._again = self._clock() + pause
                logger.warning("the fleet was not brought up to date; it is tried again in %g s", pause)

    async def _until_due(self) -> None:
        while True:
            self._changed.clear()
            begin = self._again
            if self._first is not None:
                begin = due(self._first, self._last, self._quiet, self._longest)
            pause = None if begin is None else begin - self._clock()
            if pause is not None and pause <= 0:
                return
            await happens(self._changed, pause)

    async def _attempt(self) -> bool:
        """Whether all is done, or no attempt with these settings can do it."""
        try:
            return await self._work()
        except SidecarError as error:
            if error.code == "fleet_busy":
                self.changed()  # what changed may be newer than what is on its way
                return False
            logger.warning("the fleet was not updated: %s", error)
            return error.code == "fleet_settings"
        except Exception:
            logger.exception("the fleet was not updated, because of an unexpected error")
            return False
