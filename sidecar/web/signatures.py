"""Signatures that were used already: none counts twice, not even after a restart."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.errors import Unauthorized
from sidecar.system.files import replace


class UsedSignatures:
    """The signatures used within the window, each durable before it counts.

    They are appended to a file, a line each, which is written anew at start with those that still matter.
    """

    def __init__(self, path: Path, window: float) -> None:
        self._path = path
        # A signature's time may lie in the future by the window, and counts until the window after it.
        self._remember = 2 * window
        self._used: dict[str, float] = {}

    def startup(self, now: float) -> None:
        """Read what was used before."""
        try:
            lines = self._path.read_text("ascii", "replace").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            moment, _, signature = line.partition(" ")
            if moment.isdecimal() and signature and int(moment) >= now - self._remember:
                self._used[signature] = int(moment)
        kept = "".join(f"{int(at)} {signature}\n" for signature, at in self._used.items())
        replace(self._path, kept.encode(), synced=True)

    def use(self, signature: str, now: float) -> None:
        """Count a signature as used; `Unauthorized` when it was."""
        for old in [known for known, at in self._used.items() if at < now - self._remember]:
            del self._used[old]
        if signature in self._used:
            raise Unauthorized("the signature was used before", "sign every request anew", code="replayed")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{int(now)} {signature}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._used[signature] = now
