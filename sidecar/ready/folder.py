"""The folder of the event databases: what lies there, and how a database gets there, or away.

The application, whose user may be another one, writes to that folder. A link or a pipe of its making counts
as no database, and nothing is written to, read from, or given away through one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from sidecar.errors import PublishError, SidecarError
from sidecar.ready.plan import SUFFIX, LocalDatabase
from sidecar.system.files import (
    create,
    give,
    is_special,
    led_to,
    leftovers,
    open_plain,
    plain_stat,
    signature,
    sync,
    temporary,
)
from sidecar.system.sqlite import (
    SIDE_FILES,
    DatabaseLocked,
    copy_database,
    install_database,
    read_plainly,
)

# What is staged is in place within seconds: what is older was left behind by a crash.
_ABANDONED_SECONDS = 3600.0
_LOCK_TIMEOUT_SECONDS = 5.0
_CHUNK_BYTES = 1 << 20
# No application has as many migrations.
_MAX_VERSIONS = 100_000


class DatabaseFolder:
    """One folder; `owner` and `group` of new files are -1 for the daemon's own. All methods block.

    What is under way lies in `private`, to which nobody else may write. A database that others keep locked is
    given up after `patience` seconds.
    """

    def __init__(
        self,
        folder: Path,
        private: Path,
        mode: int,
        owner: int,
        group: int,
        patience: float = _LOCK_TIMEOUT_SECONDS,
    ) -> None:
        self._folder = folder
        self._private = private
        self._mode = mode
        self._owner = owner
        self._group = group
        self._patience = patience
        self._numbers = itertools.count()

    def elsewhere(self, folder: Path) -> DatabaseFolder:
        """Another folder, with the same manners."""
        return DatabaseFolder(folder, self._private, self._mode, self._owner, self._group, self._patience)

    def path(self, name: str) -> Path:
        """The file of a database."""
        return self._folder / f"{name}{SUFFIX}"

    def look(self) -> dict[str, LocalDatabase]:
        """All databases by stem. A write-ahead log counts as a part of its database."""
        try:
            with os.scandir(self._folder) as entries:
                stats = {
                    entry.name: there
                    for entry in entries
                    if not entry.name.startswith(".") and (there := _facts(entry))
                }
        except FileNotFoundError:
            return {}
        return {
            file.removesuffix(SUFFIX): _here(stat, stats.get(f"{file}-wal"))
            for file, stat in stats.items()
            if file.endswith(SUFFIX)
        }

    def look_at(self, name: str) -> LocalDatabase | None:
        """One database, or None."""
        path = self.path(name)
        there = plain_stat(path)
        return there and _here(there, plain_stat(path.with_name(f"{path.name}-wal")))

    def staging(self, name: str) -> Path:
        """A new name, to write the successor of a database to."""
        self._private.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._temporary(self._private, name)

    def _temporary(self, folder: Path, name: str) -> Path:
        """One that nobody else in this process uses, nor any other process."""
        return temporary(folder / f"{name}.{os.getpid()}-{next(self._numbers)}")

    def clean(self) -> None:
        """Remove what a crash left behind."""
        for path in (*leftovers(self._private), *leftovers(self._folder)):
            with suppress(FileNotFoundError, IsADirectoryError):
                if time.time() - path.lstat().st_ctime > _ABANDONED_SECONDS:
                    path.unlink()

    def install(
        self, staged: Path, name: str, modified: float, seen: LocalDatabase | None
    ) -> LocalDatabase | None:
        """Put a staged database in place, with its age; None when another is there than the one `seen`.

        `staged` is gone afterwards. A database that is there is replaced under its readers.
        """
        target = led_to(self.path(name))
        beside = self._temporary(target.parent, name)
        try:
            present = self.look_at(name)
            if present != seen:
                return None
            if present is not None and present.size:
                install_database(staged, target, modified, self._patience)
                return self.look_at(name)
            self._copy_beside(staged, beside, modified)
            # A log whose database is gone would be replayed over the new one.
            self._remove_side_files(target)
            if present is None:
                if is_special(target):
                    target.unlink()
                try:
                    os.link(beside, target)  # never over what has come meanwhile
                except FileExistsError:
                    return None
            else:
                beside.replace(target)
            sync([target.parent])
            return self.look_at(name)
        except OSError as error:
            raise PublishError(
                f"{target} could not be written: {error.strerror}",
                "check the disk's free space and the folder's owner and mode",
            ) from error
        finally:
            staged.unlink(missing_ok=True)
            with suppress(OSError):
                beside.unlink()

    def _copy_beside(self, staged: Path, beside: Path, modified: float) -> None:
        """A copy in the folder itself, which may be another disk, with owner, mode and age."""
        beside.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("rb") as source, create(beside) as copy:
            shutil.copyfileobj(source, copy, _CHUNK_BYTES)
            copy.flush()
            give(copy.fileno(), self._owner, self._group)
            os.fchmod(copy.fileno(), self._mode)
            os.utime(copy.fileno(), (modified, modified))
            os.fsync(copy.fileno())

    def put_right(self, name: str) -> None:
        """Give a database the right owner, if it has another; `PublishError` when that is not allowed."""
        path = self.path(name)
        try:
            there = path.lstat()
            if self._owner not in (-1, there.st_uid) or self._group not in (-1, there.st_gid):
                self.adopt(name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise PublishError(
                f"{path} belongs to another user, and cannot be given to the application's: {error.strerror}",
                "chown it; databases.owner and databases.group say to whom",
            ) from error

    def has_md5(self, name: str, md5: str) -> bool:
        """Whether a database's file, without what lies beside it, has this digest."""
        with open_plain(self.path(name)) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5

    def adopt(self, name: str) -> None:
        """Give a database that a command made, and what lies beside it, the right owner and mode.

        A file of somebody else whose mode grants as much stays as it is: only its owner may change it.
        """
        path = self.path(name)
        for part in (path, *(path.with_name(path.name + end) for end in SIDE_FILES)):
            with suppress(FileNotFoundError), open_plain(part) as stream:
                give(stream.fileno(), self._owner, self._group)
                there = os.fstat(stream.fileno())
                is_ours = os.geteuid() in (0, there.st_uid)
                if is_ours or there.st_mode & self._mode != self._mode:
                    os.fchmod(stream.fileno(), self._mode)

    def discard(self, name: str) -> None:
        """Remove what a command that was cut off has left of a database that was not there before."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        self._remove_side_files(path)

    def remove(self, name: str, seen: LocalDatabase) -> bool:
        """Remove a database, unless it has changed since it was `seen`."""
        if self.look_at(name) != seen:
            return False
        self.discard(name)
        return True

    def _remove_side_files(self, path: Path) -> None:
        for end in SIDE_FILES:
            path.with_name(path.name + end).unlink(missing_ok=True)

    def copy(self, name: str) -> Path:
        """A consistent copy of a database, whoever writes to it meanwhile; the caller removes it."""
        staged = self.staging(name)
        try:
            with closing(self._open(name)) as live:
                copy_database(live, staged, self._patience)
        except DatabaseLocked as error:
            staged.unlink(missing_ok=True)
            raise SidecarError(
                f"{self.path(name)} cannot be copied: "
                f"another process has kept it locked for {self._patience:g} s",
                "find the process that leaves a transaction open, and try again",
                code="locked",
            ) from error
        except sqlite3.Error as error:
            staged.unlink(missing_ok=True)
            raise SidecarError(f"{self.path(name)} cannot be copied: {error}", "is it a database?") from error
        return staged

    def versions(self, name: str) -> frozenset[str]:
        """The migrations that a database has; none when it has no list of them, or is no database."""
        try:
            with closing(self._open(name)) as connection:
                rows = read_plainly(connection, "schema_migrations", "version", _MAX_VERSIONS)
        except (sqlite3.Error, UnicodeDecodeError):
            return frozenset()
        return frozenset(map(str, rows))

    def _open(self, name: str) -> sqlite3.Connection:
        """Open a database that others may be writing to; nothing stays beside one that nobody has open."""
        if plain_stat(self.path(name)) is None:
            raise sqlite3.OperationalError("it is not there")
        connection = sqlite3.connect(
            f"file:{quote(str(self.path(name)))}?mode=rw", uri=True, timeout=self._patience
        )
        connection.execute("pragma query_only = on")
        connection.execute("pragma trusted_schema = off")
        return connection


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """As `plain_stat`, at less cost for what is no link."""
    if entry.is_symlink():
        return plain_stat(Path(entry.path))
    return entry.stat() if entry.is_file() else None


def _here(stat: os.stat_result, log: os.stat_result | None) -> LocalDatabase:
    moves, modified = signature(stat), stat.st_mtime
    if log is not None and log.st_size:
        moves += f"+{log.st_mtime_ns:x}-{log.st_size:x}"
        modified = max(modified, log.st_mtime)
    return LocalDatabase(stat.st_size + (log.st_size if log else 0), modified, moves)
