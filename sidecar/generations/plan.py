"""Decides what a publication has to write: wanted content against what lies there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.generate import NAVIGATOR
from sidecar.model.artifacts import Artifact


@dataclass(frozen=True, slots=True)
class Plan:
    """The artifacts to install, in order, and whether the index is to be replaced."""

    artifacts: tuple[Artifact, ...]
    index: bool

    def __bool__(self) -> bool:
        return bool(self.artifacts) or self.index


def plan(wanted: Sequence[Artifact], present: Mapping[str, bytes | None], *, index: bool) -> Plan:
    """What to write so that `present` becomes `wanted`; nothing when they are the same.

    Any change brings navigator.yml along: its new mtime is what makes Navigator look, and at htpasswd too.
    """
    changed = {artifact.name for artifact in wanted if present.get(artifact.name) != artifact.content}
    if changed:
        changed.add(NAVIGATOR)
    return Plan(tuple(artifact for artifact in wanted if artifact.name in changed), index)
