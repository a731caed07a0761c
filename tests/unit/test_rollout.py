"""Rollouts and their past as values: what follows from what machines say, and which index to go back to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sidecar.fleet.index_history import (
    KEPT_SECONDS,
    MAX_KEPT,
    PastIndex,
    UnknownIndex,
    before,
    ending,
    named,
    previous,
    superfluous,
)
from sidecar.fleet.rollout import (
    Rollout,
    after,
    halted,
    is_driven,
    reaching,
    returned,
    stored,
    taken_over,
    waves,
)

NAMES = [f"m{number}" for number in range(1, 9)]


def rollout(count: int = 8) -> Rollout:
    names = [f"m{number}" for number in range(1, count + 1)]
    return Rollout(
        "token", "somebody", 100.0, 1.0, "b" * 64, "a" * 64, "etag", 1.0, 2.0, waves(names, names[:1]), count
    )


def states(names: tuple[str, ...], state: str = "loaded") -> dict[str, str]:
    return dict.fromkeys(names, state)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (4, [1, 1]), (8, [1, 2]), (35, [1, 9])])
def test_waves_grow(count: int, sizes: list[int]) -> None:
    """The canary alone, then a quarter of all, rounded up; the others have it from the store."""
    names = [str(number) for number in range(count)]
    assert [len(wave) for wave in waves(names, names[:1])] == sizes


def test_a_good_rollout_stores_the_index_last() -> None:
    """Wave, soak, wave, store, rest, done."""
    one = reaching(rollout(), ["m1"])
    seen = [one.phase]
    for names in (("m1",), ("m1",), ("m2", "m3")):
        one = after(one, states(names), {})
        seen.append(one.phase)
    one = stored(one)
    one = after(one, states(("m4", "m5", "m6", "m7", "m8")), {})
    assert [*seen, one.phase] == ["wave", "soak", "wave", "store", "done"]
    assert set(one.proven) == set(NAMES)


@pytest.mark.parametrize("phase", ["wave", "soak", "rest"])
@pytest.mark.parametrize("wave", [0, 1])
def test_one_machine_that_refuses_takes_it_back(phase: str, wave: int) -> None:
    """Wherever it is, and however many have taken it; the reason names the place and the machine."""
    one = replace(rollout(), phase=phase, wave=wave)
    back = after(one, {"m2": "loaded", "m3": "refused"}, {"m3": "a probe failed"})
    assert back.phase == "back"
    assert back.reason.endswith("m3 does not take it: a probe failed")


@pytest.mark.parametrize("state", ["hanging", "unreachable", "wrong_machine", "failing", "denied", "stale"])
def test_a_machine_that_proves_nothing_is_no_canary(state: str) -> None:
    """The next one takes its place; it lags, and is told again with all others."""
    one = after(rollout(), {"m1": state}, {})
    assert (one.phase, one.wave, one.waves[0], one.lagging) == ("wave", 0, ("m2",), ("m1",))
    one = after(one, {"m2": "loaded"}, {})
    assert one.phase == "soak"
    silent = after(one, {"m2": state}, {})
    assert silent.phase == "back"  # two of eight


@pytest.mark.parametrize("phase", ["wave", "soak"])
def test_a_canary_that_is_degraded_takes_it_back(phase: str) -> None:
    """It serves the index, but not as it should: no other machine tries that, and the reason says so."""
    seen = {"m1": "it serves the index, but not as it should"}
    back = after(replace(rollout(), phase=phase), {"m1": "degraded"}, seen)
    assert back.phase == "back"
    assert back.reason == ("at the canary: m1 is degraded with it: it serves the index, but not as it should")
    # Of the others one may be so by itself.
    assert after(replace(rollout(), wave=1), {"m2": "degraded", "m3": "loaded"}, {}).phase == "store"


@pytest.mark.parametrize(("count", "may"), [(1, 1), (8, 1), (20, 2), (35, 3)])
def test_a_tenth_may_lag(count: int, may: int) -> None:
    """And at least one machine; one more has it taken back."""
    one = replace(rollout(count), phase="rest", wave=1)
    lost = tuple(f"m{number}" for number in range(1, may + 1))
    assert after(one, states(lost, "unreachable"), {}).phase == "done"
    back = after(one, states((*lost, "more"), "unreachable"), {"more": "no connection"})
    assert back.phase == "back"
    assert back.reason == (
        f"at rest: {may + 1} machines do not serve it, more than the {may} that may lag; "
        "more is unreachable: no connection"
    )


def test_without_any_proof_nothing_goes_on() -> None:
    """A fleet of one machine that does not answer, or that stopped: no evidence is no success."""
    for state in ("hanging", "stopped"):
        assert after(rollout(1), {"m1": state}, {}).phase == "back"


def test_a_machine_that_stops_is_no_failure() -> None:
    """It fetches when it wakes; it is neither proven nor lagging."""
    one = after(replace(rollout(), phase="rest", wave=1), {"m7": "stopped", "m8": "loaded"}, {})
    assert (one.phase, one.proven, one.lagging) == ("done", ("m8",), ())


def test_what_has_ended_stays() -> None:
    """An abort that comes too late changes nothing; what is frozen is tried again by the next driver."""
    done = replace(rollout(), phase="done")
    assert halted(done, "a person has aborted it") == done
    back = halted(rollout(), "a person has aborted it")
    assert back.reason == "at the canary: a person has aborted it"
    assert halted(back, "again").reason == back.reason
    frozen = returned(back, "the store does not answer", [])
    assert (frozen.phase, frozen.ended) == ("frozen", True)
    assert taken_over(frozen, "other", "another", 0.0).phase == "back"
    assert returned(back, "", ["m1"]).lagging == ("m1",)


def test_a_lease_tells_whether_a_driver_lives_as_far_as_clocks_can() -> None:
    """One that is over, or impossibly far ahead, is another clock's; nobody drives what has ended."""
    one = rollout()
    assert is_driven(one, 99.0) is True
    assert is_driven(one, 100.0) is None
    assert is_driven(one, 10.0) is None
    assert is_driven(replace(one, phase="done"), 99.0) is False
    assert is_driven(replace(one, lease=0.0), 99.0) is False
    assert is_driven(taken_over(one, "other", "another", 1000.0), 1029.0) is True


def entry(letter: str, at: float, kind: str = "update", **more: object) -> PastIndex:
    return replace(PastIndex(letter * 64, 1, at, at, "somebody", state="loaded"), kind=kind, **more)


PAST = [
    entry("a", 50, "rollback", replaced="c" * 64),
    entry("d", 40, state="taken_back"),
    entry("c", 30),
    entry("a", 20),
    entry("b", 10),
]


def test_each_rollback_goes_further_back() -> None:
    """Never to what was taken back, and never forward again by itself."""
    assert previous(PAST, "a" * 64).sha256 == "b" * 64
    assert previous(PAST[1:], "c" * 64).sha256 == "a" * 64
    assert previous(PAST, "f" * 64).sha256 == "a" * 64  # stored by somebody who writes no history
    with pytest.raises(UnknownIndex):
        previous(PAST, "b" * 64)


def test_an_index_is_named_by_its_digest_or_a_moment() -> None:
    """A moment means what the store held then."""
    assert named(PAST, "CCCC").at == 30
    assert before(PAST, 45, "a" * 64).sha256 == "c" * 64
    for wrong in ("ffff", "c"):
        with pytest.raises(UnknownIndex):
            named(PAST, wrong)
    with pytest.raises(UnknownIndex):
        before(PAST, 10, "a" * 64)


def test_an_update_ends_the_rollback_that_the_store_holds() -> None:
    """And nothing else."""
    assert ending(PAST, "a" * 64) == PAST[0]
    assert ending(PAST, "c" * 64) is None
    assert ending(PAST[1:], "c" * 64) is None


def test_the_history_is_bounded_and_always_allows_a_step_back() -> None:
    """By number and by age; the newest two stay however old they are."""
    many = [(str(number), entry("a", 1000.0 - number)) for number in range(MAX_KEPT + 3)]
    assert superfluous(many, 1000.0) == [str(MAX_KEPT), str(MAX_KEPT + 1), str(MAX_KEPT + 2)]
    assert superfluous(many[:4], 2000.0 + KEPT_SECONDS) == ["2", "3"]


@pytest.mark.parametrize("tried", [1, MAX_KEPT + 5])
def test_what_a_step_back_needs_stays_however_much_was_tried_since(tried: int) -> None:
    """Indexes that were taken back fill the history; the one that the newest replaced is still there."""
    now = 3 * KEPT_SECONDS
    tries = [entry("d", now - 10 - one, state="taken_back") for one in range(tried)]
    past = [entry("c", now), *tries, entry("b", 20), entry("a", 10)]
    gone = superfluous([(str(number), one) for number, one in enumerate(past)], now)
    left = [one for number, one in enumerate(past) if str(number) not in gone]
    assert previous(left, "c" * 64).sha256 == "b" * 64
    assert str(len(past) - 1) in gone


def test_a_step_back_after_a_rollback_leads_further_back_however_old_it_is() -> None:
    """What the rollback left is not gone to again, since the place of its goal in the history is known."""
    now = 3 * KEPT_SECONDS
    past = [entry("b", now, "rollback", replaced="c" * 64), entry("c", 30), entry("b", 20), entry("a", 10)]
    gone = superfluous([(str(number), one) for number, one in enumerate(past)], now)
    left = [one for number, one in enumerate(past) if str(number) not in gone]
    assert previous(left, "b" * 64).sha256 == "a" * 64


def test_an_upload_that_came_to_nothing_is_nowhere_to_go_back_to() -> None:
    """Another was faster: the store never held it, though nobody could write that down."""
    lost = entry("d", 40, state="under_way", replaced="b" * 64)
    past = [entry("c", 50, replaced="b" * 64), lost, entry("b", 20)]
    assert previous(past, "c" * 64).sha256 == "b" * 64
    assert before(past, 45, "c" * 64).sha256 == "b" * 64
    assert previous([replace(past[0], replaced="d" * 64), *past[1:]], "c" * 64).sha256 == "d" * 64
    assert before(past[1:], 45, "d" * 64).sha256 == "d" * 64
