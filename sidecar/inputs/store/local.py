"""The index of the machine that owns it, read in its place while the application writes to it.

Reading leaves nothing beside the database. A connection to a database in WAL mode makes a `-wal` and a
`-shm`, which would belong to the sidecar's user and stay when it may only read. So a database that nobody
has open is read as a file, and read again when it has changed meanwhile. One that somebody has open, and one
with a rollback journal, is copied by SQLite under its locks.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sidecar.config.settings import FetchSettings
from sidecar.errors import StoreError
from sidecar.inputs.store.transfer import Transfer, too_large
from sidecar.model.objects import Fetched
from sidecar.system.files import temporary
from sidecar.system.sqlite import SIDE_FILES, DatabaseLocked, copy_database

# File times are that coarse at worst: an older change is not followed by another one of the same time.
_COARSEST_TIME_SECONDS = 2.0
# A look for changes waits less long for a lock than an update does: it is repeated anyway.
_LOOK_TIMEOUT_SECONDS = 5.0
# The offsets of the file format's version numbers, which are 2 in WAL mode (SQLite's file format, 1.3.3).
_VERSIONS = slice(18, 20)
_WAL_MODE = b"\x02\x02"

Stamps = tuple[tuple[int, int, int], ...]


class LocalIndex:
    """Gives a consistent copy of one live database, whatever key is asked for.

    Its ETag and its signature are the SHA-256 of such a copy.
    """

    def __init__(self, path: Path, limits: FetchSettings, observe: Callable[[str, str, float], None]) -> None:
        self._path = path
        self._limits = limits
        self._observe = observe
        self._numbers = itertools.count()
        # Written and read in threads, as one object.
        self._known: tuple[Stamps, str] | None = None

    def signature(self) -> str:
        """Changes whenever the database's content does; empty when there is none. It blocks."""
        stamps = self._stamps()
        if not stamps:
            return ""
        known = self._known
        if known is not None and known[0] == stamps:
            return known[1]
        with tempfile.TemporaryDirectory(prefix="sidecar-index-") as folder:
            patience = min(self._limits.timeout, _LOOK_TIMEOUT_SECONDS)
            return self._copy(Path(folder) / "index", patience)[0]

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Copy the database to `target`, or give None when it still is the one with this `etag`."""
        started = time.perf_counter()
        outcome = "error"
        transfer = Transfer()
        try:
            fetched = await asyncio.to_thread(self._fetch, target, etag, transfer)
            outcome = "not_modified" if fetched is None else "ok"
            return fetched
        except BaseException:
            transfer.give_up()
            raise
        finally:
            self._observe("get", outcome, time.perf_counter() - started)

    def _fetch(self, target: Path, etag: str | None, transfer: Transfer) -> Fetched | None:
        stamps = self._stamps()
        if not stamps:
            raise StoreError(
                f"there is no {self._path}", "this machine is set to own the index", code="store_missing"
            )
        if etag is not None and self._known == (stamps, etag):
            return None
        staged = temporary(target.with_name(f"{target.name}.{os.getpid()}-{next(self._numbers)}"))
        try:
            digest, modified = self._copy(staged, self._limits.timeout)
            if digest == etag:
                return None
            size = staged.stat().st_size
            if size > self._limits.max_bytes:
                raise too_large(size, self._limits.max_bytes)
            transfer.finish(staged, target)
            return Fetched(digest, modified, digest, size)
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be copied: {error.strerror or error}",
                "check the disk, and the owner and mode of the index",
            ) from error
        finally:
            staged.unlink(missing_ok=True)

    def _copy(self, target: Path, patience: float) -> tuple[str, float]:
        """Copy the database into a new file; the copy's SHA-256, and when the database last changed."""
        for _ in range(self._limits.attempts):
            stamps, now = self._stamps(), time.time()
            at_rest = self._is_at_rest()
            try:
                with self._opened(target, patience, at_rest=at_rest) as source:
                    copy_database(source, target, patience)
            except DatabaseLocked as error:
                raise StoreError(
                    f"{self._path} cannot be copied: another process has kept it locked for {patience:g} s",
                    "find the process that leaves a transaction open; the current configuration stays",
                    code="store_locked",
                ) from error
            except sqlite3.Error as error:
                raise StoreError(f"{self._path} cannot be copied: {error}", code="store_failed") from error
            if at_rest and (self._stamps() != stamps or not self._is_at_rest()):
                target.unlink()
                continue
            with target.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            modified = max((stamp[0] for stamp in stamps), default=0) / 1e9
            if now - modified > _COARSEST_TIME_SECONDS:
                self._known = stamps, digest
            return digest, modified
        raise StoreError(
            f"{self._path} kept changing while it was read",
            "it is read again at the next update",
            code="store_torn",
        )

    def _stamps(self) -> Stamps:
        """Of the database and its log: time of the last change in ns, size, inode. Empty: there is none."""
        stamps = []
        for path in (self._path, self._beside("-wal")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path == self._path or stat.st_size:
                stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(stamps) if self._path.exists() else ()

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    def _is_at_rest(self) -> bool:
        """Whether it is a database in WAL mode that nobody has open: who has makes a `-shm` first."""
        with self._path.open("rb") as stream:
            in_wal_mode = stream.read(_VERSIONS.stop)[_VERSIONS] == _WAL_MODE
        return in_wal_mode and not self._beside("-shm").exists()

    @contextmanager
    def _opened(self, target: Path, patience: float, *, at_rest: bool) -> Iterator[sqlite3.Connection]:
        """The database, open for reading; one at rest that has a log is copied with it, beside `target`."""
        log = self._beside("-wal")
        if not at_rest or not log.exists() or not log.stat().st_size:
            mode = "mode=ro&immutable=1" if at_rest else "mode=ro"
            source = f"file:{quote(str(self._path))}?{mode}"
            with closing(sqlite3.connect(source, uri=True, timeout=patience)) as connection:
                yield connection
            return
        private = target.with_name(f"{target.name}-private")
        try:
            shutil.copyfile(self._path, private)
            shutil.copyfile(log, private.with_name(f"{private.name}-wal"))
            with closing(sqlite3.connect(private)) as connection:
                yield connection
        finally:
            for suffix in ("", *SIDE_FILES):
                private.with_name(private.name + suffix).unlink(missing_ok=True)
