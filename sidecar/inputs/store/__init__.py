"""The object store: a bucket (`s3`) or a folder (`folder`), both with the same five promises.

A transfer is bounded in time and size, arrives whole or not at all, is skipped when the content is the
one already known, never replaces an object that the caller has not seen, and fails only with `StoreError`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sidecar.config.settings import Settings
from sidecar.inputs.store.folder import FolderStore
from sidecar.inputs.store.local import LocalIndex
from sidecar.inputs.store.s3 import S3Store
from sidecar.model.objects import Fetched, Stored

Observe = Callable[[str, str, float], None]
"""Called after each request with the operation, its outcome and its duration in seconds."""


class IndexSource(Protocol):
    """Where the index comes from: an object store, or the machine's own database."""

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Write the object to `target`, where nothing is yet, or give None when its ETag still is `etag`."""


class Store(IndexSource, Protocol):
    """What the sidecar asks of an object store."""

    async def startup(self) -> None:
        """Open connections' ground; nothing is requested yet."""

    async def shutdown(self) -> None:
        """Close every connection."""

    async def reset(self) -> None:
        """Drop connections whose other end may be gone, after a suspension."""

    async def objects(self, prefix: str) -> list[Stored]:
        """All objects whose keys begin with `prefix`, by key."""

    async def head(self, key: str) -> Stored | None:
        """What there is to know of an object, or None when there is none."""

    async def put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        """Store a file of the age `modified`, and give the new object's ETag.

        The object in the store must have the ETag `replaces`, or must not exist when that is None: else a
        `StoreError` with the code `store_changed`.
        """

    async def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""


def _folder(place: str, settings: Settings, observe: Observe) -> Store:
    return FolderStore(Path(place), settings.fetch, observe)


def _bucket(place: str, settings: Settings, observe: Observe) -> Store:
    bucket, _, prefix = place.partition("/")
    return S3Store(bucket, prefix, settings.s3, settings.fetch, observe)


SCHEMES: dict[str, Callable[[str, Settings, Observe], Store]] = {"file": _folder, "s3": _bucket}
"""What makes a store of each scheme, out of what follows `://`."""


def open_store(settings: Settings, observe: Observe) -> Store:
    """The store that the settings name."""
    scheme, _, place = settings.store.partition("://")
    return SCHEMES[scheme](place, settings, observe)


def own_index(settings: Settings, observe: Observe) -> LocalIndex | None:
    """The machine's own index, where it owns that."""
    if not settings.update.own_index:
        return None
    return LocalIndex(Path(settings.paths.databases) / "index.sqlite3", settings.fetch, observe)
