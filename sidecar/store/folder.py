"""A folder as object store: for a single host, for trying things out, for tests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from sidecar.errors import StoreError
from sidecar.model import Fetched
from sidecar.settings import Fetch
from sidecar.store.transfer import CHUNK, Incoming


class FolderStore:
    """Objects are files below a folder; their ETag is made of size and time of the last change."""

    def __init__(self, folder: Path, limits: Fetch, observe: Callable[[str, str, float], None]) -> None:
        self._folder = folder
        self._limits = limits
        self._observe = observe

    async def startup(self) -> None:
        """Nothing to open."""

    async def shutdown(self) -> None:
        """Nothing to close."""

    async def reset(self) -> None:
        """Nothing to drop."""

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Copy the object to `target`, or give None when its ETag still is `etag`."""
        started = time.perf_counter()
        outcome = "error"
        try:
            async with asyncio.timeout(self._limits.timeout):
                fetched = await asyncio.to_thread(self._copy, self._folder / key, target, etag)
            outcome = "not_modified" if fetched is None else "ok"
            return fetched
        except StoreError as error:
            outcome = error.code.removeprefix("store_")
            raise
        except TimeoutError:
            outcome = "timeout"
            raise StoreError(
                f"reading {self._folder / key} took longer than {self._limits.timeout:g} s",
                "is the folder on a network file system that hangs?",
                code="store_timeout",
            ) from None
        finally:
            self._observe("get", outcome, time.perf_counter() - started)

    def _copy(self, source: Path, target: Path, etag: str | None) -> Fetched | None:
        for _ in range(self._limits.attempts):
            try:
                with source.open("rb") as stream:
                    before = os.fstat(stream.fileno())
                    if _etag(before) == etag:
                        return None
                    with Incoming(target, self._limits.max_bytes) as incoming:
                        while chunk := stream.read(CHUNK):
                            incoming.write(chunk)
                    # Somebody may write to the file while it is read: then it is read again.
                    if _etag(os.fstat(stream.fileno())) == _etag(before):
                        return Fetched(_etag(before), before.st_mtime, incoming.sha256, incoming.size)
            except FileNotFoundError:
                raise StoreError(
                    f"there is no {source}", "put the index there, or correct `store`", code="store_missing"
                ) from None
            except OSError as error:
                raise StoreError(f"{source} cannot be read: {error.strerror}", code="store_failed") from error
        raise StoreError(
            f"{source} kept changing while it was read",
            "write it to another name and rename it",
            code="store_torn",
        )


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"
