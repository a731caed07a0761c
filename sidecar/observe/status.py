"""What is: the state of this machine as data and as a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from sidecar import __version__
from sidecar.config.settings import Settings
from sidecar.generations import Generations
from sidecar.model.runs import Outcome
from sidecar.model.states import Health, Sync, SyncState
from sidecar.model.status import (
    GenerationNumbers,
    LastRun,
    NavigatorState,
    PublishedIndex,
    ReadyState,
    RunUnderWay,
    Status,
)
from sidecar.model.words import short, spoken
from sidecar.observe.drift import Drift
from sidecar.ready.runner import ReadyWork
from sidecar.update.fetch import FetchStage
from sidecar.update.reconciler import Reconciler
from sidecar.update.run import Run
from sidecar.update.worker import Worker


class StatusSource:
    """Puts together what the parts know."""

    def __init__(
        self,
        settings: Settings,
        machine: str,
        generations: Generations,
        worker: Worker,
        reconciler: Reconciler,
        drift: Drift,
        ready_work: ReadyWork,
        fetch: FetchStage,
        due: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`fetch` knows what the store held; `due` tells when the store is looked at next."""
        self._settings = settings
        self._machine = machine
        self._generations = generations
        self._worker = worker
        self._reconciler = reconciler
        self._drift = drift
        self._ready_work = ready_work
        self._fetch = fetch
        self._due = due
        self._started = time.time()
        self.last: Outcome | None = None
        """The last run, which may have failed by the fault of its request."""
        self._verdict: Outcome | None = None
        self.problems: list[Callable[[], str | None]] = []
        """Sentences about what does not work besides, while it does not."""

    def note(self, outcome: Outcome) -> None:
        """Take a run's outcome into account; one that only its request was at fault for is no verdict."""
        if outcome.is_preview:
            return
        self.last = outcome
        if not outcome.refused:
            self._verdict = outcome

    def sync(self) -> Sync:
        """The store's index, as it was seen last, against what is published here."""
        word, reason = self._compare()
        seen = self._fetch.seen
        if seen is None:
            return Sync(word, reason, None, None, self._due())
        return Sync(word, reason, seen.sha256, seen.at, self._due())

    def _compare(self) -> tuple[SyncState, str]:
        current, error = self._generations.current, self._verdict.error if self._verdict else None
        if current is not None and current.pinned:
            again = "an administrator's update ends that"
            return "pinned", f"generation {current.source} was restored by hand, and stays: {again}"
        if error is not None and error.code.startswith("store"):
            return "unknown", f"the last look at the store failed: {error.message}"
        if error is not None and self._verdict is not None and self._verdict.sha256 is None:
            return "unknown", f"the last update ended before it had seen the store's index: {error.message}"
        if error is not None:
            return "out_of_sync", error.message
        seen = self._fetch.seen
        if seen is None:
            return "unknown", "the store has not been looked at since the daemon's start"
        if current is None:
            return "out_of_sync", "nothing has been published yet"
        is_ahead = self._fetch.is_ahead(current.index.sha256)
        if current.index.sha256 != seen.sha256 and not is_ahead:
            why = (
                f", because the one after it was taken back: {current.taken_back}"
                if current.taken_back
                else ""
            )
            return (
                "out_of_sync",
                f"the store holds another index ({short(seen.sha256)}) than is published{why}",
            )
        if current.taken_back:
            return (
                "out_of_sync",
                f"an older set is published, because the newer one was taken back: {current.taken_back}",
            )
        if self._drift.names:
            names = ", ".join(self._drift.names)
            return "out_of_sync", f"changed by someone else since they were published: {names}"
        if is_ahead:
            return "synced", (
                f"the index that was sent along ({short(current.index.sha256)}) is published; when the store "
                f"was last looked at it held the one before ({short(seen.sha256)})"
            )
        return "synced", f"the store's index ({short(seen.sha256)}) is published"

    def health(self) -> Health:
        """What the living Navigator serves."""
        return self._reconciler.health()

    def in_sync(self) -> bool:
        """Whether the store's index is published and served."""
        return self.sync().state == "synced" and self.health().state == "healthy"

    @property
    def _updating(self) -> Run | None:
        """The run under way. A preview changes nothing, so it is none."""
        run = self._worker.running
        return None if run is None or run.request.preview else run

    @property
    def working(self) -> bool:
        """Whether ready work is under way."""
        return self._ready_work.current is not None

    def sentence(self) -> str:
        """Both words in a line."""
        current = self._generations.current
        words = f"{spoken(self.sync().state)}, {self.health().state}"
        return f"{words}, generation {current.number if current else 'none'}"

    def ready(self) -> bool:
        """Whether the living Navigator serves a set of ours."""
        return self._reconciler.served is not None

    def status(self) -> Status:
        """Everything for `GET /status`."""
        current = self._generations.current
        last, running = self.last, self._updating
        process = self._reconciler.process
        return Status(
            version=__version__,
            machine=self._machine,
            app=self._settings.machine.app or None,
            region=self._settings.machine.region or None,
            sync=self.sync(),
            health=self.health(),
            generation=GenerationNumbers(
                current=current.number if current else None,
                loaded=self._reconciler.served,
                ready=self._generations.ready(),
                pending=self._reconciler.pending,
                source=current.source if current else None,
                pinned=current.pinned if current else False,
            ),
            fingerprint=current.fingerprint if current else None,
            index=PublishedIndex(
                etag=current.index.etag if current else None,
                sha256=current.index.sha256 if current else None,
                modified=current.index.modified if current else None,
            ),
            published=self._generations.published or None,
            tenants=current.counts.tenants if current else None,
            users=current.counts.users if current else None,
            navigator=NavigatorState("up" if process else "down", str(process) if process else None),
            ready=self._ready(),
            drift=tuple(self._drift.names),
            waiting=self._worker.waiting,
            running=RunUnderWay(running.request.trigger, running.started) if running else None,
            last=LastRun(last.state, last.trigger, last.started, last.seconds, last.stages, last.error)
            if last
            else None,
            error=self._verdict.error if self._verdict else None,
            problems=tuple(problem for ask in self.problems if (problem := ask()) is not None),
            started=self._started,
        )

    def _ready(self) -> ReadyState:
        """The ready work: under way, or as it ended."""
        work = self._ready_work.current or self._ready_work.last
        return ReadyState(
            state="waiting" if self._ready_work.waits else work.state if work else "idle",
            generation=work.generation if work else None,
            started=work.started if work else None,
            seconds=work.seconds if work else None,
            steps=tuple(msgspec.structs.replace(step, output="") for step in work.steps) if work else (),
        )
