"""Signatures that were used already: none counts twice, not even after a restart."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sidecar.errors import SidecarError, Unauthorized
from sidecar.system.files import replace

logger = logging.getLogger(__name__)

# The file is written anew when this many of its lines do not matter any more.
_MAX_STALE_LINES = 1000


class NotRecorded(SidecarError):
    """A signature that cannot be recorded must not count: it could be used again after a restart."""

    code = "signature_not_recorded"
    status = 503

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the signature could not be recorded in {path}: {error.strerror or error}",
            "make room on the disk, check the file's owner and mode, and poke again",
        )


class UsedSignatures:
    """The signatures used within the window, each durable before it counts.

    They are appended to a file, a line each, which is written anew with those that still matter: at the
    start, and when most of it does not matter any more. All methods block, and any thread may call them.
    """

    def __init__(self, path: Path, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds, and is never set: one that is set forth and back brings nothing back."""
        self._path = path
        self._clock = clock
        # A signature's time may lie in the future by the window, and counts until the window after it.
        self._remember = 2 * window
        # Signature -> when it was used, by the wall clock and by the other one.
        self._used: dict[str, tuple[float, float]] = {}
        self._lines = 0
        self._is_read = False
        # Its last line may be half of one.
        self._is_torn = True
        self._lock = threading.Lock()

    def startup(self, now: float) -> None:
        """Read what was used before. Where that fails no signature is taken until it works."""
        try:
            with self._lock:
                self._read(now)
                self._write_anew(self._used)
        except OSError as error:
            logger.error(  # noqa: TRY400 - the sentence is enough
                "%s cannot be brought up to date: %s; signed pokes are refused while it cannot be written",
                self._path,
                error,
            )

    def _read(self, now: float) -> None:
        try:
            lines = self._path.read_text("ascii", "replace").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            moment, _, signature = line.partition(" ")
            if moment.isdecimal() and signature and int(moment) >= now - self._remember:
                self._used[signature] = int(moment), self._clock()
        self._lines = len(lines)
        self._is_read = True

    def use(self, signature: str, now: float) -> None:
        """Count a signature as used; `Unauthorized` when it was, `NotRecorded` when it cannot be written."""
        with self._lock:
            self._use(signature, now)

    def _use(self, signature: str, now: float) -> None:
        try:
            if not self._is_read:
                # What was used before the start is not known yet.
                self._read(now)
            counted = self._clock()
            wall_end, end = now - self._remember, counted - self._remember
            for old in [one for one, (at, since) in self._used.items() if at < wall_end and since < end]:
                del self._used[old]
            if signature in self._used:
                raise Unauthorized(
                    "the signature was used before", "sign every request anew", code="replayed"
                )
            if self._is_torn or self._lines > len(self._used) + _MAX_STALE_LINES:
                self._write_anew({**self._used, signature: (now, counted)})
            else:
                self._append(f"{int(now)} {signature}\n".encode())
        except OSError as error:
            raise NotRecorded(self._path, error) from error
        self._used[signature] = now, counted

    def _write_anew(self, used: dict[str, tuple[float, float]]) -> None:
        content = "".join(f"{int(at)} {signature}\n" for signature, (at, _) in used.items())
        replace(self._path, content.encode(), synced=True)
        self._lines = len(used)
        self._is_torn = False

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    # The disk had room for a part of it only.
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as one that failed
                os.fsync(descriptor)
            except OSError:
                # Half a line would swallow the next one.
                self._is_torn = True
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                    self._is_torn = False
                raise
        finally:
            os.close(descriptor)
        self._lines += 1
