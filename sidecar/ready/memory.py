"""What the ready work remembers, in small JSON files of the state folder. Losing one costs some requests."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")


class FileMemory(Generic[Entry]):
    """Name -> record, loaded once and saved as a whole."""

    def __init__(self, path: Path, kind: type[Entry]) -> None:
        self._path = path
        self._kind = kind
        self._entries: dict[str, Entry] | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries; to be changed in place, and then saved."""
        if self._entries is None:
            self._entries = load(self._path, dict[str, self._kind]) or {}  # type: ignore[name-defined]
        return self._entries

    def save(self) -> None:
        """Keep the entries. That they cannot be kept is said, and stops nothing."""
        try:
            replace(self._path, msgspec.json.encode(self.entries))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._path, error.strerror)
