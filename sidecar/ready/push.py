"""Uploads: only because somebody asked, and never over what this machine has not seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sidecar.errors import NotFound, SidecarError, StoreError
from sidecar.inputs.store import Store
from sidecar.inputs.store.transfer import format_age
from sidecar.model.work import Pushed
from sidecar.ready.databases import Databases, Row
from sidecar.ready.facts import Facts
from sidecar.ready.folder import DatabaseFolder, first_date
from sidecar.ready.memory import Memory
from sidecar.ready.plan import SUFFIX, Known, key, pushes
from sidecar.system.sqlite import check_database

_TRIES = 5


class NotOurs(SidecarError):
    """Another machine writes this."""

    code = "not_ours"
    status = 409


class Item(msgspec.Struct, frozen=True):
    """An entry of the inventory, as the application's own tools read it.

    `etag` is in quotes, `date` the first event's, `last_modified` as text in UTC.
    """

    etag: str
    date: str | None
    last_modified: str


class Push:
    """Brings databases that are written here into the store, and the inventory up to date."""

    def __init__(
        self,
        databases: Databases,
        store: Store,
        folder: DatabaseFolder,
        memory: Memory[Known],
        region: str,
        staging: Path,
    ) -> None:
        self._databases = databases
        self._store = store
        self._folder = folder
        self._memory = memory
        # Today's tools keep what belongs to no region under this name.
        self._inventory = f"inventory/{region or 'index'}.json"
        self._staging = staging

    async def push(self, facts: Facts, names: Sequence[str], *, overwrite: bool) -> Pushed:
        """Upload the databases that are named, or all with something new.

        With `overwrite` what lies in the store is replaced whatever it is.
        """
        rows = {row.wanted.name: row for row in await self._databases.survey(facts)}
        chosen = [self._choose(rows, name) for name in names] or [
            row for row in rows.values() if row.wanted.ours and await self._is_new(row)
        ]
        items: dict[str, Item] = {}
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
            await self._update_inventory(items)
            said.append(f"{self._inventory}: {len(items)} renewed")
        return Pushed(tuple(said), tuple(failed))

    def _choose(self, rows: dict[str, Row], name: str) -> Row:
        row = rows.get(name.removesuffix(SUFFIX))
        if row is None:
            raise NotFound(
                f"no event of this machine has a database {name!r}", "see `sidecar databases status`"
            )
        if not row.wanted.ours:
            where = f"in the region {row.wanted.owner}" if row.wanted.owner else "in no region"
            raise NotOurs(
                f"{name} is written {where}, not here",
                "push it from there; databases.owns says what is written here",
            )
        if row.here is None or row.here.size == 0:
            raise NotFound(f"{name} is not here, or empty", "there is nothing to push")
        return row

    async def _is_new(self, row: Row) -> bool:
        age = row.age
        if row.here is None or row.stored is None or not pushes(row.here, row.stored, row.known, None):
            return pushes(row.here, row.stored, row.known, None)
        if age is None and (head := await self._store.head(row.stored.key)) is not None:
            age = head.modified
        return pushes(row.here, row.stored, row.known, age)

    async def _push(self, row: Row, *, overwrite: bool) -> Item:
        name, here = row.wanted.name, self._folder.look_at(row.wanted.name)
        if here is None:
            raise NotFound(f"{name} has just been removed")
        replaces = None if row.stored is None else row.stored.etag
        if not overwrite:
            await self._refuse_newer(row, here.modified)
        copy = await asyncio.to_thread(self._folder.copy, name)
        try:
            await asyncio.to_thread(check_database, copy, f"the database {name}")
            etag = await self._store.put(key(name), copy, here.modified, replaces)
            date = await asyncio.to_thread(first_date, copy)
        finally:
            copy.unlink(missing_ok=True)
        # Reading it may have moved its signature, an append meanwhile certainly has: then it is new again.
        now = self._folder.look_at(name)
        signature = (
            now.signature if now is not None and int(now.modified) == int(here.modified) else here.signature
        )
        self._memory.entries[name] = Known(etag, here.modified, signature)
        return Item(f'"{etag}"', date, format_age(here.modified))

    async def _refuse_newer(self, row: Row, modified: float) -> None:
        """What this machine has not seen is not replaced, unless it surely is older."""
        stored, known = row.stored, row.known
        if stored is None or (known is not None and known.signature and known.etag == stored.etag):
            return
        head = await self._store.head(stored.key)
        if head is None:
            return
        if (known is not None and known.signature) or int(head.modified) > int(modified):
            raise StoreError(
                f"the store holds another copy of {row.wanted.name} than the one last seen here,"
                f" of {format_age(head.modified)}",
                "look at both; `--overwrite` with its name replaces the one in the store",
                code="store_changed",
            )

    async def _update_inventory(self, items: dict[str, Item]) -> None:
        """Change the entries in the inventory, which others may be changing too."""
        staged = self._staging / "inventory.json"
        try:
            for attempt in range(_TRIES):
                entries, replaces = await self._read_inventory(staged)
                entries |= items
                await asyncio.to_thread(staged.write_bytes, msgspec.json.format(msgspec.json.encode(entries)))
                try:
                    await self._store.put(self._inventory, staged, time.time(), replaces)
                except StoreError as error:
                    if error.code != "store_changed" or attempt == _TRIES - 1:
                        raise
                else:
                    return
        finally:
            staged.unlink(missing_ok=True)

    async def _read_inventory(self, staged: Path) -> tuple[dict[str, object], str | None]:
        """The entries in the store and their ETag."""
        try:
            fetched = await self._store.fetch(self._inventory, staged, None)
        except StoreError as error:
            if error.code != "store_missing":
                raise
            return {}, None
        content = await asyncio.to_thread(staged.read_bytes)
        return self._parse(content), None if fetched is None else fetched.etag

    def _parse(self, content: bytes) -> dict[str, object]:
        try:
            return msgspec.json.decode(content, type=dict[str, object])
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{self._inventory} in the store is no inventory: {error}",
                "the databases are stored; mend or remove the inventory, and push again",
            ) from error
