"""Threads for what blocks, behind everything else on the machine."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

Result = TypeVar("Result")
Rest = TypeVarTuple("Rest")
Item = TypeVar("Item")


class Background:
    """A few threads with a niceness of their own."""

    def __init__(self, threads: int, nice: int) -> None:
        self.nice = nice
        self._threads = ThreadPoolExecutor(threads, "ready", self._calm)

    def _calm(self) -> None:
        # On Linux every thread has its own niceness; elsewhere a thread's number may be another process's.
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.nice)

    async def run(self, function: Callable[[*Rest], Result], *arguments: *Rest) -> Result:
        """Run what blocks in a thread, which cannot be stopped: a cancelled caller still waits for it."""
        loop = asyncio.get_running_loop()
        return await _to_its_end(loop.run_in_executor(self._threads, function, *arguments))

    def shutdown(self) -> None:
        """End the threads; what they are at is finished first."""
        self._threads.shutdown()


async def in_thread(function: Callable[[*Rest], Result], *arguments: *Rest) -> Result:
    """Run what blocks in one of the daemon's common threads; a cancelled caller still waits for it."""
    return await _to_its_end(asyncio.ensure_future(asyncio.to_thread(function, *arguments)))


async def _to_its_end(future: asyncio.Future[Result]) -> Result:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise


async def each(items: Iterable[Item], parallel: int, work: Callable[[Item], Awaitable[None]]) -> None:
    """Do something with each item, so many at once; the first exception ends the rest."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
