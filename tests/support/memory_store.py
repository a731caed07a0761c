"""A store in memory, with the failures of real ones: it is behind, it loses answers, it dies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sidecar.errors import StoreError
from sidecar.model.objects import Fetched, Stored


class Died(BaseException):
    """The process ends here: nothing of it runs any more."""


class MemoryStore:
    """Objects by key, each with its ETag. `before` is called with every request's operation and key."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.older: dict[str, bytes] = {}
        self.behind = False
        self.loses_answers: set[str] = set()
        self.before: Callable[[str, str], None] = lambda operation, key: None

    async def startup(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def reset(self) -> None:
        pass

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        self.before("get", key)
        body = (self.older if self.behind and key in self.older else self.content).get(key)
        if body is None:
            raise StoreError(f"there is no {key}", code="store_missing")
        if _etag(body) == etag:
            return None
        target.write_bytes(body)
        return Fetched(_etag(body), 1.0, hashlib.sha256(body).hexdigest(), len(body))

    async def objects(self, prefix: str) -> list[Stored]:
        self.before("list", prefix)
        return [
            Stored(key, _etag(body), 1.0, len(body))
            for key, body in sorted(self.content.items())
            if key.startswith(prefix)
        ]

    async def head(self, key: str) -> Stored | None:
        self.before("head", key)
        body = self.content.get(key)
        return None if body is None else Stored(key, _etag(body), 1.0, len(body))

    async def put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        self.before("put", key)
        present = self.content.get(key)
        if (None if present is None else _etag(present)) != replaces:
            raise StoreError(f"{key} is not what was last seen", code="store_changed")
        if present is not None:
            self.older[key] = present
        self.content[key] = source.read_bytes()
        self.before("done", key)
        if key in self.loses_answers:
            # The library has repeated it, and the object is not the one that it was.
            self.loses_answers.discard(key)
            raise StoreError(f"{key} is not what was last seen", code="store_changed")
        return _etag(self.content[key])

    async def remove(self, key: str) -> None:
        self.before("remove", key)
        self.content.pop(key, None)


def _etag(body: bytes) -> str:
    # As S3 has it: the same content has the same ETag again.
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
