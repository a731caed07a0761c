"""What both kinds of store share: an incoming file, and the age of an object."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from sidecar.errors import StoreError

CHUNK_BYTES = 64 << 10
_OLDEST = datetime(1980, 1, 1, tzinfo=UTC).timestamp()
_DAY_SECONDS = 86400.0


class IncomingFile:
    """A file being received: counts, digests and bounds what is written to it."""

    def __init__(self, target: Path, limit: int) -> None:
        self._target = target
        self._limit = limit
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        with self._on_disk():
            self._stream = target.open("wb")

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._on_disk():
            self._stream.close()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; `StoreError` past the limit."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise too_large(self.size, self._limit)
        with self._on_disk():
            self._stream.write(chunk)
        self._sha256.update(chunk)
        self._md5.update(chunk)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A failure of this machine's own disk is not the store's."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"what is received cannot be written to {self._target}: {error.strerror}",
                "make room on the disk, or check the folder's owner and mode",
                code="store_disk",
            ) from error

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


class Transfer:
    """A transfer in a thread, which cannot be stopped: once it is given up it opens no file, and ends.

    A file that it has open then is its own: nobody writes to a target before having removed what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False

    def give_up(self) -> None:
        """Nobody waits for it any more, and its target may be somebody else's."""
        with self._lock:
            self._given_up = True

    def check(self) -> None:
        """Raise `StoreError` when it is given up."""
        if self._given_up:
            raise StoreError("the transfer took too long and was given up", code="store_timeout")

    def open(self, target: Path, limit: int) -> IncomingFile:
        """Begin to write; `StoreError` when it is given up."""
        with self._lock:
            self.check()
            return IncomingFile(target, limit)

    def finish(self, path: Path, target: Path) -> None:
        """Let a file that is whole take the target's place; `StoreError` when the transfer is given up."""
        with self._lock:
            self.check()
            path.replace(target)


def too_large(size: int, limit: int) -> StoreError:
    """The error for an object above the limit."""
    return StoreError(
        f"the object is larger than the {limit} bytes allowed ({size} so far)",
        "is this the index? raise fetch.max_bytes if it is",
        code="store_too_large",
    )


def changed(where: str) -> StoreError:
    """The error for an object that is not the one the caller has seen."""
    return StoreError(
        f"{where} is not what was last seen of it: somebody else has stored something there",
        "look at what is there now; nothing was overwritten",
        code="store_changed",
    )


def parse_age(text: str | None) -> float | None:
    """The metadata entry `last-modified` (`2026-05-01 12:00:00.25 UTC`) in seconds since 1970, or None.

    Whoever writes to the store may write anything: what cannot be the age of a database is none.
    """
    if not text:
        return None
    plain = text.strip().removesuffix("UTC").strip()
    try:
        moment = datetime.fromisoformat(plain)
        age = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return age if _OLDEST <= age <= time.time() + _DAY_SECONDS else None


def format_age(seconds: float) -> str:
    """The same, written as the application's own tools write it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}{f'.{moment.microsecond:06d}'.rstrip('0').rstrip('.')} UTC"
