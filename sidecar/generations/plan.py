"""Decides what a publication has to write: wanted content against what lies there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.model.artifacts import NAVIGATOR, Artifact


@dataclass(frozen=True, slots=True)
class PresentFiles:
    """What lies at the targets: each artifact's content, None where nothing is.

    `manners` tells in words whose mode or owner is not what the settings say, `index` what is wrong with the
    index in place; it is empty for nothing, and where the machine owns its index.
    """

    contents: Mapping[str, bytes | None]
    manners: Mapping[str, str] = field(default_factory=dict)
    index: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The artifacts to install, in order, and whether the index is to be replaced."""

    artifacts: tuple[Artifact, ...]
    index: bool

    def __bool__(self) -> bool:
        return bool(self.artifacts) or self.index


def plan(wanted: Sequence[Artifact], present: PresentFiles, *, index: bool, unknown: bool = False) -> Plan:
    """What to write so that `present` becomes `wanted`; nothing when they are the same.

    Any change brings navigator.yml along: its new mtime is what makes Navigator look, and at htpasswd too. A
    file with the right content and a wrong mode or owner is such a change, and written anew like any other:
    Navigator may have been unable to read it when it looked. An index in place that is damaged or not the one
    that was installed is replaced, asked for or not.

    Where it is `unknown` what a living Navigator has loaded, as after a loss of the state folder,
    navigator.yml comes along, whatever lies there: a file as old as the one it serves is not looked at.
    """
    changed = {
        artifact.name
        for artifact in wanted
        if artifact.name in present.manners or present.contents.get(artifact.name) != artifact.content
    }
    if changed or unknown:
        changed.add(NAVIGATOR)
    return Plan(
        tuple(artifact for artifact in wanted if artifact.name in changed), index or bool(present.index)
    )
