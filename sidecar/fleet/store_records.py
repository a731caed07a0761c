"""What the fleet remembers in the store, beside the index: the indexes before it, and the rollout under way.

    <folder of the index>/index-history/<time>-<digest>.json    an `PastIndex` each
    <folder of the index>/index-history/<SHA-256>               an index's content
    <folder of the index>/index-rollout.json                    a `Rollout`, while there is one and after it

Every write is conditional. A write whose answer was lost finds itself in the store, and counts as done.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.errors import StoreError
from sidecar.fleet.index_history import PastIndex, superfluous
from sidecar.inputs.store import Store
from sidecar.model.record import Record
from sidecar.system.tasks import together

Kept = TypeVar("Kept", bound=Record)

_HISTORY = "index-history"
_ROLLOUT = "index-rollout.json"
_ENTRY = ".json"


class StoreRecords:
    """The fleet's memory in a store; `folder` is for files on their way."""

    def __init__(self, store: Store, index_key: str, folder: Path) -> None:
        self._store = store
        beside = Path(index_key).parent
        self._history = f"{(beside / _HISTORY).as_posix()}/"
        self.rollout_key = (beside / _ROLLOUT).as_posix()
        self._folder = folder
        self._numbers = count()
        self._entries: dict[tuple[str, str], PastIndex] = {}
        self._contents: dict[str, tuple[Path, float]] = {}

    async def entries(self) -> list[PastIndex]:
        """The history, newest first."""
        return [entry for _, entry in await self._listed()]

    async def add(self, entry: PastIndex) -> None:
        """A new entry, which only its driver will write to."""
        await self.put(self._key(entry), entry, None)

    async def write(self, entry: PastIndex) -> None:
        """What has become of an entry, which is known by its time and digest."""
        key = self._key(entry)
        stored = await self._store.head(key)
        await self.put(key, entry, stored.etag if stored else None)

    async def drop(self, entry: PastIndex) -> None:
        """Forget an entry of what came to nothing."""
        await self._store.remove(self._key(entry))
        await self._forget({entry.sha256})

    async def keep(self, sha256: str, path: Path, modified: float) -> None:
        """Keep an index's content, unless it is kept already; the file stays as it is while this is used."""
        self._contents[sha256] = path, modified
        if await self._store.head(self._history + sha256) is None:
            await store_surely(self._store, self._history + sha256, path, modified, None, self._path())

    async def content(self, sha256: str) -> Path:
        """An index that was kept, in a file; `StoreError` when it is not there, or not what it was.

        It is fetched once: a rollout that rests sends it again and again.
        """
        if sha256 in self._contents:
            return self._contents[sha256][0]
        path = self._path()
        fetched = await self._store.fetch(self._history + sha256, path, None)
        if fetched is None or fetched.sha256 != sha256:
            raise StoreError(
                f"{self._history}{sha256} is not the index that it was", "name another one", code="store_torn"
            )
        self._contents[sha256] = path, fetched.modified or 0.0
        return path

    async def keep_again(self, entry: PastIndex) -> None:
        """Keep what an entry names, where that is at hand: who pruned meanwhile did not know of the entry."""
        for sha256 in (entry.sha256, entry.replaced):
            if sha256 is not None and sha256 in self._contents:
                await self.keep(sha256, *self._contents[sha256])

    async def prune(self) -> None:
        """Remove what is no longer kept: entries, and the contents that no other entry names."""
        pairs = await self._listed()
        gone = set(superfluous(pairs, time.time()))
        for key in gone:
            await self._store.remove(key)
        if gone:
            await self._forget({one.sha256 for key, one in pairs if key in gone})

    async def _forget(self, digests: set[str]) -> None:
        """Remove contents, but for those that an entry names: another driver may have begun with one."""
        for sha256 in digests - {one.sha256 for one in await self.entries()}:
            await self._store.remove(self._history + sha256)

    async def get(self, key: str, kind: type[Kept]) -> tuple[Kept, str] | None:
        """A record and its ETag; None when there is none that can be understood."""
        path = self._path()
        try:
            fetched = await self._store.fetch(key, path, None)
        except StoreError as error:
            if error.code == "store_missing":
                return None
            raise
        if fetched is None:
            return None
        try:
            return msgspec.json.decode(await asyncio.to_thread(_take, path), type=kind), fetched.etag
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{key} cannot be understood: {error}", "is it a newer sidecar's? else remove it"
            ) from None

    async def put(self, key: str, record: Record, replaces: str | None) -> str:
        """Write a record where the store holds the ETag `replaces`, else `StoreError` `store_changed`."""
        path = self._path()
        await asyncio.to_thread(path.write_bytes, msgspec.json.format(msgspec.json.encode(record)))
        try:
            return await store_surely(self._store, key, path, time.time(), replaces, self._path())
        finally:
            path.unlink(missing_ok=True)

    async def _listed(self) -> list[tuple[str, PastIndex]]:
        listed = [one for one in await self._store.objects(self._history) if one.key.endswith(_ENTRY)]
        # What has the ETag that it had is not fetched again.
        known = {
            one.key: self._entries[one.key, one.etag]
            for one in listed
            if (one.key, one.etag) in self._entries
        }
        keys = [one.key for one in listed if one.key not in known]
        for key, found in zip(keys, await together(*(self.get(key, PastIndex) for key in keys)), strict=True):
            if found is not None:
                known[key] = self._entries[key, found[1]] = found[0]
        return sorted(known.items(), reverse=True, key=lambda pair: pair[0])

    def _key(self, entry: PastIndex) -> str:
        # In the order of time by name, to the millisecond.
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(entry.at)) + f".{int(entry.at % 1 * 1000):03d}"
        return f"{self._history}{moment}-{entry.sha256[:12]}{_ENTRY}"

    def _path(self) -> Path:
        return self._folder / f"records-{next(self._numbers)}"


async def store_surely(
    store: Store, key: str, source: Path, modified: float, replaces: str | None, other: Path
) -> str:
    """Put a file, and give its ETag, also when the answer to a put that was done has been lost.

    The library repeats a request without an answer, and then finds the ETag changed: by itself. `other` is
    where nothing is yet.
    """
    try:
        return await store.put(key, source, modified, replaces)
    except StoreError as error:
        if error.code not in ("store_changed", "store_timeout", "store_unreachable", "store_failed"):
            raise
        try:
            fetched = await store.fetch(key, other, None)
        except StoreError:
            raise error from None
        same = fetched is not None and await asyncio.to_thread(_same, source, other)
        if fetched is None or not same:
            raise
        return fetched.etag
    finally:
        other.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _take(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content
