"""Puts the local index into the store, and never over something that this machine has not seen.

What it saw last is remembered by the store's ETag: from its own last upload, from a look at the store, or
from the generations that it made of the store's index. The upload itself is conditional, so that of two
machines that upload at once one is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from sidecar.config.settings import FetchSettings
from sidecar.errors import SidecarError, StoreError
from sidecar.fleet.index_history import ending
from sidecar.fleet.machines import FleetError
from sidecar.fleet.store_records import StoreRecords, store_surely
from sidecar.generations.archive import Archive
from sidecar.inputs.store import Store
from sidecar.inputs.store.local import LocalIndex
from sidecar.model.objects import Fetched, Stored
from sidecar.model.record import Record
from sidecar.system.files import load_readable, replace

logger = logging.getLogger(__name__)

_SEEN = "fleet-seen.json"


class SeenObject(Record, frozen=True):
    """An object in the store, known by its ETag, and the SHA-256 of its content in hexadecimal."""

    etag: str
    sha256: str


class CurrentIndex(Record, frozen=True):
    """The index that the fleet shall have: SHA-256, age in seconds since 1970, and a file that holds it.

    `upload` is uploaded, unchanged, planned, or none when no local index was to be considered. `path` is
    None where the content was not needed, `etag` the new object's where it was uploaded.
    """

    sha256: str
    modified: float | None
    upload: str
    path: Path | None
    etag: str | None = None


class UploadPlan(Record, frozen=True):
    """What would become of the store: the index to have there, and what it holds now (None: nothing)."""

    current: CurrentIndex
    stored: Stored | None
    held: str | None


class UploadMemory:
    """What this machine last saw in the store; kept in the state folder."""

    def __init__(self, state: Path) -> None:
        self._path = state / _SEEN
        self._archive = Archive(state / "generations")

    def knows(self, etag: str) -> str | None:
        """The SHA-256 of the object with this ETag, if this machine has seen it last; else None.

        `ReadError` when this process may not read what the machine remembers.
        """
        seen = load_readable(self._path, SeenObject)
        if seen is not None and seen.etag == etag:
            return seen.sha256
        try:
            newest = self._archive.manifest(self._archive.numbers()[-1]).index
        except (OSError, IndexError, SidecarError):
            return None
        return newest.sha256 if newest.etag == etag else None

    def last(self) -> str | None:
        """The SHA-256 of what it saw there last."""
        seen = load_readable(self._path, SeenObject)
        return seen.sha256 if seen is not None else None

    def remember(self, etag: str, sha256: str) -> None:
        """The store holds this, and this machine knows it."""
        try:
            replace(self._path, msgspec.json.encode(SeenObject(etag, sha256)))
        except OSError as error:
            # Without it the next upload is refused rather than careless.
            logger.warning("%s cannot be written: %s", self._path, error)


class Uploader:
    """Brings the store up to date with a local index, or finds out what the store holds."""

    def __init__(
        self,
        store: Store,
        key: str,
        memory: UploadMemory,
        folder: Path,
        limits: FetchSettings,
        records: StoreRecords,
    ) -> None:
        self._store = store
        self._records = records
        self._limits = limits
        self._key = key
        self._memory = memory
        self._folder = folder

    async def compare(self, index: Path, *, replace: bool, dry_run: bool) -> UploadPlan:
        """The local index against the store's; `FleetError` `store_changed` where an upload loses another.

        `replace` allows to replace an object that this machine has not seen, as it is now.
        """
        path = self._folder / "local"
        before = index.stat()
        copied = await self._copy(index, path)
        if not dry_run:
            _to_whole_second(index, before)
        stored = await self._store.head(self._key)
        held = None
        if stored is not None:
            known = self._memory.knows(stored.etag)
            held = known or await self._look(stored)
            # A copy of a database is the same to the letter only for the database that it was made of.
            as_it_is = await asyncio.to_thread(_at_rest, index)
            if held in (copied.sha256, as_it_is):
                if not known and not dry_run:
                    self._memory.remember(stored.etag, held)
                same = path if held == copied.sha256 else index
                return UploadPlan(CurrentIndex(held, stored.modified, "unchanged", same), stored, held)
            if known is None and not replace and not await self._returns(held):
                raise changed(stored)
        modified = float(int(copied.modified or time.time()))
        return UploadPlan(CurrentIndex(copied.sha256, modified, "planned", path), stored, held)

    async def _returns(self, held: str) -> bool:
        """Whether the store was rolled back from what this machine saw last: then nothing there is lost."""
        try:
            ended = ending(await self._records.entries(), held)
        except StoreError:
            return False
        return ended is not None and ended.replaced == self._memory.last()

    async def store(self, proposal: UploadPlan) -> CurrentIndex:
        """Upload what differs; `FleetError` `store_changed` when somebody else was faster."""
        current, stored = proposal.current, proposal.stored
        if current.upload != "planned" or current.path is None or current.modified is None:
            return current
        try:
            etag = await store_surely(
                self._store,
                self._key,
                current.path,
                current.modified,
                stored.etag if stored else None,
                self._folder / "other",
            )
        except StoreError as error:
            if error.code != "store_changed":
                raise
            raise changed(None) from error
        self._memory.remember(etag, current.sha256)
        return msgspec.structs.replace(current, upload="uploaded", etag=etag)

    async def _copy(self, index: Path, path: Path) -> Fetched:
        copied = await LocalIndex(index, self._limits, lambda *_: None).fetch(self._key, path, None)
        if copied is None:
            raise StoreError("there is no local index to upload", "check paths.databases")
        return copied

    async def look(self, *, content: bool) -> CurrentIndex:
        """What the store holds; with `content` as a file too. `StoreError` when it holds nothing."""
        stored = await self._store.head(self._key)
        known = self._memory.knows(stored.etag) if stored is not None else None
        if stored is not None and known is not None and not content:
            return CurrentIndex(known, stored.modified, "none", None)
        path = self._folder / "stored"
        fetched = await self._store.fetch(self._key, path, None)
        if fetched is None:
            raise StoreError("the store gave no index", code="store_missing")
        return CurrentIndex(fetched.sha256, fetched.modified, "none", path)

    async def _look(self, stored: Stored) -> str:
        fetched = await self._store.fetch(self._key, self._folder / "stored", None)
        if fetched is None or fetched.etag != stored.etag:
            raise changed(None)
        return fetched.sha256


def _to_whole_second(index: Path, before: os.stat_result) -> None:
    """Let the index be as old as its copies will be said to be, unless it has changed since `before`.

    The application's tools read an age in whole seconds from a machine and compare it with this file's, whose
    fraction would make it newer for ever.
    """
    there = index.stat()
    if (there.st_mtime_ns, there.st_size, there.st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    ):
        with suppress(OSError):  # it may be somebody else's
            os.utime(index, ns=(there.st_atime_ns, there.st_mtime_ns // 10**9 * 10**9))


def _at_rest(index: Path) -> str | None:
    """The SHA-256 of a database's file, where all of it is in that file."""
    log = index.with_name(f"{index.name}-wal")
    if log.exists() and log.stat().st_size:
        return None
    with index.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed(stored: Stored | None) -> FleetError:
    """The error where the store holds another index than was seen there: `stored`, where it is known."""
    age = ""
    if stored is not None:
        age = f", of {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(stored.modified))} UTC"
    return FleetError(
        f"the store holds an index that this machine has not seen{age}; nothing was uploaded",
        "look at what it holds; then bring the change into the local index, or use --replace",
        code="store_changed",
    )
