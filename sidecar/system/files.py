"""Files that are there whole or not at all, after a power cut too: written beside, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.errors import PublishError, ReadError

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

_SUFFIX = ".sidecar-new"
# The disk takes what several threads ask of it in one go.
_SYNC_THREADS = 8
_MAX_LINKS = 40  # as Linux, in path_resolution(7)

_HINTS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "the file system is read-only: check its mount and the disk's health",
    errno.EACCES: "check the owner and mode of the folder",
    errno.EPERM: "check the owner and mode of the folder, and whether a sandbox forbids to change owners",
    errno.EISDIR: "a folder is in the file's place: remove it",
    errno.EEXIST: "a file is in the folder's place: remove it",
    errno.ENOTDIR: "a file is in the folder's place: remove it",
}


def temporary(target: Path) -> Path:
    """Where a file is written before it takes its target's place: beside it."""
    return target.with_name(f".{target.name}{_SUFFIX}")


def led_to(path: Path) -> Path:
    """The file that a path is, or that links lead to which root or this process's user made.

    In a folder that others may write to, a link of theirs could lead anywhere: it is not followed, and
    counts as what is there.
    """
    for _ in range(_MAX_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name
        if not is_link(path) or not _is_trusted(path):
            break
        path = path.parent / path.readlink()
    return path


def is_link(path: Path) -> bool:
    """Whether a symbolic link is there, wherever it leads."""
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def _is_trusted(link: Path) -> bool:
    """Whether root or this process's user made it."""
    return link.lstat().st_uid in (0, os.geteuid())


def read_plain(path: Path) -> tuple[bytes, os.stat_result] | None:
    """Content and facts of a regular file; None where there is none, but what a rename takes the place of.

    A link is not followed and a pipe not waited for: whoever may write to the folder can put one there.
    `OSError` for a folder, or for what cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENXIO or (error.errno == errno.ELOOP and not _is_trusted(path)):
            return None
        raise
    with open(descriptor, "rb") as stream:
        there = os.fstat(descriptor)
        return (stream.read(), there) if stat.S_ISREG(there.st_mode) else None


def leftovers(folder: Path) -> Iterator[Path]:
    """What lies in a folder that was written beside something and has not taken its place."""
    return folder.glob(f".*{_SUFFIX}")


def write(path: Path, content: bytes, mode: int | None, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file anew, with a mode or with what the process's umask leaves. Durable after `sync` only."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if mode is None else 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            give(descriptor, *owner)
            if mode is not None:
                os.fchmod(descriptor, mode)
    except OSError as error:
        error.filename = str(path)  # on which disk there is no room
        raise


def give(file: Path | int, owner: int, group: int) -> None:
    """Let a file, by its path or descriptor, belong to a user and a group; -1 leaves the one there is.

    Nothing is asked of the system that is so already: a sandbox may forbid the call as such.
    """
    there = os.fstat(file) if isinstance(file, int) else file.stat()
    if owner in (-1, there.st_uid) and group in (-1, there.st_gid):
        return
    os.chown(file, owner, group)


def replace(
    path: Path,
    content: bytes,
    *,
    mode: int | None = 0o600,
    owner: tuple[int, int] = (-1, -1),
    synced: bool = False,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Replace a file in one step, a private one unless `mode` says otherwise.

    Unless `synced`, a power cut may lose the new content, or leave an empty file. `before` is called when all
    is written, right before the new file takes the old one's place.
    """
    incoming = temporary(path)
    try:
        write(incoming, content, mode, owner)
        if synced:
            sync([incoming])
        before()
        incoming.rename(path)
        if synced:
            sync([path.parent])
    except OSError:
        incoming.unlink(missing_ok=True)
        raise


def share(source: Path, content: bytes, target: Path) -> bool:
    """Let one copy serve as two files, where it has the content. Only for files that nobody else changes."""
    try:
        if source.read_bytes() != content:
            return False
        os.link(source, target)
    except OSError:
        return False
    return True


def touch(path: Path) -> None:
    """Set a file's time to now."""
    # The kernel's own idea of now lags by some milliseconds, and Navigator compares with the exact time.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def sync(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk."""
    waiting = list(paths)
    if len(waiting) < 2:
        for path in waiting:
            _sync(path)
        return
    with ThreadPoolExecutor(min(_SYNC_THREADS, len(waiting))) as threads:
        for _ in threads.map(_sync, waiting):
            pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def signature(there: os.stat_result) -> str:
    """Moves with any change of a file that moves its time, its size, or puts another in its place."""
    return f"{there.st_mtime_ns:x}-{there.st_size:x}-{there.st_ino:x}"


def signature_at(path: Path) -> str | None:
    """That of the file at a path; None when there is none."""
    try:
        return signature(path.stat())
    except OSError:
        return None


def sha256(content: bytes) -> str:
    """The digest of a content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def load(path: Path, kind: type[Loaded]) -> Loaded | None:
    """A record from a JSON file; None when it is not there or damaged, and with a warning when unreadable."""
    try:
        return load_readable(path, kind)
    except ReadError as error:
        logger.warning("%s", error)
        return None


def load_readable(path: Path, kind: type[Loaded]) -> Loaded | None:
    """A record from a JSON file; None when it is not there or damaged, `ReadError` when it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None
    except OSError as error:
        raise ReadError(
            f"{path} cannot be read: {error.strerror}",
            "it has to belong to the user that runs the sidecar: give its folder and all in it to that user",
        ) from None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the system's errors into `PublishError` with what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or ""
        raise PublishError(
            f"{what} could not be written: {error.strerror}{f' ({where})' if where else ''}",
            _HINTS.get(error.errno or 0, "the old set is still in place"),
        ) from error
