"""Remembers which content was refused, so that it is not tried again until it changes."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from sidecar.errors import Rejected
from sidecar.model.record import Record
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

_KEPT = 50


class _Rejection(Record, frozen=True):
    content: str
    code: str
    message: str
    hint: str


class Rejections:
    """The refused contents, newest last, in a small file that may be lost without harm."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = load(path, list[_Rejection]) or []
        # After a start those of the last refusal, until the first look at them.
        self._inputs = self._known[-1].content.partition(" ")[2] if self._known else ""

    def raise_if_known(self, sha256: str, inputs: str) -> None:
        """Raise the same `Rejected` again when this index was refused under these inputs."""
        self._inputs = inputs
        for one in self._known:
            if one.content == f"{sha256} {inputs}":
                raise Rejected(f"{one.message} (the same index was refused before)", one.hint, code=one.code)

    def add(self, sha256: str, inputs: str, error: Rejected) -> None:
        """Remember a refusal."""
        self._inputs = inputs
        content = f"{sha256} {inputs}"
        self._known = [one for one in self._known if one.content != content][-_KEPT + 1 :]
        self._known.append(_Rejection(content, error.code, error.message, error.hint))
        self._save()

    @property
    def newest(self) -> tuple[str, str] | None:
        """The SHA-256 of the index that was refused last under the present inputs, and why, as a code."""
        for one in reversed(self._known):
            sha256, _, inputs = one.content.partition(" ")
            if inputs == self._inputs:
                return sha256, one.code
        return None

    def forget(self, sha256: str, inputs: str) -> None:
        """What was published is not bad any more, whatever was thought of it."""
        self._inputs = inputs
        content = f"{sha256} {inputs}"
        if any(one.content == content for one in self._known):
            self._known = [one for one in self._known if one.content != content]
            self._save()

    def _save(self) -> None:
        try:
            replace(self._path, msgspec.json.encode(self._known))
        except OSError as failure:
            # The refusal itself matters more; after a restart the content would be tried once more.
            logger.warning("%s cannot be written: %s", self._path, failure)
