"""A folder as object store: for a single host, for trying things out, for tests."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar, TypeVarTuple

from sidecar.config.settings import FetchSettings
from sidecar.errors import StoreError
from sidecar.inputs.store.transfer import CHUNK_BYTES, Transfer, changed
from sidecar.model.objects import Fetched, Stored
from sidecar.system.files import signature

Result = TypeVar("Result")
Rest = TypeVarTuple("Rest")


class FolderStore:
    """Objects are files below a folder; their ETag is made of size and time of the last change."""

    def __init__(
        self, folder: Path, limits: FetchSettings, observe: Callable[[str, str, float], None]
    ) -> None:
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
        transfer = Transfer()
        try:
            return await self._attempt("get", self._copy, key, target, etag, transfer)
        except BaseException:
            transfer.give_up()
            raise

    async def objects(self, prefix: str) -> list[Stored]:
        """All objects whose keys begin with `prefix`, by key."""
        return await self._attempt("list", self._objects, prefix)

    async def head(self, key: str) -> Stored | None:
        """What there is to know of an object, or None when there is none."""
        return await self._attempt("head", self._head, key)

    async def put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        """Copy a file of the age `modified` over the object with the ETag `replaces`, or to where none is."""
        return await self._attempt("put", self._put, key, source, modified, replaces)

    async def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        await self._attempt("remove", lambda key: (self._folder / key).unlink(missing_ok=True), key)

    async def _attempt(
        self, operation: str, work: Callable[[str, *Rest], Result], key: str, *rest: *Rest
    ) -> Result:
        """Do what blocks in a thread, bounded in time, and tell how it went."""
        started = time.perf_counter()
        outcome = "error"
        try:
            async with asyncio.timeout(self._limits.timeout):
                result = await asyncio.to_thread(work, key, *rest)
            outcome = "not_modified" if result is None and operation == "get" else "ok"
            return result
        except StoreError as error:
            outcome = error.code.removeprefix("store_")
            raise
        except TimeoutError:
            outcome = "timeout"
            raise StoreError(
                f"{self._folder / key} took longer than {self._limits.timeout:g} s",
                "is the folder on a network file system that hangs?",
                code="store_timeout",
            ) from None
        except OSError as error:
            raise StoreError(f"{self._folder / key}: {error.strerror}", "check the folder") from error
        finally:
            self._observe(operation, outcome, time.perf_counter() - started)

    def _objects(self, prefix: str) -> list[Stored]:
        found = []
        for path in sorted((self._folder / prefix).parent.glob("**/*")):
            key = path.relative_to(self._folder).as_posix()
            if not path.name.startswith(".") and key.startswith(prefix) and (stored := self._head(key)):
                found.append(stored)
        return found

    def _head(self, key: str) -> Stored | None:
        try:
            stat = (self._folder / key).stat()
        except FileNotFoundError:
            return None
        return Stored(key, signature(stat), stat.st_mtime, stat.st_size) if S_ISREG(stat.st_mode) else None

    def _put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = target.with_name(f".{target.name}.incoming")
        with (self._folder / ".lock").open("a") as lock:
            # Between the look and the rename nobody else may store anything.
            fcntl.flock(lock, fcntl.LOCK_EX)
            present = self._head(key)
            if replaces != (present.etag if present else None):
                raise changed(str(target))
            try:
                shutil.copyfile(source, incoming)
                os.utime(incoming, (modified, modified))
                with incoming.open("rb") as stream:
                    os.fsync(stream.fileno())
                incoming.replace(target)
            finally:
                incoming.unlink(missing_ok=True)
            return signature(target.stat())

    def _copy(self, key: str, target: Path, etag: str | None, transfer: Transfer) -> Fetched | None:
        source, torn = self._folder / key, ""
        # Somebody may write to the file while it is read: then it is read again.
        for _ in range(self._limits.attempts):
            try:
                with source.open("rb") as stream:
                    before = os.fstat(stream.fileno())
                    if signature(before) == etag:
                        return None
                    with transfer.open(target, self._limits.max_bytes) as incoming:
                        while chunk := stream.read(CHUNK_BYTES):
                            transfer.check()
                            incoming.write(chunk)
                    if signature(os.fstat(stream.fileno())) != signature(before):
                        torn = f"{source} kept changing while it was read"
                    elif incoming.size != before.st_size:
                        torn = f"{incoming.size} of {before.st_size} bytes of {source} came"
                    else:
                        return Fetched(signature(before), before.st_mtime, incoming.sha256, incoming.size)
            except FileNotFoundError:
                raise StoreError(
                    f"there is no {source}",
                    "put it there, or correct `store`; for an index of this host's own set update.own_index",
                    code="store_missing",
                ) from None
            except OSError as error:
                raise StoreError(f"{source} cannot be read: {error.strerror}", code="store_failed") from error
        hint = "write it to another name and rename it; is the file system sound?"
        raise StoreError(torn, hint, code="store_torn")
