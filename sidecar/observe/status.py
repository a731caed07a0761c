"""What is: the state of this machine as data and as a sentence."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sidecar import __version__
from sidecar.config.settings import Settings
from sidecar.generations import Generations
from sidecar.model.runs import Outcome
from sidecar.observe.drift import Drift
from sidecar.ready.runner import ReadyWork
from sidecar.update.reload import ReloadTracker
from sidecar.update.run import Run
from sidecar.update.worker import Worker


class Status:
    """Puts together what the parts know."""

    def __init__(
        self,
        settings: Settings,
        machine: str,
        generations: Generations,
        worker: Worker,
        tracker: ReloadTracker,
        drift: Drift,
        ready_work: ReadyWork,
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._generations = generations
        self._worker = worker
        self._tracker = tracker
        self._drift = drift
        self._ready_work = ready_work
        self._started = time.time()
        self.last: Outcome | None = None
        """The last run, which may have failed by the fault of its request."""
        self._verdict: Outcome | None = None
        self.unloaded: str | None = None

    def note(self, outcome: Outcome) -> None:
        """Take an update's outcome into account; one that only its request was at fault for is no verdict."""
        self.last = outcome
        if not outcome.refused:
            self._verdict = outcome

    def state(self) -> str:
        """One word: starting, updating, loading, in_sync, pinned, not_loaded or out_of_sync."""
        current = self._generations.current
        if self._updating is not None:
            return "updating"
        if self._verdict is not None and self._verdict.error is not None:
            return "out_of_sync"
        if self._tracker.pending is not None and not self._tracker.settled:
            return "loading"
        if self.unloaded is not None:
            return "not_loaded"
        if current is None:
            return "starting"
        return "pinned" if current.pinned else "in_sync"

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
        """The state in a line."""
        current = self._generations.current
        return f"{self.state().replace('_', ' ')}, generation {current.number if current else 'none'}"

    def ready(self) -> bool:
        """Whether a generation is in force."""
        return self._generations.loaded() is not None

    def data(self) -> dict[str, Any]:
        """Everything for `GET /status`: nothing secret, no names of users."""
        current, pending = self._generations.current, self._tracker.pending
        last, running = self.last, self._updating
        process = self._tracker.process
        return {
            "version": __version__,
            "machine": self._machine,
            "app": self._settings.machine.app or None,
            "region": self._settings.machine.region or None,
            "state": self.state(),
            "generation": {
                "current": current.number if current else None,
                "loaded": self._generations.loaded(),
                "ready": self._generations.ready(),
                "pending": pending.generation if pending else None,
                "source": current.source if current else None,
                "pinned": current.pinned if current else False,
            },
            "fingerprint": current.fingerprint if current else None,
            "index": {
                "etag": current.index.etag if current else None,
                "sha256": current.index.sha256 if current else None,
                "modified": current.index.modified if current else None,
            },
            "published": self._generations.published or None,
            "tenants": current.counts.tenants if current else None,
            "users": current.counts.users if current else None,
            "navigator": {"state": "up" if process else "down", "process": str(process) if process else None},
            "ready": self._ready(),
            "drift": self._drift.names,
            "waiting": self._worker.waiting,
            "running": {"trigger": running.request.trigger, "since": running.started} if running else None,
            "last": None
            if last is None
            else {
                "state": last.state,
                "trigger": last.trigger,
                "started": last.started,
                "seconds": last.seconds,
                "stages": last.stages,
                "error": last.error,
            },
            "error": self._verdict.error if self._verdict else None,
            "not_loaded": self.unloaded,
            "started": self._started,
        }

    def _ready(self) -> dict[str, Any]:
        """The ready work: under way, or as it ended; without what its commands printed."""
        work = self._ready_work.current or self._ready_work.last
        holder = self._ready_work.waiting_for
        return {
            "state": "waiting" if holder else work.state if work else "idle",
            "holder": holder.pid if holder else None,
            "generation": work.generation if work else None,
            "started": work.started if work else None,
            "seconds": work.seconds if work else None,
            "steps": [msgspec.structs.replace(step, output="") for step in work.steps] if work else [],
        }
