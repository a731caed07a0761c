"""Waiting and ending in asyncio, where the standard library needs a second look."""

from __future__ import annotations

import asyncio
from typing import Any


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


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
