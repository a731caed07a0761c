"""Polling, waking after a suspension, and watching the machine's own index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.errors import SidecarError
from sidecar.update.triggers import IndexWatcher, Ticker
from tests.support.machine import until


class Clocks:
    """A wall clock and a monotonic one, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_000_000.0, 50.0

    def run(self, seconds: float) -> None:
        """Time goes by."""
        self.wall += seconds
        self.monotonic += seconds

    def suspend(self, seconds: float) -> None:
        """Time goes by while the machine sleeps."""
        self.wall += seconds


class Calls:
    """Counts what the ticker does."""

    def __init__(self) -> None:
        self.polls = 0
        self.gaps: list[float] = []

    async def poll(self) -> None:
        self.polls += 1

    async def resumed(self, gap: float) -> None:
        self.gaps.append(gap)


@asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(loop)
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ticker(interval: float, calls: Calls, clocks: Clocks) -> Ticker:
    return Ticker(
        interval, calls.poll, calls.resumed, lambda: clocks.wall, lambda: clocks.monotonic, tick=0.001
    )


async def test_suspension_is_noticed_by_comparing_clocks() -> None:
    """A machine that slept for an hour is told so once, and by how much."""
    clocks, calls = Clocks(), Calls()
    async with running(ticker(0, calls, clocks).run()):
        clocks.suspend(3600)
        await until(lambda: calls.gaps)
        clocks.run(5)
        await asyncio.sleep(0.01)
        assert calls.gaps == [3600.0]


async def test_time_that_just_passes_is_no_suspension() -> None:
    """Both clocks moving together, however far, wake nobody."""
    clocks, calls = Clocks(), Calls()
    async with running(ticker(60, calls, clocks).run()):
        clocks.run(200)
        await until(lambda: calls.polls == 1)
        assert calls.gaps == []


async def test_poll_comes_within_its_jitter() -> None:
    """A poll comes between four fifths and six fifths of the interval, and then again."""
    clocks, calls = Clocks(), Calls()
    async with running(ticker(100, calls, clocks).run()):
        clocks.run(79)
        await asyncio.sleep(0.01)
        assert calls.polls == 0
        clocks.run(42)
        await until(lambda: calls.polls == 1)
        clocks.run(121)
        await until(lambda: calls.polls == 2)


async def test_zero_means_never() -> None:
    """Without an interval nothing is polled, however long it takes."""
    clocks, calls = Clocks(), Calls()
    async with running(ticker(0, calls, clocks).run()):
        clocks.run(10**9)
        await asyncio.sleep(0.02)
        assert calls.polls == 0


async def test_own_index_is_told_of_when_it_changes() -> None:
    """A changed local index is told of once it is quiet, not before the change and not twice."""
    signature, calls = ["a"], Calls()
    async with running(IndexWatcher(lambda: signature[0], calls.poll, quiet=0.02, longest=60).run(0.001)):
        await asyncio.sleep(0.05)
        assert calls.polls == 0
        signature[0] = "b"
        await until(lambda: calls.polls == 1)
        await asyncio.sleep(0.05)
        assert calls.polls == 1


async def test_own_index_that_never_rests_is_told_of_all_the_same() -> None:
    """Writes that go on and on are told of after the upper bound."""
    count, calls = [0], Calls()

    def signature() -> str:
        count[0] += 1
        return str(count[0])

    async with running(IndexWatcher(signature, calls.poll, quiet=60, longest=0.02).run(0.001)):
        await until(lambda: calls.polls >= 2)


async def test_what_goes_wrong_while_watching_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A look or a follow-up that fails in any way is logged, not repeated each time, and ends nothing."""
    failures: list[Exception | None] = [None]
    signature, calls = ["a"], Calls()

    def look() -> str:
        if failures[0] is not None:
            raise failures[0]
        return signature[0]

    async def changed() -> None:
        await calls.poll()
        raise RuntimeError("nobody expected this")

    async with running(IndexWatcher(look, changed, quiet=0.02, longest=60).run(0.001)):
        for failure in (PermissionError(13, "Permission denied"), ValueError("what?")):
            failures[0] = failure
            await until(lambda: str(failures[0]) in caplog.text)
        failures[0] = None
        for polls in (1, 2):
            signature[0] = f"{polls}"
            await until(lambda polls=polls: calls.polls == polls)
    assert caplog.text.count("what?") <= 2  # in the sentence, and in its traceback
    assert "nobody expected this" in caplog.text


async def test_a_poll_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error in what the ticker calls is logged, and it goes on ticking."""
    clocks, calls = Clocks(), Calls()

    async def poll() -> None:
        await calls.poll()
        raise RuntimeError("nobody expected this")

    async def resumed(gap: float) -> None:
        await calls.resumed(gap)
        raise SidecarError("the store could not be opened")

    loop = Ticker(100, poll, resumed, lambda: clocks.wall, lambda: clocks.monotonic, tick=0.001).run()
    async with running(loop):
        for polls in (1, 2):
            clocks.run(121)
            await until(lambda polls=polls: calls.polls == polls)
        for gaps in (1, 2):
            clocks.suspend(3600)
            await until(lambda gaps=gaps: len(calls.gaps) == gaps)
    assert "nobody expected this" in caplog.text
    assert "the store could not be opened" in caplog.text
