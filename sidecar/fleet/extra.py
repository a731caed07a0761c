"""Uploads the extra files from the machine where they are made, each when the store has another."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from sidecar.fleet.upload import SeenObject
from sidecar.inputs.extra import ExtraEntry
from sidecar.inputs.store import Store
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

_MEMORY = "fleet-extra.json"


async def upload_extras(
    extras: tuple[ExtraEntry, ...],
    store: Store,
    state: Path,
    folder: Path,
    say: Callable[[str], None],
    *,
    dry_run: bool,
) -> None:
    """Bring the store up to date, telling of each file; `StoreError` when it cannot be done.

    What the store is known to hold is remembered below `state`; `folder` is for what must be fetched to tell.
    """
    memory = state / _MEMORY
    known = load(memory, dict[str, SeenObject]) or {}
    for key, path in await asyncio.to_thread(lambda: [pair for extra in extras for pair in extra.here()]):
        content = await asyncio.to_thread(path.read_bytes)
        digest = hashlib.sha256(content).hexdigest()
        stored = await store.head(key)
        if stored is not None and stored.etag != (known[key].etag if key in known else None):
            held = folder / "extra"
            held.unlink(missing_ok=True)
            fetched = await store.fetch(key, held, None)
            if fetched is not None:
                known[key] = SeenObject(fetched.etag, fetched.sha256)
        if stored is not None and key in known and known[key].sha256 == digest:
            continue
        if dry_run:
            say(f"{key} would be uploaded")
            continue
        etag = await store.put(key, path, path.stat().st_mtime, stored.etag if stored else None)
        known[key] = SeenObject(etag, digest)
        say(f"uploaded {key}")
    if known and not dry_run:
        try:
            replace(memory, msgspec.json.encode(known))
        except OSError as error:
            logger.warning("%s cannot be written: %s", memory, error)
