"""Waiting for a store that serves in one region what was uploaded in another a moment ago."""

from __future__ import annotations

import asyncio
import time

from sidecar.model.runs import Outcome, Request
from sidecar.update.worker import Worker

_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.25, 1.0


async def submit(worker: Worker, request: Request, patience: float) -> Outcome:
    """The outcome; while the store does not serve what is expected, of a later run, for `patience` seconds.

    It waits here and not in a run, which would keep everybody else waiting.
    """
    deadline, pause = time.monotonic() + patience, _PAUSE_SECONDS
    while True:
        outcome = await worker.submit(request)
        left = deadline - time.monotonic()
        if not outcome.stale or left <= 0:
            return outcome
        await asyncio.sleep(min(pause, left))
        pause = min(_MAX_PAUSE_SECONDS, pause * 2)
