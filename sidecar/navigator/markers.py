"""The markers that prove loads: files named after the set, which Navigator's first ready hook touches."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, awatch

from sidecar.model.record import Record

# How long watchfiles gathers changes, in milliseconds: short, because somebody waits for them.
_WATCH_STEP_MILLISECONDS = 10
_DEBOUNCE_MILLISECONDS = 50
_MAX_KEPT = 20


class Marker(Record, frozen=True):
    """A marker: the fingerprint of its set, and time (ns since 1970) and inode, which every touch moves."""

    fingerprint: str
    touched: int
    inode: int


class Markers:
    """The files that Navigator's first ready hook touches, named after the set that it has loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Marker]:
        """Every marker, the one that was touched last first."""
        found = []
        with suppress(OSError):
            for path in self._folder.iterdir():
                with suppress(OSError):  # one that is being removed
                    stat = path.stat()
                    found.append(Marker(path.name, stat.st_mtime_ns, stat.st_ino))
        return sorted(found, key=lambda one: one.touched, reverse=True)

    def clear(self, fingerprint: str) -> None:
        """Remove a set's marker, so that the next one proves a new load, and all that are long past."""
        with suppress(OSError):
            old = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-_MAX_KEPT]
            for path in (*old, self._folder / fingerprint):
                path.unlink(missing_ok=True)

    async def changes(self, pause: float) -> AsyncGenerator[None, None]:
        """Something happened to the markers, or `pause` seconds went by: in any case look again."""
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            async for _ in awatch(
                self._folder,
                watch_filter=_any_change,
                debounce=_DEBOUNCE_MILLISECONDS,
                step=_WATCH_STEP_MILLISECONDS,
                rust_timeout=int(pause * 1000),
                yield_on_timeout=True,
                recursive=False,
            ):
                yield
                if not self._folder.exists():
                    break  # a folder that was removed and made again is not watched any more


def _any_change(change: Change, path: str) -> bool:
    return True
