"""The inventory: what the application's own tools keep in the store about the databases of a region."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec

from sidecar.errors import StoreError
from sidecar.inputs.store import Store
from sidecar.system.sqlite import open_immutable, read_plainly

_ATTEMPTS = 5


class InventoryItem(msgspec.Struct, frozen=True):
    """An entry of the inventory, as the application's own tools read it.

    `etag` is in quotes, `date` the first event's, `last_modified` as text in UTC.
    """

    etag: str
    date: str | None
    last_modified: str


class Inventory:
    """One region's inventory in the store, which others may be changing too."""

    def __init__(self, store: Store, region: str, staging: Path) -> None:
        self._store = store
        # Today's tools keep what belongs to no region under this name.
        self.key = f"inventory/{region or 'index'}.json"
        self._staging = staging

    async def renew(self, items: dict[str, InventoryItem]) -> None:
        """Change these entries, by the databases' file names; `StoreError` when it cannot be done."""
        staged = self._staging / "inventory.json"
        try:
            for attempt in range(_ATTEMPTS):
                entries, replaces = await self._read(staged)
                entries |= items
                await asyncio.to_thread(staged.write_bytes, msgspec.json.format(msgspec.json.encode(entries)))
                try:
                    await self._store.put(self.key, staged, time.time(), replaces)
                except StoreError as error:
                    if error.code != "store_changed" or attempt == _ATTEMPTS - 1:
                        raise
                else:
                    return
        finally:
            staged.unlink(missing_ok=True)

    async def _read(self, staged: Path) -> tuple[dict[str, object], str | None]:
        """The entries in the store and their ETag."""
        try:
            fetched = await self._store.fetch(self.key, staged, None)
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
                f"{self.key} in the store is no inventory: {error}",
                "the databases are stored; mend or remove the inventory, and push again",
            ) from error


def first_date(path: Path) -> str | None:
    """The date of a database's first event; None when it has none."""
    try:
        with closing(open_immutable(path)) as connection:
            dates = read_plainly(connection, "events", "date", 1)
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return str(dates[0]) if dates and dates[0] is not None else None
