"""Remembers which indexes came with a poke ahead of the store, until the store has served them.

Until then the store may still answer with what such an index has replaced, and that is no news. The memory is
short: a store that is behind catches up in seconds, and whoever stores an older index again means it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sidecar.model.record import Record
from sidecar.model.runs import AHEAD_SECONDS
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

LIMIT = AHEAD_SECONDS
"""For how many seconds the store may be behind."""
_MAX_KEPT = 20


class _Sent(Record, frozen=True):
    """An index by its SHA-256, those that it has replaced, and when that was, in seconds since 1970."""

    sha256: str
    replaced: tuple[str, ...]
    at: float


# Only Linux has the first one; elsewhere no machine that serves is suspended.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_boot() -> float:
    """Seconds that no correction of the time moves, and that pass while the machine is suspended."""
    return time.clock_gettime(_SINCE_BOOT)


class SentIndexes:
    """The sent indexes that the store has not served yet, in a small file that may be lost without harm."""

    def __init__(
        self,
        path: Path,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = since_boot,
    ) -> None:
        self._path = path
        self._wall = wall
        self._steady = steady
        self._known = {one.sha256: one for one in load(path, list[_Sent]) or []}
        # The wall's clock counts over a restart only, and whichever way it was set meanwhile, not for longer.
        self._until = {
            one.sha256: steady() + LIMIT - abs(wall() - one.at)
            for one in self._known.values()
            if abs(wall() - one.at) < LIMIT
        }

    def add(self, sha256: str, replaced: str) -> None:
        """Remember an index that was sent, and the one that it takes the place of."""
        # The store may be behind by more than one, when several were sent in a row.
        older = self._known[replaced].replaced if self._left(replaced) else ()
        behind = tuple(one for one in dict.fromkeys((*older, replaced)) if one != sha256)[-_MAX_KEPT:]
        self._known.pop(sha256, None)
        self._known[sha256] = _Sent(sha256, behind, self._wall())
        self._until[sha256] = self._steady() + LIMIT
        for forgotten in list(self._known)[:-_MAX_KEPT]:
            del self._known[forgotten]
        self._save()

    def renew(self, sha256: str) -> None:
        """The same index was sent once more: it is still meant, though the store may be behind for longer."""
        if (known := self._known.get(sha256)) is not None:
            self._known[sha256] = _Sent(sha256, known.replaced, self._wall())
            self._until[sha256] = self._steady() + LIMIT
            self._save()

    def confirm(self, sha256: str) -> None:
        """The store has served this index: what it serves from now on is news, older or not."""
        if self._known.pop(sha256, None) is not None:
            self._save()

    def seconds_behind(self, in_place: str, served: str) -> float:
        """For how long yet the store may serve one index though another was sent and is in place; 0: not."""
        known = self._known.get(in_place)
        return self._left(in_place) if known is not None and served in known.replaced else 0.0

    def _left(self, sha256: str) -> float:
        return max(0.0, self._until.get(sha256, 0.0) - self._steady()) if sha256 in self._known else 0.0

    def _save(self) -> None:
        try:
            replace(self._path, msgspec.json.encode(list(self._known.values())))
        except OSError as failure:
            # The index that was sent matters more; after a restart a store that is behind would be believed.
            logger.warning("%s cannot be written: %s", self._path, failure)
