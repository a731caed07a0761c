"""What somebody asks for, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sidecar.model.changes import Changes
from sidecar.model.record import Problem, Record

PREVIEW = "preview"
"""The trigger of previews."""


STALE = "store_stale"
"""The code of an error: the store serves another index than the one that is expected."""

_REFUSED = ("changed", STALE)


Emit = Callable[[str, dict[str, Any]], None]
"""Tells whoever listens of an event: its kind and its data."""


class Received(Record, frozen=True):
    """An index that came with a poke: the file, its digests in hexadecimal, its size in bytes."""

    path: Path
    sha256: str
    md5: str
    size: int


class Request(Record, frozen=True):
    """What somebody asks for.

    `trigger` says what asked (cgi, socket, http, start, once, ...), `who` on whose behalf. `expect` is the
    SHA-256 that the index must have, `if_match` the tag of the preview that is to be applied, `rollback` the
    generation to restore (`with_index` or only its artifacts), `failed` the one that Navigator would not load
    and that it takes the place of. Requests that are not plain pokes get a run of their own.
    """

    trigger: str
    who: str = ""
    force: bool = False
    expect: str | None = None
    if_match: str | None = None
    received: Received | None = None
    preview: bool = False
    public: bool = False
    rollback: int | None = None
    with_index: bool = True
    failed: int | None = None

    @property
    def automatic(self) -> bool:
        """Whether it goes back because Navigator did not load something newer."""
        return self.failed is not None

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but what the store holds, so that it can share a run."""
        special = self.force or self.expect or self.if_match or self.received or self.preview
        return not special and self.rollback is None


class Outcome(Record, frozen=True, omit_defaults=True):
    """How a run ended.

    `state` is published, unchanged, previewed, rejected or failed. `generation` is the one in place now.
    `etag` and `sha256` are those of the index that was looked at, `tag` names the very set that would be
    or was published. `stages` are seconds. `diffs` are what the run writes, `drift` what somebody else had
    changed before. `warnings` may name users. `stands` when the store gave nothing, but the generation in
    place is whole, file by file.
    """

    state: str
    trigger: str
    who: str
    started: float
    seconds: float
    generation: int | None = None
    etag: str | None = None
    sha256: str | None = None
    tag: str | None = None
    stages: dict[str, float] = msgspec.field(default_factory=dict)
    written: tuple[str, ...] = ()
    changes: Changes | None = None
    diffs: dict[str, str] = msgspec.field(default_factory=dict)
    drift: dict[str, str] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    error: Problem | None = None
    stands: bool = False

    @property
    def good(self) -> bool:
        """Whether what was asked for is done."""
        return self.error is None

    @property
    def stale(self) -> bool:
        """Whether the store did not serve what was expected; it may a moment later."""
        return self.error is not None and self.error.code == STALE

    def repeats(self, before: Outcome | None) -> bool:
        """Whether a poke that waits for the store has found the same as it did before: no news."""
        return self.stale and before is not None and before.error == self.error

    @property
    def is_preview(self) -> bool:
        """Whether nothing was to be written; a preview that failed is one too."""
        return self.trigger == PREVIEW

    @property
    def refused(self) -> bool:
        """Whether only the request was at fault, so that this says nothing about the machine.

        What was to be applied is not what was looked at any more, the store does not hold what the caller
        expected, or the generation to restore is not kept.
        """
        if self.error is None:
            return False
        # Elsewhere than in a rollback, what is not found are the machine's own files.
        return self.error.code in _REFUSED or (self.trigger, self.error.code) == ("rollback", "not_found")

    def without_names(self) -> Outcome:
        """The same for the public: no names of users, no inner workings."""
        return msgspec.structs.replace(self, warnings=(), changes=None, diffs={}, drift={}, who="")
