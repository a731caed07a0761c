"""Waiting that can always be ended."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.system.tasks import end, happens, together


async def test_a_cancellation_that_meets_the_event_is_not_lost() -> None:
    """A loop that waits for an event ends when it is told to, also in the moment the event is set."""
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            await happens(event, 60.0)
            event.clear()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    event.set()
    await asyncio.sleep(0)
    event.set()
    async with asyncio.timeout(10):
        await end(task)
    assert task.cancelled()


async def test_an_event_in_time_and_one_that_is_late() -> None:
    """The answer says which of both it was."""
    event = asyncio.Event()
    assert not await happens(event, 0.001)
    event.set()
    assert await happens(event, None)


async def test_what_is_done_together_ends_together() -> None:
    """The first failure is raised when none of the others runs any more; else all tell what came of them."""
    ended = []

    async def value(number: int) -> int:
        return number

    async def long() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("long")
        return 0

    async def fails() -> int:
        await asyncio.sleep(0)
        raise ValueError

    assert await together(value(1), value(2)) == [1, 2]
    with pytest.raises(ValueError):
        await together(long(), fails())
    assert ended == ["long"]
