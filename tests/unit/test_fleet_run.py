"""The machines of a fleet update, each on its own way, with answers as a test wants them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from sidecar.config.parse import parse
from sidecar.errors import SidecarError
from sidecar.fleet.debounce import Debounce, pause_after
from sidecar.fleet.machine_client import PokePayload
from sidecar.fleet.machine_updates import MachineUpdates
from sidecar.fleet.machines import FleetError, Target
from sidecar.fleet.progress import NoProgress
from sidecar.fleet.report import MachineResult
from sidecar.fleet.verdicts import MachineAnswer, Verdict
from sidecar.model.machine_report import MachineReport
from tests.support.machine import until

NEW = "b" * 64
ORDER = PokePayload(NEW)


def target(machine: str) -> Target:
    return Target(machine, "", "iad", "http://x", machine)


def taken(machine: str) -> MachineAnswer:
    return MachineAnswer(200, machine, msgspec.json.encode({"state": "published", "sha256": NEW}))


def served(machine: str, **more: Any) -> MachineAnswer:
    known = MachineReport(
        machine, "iad", "synced", "healthy", generation=2, published=NEW, loaded=2, sha256=NEW
    )
    return MachineAnswer(200, machine, msgspec.json.encode(msgspec.structs.replace(known, **more)))


class Talk:
    """Machines that answer well, unless `poking` says otherwise of one; counts what is under way at once."""

    def __init__(self) -> None:
        self.poking: dict[str, Callable[[int], Awaitable[MachineAnswer | Verdict]]] = {}
        self.states: dict[str, MachineAnswer] = {}
        self.pokes: Counter[str] = Counter()
        self.under_way = self.most = 0

    async def poke(self, target: Target, order: PokePayload) -> MachineAnswer | Verdict:
        self.pokes[target.id] += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if target.id in self.poking:
                return await self.poking[target.id](self.pokes[target.id])
            return taken(target.id)
        finally:
            self.under_way -= 1

    async def ask(self, target: Target) -> MachineAnswer | Verdict:
        return self.states.get(target.id, served(target.id))


async def never(number: int) -> MachineAnswer | Verdict:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def failing(number: int) -> MachineAnswer | Verdict:
    return MachineAnswer(500, None, b"")


async def update(
    talk: Talk, *machines: str, gone: tuple[str, ...] = (), ready: bool = False, **fleet: Any
) -> dict[str, MachineResult]:
    settings = parse({"fleet": {"pause": "1ms", "attempts": 3, "timeout": "5s", **fleet}}, {}).fleet

    async def stopped(one: Target) -> bool:
        return one.id in gone

    crew = MachineUpdates(settings, talk, stopped, ORDER, NoProgress(), ready=ready)
    results = await crew.update(tuple(target(one) for one in machines))
    return {one.machine: one for one in results}


async def test_only_what_failed_is_tried_again() -> None:
    """Until it works, or as often as is set."""
    talk = Talk()

    async def twice(number: int) -> MachineAnswer | Verdict:
        return MachineAnswer(500, None, b"") if number < 3 else taken("b")

    talk.poking |= {"b": twice, "c": failing}
    found = await update(talk, "a", "b", "c")
    assert {name: one.state for name, one in found.items()} == {"a": "loaded", "b": "loaded", "c": "failing"}
    assert talk.pokes == {"a": 1, "b": 3, "c": 3}
    assert [found[name].attempts for name in "abc"] == [1, 3, 3]


async def test_a_machine_that_stopped_is_not_tried_again() -> None:
    """It failed because it is gone."""
    talk = Talk()
    talk.poking["a"] = failing
    assert (await update(talk, "a", gone=("a",)))["a"].state == "stopped"
    assert talk.pokes["a"] == 1


@pytest.mark.parametrize("status", [401, 422, 413])
async def test_what_refuses_for_good_is_not_tried_again(status: int) -> None:
    """The same poke would get the same answer."""
    talk = Talk()

    async def refuse(number: int) -> MachineAnswer | Verdict:
        return MachineAnswer(status, "a", b"")

    talk.poking["a"] = refuse
    await update(talk, "a")
    assert talk.pokes["a"] == 1


async def test_one_that_hangs_keeps_nobody_waiting() -> None:
    """It is given up after its own time, with all others long done."""
    talk = Talk()
    talk.poking["slow"] = never
    found = await update(talk, "slow", "a", "b", timeout="0.1s", parallel=2)
    assert [found[name].state for name in ("slow", "a", "b")] == ["hanging", "loaded", "loaded"]


async def test_taken_but_never_loaded_says_so() -> None:
    """That it took the index is part of the reason."""
    talk = Talk()
    talk.states["a"] = served("a", loaded=1, sha256="a" * 64, health="progressing")
    found = await update(talk, "a", timeout="0.1s")
    assert (found["a"].state, found["a"].note) == (
        "hanging",
        "it has taken the index, but is not loaded after 0.1 s",
    )


async def test_ready_comes_after_loaded() -> None:
    """With its own, longer time."""
    talk = Talk()
    talk.states["a"] = served("a", ready=2)
    talk.states["b"] = served("b", ready=1)
    found = await update(talk, "a", "b", ready=True, timeout="0.05s", ready_timeout="0.05s")
    assert (found["a"].state, found["b"].state) == ("ready", "hanging")
    assert "not ready" in found["b"].note


async def test_requests_are_bounded() -> None:
    """However many machines there are."""
    talk = Talk()
    names = [f"m{number}" for number in range(300)]
    found = await update(talk, *names, parallel=7)
    assert {one.state for one in found.values()} == {"loaded"}
    assert talk.most <= 7


async def test_an_error_of_its_own_is_one_machines_result() -> None:
    """Nobody else suffers from it."""
    talk = Talk()

    async def broken(number: int) -> MachineAnswer | Verdict:
        raise SidecarError("something is wrong here")

    talk.poking["a"] = broken
    found = await update(talk, "a", "b")
    assert (found["a"].state, found["b"].state) == ("failing", "loaded")
    assert "something is wrong" in found["a"].note


@asynccontextmanager
async def following(work: Callable[[], Awaitable[bool]], retry: float = 60.0) -> AsyncIterator[Debounce]:
    """A follower that runs; it must still run in the end."""
    follower = Debounce(work, 0.01, 1.0, retry=retry)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_changes_are_gathered_and_none_is_lost() -> None:
    """Many changes make one run; one that comes during a run makes another; a busy fleet is tried again."""
    runs: list[int] = []
    release = asyncio.Event()

    async def work() -> bool:
        runs.append(len(runs))
        if len(runs) == 1:
            await release.wait()
        if len(runs) == 2:
            raise FleetError("busy", code="fleet_busy")
        return True

    async with following(work) as follower:
        for _ in range(5):
            follower.changed()
        await until(lambda: len(runs) == 1)
        follower.changed()
        release.set()
        await until(lambda: len(runs) == 3)
        follower.changed()
        await until(lambda: len(runs) == 4)
    assert runs == [0, 1, 2, 3]


async def test_what_was_not_done_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A report that is not good, a failure and an unexpected error are logged, and tried again until done."""
    runs: list[int] = []

    async def work() -> bool:
        runs.append(len(runs))
        if len(runs) == 1:
            return False
        if len(runs) == 2:
            raise SidecarError("the store is down")
        if len(runs) == 3:
            raise FileNotFoundError(2, "No such file or directory", "/tmp/sidecar-fleet-1")
        return True

    async with following(work, retry=0.001) as follower:
        follower.changed()
        await until(lambda: len(runs) == 4)
        follower.changed()
        await until(lambda: len(runs) == 5)
    assert "the store is down" in caplog.text
    assert "/tmp/sidecar-fleet-1" in caplog.text
    assert caplog.text.count("is tried again") == 3


async def test_a_change_does_not_wait_for_the_next_attempt() -> None:
    """While a failure is waited out a change starts a run as soon as it has rested."""
    runs: list[int] = []

    async def work() -> bool:
        runs.append(len(runs))
        return len(runs) > 1

    async with following(work, retry=3600.0) as follower:
        follower.changed()
        await until(lambda: len(runs) == 1)
        follower.changed()
        await until(lambda: len(runs) == 2)


def test_attempts_come_later_and_later() -> None:
    """The pauses double within bounds, however often it fails."""
    assert [pause_after(number, 10.0) for number in (1, 2, 3, 7, 9999)] == [10.0, 20.0, 40.0, 600.0, 600.0]
