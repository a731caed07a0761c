"""The rules by which a pending load is followed, and the tracker that carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.errors import SidecarError
from sidecar.update.reload import Action, Pending, ReloadTracker, decide
from tests.support.machine import until

TIMEOUT = 10.0
PUBLISHED = 1000.0


def pending(**changes: Any) -> Pending:
    """A generation published at 1000 on the wall clock and at 0 on the monotonic one."""
    facts: dict[str, Any] = {
        "generation": 2,
        "fingerprint": "f",
        "published": PUBLISHED,
        "since": 0.0,
        "at_once": False,
    }
    return Pending(**facts | changes)


@pytest.mark.parametrize(
    ("one", "marker", "alive", "now", "action"),
    [
        (pending(), PUBLISHED + 0.1, True, 1.0, Action.LOADED),
        (pending(), PUBLISHED + 0.1, False, 1.0, Action.LOADED),
        (pending(), PUBLISHED - 0.01, True, 1.0, Action.LOADED),
        (pending(), PUBLISHED - 1.0, True, 1.0, Action.WAIT),
        (pending(), None, False, 1.0, Action.DOWN),
        (pending(), None, False, 100.0, Action.DOWN),
        (pending(), None, True, 9.9, Action.WAIT),
        (pending(), None, True, 10.0, Action.SIGNAL),
        (pending(at_once=True), None, True, 0.0, Action.SIGNAL),
        (pending(signalled=10.0), None, True, 19.9, Action.WAIT),
        (pending(signalled=10.0), None, True, 20.0, Action.ROLL_BACK),
        (pending(signalled=10.0), None, False, 30.0, Action.DOWN),
        (pending(signalled=10.0, given_up=True), None, True, 99.0, Action.WAIT),
        (pending(signalled=10.0, given_up=True), PUBLISHED + 50, True, 99.0, Action.LOADED),
    ],
    ids=[
        "a newer marker is evidence",
        "evidence counts though the process is gone",
        "the kernel's clock may lag by a tick",
        "a marker from before proves nothing",
        "down is not refusing",
        "down for long is still not refusing",
        "the time is not up",
        "the time is up",
        "nobody else makes it look",
        "after the signal it gets as long again",
        "then it goes back",
        "it went down after the signal",
        "given up: nothing more is done",
        "late evidence counts even then",
    ],
)
def test_decide(one: Pending, marker: float | None, alive: bool, now: float, action: Action) -> None:
    """Each situation has one answer."""
    assert decide(one, marker, alive, now, TIMEOUT) is action


class Navigator:
    """A scripted Navigator: a process, markers, a probe, and a record of what was done to it."""

    def __init__(self) -> None:
        self.alive: object | None = "process 1"
        self.markers: dict[str, float] = {}
        self.signals = 0
        self.loads_on_signal: float | None = None
        self.probe_error: SidecarError | None = None
        self.probes = 0
        self.told: list[tuple[Any, ...]] = []
        self.can_go_back = True
        self.looked = asyncio.Event()

    def find(self) -> object | None:
        return self.alive

    def reload(self) -> object:
        self.signals += 1
        if self.loads_on_signal is not None:
            self.markers["f"] = self.loads_on_signal
        return self.alive

    def touched(self, fingerprint: str) -> float | None:
        return self.markers.get(fingerprint)

    async def changes(self, pause: float) -> AsyncGenerator[None, None]:
        while True:
            await asyncio.sleep(0.005)
            yield

    async def probe(self) -> None:
        self.probes += 1
        if self.probe_error:
            raise self.probe_error

    def loaded(self, generation: int, seconds: float | None) -> None:
        self.told.append(("loaded", generation, seconds))

    def failed(self, generation: int, reason: str, sentence: str) -> None:
        self.told.append(("failed", generation, reason))

    def roll_back(self, generation: int, reason: str) -> bool:
        self.told.append(("roll back", generation, reason))
        return self.can_go_back


@asynccontextmanager
async def tracking(navigator: Navigator, timeout: float) -> AsyncIterator[ReloadTracker]:
    tracker = ReloadTracker(
        navigator,
        navigator,
        navigator.probe,
        timeout,
        navigator,
        navigator.roll_back,
        lambda kind, data: None,
    )
    task = asyncio.create_task(tracker.run())
    try:
        yield tracker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_marker_settles_it() -> None:
    """A fresh marker ends the waiting, tells how long the load took, and opens the way for the next."""
    navigator = Navigator()
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        before = tracker.settled
        navigator.markers["f"] = PUBLISHED + 0.25
        assert await tracker.wait(2, 5) == "loaded"
        assert navigator.told == [("loaded", 2, 0.25)]
        assert (before, tracker.settled) == (False, True)
        assert navigator.signals == 0


async def test_one_signal_then_back() -> None:
    """Without evidence there is one signal, then one rollback, and the waiting caller learns of it."""
    navigator = Navigator()
    async with tracking(navigator, 0.05) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        assert await tracker.wait(2, 5) == "failed"
        assert navigator.signals == 1
        assert navigator.told == [("failed", 2, "not_loaded"), ("roll back", 2, "not_loaded")]
        assert tracker.settled


async def test_signal_at_once_suffices() -> None:
    """A publication that no CGI announces is signalled immediately."""
    navigator = Navigator()
    navigator.loads_on_signal = PUBLISHED + 0.1
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=True)
        assert await tracker.wait(2, 5) == "loaded"
        assert navigator.signals == 1


async def test_down_blocks_nothing_and_is_told() -> None:
    """While Navigator is down nothing is taken back, publishing goes on, and its start is waited for."""
    navigator = Navigator()
    navigator.alive = None
    async with tracking(navigator, 0.05) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=True)
        assert tracker.settled
        assert await tracker.wait(2, 0.2) == "down"
        assert navigator.told == []
        navigator.alive = "process 2"
        navigator.markers["f"] = PUBLISHED + 9
        assert await tracker.wait(2, 5) == "loaded"
        assert navigator.signals == 0


async def test_failing_probe_goes_back() -> None:
    """A load whose probe fails is no load."""
    navigator = Navigator()
    navigator.probe_error = SidecarError("answered 500")
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        navigator.markers["f"] = PUBLISHED + 0.1
        assert await tracker.wait(2, 5) == "failed"
        assert navigator.told == [("failed", 2, "probe"), ("roll back", 2, "probe")]


async def test_a_load_whose_probe_failed_is_over() -> None:
    """What the probe finds while the rollback puts the older files back says nothing of the newer set."""
    navigator = Navigator()
    navigator.probe_error = SidecarError("answered 401")
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        navigator.markers["f"] = PUBLISHED + 0.1
        assert await tracker.wait(2, 5) == "failed"
        navigator.probe_error = None
        for _ in range(5):
            tracker._changed.set()
            await asyncio.sleep(0.01)
        assert navigator.told == [("failed", 2, "probe"), ("roll back", 2, "probe")]
        navigator.markers["f"] = PUBLISHED + 0.2  # loaded anew, and now it works
        tracker._changed.set()
        await until(lambda: navigator.told[-1][:2] == ("loaded", 2))


async def test_a_probe_that_goes_on_failing_goes_back_once() -> None:
    """However often it is loaded again before the rollback has run, that is asked for once."""
    navigator = Navigator()
    navigator.probe_error = SidecarError("answered 500")
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        navigator.markers["f"] = PUBLISHED + 0.1
        assert await tracker.wait(2, 5) == "failed"
        probes = navigator.probes
        while navigator.probes < probes + 3:
            navigator.markers["f"] += 1
            tracker._changed.set()
            await asyncio.sleep(0.01)
        assert navigator.told == [("failed", 2, "probe"), ("roll back", 2, "probe")]


async def test_rollback_that_is_not_loaded_is_left_alone() -> None:
    """A rollback that Navigator does not load either is not rolled back again."""
    navigator = Navigator()
    async with tracking(navigator, 0.05) as tracker:
        tracker.expect(3, "f", PUBLISHED, at_once=True, is_rollback=True)
        assert await tracker.wait(3, 5) == "failed"
        assert navigator.told == [("failed", 3, "not_loaded")]
        navigator.markers["f"] = PUBLISHED + 1
        await until(lambda: ("loaded", 3, 1.0) in navigator.told)


async def test_newer_generation_supersedes() -> None:
    """Whoever waits for a generation that is replaced is told so."""
    navigator = Navigator()
    async with tracking(navigator, 60) as tracker:
        tracker.expect(2, "f", PUBLISHED, at_once=False)
        waiting = asyncio.create_task(tracker.wait(2, 5))
        await asyncio.sleep(0)
        tracker.expect(3, "g", PUBLISHED, at_once=False)
        assert await waiting == "superseded"
