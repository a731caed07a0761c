"""Uploads: only because somebody asked, and never over what this machine has not seen."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from sidecar.errors import NotFound, SidecarError, StoreError
from sidecar.inputs.store import Store
from sidecar.inputs.store.inventory import Inventory, InventoryItem, first_date
from sidecar.inputs.store.transfer import format_age
from sidecar.model.work import PushResult
from sidecar.ready.databases import DatabaseRow, Databases
from sidecar.ready.facts import GenerationData
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.memory import FileMemory
from sidecar.ready.plan import SUFFIX, LastSynced, LocalDatabase, UnconfirmedUpload, came_through, key
from sidecar.system.sqlite import check_database

_ATTEMPTS = 5


class NotOwned(SidecarError):
    """Another machine writes this."""

    code = "not_ours"
    status = 409


class Push:
    """Brings databases that are written here into the store, and the inventory up to date."""

    def __init__(
        self,
        databases: Databases,
        store: Store,
        folder: DatabaseFolder,
        memory: FileMemory[LastSynced],
        region: str,
        staging: Path,
    ) -> None:
        self._databases = databases
        self._store = store
        self._folder = folder
        self._memory = memory
        self._inventory = Inventory(store, region, staging)

    async def push(self, facts: GenerationData, names: Sequence[str], *, overwrite: bool) -> PushResult:
        """Upload the databases that are named, or all with something new.

        With `overwrite` what lies in the store is replaced whatever it is.
        """
        rows = {row.wanted.name: row for row in await self._databases.survey(facts)}
        chosen = [self._choose(rows, name, overwrite=overwrite) for name in names] or [
            row for row in rows.values() if row.verdict.action == "push"
        ]
        items: dict[str, InventoryItem] = {}
        said, failed = [], []
        for row in chosen:
            name = row.wanted.name
            try:
                items[f"{name}{SUFFIX}"] = await self._push(row, overwrite=overwrite)
                said.append(f"{name}: stored")
            except SidecarError as error:
                failed.append(name)
                said.append(f"{name}: {error}")
        if items:
            await asyncio.to_thread(self._memory.save)
            await self._inventory.renew(items)
            said.append(f"{self._inventory.key}: {len(items)} renewed")
        return PushResult(tuple(said), tuple(failed))

    def _choose(self, rows: dict[str, DatabaseRow], name: str, *, overwrite: bool) -> DatabaseRow:
        row = rows.get(name.removesuffix(SUFFIX))
        if row is None:
            raise NotFound(
                f"no event of this machine has a database {name!r}", "see `sidecar databases status`"
            )
        # What was written here before its event moved may be stored by whoever insists.
        if not row.wanted.ours and not (overwrite and row.verdict.action == "conflict"):
            where = f"in the region {row.wanted.owner}" if row.wanted.owner else "in no region"
            raise NotOwned(
                f"{row.wanted.name} is written {where}, not here",
                "push it from there; databases.owns says what is written here",
            )
        if row.here is None or row.here.size == 0:
            raise NotFound(f"{row.wanted.name} is not here, or empty", "there is nothing to push")
        return row

    async def _push(self, row: DatabaseRow, *, overwrite: bool) -> InventoryItem:
        name, stored = row.wanted.name, row.stored
        if row.verdict.action == "conflict" and not overwrite:
            age = "" if row.age is None else f", of {format_age(row.age)}"
            raise StoreError(
                f"the store holds another copy of {name} than the one last seen here{age}",
                "look at both; `--overwrite` with its name replaces the one in the store",
                code="store_changed",
            )
        copy, here = await self._copy(name)
        try:
            await asyncio.to_thread(check_database, copy, f"the database {name}")
            etag = await self._store_copy(name, copy, here, None if stored is None else stored.etag)
            date = await asyncio.to_thread(first_date, copy)
        finally:
            copy.unlink(missing_ok=True)
        self._memory.entries[name] = LastSynced(etag, here.modified, here.signature, ours=True)
        return InventoryItem(f'"{etag}"', date, format_age(here.modified))

    async def _copy(self, name: str) -> tuple[Path, LocalDatabase]:
        """A copy, and the file as it was before: what is written to it meanwhile makes it new again."""
        for attempt in range(_ATTEMPTS):
            here = self._folder.look_at(name)
            if here is None:
                break
            copy = await asyncio.to_thread(self._folder.copy, name)
            # Reading alone may have moved a log into the database: then once more.
            if self._folder.look_at(name) == here or attempt == _ATTEMPTS - 1:
                return copy, here
            copy.unlink(missing_ok=True)
        raise NotFound(f"{name} has just been removed")

    async def _store_copy(self, name: str, copy: Path, here: LocalDatabase, replaces: str | None) -> str:
        """Store it, and give its ETag; an upload whose answer was lost is known again by its content."""
        content = await asyncio.to_thread(copy.read_bytes)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        sent = UnconfirmedUpload(md5, len(content), here.modified, here.signature)
        self._memory.entries[name] = replace(
            self._memory.entries.get(name) or LastSynced(), ours=True, sent=sent
        )
        await asyncio.to_thread(self._memory.save)
        try:
            return await self._store.put(key(name), copy, here.modified, replaces)
        except StoreError:
            found = await self._store.head(key(name))
            if found is None or found.etag == replaces or not came_through(sent, found, found.modified):
                raise
            return found.etag
