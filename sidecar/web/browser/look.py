"""What the page shows of the moment: the state, the run under way, the fleet."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from sidecar.fleet.report import FleetState
from sidecar.observe.status import StatusSource
from sidecar.update.reconciler import Reconciler
from sidecar.update.worker import Worker
from sidecar.web.page import status as status_page


class Look:
    """Looks at the parts that know; `fleet` says nothing where this machine knows of no fleet."""

    def __init__(
        self,
        status: StatusSource,
        worker: Worker,
        reconciler: Reconciler,
        fleet: Callable[[], FleetState | None],
    ) -> None:
        self._status = status
        self._worker = worker
        self._reconciler = reconciler
        self._fleet = fleet

    def data(self) -> status_page.StatusData:
        """How it is now."""
        status = self._status.status()
        run = self._worker.running
        if run is not None and run.request.preview:
            run = None
        known = self._fleet()
        active = (
            run is not None
            or self._worker.queued > 0
            or self._reconciler.is_loading
            or self._status.working
            or (known is not None and known.running)
        )
        running = None
        if run is not None:
            running = status_page.ActiveRun(
                run.request.trigger, run.request.who, run.started, dict(run.stages), tuple(run.lines)
            )
        status = msgspec.structs.replace(status, waiting=self._worker.queued)
        return status_page.StatusData(time.time(), status, active, running, self._status.last, known)
