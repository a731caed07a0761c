"""The lock file of the ready work: one runner on a machine, whoever it is.

The lock is the kernel's, so it ends with its holder. What the file says is for people, and for the next
runner, who need not do what has just been done.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from sidecar.errors import Busy, PublishError
from sidecar.model.record import Record

_LOOK_EVERY = 0.2


class Holder(Record, frozen=True):
    """Who holds the lock, or held it last; times in seconds since 1970.

    `finished` is set when the work for the set named `fingerprint` was done without a failure.
    """

    pid: int
    started: float
    fingerprint: str = ""
    finished: float | None = None


class WorkLock:
    """The lock at one path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holder(self) -> Holder | None:
        """What the file says; None when it says nothing."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Holder)
        except (OSError, msgspec.MsgspecError):
            return None

    @asynccontextmanager
    async def held(self, patience: float) -> AsyncIterator[_Held]:
        """Hold the lock; `Busy` after `patience` seconds when another process keeps it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise PublishError(
                f"the lock file {self._path} cannot be opened: {error.strerror}",
                "check its folder, or set ready.lock",
            ) from error
        try:
            await self._take(descriptor, patience)
            before = self.holder()
            held = _Held(descriptor, before)
            held.write(Holder(os.getpid(), time.time()))
            yield held
        finally:
            os.close(descriptor)

    async def _take(self, descriptor: int, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
            if time.monotonic() >= deadline:
                holder = self.holder()
                who = f"process {holder.pid}" if holder else "another process"
                raise Busy(f"{who} does the ready work and holds {self._path}", "wait until it has ended")
            await asyncio.sleep(_LOOK_EVERY)


class _Held:
    """The lock while it is held; `before` is what the last holder left."""

    def __init__(self, descriptor: int, before: Holder | None) -> None:
        self._descriptor = descriptor
        self.before = before

    def write(self, holder: Holder) -> None:
        """Say who holds it, or what was done."""
        text = msgspec.json.encode(holder) + b"\n"
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def restore(self) -> None:
        """Leave what the last holder said: what it did still is what was done last."""
        if self.before is not None:
            self.write(self.before)

    def finish(self, fingerprint: str) -> None:
        """Say that the work for this set is done."""
        self.write(Holder(os.getpid(), time.time(), fingerprint, time.time()))
