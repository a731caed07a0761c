"""A rollout by canary, as a record and what follows for it. Pure: decide here, act in `driver`.

    wave         the index is sent to the machines of this wave, which must prove that they serve it
    soak         the canary's machines are watched for a while
    store        the index goes into the store: from now on every machine that looks finds it
    rest         all machines are told to fetch it; those of the waves have it, unless they went back
    back         it is taken back: the store holds the one before, who took the new one is sent back to it
    done         the end: the store holds the new index, and all have it, or lag and catch up by themselves
    taken_back   the end: the store holds what it held, and so do the machines that can be reached
    frozen       it could not be taken back wholly; `sidecar fleet resume` tries again

The store takes the index last, after the waves: it never holds what the canary refused, and who was not
reached never hears of it. The record is written before anything is done, and each phase can be done twice:
whoever takes over from a driver that died does the phase of the record again, and comes to the same end.

*rejected* is the index's fault: one such machine has it taken back, and so has a canary that is degraded
with it. *unreachable* is the machine's own: a tenth of them, and at least one, may lag. Of a machine that
proves nothing nothing is believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec.structs import replace

from sidecar.fleet.verdicts import GOOD
from sidecar.model.record import Record

LEASE_SECONDS = 30.0
RENEW_SECONDS = 10.0
"""For how long a driver has a rollout, and how often it says that it lives."""
_SECOND_WAVE_SHARE = 0.25
_MAY_LAG_SHARE = 0.1

Phase = Literal["wave", "soak", "store", "rest", "back", "done", "taken_back", "frozen"]
Wish = Literal["", "pause", "abort"]
ENDS: frozenset[Phase] = frozenset({"done", "taken_back", "frozen"})


class Rollout(Record, frozen=True):
    """One rollout, as the store remembers it.

    `token` is its driver's alone, `driver` names that for people, until `lease` (seconds since 1970) nobody
    else may take over. `target` and `base` are SHA-256, of the index and of the one before it; `base_etag` is
    how the store named that. `waves` are ids, the canary's first; `wave` is the one under way. `reached` may
    have the index, and everybody once it was `offered` by the store, `proven` serve it, `lagging` could not
    be asked. `wish` is what a person wants of its driver. `reason` says why it went as it did.
    """

    token: str
    driver: str
    lease: float
    started: float
    target: str
    base: str
    base_etag: str
    base_modified: float
    modified: float
    waves: tuple[tuple[str, ...], ...]
    machines: int
    phase: Phase = "wave"
    wave: int = 0
    reached: tuple[str, ...] = ()
    offered: bool = False
    proven: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()
    wish: Wish = ""
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more is done by itself."""
        return self.phase in ENDS

    @property
    def may_lag(self) -> int:
        """How many machines may be unreachable."""
        return max(1, int(self.machines * _MAY_LAG_SHARE))


def waves(machines: Sequence[str], canary: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The canary, and then a quarter of all. The rest follows once the store holds the index."""
    others = [one for one in machines if one not in canary]
    second = others[: math.ceil(len(machines) * _SECOND_WAVE_SHARE)]
    return (tuple(canary), *((tuple(second),) if second else ()))


def reaching(rollout: Rollout, machines: Iterable[str]) -> Rollout:
    """Written before they are told: whatever happens next, they may have it."""
    return replace(rollout, reached=_and(rollout.reached, machines))


def offering(rollout: Rollout) -> Rollout:
    """Written before the store gets it: from then on whoever looks there has it, told or not."""
    return replace(rollout, offered=True)


def may_have(rollout: Rollout, machine: str) -> bool:
    """Whether a machine may have the index, and so has to be brought back."""
    return rollout.offered or machine in rollout.reached


def after(rollout: Rollout, states: Mapping[str, str], notes: Mapping[str, str]) -> Rollout:
    """A wave, the soak or the rest has ended with each machine in one of `verdicts`' states."""
    if rejected := [one for one, state in states.items() if state == "refused"]:
        return halted(rollout, _because(f"{rejected[0]} does not take it", notes.get(rejected[0], "")))
    degraded = [one for one, state in states.items() if state == "degraded"]
    if degraded and _is_canary(rollout):
        return halted(rollout, _because(f"{degraded[0]} is degraded with it", notes.get(degraded[0], "")))
    good = [one for one, state in states.items() if state in GOOD]
    # Who stopped meanwhile is no failure: it fetches when it wakes.
    lost = [one for one, state in states.items() if state not in GOOD and state != "stopped"]
    proven = _and((one for one in rollout.proven if one not in states), good)
    lagging = _and((one for one in rollout.lagging if one not in good), lost)
    rollout = replace(rollout, proven=proven, lagging=lagging)
    if len(lagging) > rollout.may_lag:
        last = f"{lagging[-1]} is {states[lagging[-1]].replace('_', ' ')}"
        many = f"{len(lagging)} machines do not serve it, more than the {rollout.may_lag} that may lag"
        return halted(rollout, f"{many}; {_because(last, notes.get(lagging[-1], ''))}")
    if rollout.phase == "rest":
        return replace(rollout, phase="done")
    if rollout.wave == 0 and not good:
        return _next_canary(rollout)
    if rollout.phase == "wave" and rollout.wave == 0:
        return replace(rollout, phase="soak")
    further = rollout.wave + 1
    if further < len(rollout.waves):
        return replace(rollout, phase="wave", wave=further)
    return replace(rollout, phase="store")


def _next_canary(rollout: Rollout) -> Rollout:
    """The first machine that was not tried yet takes the place of a canary that proves nothing."""
    later = [one for wave in rollout.waves[1:] for one in wave]
    if not later:
        return halted(rollout, "no machine could prove that it serves the index")
    return replace(rollout, phase="wave", waves=((later[0],), *((tuple(later[1:]),) if later[1:] else ())))


def stored(rollout: Rollout) -> Rollout:
    """The store holds the index."""
    return replace(rollout, phase="rest")


def halted(rollout: Rollout, reason: str) -> Rollout:
    """It goes back. What has ended stays as it is, except for what could not be taken back."""
    if rollout.phase in ("done", "taken_back"):
        return rollout
    where = f"wave {rollout.wave + 1}" if rollout.phase == "wave" else rollout.phase
    if _is_canary(rollout):
        where = "the canary"
    kept = rollout.phase in ("back", "frozen")
    return replace(rollout, phase="back", wish="", reason=rollout.reason if kept else f"at {where}: {reason}")


def returned(rollout: Rollout, problem: str, unreached: Sequence[str]) -> Rollout:
    """It was taken back; `problem` is why the store did not take the index before, `unreached` stay."""
    if problem:
        return replace(rollout, phase="frozen", reason=f"{rollout.reason}; not taken back: {problem}")
    return replace(rollout, phase="taken_back", lagging=tuple(unreached), proven=())


def is_driven(rollout: Rollout, now: float) -> bool | None:
    """Whether its driver lives; None where only the next renewal tells: whose clock is wrong nobody knows."""
    if rollout.ended or not rollout.lease:
        return False
    return True if 0 < rollout.lease - now < 2 * LEASE_SECONDS else None


def taken_over(rollout: Rollout, token: str, driver: str, now: float) -> Rollout:
    """The same with another driver, which does the phase again."""
    phase = "back" if rollout.phase == "frozen" else rollout.phase
    return replace(rollout, token=token, driver=driver, lease=now + LEASE_SECONDS, phase=phase, wish="")


def _is_canary(rollout: Rollout) -> bool:
    return rollout.wave == 0 and rollout.phase in ("wave", "soak")


def _because(what: str, note: str) -> str:
    return f"{what}: {note}" if note else what


def _and(some: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*some, *more)))
