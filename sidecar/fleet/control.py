"""Pausing, going on with, and aborting the rollout under way, from any machine with access to the store."""

from __future__ import annotations

from sidecar.config.settings import Settings
from sidecar.fleet.context import open_context, require_secret
from sidecar.fleet.coordinator import Coordinator, idle
from sidecar.fleet.crew import Listener
from sidecar.fleet.machines import FleetError
from sidecar.fleet.rollout import Rollout, Wish
from sidecar.inputs.store import Store

_WISHES: dict[str, Wish] = {"pause": "pause", "resume": "", "abort": "abort"}


async def under_way(settings: Settings, listener: Listener, store: Store | None = None) -> Rollout | None:
    """The rollout that has not come to a good end, whoever drives it; None where there is none."""
    async with open_context(settings, store, listener) as context:
        known = await Coordinator(context, listener, "").record()
    if known is None or (known[0].ended and known[0].phase != "frozen"):
        return None
    return known[0]


async def control(
    settings: Settings, word: str, listener: Listener, who: str = "", store: Store | None = None
) -> Rollout:
    """Tell the driver to `pause`, `resume` or `abort`; where it has died, this one goes on, or takes back.

    The rollout as it is then: at its end, but for one that was paused, or that its driver goes on with.
    `FleetError` `fleet_idle` where there is none, `fleet_unfinished` where nobody is there to be paused.
    """
    require_secret(settings)
    async with open_context(settings, store, listener) as context:
        coordinator = Coordinator(context, listener, who)
        known = await coordinator.record()
        if known is not None and known[0].phase == "frozen" and word != "pause":
            return await coordinator.go_on(*known)
        if known is None or known[0].ended:
            raise idle()
        if await coordinator.is_driven(*known):
            told = await coordinator.wish(_WISHES[word])
            return await coordinator.ended(told.token) if word == "abort" else told
        if word == "pause":
            raise FleetError(
                f"nobody drives the rollout that {known[0].driver} left behind",
                "`sidecar fleet resume` goes on with it, `sidecar fleet abort` takes it back",
                code="fleet_unfinished",
            )
        return await coordinator.go_on(*known, back="a person has aborted it" if word == "abort" else "")
