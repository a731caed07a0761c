"""The object store: a bucket (`s3`) or a folder (`folder`), both with the same four promises.

A transfer is bounded in time and size, arrives whole or not at all, is skipped when the content is the
one already known, and fails only with `StoreError`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sidecar.model import Fetched
from sidecar.settings import Settings
from sidecar.store.folder import FolderStore
from sidecar.store.local import LocalIndex
from sidecar.store.s3 import S3Store

Observe = Callable[[str, str, float], None]
"""Called after each request with the operation, its outcome and its duration in seconds."""


class Store(Protocol):
    """What the sidecar asks of an object store."""

    async def startup(self) -> None:
        """Open connections' ground; nothing is requested yet."""

    async def shutdown(self) -> None:
        """Close every connection."""

    async def reset(self) -> None:
        """Drop connections whose other end may be gone, after a suspension."""

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Write the object to `target`, or give None when its ETag still is `etag`."""


def open_store(settings: Settings, observe: Observe) -> Store:
    """The store that the settings name, or the machine's own index where it owns that."""
    if settings.update.own_index:
        return LocalIndex(Path(settings.paths.databases) / "index.sqlite3", settings.fetch, observe)
    scheme, _, rest = settings.store.partition("://")
    if scheme == "file":
        return FolderStore(Path(rest), settings.fetch, observe)
    bucket, _, prefix = rest.partition("/")
    return S3Store(bucket, prefix, settings.s3, settings.fetch, observe)
