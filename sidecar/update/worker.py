"""The one place where updates run: one at a time, in order, shared by whoever asks for the same.

Pokes that arrive while nothing has begun share a run; a poke that arrives while a run is under way joins the
run after it, so what it gets always comes from a fetch that began later. However many arrive, they cost two
runs at most. Requests with a condition or a content of their own get a run each, in order. Two kinds are
special: a boot joins the run under way, because everybody waits for it, and what the daemon asks of itself to
take a generation back goes first and is never turned away.

Runs that only the public asked for wait for the throttle, and publications are put off for the moment in
which Navigator could overlook them; none is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.errors import Busy, SidecarError
from sidecar.model.runs import Outcome, Request
from sidecar.model.stream import Emit, RunStarted
from sidecar.system.tasks import happens
from sidecar.update.run import Run

logger = logging.getLogger(__name__)

# The worker looks at its clock at least this often, busy or not.
BEAT_SECONDS = 5.0


class Throttle:
    """A token bucket: `burst` runs at once, then one every `interval` seconds."""

    def __init__(self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._clock = clock
        self._full_at = clock()

    def delay(self) -> float:
        """Seconds until a run may start."""
        return max(0.0, self._full_at - self._clock() - self._interval * (self._burst - 1))

    def take(self) -> None:
        """Count a run that starts now."""
        self._full_at = max(self._full_at, self._clock()) + self._interval


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many requests may wait at once, how many of the public's, and how many seconds a run may take."""

    waiting: int
    public: int
    timeout: float


def _shares(run: Request, request: Request) -> bool:
    """Whether a request can share a run that was asked for by another."""
    return run.plain and request.plain and run.expect == request.expect


class _Batch:
    """Requests that share a run."""

    __slots__ = ("future", "is_hook", "joined", "request")

    def __init__(self, request: Request, future: asyncio.Future[Outcome]) -> None:
        self.request = request
        self.future = future
        self.joined = 1
        self.is_hook = request.is_hook

    def join(self, request: Request) -> None:
        """Let another request have this run's outcome; a batch keeps what its strongest member means."""
        self.joined += 1
        self.is_hook = self.is_hook or request.is_hook
        self.request = self.request.merged(request)


class Worker:
    """The queue and the loop that works it off."""

    def __init__(
        self,
        execute: Callable[[Run], Awaitable[Outcome]],
        emit: Emit,
        finished: Callable[[Outcome], None],
        throttle: Throttle,
        may_publish: Callable[[], bool],
        limits: RunLimits,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._execute = execute
        self._emit = emit
        self._finished = finished
        self._throttle = throttle
        self._may_publish = may_publish
        self._beat = beat
        self._limits = limits
        self._queue: deque[_Batch] = deque()
        self._current: _Batch | None = None
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._last_beat = time.monotonic()
        self.waiting = 0
        self._waiting_public = 0
        self.running: Run | None = None

    async def submit(self, request: Request) -> Outcome:
        """The outcome of a run that begins after this call. `Busy` when too many wait or the daemon stops."""
        if self._closed:
            raise Busy("the sidecar is stopping", "poke again in a moment", code="stopping")
        if self._full(request):
            raise Busy(f"{self.waiting} requests are waiting already", "poke again in a moment")
        batch = self._enqueue(request)
        self._arrived.set()
        self.waiting += 1
        self._waiting_public += request.public
        try:
            # A caller that goes away must not take the run from the others.
            return await asyncio.shield(batch.future)
        finally:
            self.waiting -= 1
            self._waiting_public -= request.public

    def _full(self, request: Request) -> bool:
        """Whether too many wait for one more; what holds Navigator up, or takes back, always finds room."""
        if request.takes_back or request.is_hook:
            return False
        if request.public and self._waiting_public >= self._limits.public:
            return True
        return self.waiting >= self._limits.waiting

    def _enqueue(self, request: Request) -> _Batch:
        current = self._current
        if request.trigger == "boot" and current is not None and _shares(current.request, request):
            current.joined += 1
            return current
        last = self._queue[-1] if self._queue else None
        if last is not None and _shares(last.request, request):
            last.join(request)
            return last
        batch = _Batch(request, asyncio.get_running_loop().create_future())
        if request.takes_back:
            self._queue.appendleft(batch)
        else:
            self._queue.append(batch)
        return batch

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while not self._closed:
                self._turn()
                batch, pause = self._next()
                if batch is None:
                    self._arrived.clear()
                    await happens(self._arrived, min(pause, BEAT_SECONDS))
                    continue
                await self._work(batch)
        finally:
            self._refuse_all()

    def _next(self) -> tuple[_Batch | None, float]:
        """The batch to run now, or how long there is none for."""
        delay = self._throttle.delay()
        may_publish = self._may_publish()
        for batch in self._queue:
            request = batch.request
            if not (may_publish or request.preview or request.takes_back or batch.is_hook):
                continue
            if request.public and request.plain:
                if delay > 0:
                    continue
                self._throttle.take()
            self._queue.remove(batch)
            return batch, 0.0
        return None, delay if self._queue and delay else BEAT_SECONDS

    def wake(self) -> None:
        """Look at the queue again: publishing may be possible now."""
        self._arrived.set()

    def _turn(self) -> None:
        self._last_beat = time.monotonic()
        self._beat()

    async def _work(self, batch: _Batch) -> None:
        run = Run(batch.request, self._emit)
        self._current, self.running = batch, run
        self._idle.clear()
        self._emit(RunStarted(run.request.trigger, run.request.who))
        task = asyncio.ensure_future(self._execute(run))
        try:
            outcome = await self._watch(run, task)
        except asyncio.CancelledError:
            batch.future.set_exception(
                Busy("the sidecar is stopping", "poke again in a moment", code="stopping")
            )
            batch.future.exception()  # whoever waited may be gone already
            raise
        finally:
            self._current = self.running = None
            self._idle.set()
        try:
            self._finished(outcome)
        except Exception:
            logger.exception("the outcome of a run could not be recorded")
        batch.future.set_result(outcome)

    async def _watch(self, run: Run, task: asyncio.Future[Outcome]) -> Outcome:
        """The outcome of a run, whatever happens to it; a run that takes too long is ended first."""
        deadline = time.monotonic() + self._limits.timeout
        try:
            while not task.done() and time.monotonic() < deadline:
                await asyncio.wait({task}, timeout=min(BEAT_SECONDS, max(0.0, deadline - time.monotonic())))
                self._turn()
            late = not task.done()
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            return task.result()
        if late:
            error = SidecarError(
                f"the update took longer than {self._limits.timeout:g} s and was given up",
                "look at the stages' timings; update.timeout sets the limit",
                code="timeout",
            )
        else:
            cause = None if task.cancelled() else task.exception()
            logger.error("the update failed with an unexpected internal error", exc_info=cause)
            error = SidecarError(
                "the update failed with an unexpected internal error",
                "the log has the details",
                code="internal",
            )
        return run.outcome("failed", error)

    def _refuse_all(self) -> None:
        self._closed = True
        while self._queue:
            future = self._queue.popleft().future
            future.set_exception(Busy("the sidecar is stopping", "poke again in a moment", code="stopping"))
            future.exception()

    async def close(self, grace: float) -> None:
        """Take nothing more, and give the run under way `grace` seconds to end."""
        self._closed = True
        self._arrived.set()
        await happens(self._idle, grace)

    @property
    def queued(self) -> int:
        """How many requests wait for a run that may publish."""
        return sum(batch.joined for batch in self._queue if not batch.request.preview)

    @property
    def alive(self) -> bool:
        """Whether the loop turns."""
        return time.monotonic() - self._last_beat < BEAT_SECONDS * 3
