"""Remembers what was refused, so that it is not tried again until something about it changes.

What is wrong with the content itself is refused until the content or this machine's inputs change. What
failed elsewhere (Navigator did not load it, a probe failed, a command vetoed it) is refused for a time only,
and for this process of Navigator: a minute at first, doubling up to an hour. A person who asks ends it at
once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sidecar.errors import Rejected
from sidecar.model.navigator import Process
from sidecar.model.record import Record
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

_MAX_KEPT = 50
# Seconds until what failed outside of the content is tried again: the first time, and at most.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 60.0, 3600.0


class _Rejection(Record, frozen=True):
    """`content` is SHA-256 and inputs; `until` when a refusal for a time ends, in seconds since 1970."""

    content: str
    code: str
    message: str
    hint: str
    until: float | None = None
    pause: float = 0.0
    process: Process | None = None


class Rejections:
    """The refused contents, newest last, in a small file that may be lost without harm."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._known = load(path, list[_Rejection]) or []
        # After a start those of the last refusal, until the first look at them.
        self._inputs = self._known[-1].content.partition(" ")[2] if self._known else ""

    def raise_if_known(
        self, sha256: str, inputs: str, process: Process | None = None, *, person: bool = False
    ) -> None:
        """Raise the same `Rejected` again when this index was refused under these inputs, and still is."""
        self._inputs = inputs
        found = self._find(sha256, inputs)
        if found is None or not self._holds(found, process, person=person):
            return
        if found.until is None:
            raise Rejected(
                f"{found.message} (the same index was refused before)", found.hint, code=found.code
            )
        seconds = max(0.0, found.until - self._clock())
        raise Rejected(
            f"{found.message}; it is tried again in {seconds / 60:.0f} min, when Navigator restarts, "
            "or when somebody asks for it",
            found.hint or "`sidecar update` tries it at once",
            code=found.code,
        )

    def add(self, sha256: str, inputs: str, error: Rejected) -> None:
        """Remember a refusal of the content."""
        self._put(_Rejection(f"{sha256} {inputs}", error.code, error.message, error.hint))

    def add_for_a_time(self, sha256: str, inputs: str, error: Rejected, process: Process | None) -> None:
        """Remember a refusal for reasons outside of the content; each time in a row it lasts longer."""
        before = self._find(sha256, inputs)
        pause = (
            min(before.pause * 2, LAST_PAUSE_SECONDS)
            if before is not None and before.pause
            else FIRST_PAUSE_SECONDS
        )
        self._put(
            _Rejection(
                f"{sha256} {inputs}",
                error.code,
                error.message,
                error.hint,
                self._clock() + pause,
                pause,
                process,
            )
        )

    def retry_due(self, process: Process | None) -> bool:
        """Whether the newest refusal was for a time, and that is over."""
        newest = self._known[-1] if self._known else None
        return newest is not None and newest.until is not None and not self._holds(newest, process)

    @property
    def newest(self) -> tuple[str, str] | None:
        """The SHA-256 of the index that was refused last under the present inputs, and why, as a code."""
        for one in reversed(self._known):
            sha256, _, inputs = one.content.partition(" ")
            if inputs == self._inputs:
                return sha256, one.code
        return None

    def published(self, sha256: str, inputs: str) -> None:
        """The content is not bad any more, whatever was thought of it; whether it is loaded is to be seen."""
        found = self._find(sha256, inputs)
        if found is not None and found.until is None:
            self._drop(found)

    def loaded(self, sha256: str, inputs: str) -> None:
        """Nothing is held against it any more."""
        found = self._find(sha256, inputs)
        if found is not None:
            self._drop(found)

    def _find(self, sha256: str, inputs: str) -> _Rejection | None:
        return next((one for one in self._known if one.content == f"{sha256} {inputs}"), None)

    def _holds(self, one: _Rejection, process: Process | None, *, person: bool = False) -> bool:
        if one.until is None:
            return True
        left = one.until - self._clock()
        # A pause longer than it was set to: the clock was set back since.
        return not person and 0 < left <= one.pause and one.process == process

    def _drop(self, rejection: _Rejection) -> None:
        self._known = [one for one in self._known if one is not rejection]
        self._save()

    def _put(self, rejection: _Rejection) -> None:
        self._inputs = rejection.content.partition(" ")[2]
        others = [one for one in self._known if one.content != rejection.content]
        self._known = [*others[-_MAX_KEPT + 1 :], rejection]
        self._save()

    def _save(self) -> None:
        try:
            replace(self._path, msgspec.json.encode(self._known))
        except OSError as failure:
            # The refusal itself matters more; after a restart the content would be tried once more.
            logger.warning("%s cannot be written: %s", self._path, failure)
