"""The life of a generation between *published* and *loaded*: pure rules, to be read as a table.

`transition` is level-triggered: it looks at facts that were observed just now, compares them with what is
wanted, and names the next action. It can be asked again at any time, after any crash and in any order of
events, and comes to the same end. `reconciler` observes the facts and carries the actions out.

| phase   | when                                          | action                                         |
| ------- | --------------------------------------------- | ---------------------------------------------- |
| waiting | no Navigator lives                            | none; a set that was never served goes back    |
|         |                                               | when nothing starts with it within the limit   |
| booting | it lives, has touched no marker of ours, and  | while its hook waits: none; else look: a       |
|         | was started on the maintenance file           | request to its CGI, repeated with backoff. A   |
|         |                                               | look without effect within 10 s: go back       |
| foreign | it lives, has touched no marker of ours, and  | signal, repeated with backoff; never back      |
|         | was started on another file                   |                                                |
| loading | it serves an older set of ours                | while a hook or CGI of its own is answered:    |
|         |                                               | none; else signal                              |
| overdue | the same, for longer than the limit           | signal once more, the limit again, then back   |
| probing | it serves the published set, the probes have  | probe, repeated until the limit, then back     |
|         | not passed                                    |                                                |
| loaded  | it serves the published set and the probes    | record it; try what was taken back again when  |
|         | passed                                        | that is due                                    |

*Back* means: publish the last generation that was loaded anew. Where there is none, the failure is said and
the phase stays. A phase belongs to a process of Navigator and a generation: when either changes, it begins
anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.model.navigator import Process

# Navigator's hook that brings a machine up is a command of our own: an interpreter's start, a request.
HOOK_SECONDS = 2.0
# From the end of a hook or CGI to the marker of the reload that it brings; a reload takes some 20 ms.
RELOAD_SECONDS = 2.0
# The same for a Navigator on its maintenance file, on the slowest machine: no tenant runs yet that its reload
# would wait for.
BOOT_LOAD_SECONDS = 10.0
# While a load of ours is this fresh, a file published now could be older than the time of that load.
HOLD_SECONDS = 2.0
# Pauses between signals or looks that have no effect, in seconds: doubling from the first to the last.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 60.0
PROBE_PAUSE_SECONDS = 1.0
# So many starts of Navigator that ended without a load: it dies of what it finds.
MAX_DEADLY_STARTS = 3


class Phase(StrEnum):
    """Where a published generation is on its way into the living Navigator."""

    WAITING = "waiting"
    BOOTING = "booting"
    FOREIGN = "foreign"
    LOADING = "loading"
    OVERDUE = "overdue"
    PROBING = "probing"
    LOADED = "loaded"


class Action(StrEnum):
    """What to do about it."""

    LOOK = "look"
    SIGNAL = "signal"
    PROBE = "probe"
    RECORD = "record"
    ROLL_BACK = "roll back"
    GIVE_UP = "give up"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Published:
    """The generation in place.

    `at` is the moment of its publication on the monotonic clock, `proven` whether some Navigator had it
    loaded, `restored` whether it is an older set that took the place of one that was not loaded.
    """

    generation: int
    fingerprint: str
    at: float
    proven: bool = False
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed just now.

    `on_maintenance`: it was started on the maintenance file. `answers`: its port takes connections, so that a
    signal does not end it. `served` is the fingerprint of the set whose marker it touched last, `is_shown`
    whether that was after the publication: the same set may have been published anew. `asking` is how many of
    its own hooks and CGIs are being answered, `let_go` when the last of them was told to look. `starts` are
    the starts since the publication that ended without a marker. `probe` is the verdict of the probes on this
    process and generation, with `probe_error` when it is bad; None while there is none. `fallback` is the
    generation to go back to. `retry` when what was taken back is to be tried again.
    """

    process: Process | None = None
    on_maintenance: bool = False
    answers: bool = False
    published: Published | None = None
    served: str | None = None
    is_shown: bool = True
    asking: int = 0
    let_go: float | None = None
    starts: int = 0
    probe: bool | None = None
    probe_error: str = ""
    fallback: int | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class LoadState:
    """What holds since when (monotonic), and what was done about it: how often, and when last.

    `acts` is -1 while the way back is under way. `looked` is when Navigator was first told to look while it
    was booting. `reason` says why it goes back, or cannot: then it is `given_up`.
    """

    phase: Phase = Phase.WAITING
    process: Process | None = None
    generation: int | None = None
    since: float = 0.0
    acts: int = 0
    acted: float = 0.0
    looked: float | None = None
    recorded: bool = False
    reason: str = ""
    given_up: bool = False


Step = tuple[LoadState, Action | None]


def transition(state: LoadState, facts: Facts, now: float, limit: float) -> Step:
    """The state that follows from the facts, and what to do now; `limit` is how long a load may take."""
    published = facts.published
    generation = published.generation if published else None
    phase = _phase(facts)
    known = Phase.LOADING if state.phase is Phase.OVERDUE else state.phase
    known = Phase.PROBING if known is Phase.LOADED else known
    if (known, state.process, state.generation) != (phase, facts.process, generation):
        # A boot goes on when something is published meanwhile: its hook has had its time.
        booting = (state.phase, state.process) == (Phase.BOOTING, facts.process) and phase is Phase.BOOTING
        state = LoadState(phase, facts.process, generation, state.since if booting else now)
    if published is None or (state.acts < 0 and now - state.acted < limit):
        return state, None  # nothing is in place, or the way back is under way
    if _dies(facts):
        return _back(state, facts, now, f"Navigator died {facts.starts} times at its start")
    return _RULES[phase](state, facts, published, now, limit)


def _phase(facts: Facts) -> Phase:
    if facts.process is None:
        return Phase.WAITING
    if facts.served is None:
        return Phase.BOOTING if facts.on_maintenance else Phase.FOREIGN
    published = facts.published
    shown = published is not None and facts.served == published.fingerprint and facts.is_shown
    return Phase.PROBING if shown else Phase.LOADING


def _dies(facts: Facts) -> bool:
    """Whether Navigator ends again and again at its start on a set that nothing has ever served."""
    published = facts.published
    return (
        published is not None
        and not published.proven
        and facts.fallback is not None
        and facts.starts >= MAX_DEADLY_STARTS
        and facts.served != published.fingerprint
        and not (facts.process is not None and facts.on_maintenance)
    )


def _waiting(state: LoadState, facts: Facts, published: Published, now: float, limit: float) -> Step:
    # Nobody is served by these files, and a bad file ends Navigator at its start before anything shows it.
    # A living one that goes on serving is the safe place to try the set again.
    if published.proven or facts.fallback is None or now - state.since < limit:
        return state, None
    return _back(state, facts, now, "Navigator did not start with it")


def _booting(state: LoadState, facts: Facts, published: Published, now: float, limit: float) -> Step:
    let_go = facts.let_go
    if let_go is not None and let_go >= max(state.since, published.at) and state.looked is None:
        state = replace(state, looked=let_go)
    if facts.asking:
        return state, None
    overdue = state.looked is not None and now - state.looked >= min(limit, BOOT_LOAD_SECONDS)
    if overdue and facts.fallback is not None and not published.proven:
        return _back(state, facts, now, "Navigator looked at it and did not load it")
    rested = max(state.since if not state.acts else state.acted, let_go or 0.0)
    return _repeat(state, Action.LOOK, rested, now) if facts.answers else (state, None)


def _foreign(state: LoadState, facts: Facts, published: Published, now: float, limit: float) -> Step:
    if facts.asking or not facts.answers:
        return state, None
    rested = max(state.since if not state.acts else state.acted, facts.let_go or 0.0)
    return _repeat(state, Action.SIGNAL, rested, now)


def _loading(state: LoadState, facts: Facts, published: Published, now: float, limit: float) -> Step:
    if state.acts == 0:
        let_go = facts.let_go
        by_itself = let_go is not None and let_go >= published.at
        if facts.asking and now - state.since < limit:
            return state, None
        if by_itself and let_go is not None and now - let_go < RELOAD_SECONDS:
            return state, None
        return _acted(state, now), Action.SIGNAL
    if now - state.acted < limit:
        return state, None
    if state.acts == 1:
        return replace(_acted(state, now), phase=Phase.OVERDUE), Action.SIGNAL
    return _back(state, facts, now, "Navigator did not load it")


def _probing(state: LoadState, facts: Facts, published: Published, now: float, limit: float) -> Step:
    if facts.probe:
        state = replace(state, phase=Phase.LOADED, given_up=False)
        if not state.recorded:
            return replace(state, recorded=True, acted=now), Action.RECORD
        if facts.retry and now - state.acted >= FIRST_PAUSE_SECONDS:
            return replace(state, acted=now), Action.RETRY
        return state, None
    if facts.probe is False and now - state.since >= limit and not state.given_up:
        return _back(state, facts, now, facts.probe_error)
    if not state.acts or (facts.probe is False and now - state.acted >= PROBE_PAUSE_SECONDS):
        return _acted(state, now), Action.PROBE
    return state, None


_RULES: dict[Phase, Callable[[LoadState, Facts, Published, float, float], Step]] = {
    Phase.WAITING: _waiting,
    Phase.BOOTING: _booting,
    Phase.FOREIGN: _foreign,
    Phase.LOADING: _loading,
    Phase.PROBING: _probing,
}


def _acted(state: LoadState, now: float) -> LoadState:
    return replace(state, acts=max(0, state.acts) + 1, acted=now)  # -1: a way back that never came


def _repeat(state: LoadState, action: Action, rested: float, now: float) -> Step:
    """Do it now, or once it has rested for the pause that grows with each time."""
    pause = min(FIRST_PAUSE_SECONDS * 2 ** max(0, state.acts - 1), LAST_PAUSE_SECONDS)
    return (_acted(state, now), action) if now - rested >= pause else (state, None)


def _back(state: LoadState, facts: Facts, now: float, reason: str) -> Step:
    """Go back; without a generation to go back to, give up."""
    published = facts.published
    if facts.fallback is None or published is None or published.restored:
        given_up = replace(state, reason=reason, given_up=True)
        return (given_up, None) if state.given_up else (given_up, Action.GIVE_UP)
    return replace(state, acts=-1, acted=now, looked=None, reason=reason), Action.ROLL_BACK


def holds(state: LoadState, facts: Facts, now: float) -> bool:
    """Whether a publication now could be overlooked, because a load that is under way began before it.

    Only for a moment, and only while Navigator goes on serving: nothing waits for what its own end brings.
    """
    return state.phase is Phase.LOADING and facts.published is not None and now - state.since < HOLD_SECONDS


def deadline(state: LoadState, now: float, limit: float) -> float:
    """Seconds until time alone changes what `transition` says, at most."""
    if state.phase is Phase.LOADED:
        return float("inf")
    rested = state.acted if state.acts else state.since
    passed = max(0.0, now - rested)
    waits = [
        one - passed
        for one in (PROBE_PAUSE_SECONDS, FIRST_PAUSE_SECONDS, BOOT_LOAD_SECONDS, limit)
        if one > passed
    ]
    return min(waits, default=FIRST_PAUSE_SECONDS)
