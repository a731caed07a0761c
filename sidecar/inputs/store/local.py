"""The index of the machine that owns it, read in its place while the application writes to it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sidecar.config.settings import Fetch
from sidecar.errors import StoreError
from sidecar.inputs.store.transfer import CHUNK, Incoming
from sidecar.model.objects import Fetched


class LocalIndex:
    """Gives a consistent copy of one live database, whatever key is asked for."""

    def __init__(self, path: Path, limits: Fetch, observe: Callable[[str, str, float], None]) -> None:
        self._path = path
        self._limits = limits
        self._observe = observe

    def signature(self) -> str:
        """Changes whenever the database does; empty when there is none."""
        parts = []
        for suffix in ("", "-wal"):
            try:
                stat = self._path.with_name(self._path.name + suffix).stat()
            except FileNotFoundError:
                continue
            parts.append(f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}")
        return "+".join(parts)

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Copy the database to `target`, or give None when it still is the one with this `etag`."""
        started = time.perf_counter()
        outcome = "error"
        try:
            fetched = await asyncio.to_thread(self._copy, target, etag)
            outcome = "not_modified" if fetched is None else "ok"
            return fetched
        finally:
            self._observe("get", outcome, time.perf_counter() - started)

    def _copy(self, target: Path, etag: str | None) -> Fetched | None:
        signature = self.signature()
        if not signature:
            raise StoreError(
                f"there is no {self._path}", "this machine is set to own the index", code="store_missing"
            )
        if signature == etag:
            return None
        source = f"file:{quote(str(self._path))}?mode=ro"
        try:
            with (
                closing(sqlite3.connect(source, uri=True, timeout=self._limits.timeout)) as live,
                closing(sqlite3.connect(target)) as copy,
            ):
                live.backup(copy)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be copied: {error}", code="store_failed") from error
        whole = target.with_name(f"{target.name}.copy")
        with target.open("rb") as stream, Incoming(whole, self._limits.max_bytes) as incoming:
            while chunk := stream.read(CHUNK):
                incoming.write(chunk)
        whole.replace(target)
        return Fetched(signature, self._path.stat().st_mtime, incoming.sha256, incoming.size)
