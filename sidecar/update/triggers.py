"""The triggers that nobody sends: a slow poll of the store, and waking up after a suspension.

A suspended machine comes back with its memory as it was: nothing tells it that time has passed but the
wall clock, which has moved on while the monotonic clock stood still.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from sidecar.errors import SidecarError

logger = logging.getLogger(__name__)

_TICK_SECONDS = 2.0
# A step of the wall clock that no adjustment of a running clock explains.
_GAP_SECONDS = 10.0
_JITTER_SHARE = 0.2
# A burst of writes to a database is one change, but not for ever.
_QUIET_SECONDS = 2.0
_MAX_QUIET_SECONDS = 10.0


class IndexWatcher:
    """Calls `changed` when a file has changed and then been quiet, or has not been quiet for long.

    `signature` blocks, and is called in a thread. Whatever goes wrong is logged, and the watching goes on.
    """

    def __init__(
        self,
        signature: Callable[[], str],
        changed: Callable[[], Awaitable[object]],
        quiet: float = _QUIET_SECONDS,
        longest: float = _MAX_QUIET_SECONDS,
    ) -> None:
        self._signature = signature
        self._changed = changed
        self._quiet = quiet
        self._longest = longest
        self._problem = ""

    async def run(self, tick: float = _QUIET_SECONDS / 4) -> None:
        """Watch until cancelled."""
        told = last = await self._look()
        moved = since = 0.0
        while True:
            await asyncio.sleep(tick)
            found, now = await self._look(), time.monotonic()
            if found and found != last:
                last, moved = found, now
                since = since or now
            if found not in ("", told) and (now - moved >= self._quiet or now - since >= self._longest):
                told, since = found, 0.0
                await _guarded(self._changed(), "the change of the local index was not followed up")

    async def _look(self) -> str:
        """The signature; empty when there is nothing, or it cannot be told."""
        try:
            found = await asyncio.to_thread(self._signature)
        except Exception as error:
            if self._problem != str(error):
                self._problem = str(error)
                unexpected = not isinstance(error, (SidecarError, OSError))
                logger.warning("the local index cannot be looked at: %s", error, exc_info=unexpected)
            return ""
        self._problem = ""
        return found


async def _guarded(work: Awaitable[object], sentence: str) -> None:
    """Do something in a loop that must go on whatever happens; an error is logged after the sentence."""
    try:
        await work
    except SidecarError as error:
        logger.warning("%s: %s", sentence, error)
    except Exception:
        logger.exception("%s, because of an unexpected error", sentence)


class Ticker:
    """Calls `poll` every `interval` seconds, give or take a fifth (0: never), and `resumed` after a gap."""

    def __init__(
        self,
        interval: float,
        poll: Callable[[], Awaitable[object]],
        resumed: Callable[[float], Awaitable[object]],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        tick: float = _TICK_SECONDS,
    ) -> None:
        self._interval = interval
        self._poll = poll
        self._resumed = resumed
        self._wall = wall
        self._monotonic = monotonic
        self._tick = tick
        self._due = self._next_poll()

    @property
    def due(self) -> float | None:
        """When the next poll is due, in seconds since 1970; None for never."""
        return self._wall() + self._due - self._monotonic() if self._interval else None

    async def run(self) -> None:
        """Tick until cancelled."""
        offset = self._wall() - self._monotonic()
        while True:
            await asyncio.sleep(self._tick)
            now = self._wall() - self._monotonic()
            gap, offset = now - offset, now
            if gap > _GAP_SECONDS:
                logger.info("the machine was suspended for %.0f s", gap)
                await _guarded(self._resumed(gap), "the wake-up was not followed up")
                self._due = self._next_poll()
            elif self._monotonic() >= self._due:
                await _guarded(self._poll(), "the poll was not done")
                self._due = self._next_poll()

    def _next_poll(self) -> float:
        if not self._interval:
            return float("inf")
        # A fleet that started together shall not ask the store together.
        spread = random.uniform(1 - _JITTER_SHARE, 1 + _JITTER_SHARE)  # noqa: S311 - not a secret
        return self._monotonic() + self._interval * spread
