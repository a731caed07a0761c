"""Waiting and ending in asyncio, where the standard library needs a second look."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def happens(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether the event is set within the time; None waits for ever.

    Not `asyncio.wait_for`: up to Python 3.11 it swallows a cancellation that meets the event, and then the
    loop that waits here would never end.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(*work: Coroutine[Any, Any, Result]) -> list[Result]:
    """What comes of each. A failure is raised once the others have been cancelled and have ended.

    Left to themselves, as `asyncio.gather` leaves them, they would outlive what they work with.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(*tasks)


class Tasks:
    """Tasks that go on, whether anybody waits for them or not: asyncio itself forgets them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Do it from now on; whoever wants to may wait for the task."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def end(self) -> None:
        """Cancel all of them and wait until they have ended."""
        await end(*self._running)
