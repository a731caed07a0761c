"""The lock of the ready work: one process on a machine does it at a time.

The lock is the kernel's, so it ends with its holder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.errors import Busy, PublishError
from sidecar.system.files import is_special, led_to

_LOOK_EVERY_SECONDS = 0.2
# The work of another process may take that long.
_LOCK_TIMEOUT_SECONDS = 3600.0


class WorkLock:
    """The lock file at one path; it is waited for no longer than `timeout` seconds."""

    def __init__(self, path: Path, timeout: float = _LOCK_TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout = timeout

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock; `Busy` when another process keeps it for too long."""
        try:
            descriptor = self._open()
        except OSError as error:
            raise PublishError(
                f"the lock file {self._path} cannot be opened: {error.strerror}",
                "check its folder, or set ready.lock",
            ) from error
        try:
            await self._take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        """The lock file lies where the application may write: its link, or a pipe, is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        place = led_to(self._path)
        if is_special(place):
            place.unlink()
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    async def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
            if time.monotonic() >= deadline:
                raise Busy(
                    f"another process does the ready work, and has held {self._path} for {self._timeout:g} s",
                    f"wait until it has ended; `fuser {self._path}` names it",
                )
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
