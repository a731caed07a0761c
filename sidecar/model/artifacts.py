"""A generated file as data."""

from __future__ import annotations

from sidecar.model.record import Record


class Artifact(Record, frozen=True, gc=False):
    """One generated file: its name in the set and its bytes."""

    name: str
    content: bytes
