"""From published to loaded: waits for evidence that Navigator has taken over a generation, or goes back.

The evidence is the marker that Navigator's first ready hook touches. It is named after the set that
navigator.yml belongs to, it was removed before the publication, and it is newer than it: so it speaks of this
generation and of no other. Without it, in order:

    Navigator is down             wait: it will load what is there when it starts
    no evidence in time           send SIGHUP, once
    no evidence after that        go back to the last generation that was loaded
    that does not help either     say so, and leave it to a person

`decide` holds these rules; the rest of the module carries them out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from sidecar.errors import SidecarError
from sidecar.model.runs import Emit

logger = logging.getLogger(__name__)

# A file's time comes from the kernel's own clock, which lags by up to a tick.
_TICK = 0.02
# How often to look without being told.
RECHECK = 2.0
# Until the watch on the markers has surely begun, looking often takes its place.
_WATCH_BEGINS = 0.25
_UNTIL_THEN = 0.01


class Action(Enum):
    """What to do about a pending load."""

    WAIT = "wait"
    LOADED = "loaded"
    DOWN = "down"
    SIGNAL = "signal"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Pending:
    """A generation that was published and is not loaded yet.

    `published` is in seconds since 1970; `since` and `signalled` on the monotonic clock. `at_once` when
    nobody else will make Navigator look. `probed` is the marker of a load whose probe failed. That load is
    over, whatever a later probe would find: by then the files of the generation before may be back.
    """

    generation: int
    fingerprint: str
    published: float
    since: float
    at_once: bool
    is_rollback: bool = False
    signalled: float | None = None
    down: bool = False
    given_up: bool = False
    probed: float | None = None


def decide(pending: Pending, marker: float | None, alive: bool, now: float, timeout: float) -> Action:
    """What to do now. `marker` is when it was touched, in seconds since 1970; `now` is monotonic."""
    if marker is not None and marker >= pending.published - _TICK and marker != pending.probed:
        return Action.LOADED
    if not alive:
        return Action.DOWN
    if pending.given_up:
        return Action.WAIT
    if pending.signalled is None:
        due = pending.since + (0.0 if pending.at_once else timeout)
        return Action.SIGNAL if now >= due else Action.WAIT
    return Action.ROLL_BACK if now >= pending.signalled + timeout else Action.WAIT


class Process(Protocol):
    """Navigator's process, as far as it matters here."""

    def find(self) -> object | None:
        """Something that identifies the live process, or None."""

    def reload(self) -> object:
        """Send SIGHUP."""


class Markers(Protocol):
    """The markers of loads."""

    def touched(self, fingerprint: str) -> float | None:
        """When a set's marker was touched, in seconds since 1970."""

    def changes(self, pause: float) -> AsyncGenerator[None, None]:
        """Yield whenever it is worth looking."""


class Listener(Protocol):
    """Who wants to know how it ends."""

    def loaded(self, generation: int, seconds: float | None) -> None:
        """A generation was loaded, so long after its publication (None: when is not known)."""

    def failed(self, generation: int, reason: str, sentence: str) -> None:
        """A generation was not loaded."""


class ReloadTracker:
    """Follows one generation at a time; the worker publishes nothing while one is pending."""

    def __init__(
        self,
        process: Process,
        markers: Markers,
        probe: Callable[[], Awaitable[None]],
        timeout: float,
        listener: Listener,
        roll_back: Callable[[int, str], bool],
        emit: Emit,
    ) -> None:
        self._process = process
        self._markers = markers
        self._probe = probe
        self._timeout = timeout
        self._listener = listener
        self._roll_back = roll_back
        self._emit = emit
        self._pending: Pending | None = None
        self._verdict: asyncio.Future[str] | None = None
        self._changed = asyncio.Event()
        self._awaited = asyncio.Event()
        self._seen: object | None = None
        self._fingerprint: str | None = None
        self._marker: float | None = None

    @property
    def pending(self) -> Pending | None:
        """The generation that is waited for."""
        return self._pending

    @property
    def process(self) -> object | None:
        """Navigator's process when it was last looked at."""
        return self._seen

    @property
    def settled(self) -> bool:
        """Whether a new generation may be published: nothing is pending, or waiting for it is no use."""
        pending = self._pending
        return pending is None or pending.down or pending.given_up

    def expect(
        self, generation: int, fingerprint: str, published: float, *, at_once: bool, is_rollback: bool = False
    ) -> None:
        """Follow a generation that was just published. Whoever waited for an older one learns of that."""
        self._conclude("superseded")
        self._fingerprint = fingerprint
        alive = self._process.find() is not None
        self._pending = Pending(
            generation, fingerprint, published, time.monotonic(), at_once, is_rollback, down=not alive
        )
        self._verdict = asyncio.get_running_loop().create_future()
        self._changed.set()
        self._awaited.set()

    def remember(self, fingerprint: str) -> None:
        """The set that is loaded already, whose marker tells of Navigator's own reloads."""
        self._fingerprint, self._marker = fingerprint, self._markers.touched(fingerprint)

    async def wait(self, generation: int, seconds: float) -> str:
        """How it ended for a generation: loaded, failed, superseded, or down; pending after `seconds`."""
        pending, verdict = self._pending, self._verdict
        if pending is None or pending.generation != generation or verdict is None:
            return "loaded" if pending is None or pending.generation > generation else "pending"
        try:
            return await asyncio.wait_for(asyncio.shield(verdict), seconds)
        except TimeoutError:
            return "down" if self._pending is not None and self._pending.down else "pending"

    def let_go(self) -> None:
        """Whoever waits is told `pending` now: the daemon stops before it is known how it ends."""
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result("pending")

    async def run(self) -> None:
        """Look whenever something happens, until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._pause())
                self._changed.clear()
                await self._look()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Watch while a marker is waited for: it costs more than all else that an idle daemon does."""
        while True:
            await self._awaited.wait()
            try:
                async with aclosing(self._markers.changes(RECHECK)) as changes:
                    async for _ in changes:
                        self._changed.set()
                        if self.settled:
                            self._awaited.clear()
                            break
            except (OSError, RuntimeError) as error:
                logger.warning("the markers cannot be watched: %s; looking every %g s", error, RECHECK)
                await asyncio.sleep(RECHECK)

    def _pause(self) -> float:
        """Seconds until the next deadline."""
        pending = self._pending
        if pending is None or pending.down or pending.given_up:
            return RECHECK
        if time.monotonic() - pending.since < _WATCH_BEGINS:
            return _UNTIL_THEN
        due = (
            pending.signalled + self._timeout
            if pending.signalled is not None
            else pending.since + self._timeout
        )
        return min(RECHECK, max(0.005, due - time.monotonic()))

    async def _look(self) -> None:
        self._notice_process()
        pending = self._pending
        if pending is None:
            self._notice_reload()
            return
        marker = self._markers.touched(pending.fingerprint)
        action = decide(pending, marker, self._seen is not None, time.monotonic(), self._timeout)
        if action is Action.LOADED:
            await self._loaded(pending, marker)
        elif action is Action.DOWN:
            if not pending.down:
                logger.warning(
                    "Navigator is down; generation %d will be loaded when it starts", pending.generation
                )
            self._pending = replace(pending, down=True, signalled=None)
        elif pending.down:
            # It just came up and loads by itself: it gets the full time for it.
            self._pending = replace(pending, down=False, since=time.monotonic(), at_once=False)
            self._awaited.set()
        elif action is Action.SIGNAL:
            self._signal(pending)
        elif action is Action.ROLL_BACK:
            self._give_up(pending, "not_loaded", f"Navigator did not load generation {pending.generation}")

    def _notice_process(self) -> None:
        found = self._process.find()
        if found != self._seen:
            if found is not None and self._seen is not None:
                logger.info("Navigator was restarted: %s", found)
            self._emit("navigator", {"process": None if found is None else str(found)})
        self._seen = found

    def _notice_reload(self) -> None:
        """Nothing is pending: a marker that moves tells of a reload that somebody else asked for."""
        if self._fingerprint is None:
            return
        touched = self._markers.touched(self._fingerprint)
        if touched is not None and touched != self._marker:
            if self._marker is not None:
                logger.info("Navigator has loaded its configuration again, though nothing was published")
                self._emit("reloaded", {"at": touched})
            self._marker = touched

    def _signal(self, pending: Pending) -> None:
        if not pending.at_once:
            logger.warning("no sign that generation %d was loaded; sending SIGHUP", pending.generation)
        try:
            self._process.reload()
        except SidecarError as error:
            logger.warning("%s", error)
        self._pending = replace(pending, signalled=time.monotonic())

    async def _loaded(self, pending: Pending, marker: float | None) -> None:
        try:
            await self._probe()
        except SidecarError as error:
            self._give_up(replace(pending, probed=marker), "probe", str(error))
            return
        self._marker = marker
        self._pending = None
        seconds = None if marker is None else max(0.0, marker - pending.published)
        self._listener.loaded(pending.generation, seconds)
        self._conclude("loaded")

    def _give_up(self, pending: Pending, reason: str, sentence: str) -> None:
        self._pending = replace(pending, given_up=True)
        if pending.given_up:
            return  # a probe that goes on failing is no news
        logger.error("%s", sentence, extra={"generation": pending.generation})
        self._listener.failed(pending.generation, reason, sentence)
        if pending.is_rollback or not self._roll_back(pending.generation, reason):
            logger.error("there is nothing to go back to; somebody has to look at Navigator's log")
        self._conclude("failed")

    def _conclude(self, verdict: str) -> None:
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(verdict)
        self._verdict = None if verdict in ("loaded", "superseded") else self._verdict
