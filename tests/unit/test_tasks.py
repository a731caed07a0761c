"""Waiting that can always be ended."""

from __future__ import annotations

import asyncio

from sidecar.system.tasks import end, happens


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
