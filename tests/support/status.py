"""A machine's status as a test wants it."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.model.states import Health, Sync
from sidecar.model.status import Status

_HEALTHY: dict[str, Any] = {
    "version": "1",
    "machine": "m1",
    "app": None,
    "region": "iad",
    "sync": Sync("synced", "the store's index (abab) is published"),
    "health": Health("healthy", "Navigator serves generation 3", "loaded", 10.0),
    "generation": {
        "current": 3,
        "loaded": 3,
        "ready": None,
        "pending": None,
        "source": None,
        "pinned": False,
    },
    "fingerprint": "f",
    "index": {"etag": "e", "sha256": "ab" * 32, "modified": 5.0},
    "published": 10.0,
    "tenants": 4,
    "users": 5,
    "navigator": {"state": "up", "process": "process 1"},
    "ready": {"state": "idle", "generation": None, "started": None, "seconds": None, "steps": []},
    "drift": [],
    "waiting": 0,
    "running": None,
    "last": None,
    "error": None,
    "problems": [],
    "started": 1.0,
}


def status(**changed: Any) -> Status:
    """That of a machine that serves generation 3; a mapping that is given changes only the keys it has."""
    known = {
        name: {**value, **changed.get(name, {})} if isinstance(value, dict) else changed.get(name, value)
        for name, value in _HEALTHY.items()
    }
    return msgspec.convert(msgspec.to_builtins(known), Status)
