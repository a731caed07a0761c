"""Runs the ready work: in the background, once at a time on a machine, for the newest generation.

Read this one first. Whoever asks gets a run that begins after that: requests that come while the work runs
share one more run of it, whatever another process on the machine has done meanwhile. A failing step is told
of and does not stop the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sidecar.config.settings import ReadySettings
from sidecar.errors import SidecarError
from sidecar.model.record import Problem
from sidecar.model.stream import Emit, ReadyLogLine, ReadyProgress
from sidecar.model.work import Step, StepState, Work, WorkState, outcome_of
from sidecar.ready.facts import GenerationData
from sidecar.ready.lock import WorkLock
from sidecar.ready.report import StepReport
from sidecar.system.tasks import happens

logger = logging.getLogger(__name__)


class StepFunction(Protocol):
    """A step's work: gives its result in a sentence, or None when there was nothing to do."""

    def __call__(
        self, facts: GenerationData, report: StepReport, *, everything: bool
    ) -> Awaitable[str | None]: ...


@dataclass(slots=True)
class WorkRequest:
    """What was asked for, by all who share the run; `everything` also where nothing can have changed."""

    trigger: str
    who: str
    everything: bool
    future: asyncio.Future[Work | None]


@dataclass(slots=True)
class _Active:
    """The work under way."""

    facts: GenerationData
    job: WorkRequest
    started: float
    steps: dict[str, Step] = field(default_factory=dict)

    def work(self, state: WorkState) -> Work:
        return Work(
            generation=self.facts.generation,
            fingerprint=self.facts.fingerprint,
            trigger=self.job.trigger,
            who=self.job.who,
            started=self.started,
            seconds=time.time() - self.started,
            state=state,
            steps=tuple(self.steps.values()),
        )


class ReadyWork:
    """The queue of one place, and the loop that works it off."""

    def __init__(
        self,
        settings: ReadySettings,
        lock: WorkLock,
        facts: Callable[[], Awaitable[GenerationData | None]],
        steps: Mapping[str, StepFunction],
        emit: Emit,
        finished: Callable[[Work], None],
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._facts = facts
        self._steps = steps
        self._emit = emit
        self._finished = finished
        self._next: WorkRequest | None = None
        self._arrived = asyncio.Event()
        self._active: _Active | None = None
        self._waiting = False
        self._failed = False
        self.last: Work | None = None

    # Asking

    def request(self, trigger: str, who: str, *, everything: bool = False) -> asyncio.Future[Work | None]:
        """Ask for the work; the future gives how it ended, or None when there is no generation yet.

        It raises `SidecarError` when the work could not begin.
        """
        if self._next is None:
            future = asyncio.get_running_loop().create_future()
            self._next = WorkRequest(trigger, who, everything, future)
        else:
            self._next.everything |= everything
        self._arrived.set()
        return self._next.future

    async def wait_for(self, generation: int, patience: float) -> Work | None:
        """How the work for a generation, or a newer one, ended; None when not within `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            if self.last is not None and self.last.generation >= generation:
                return self.last
            active, waiting = self._active, self._next
            if waiting is not None:
                future = waiting.future
            else:
                future = active.job.future if active is not None else self.request("wait", "a waiting client")
            done, _ = await asyncio.wait({future}, timeout=max(0.0, deadline - time.monotonic()))
            if not done or future.cancelled() or future.exception() or future.result() is None:
                return None

    @property
    def busy(self) -> bool:
        """Whether work is under way or waits."""
        return self._active is not None or self._next is not None or self._waiting

    @property
    def current(self) -> Work | None:
        """The work under way, as far as it is."""
        return None if self._active is None else self._active.work("running")

    @property
    def waits(self) -> bool:
        """Whether another process on this machine does it now."""
        return self._waiting

    # Doing

    async def run(self) -> None:
        """Work until cancelled; after a failure by itself."""
        job: WorkRequest | None = None
        try:
            while True:
                job = await self._take()
                try:
                    work = await self._execute(job)
                except SidecarError as error:
                    logger.warning("the ready work was not done: %s", error)
                    if not job.future.done():
                        job.future.set_exception(error)
                        job.future.exception()  # most who ask do not look
                    continue
                if not job.future.done():
                    job.future.set_result(work)
        finally:
            for one in (job, self._next):
                if one is not None and not one.future.done():
                    one.future.cancel()

    async def _take(self) -> WorkRequest:
        while self._next is None:
            pause = self._settings.retry if self._failed else 0.0
            self._arrived.clear()
            if not await happens(self._arrived, pause or None):
                self.request("timer", "a failure before")
        job, self._next = self._next, None
        return job

    async def _execute(self, job: WorkRequest) -> Work | None:
        self._failed = True
        try:
            self._waiting = True
            async with self._lock.held():
                self._waiting = False
                facts = await self._facts()
                if facts is None:
                    self._failed = False
                    return None
                self._active = active = _Active(facts, job, time.time())
                for name in self._steps:
                    active.steps[name] = Step(name)
                self._tell()
                for name, do in self._steps.items():
                    await self._step(active, name, do)
                return self._end(outcome_of(tuple(active.steps.values())))
        except SidecarError:
            raise
        except Exception as error:
            logger.exception("the ready work ended with an unexpected error")
            raise SidecarError(
                "the ready work ended with an unexpected error", "the log has the details", code="internal"
            ) from error
        finally:
            self._waiting = False
            self._active = None

    async def _step(self, active: _Active, name: str, do: StepFunction) -> None:
        """Run one step; whatever goes wrong in it is its own."""
        started = time.perf_counter()

        def changed() -> None:
            active.steps[name] = msgspec.structs.replace(
                active.steps[name],
                done=report.done,
                total=report.total,
                current=report.current,
                seconds=time.perf_counter() - started,
            )
            self._tell()

        def line(text: str) -> None:
            self._emit(ReadyLogLine(name, text))

        report = StepReport(changed, line)
        active.steps[name] = Step(name, "running")
        self._tell()
        state: StepState = "done"
        said, error = "", None
        try:
            async with asyncio.timeout(self._settings.step_timeout):
                result = await do(active.facts, report, everything=active.job.everything)
            state, said = ("skipped", "nothing to do") if result is None else ("done", result)
            if report.failures:
                error = SidecarError(
                    f"{len(report.failures)} of {max(report.total, len(report.failures))} failed:"
                    f" {report.failures[0]}",
                    "the step's output names each",
                    code="items_failed",
                )
        except TimeoutError:
            error = SidecarError(
                f"it took longer than {self._settings.step_timeout:g} s and was ended",
                "see what it waits for; ready.step_timeout sets the limit",
                code="timeout",
            )
        except SidecarError as problem:
            error = problem
            if problem.detail:
                report.say(problem.detail)
        except OSError as problem:
            error = SidecarError(
                f"{problem.filename or 'a file'}: {problem.strerror or problem}",
                "check the folder's owner and mode, and the disk",
                code="disk",
            )
        except Exception:
            logger.exception("unexpected internal error in the step %s of the ready work", name)
            error = SidecarError("unexpected internal error", "the log has the details", code="internal")
        if error is not None:
            state = "failed"
            logger.warning("ready work, %s: %s", name, error, extra={"generation": active.facts.generation})
        elif state == "done":
            logger.info("ready work, %s: %s", name, said, extra={"generation": active.facts.generation})
        active.steps[name] = Step(
            name=name,
            state=state,
            seconds=time.perf_counter() - started,
            done=report.done,
            total=report.total,
            said=said,
            output=report.output,
            error=Problem(error.code, error.message, error.hint, error.status) if error else None,
        )
        self._tell()

    def _end(self, state: WorkState) -> Work:
        assert self._active is not None  # noqa: S101 - only called while it is
        work = self.last = self._active.work(state)
        self._failed = state == "failed"
        self._active = None
        self._finished(work)
        return work

    def _tell(self) -> None:
        if (work := self.current) is not None:
            steps = tuple(msgspec.structs.replace(step, output="") for step in work.steps)
            self._emit(ReadyProgress(work.generation, work.state, steps))
