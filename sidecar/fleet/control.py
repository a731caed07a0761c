"""Pausing, going on with, and aborting the rollout under way, from any machine with access to the store."""

from __future__ import annotations

import time

from sidecar.config.settings import Settings
from sidecar.fleet.context import open_context, require_secret
from sidecar.fleet.coordinator import Coordinator, idle
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import FleetError
from sidecar.fleet.report import FleetReport, enough
from sidecar.fleet.rollout import Rollout, Wish
from sidecar.inputs.store import Store

_WISHES: dict[str, Wish] = {"pause": "pause", "resume": "", "abort": "abort"}


async def under_way(
    settings: Settings, listener: ProgressListener, store: Store | None = None
) -> Rollout | None:
    """The rollout that has not come to a good end, whoever drives it; None where there is none."""
    async with open_context(settings, store, listener) as context:
        known = await _unfinished(Coordinator(context, listener, ""))
    return known[0] if known else None


async def tell(
    settings: Settings, word: str, listener: ProgressListener, who: str = "", store: Store | None = None
) -> Rollout | None:
    """Tell the rollout's driver to `pause`, `resume` or `abort`, and give the rollout as it is then.

    None where nobody drives it: then `go_on` does. `FleetError` `fleet_idle` where there is none,
    `fleet_unfinished` where nobody is there to be paused.
    """
    require_secret(settings)
    async with open_context(settings, store, listener) as context:
        coordinator = Coordinator(context, listener, who)
        if (known := await _unfinished(coordinator)) is None:
            raise idle()
        rollout, etag = known
        if rollout.phase != "frozen" and await coordinator.is_driven(rollout, etag):
            return await coordinator.wish(_WISHES[word])
    if word != "pause":
        return None
    if rollout.phase == "frozen":
        raise idle()
    raise FleetError(
        f"nobody drives the rollout that {rollout.driver} left behind",
        "`sidecar fleet resume` goes on with it, `sidecar fleet abort` takes it back",
        code="fleet_unfinished",
    )


async def go_on(
    settings: Settings, word: str, listener: ProgressListener, who: str = "", store: Store | None = None
) -> tuple[Rollout, FleetReport]:
    """Drive what another driver left behind: `resume` to its end, `abort` back, and if frozen back again."""
    require_secret(settings)
    started, clock = time.time(), time.monotonic()
    async with open_context(settings, store, listener) as context:
        coordinator = Coordinator(context, listener, who)
        if (known := await _unfinished(coordinator)) is None:
            raise idle()
        end = await coordinator.go_on(*known, back="a person has aborted it" if word == "abort" else "")
    report = FleetReport(
        started=started,
        seconds=time.monotonic() - clock,
        sha256=end.target,
        upload="uploaded" if end.phase == "done" else "taken_back",
        wait="loaded",
        quorum=None,
        dry_run=False,
        machines=coordinator.results,
        skipped=coordinator.found.skipped,
        good=end.phase == "done" and enough(coordinator.results, None),
        rollout=end.phase,
        reason=end.reason,
    )
    return end, report


async def control(
    settings: Settings, word: str, listener: ProgressListener, store: Store | None = None
) -> Rollout:
    """Do either, and wait for the end of what is aborted; the rollout as it is then."""
    told = await tell(settings, word, listener, store=store)
    if told is None:
        return (await go_on(settings, word, listener, store=store))[0]
    if word != "abort":
        return told
    async with open_context(settings, store, listener) as context:
        return await Coordinator(context, listener, "").ended(told.token)


async def _unfinished(coordinator: Coordinator) -> tuple[Rollout, str] | None:
    """The rollout that has not come to a good end, with its ETag; None where there is none."""
    known = await coordinator.record()
    return None if known is None or (known[0].ended and known[0].phase != "frozen") else known
