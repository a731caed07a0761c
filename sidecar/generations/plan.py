"""Decides what a publication has to write: wanted content against what lies there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from sidecar.generate import yaml_writer
from sidecar.model.artifacts import HTPASSWD, MAP, NAVIGATOR, SHOWCASES, Artifact

# Nobody writes the same data in so many times the bytes.
_MAX_GROWTH_FACTOR = 4


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


def plan(
    wanted: Sequence[Artifact],
    present: PresentFiles,
    published: Mapping[str, str] = {},
    *,
    index: bool,
    unknown: bool = False,
) -> Plan:
    """What to write so that `present` becomes `wanted`; nothing when they are the same.

    A file that holds the same in another form is the same. Any change brings navigator.yml along: its new
    mtime is what makes Navigator look, and at htpasswd too. A file with the right content and a wrong mode or
    owner is such a change, and written anew like any other: Navigator may have been unable to read it when it
    looked. An index in place that is damaged or not the one that was installed is replaced, asked for or not.

    Where it is `unknown` what a living Navigator has loaded, as after a loss of the state folder,
    navigator.yml comes along, whatever lies there: a file as old as the one it serves is not looked at.

    `published` are the SHA-256 of the generation in place. What still is its own file has one form only, and
    is compared by its bytes: to read it as data would take longer than all else of an update.
    """
    changed = {
        artifact.name
        for artifact in wanted
        if artifact.name in present.manners
        or not _is_held(artifact, present.contents.get(artifact.name), published.get(artifact.name))
    }
    if changed or unknown:
        changed.add(NAVIGATOR)
    return Plan(
        tuple(artifact for artifact in wanted if artifact.name in changed), index or bool(present.index)
    )


def _is_held(artifact: Artifact, present: bytes | None, published: str | None) -> bool:
    if present is None or present == artifact.content:
        return present is not None
    ours = hashlib.sha256(present).hexdigest() == published
    return not ours and is_same(artifact.name, artifact.content, present)


def is_same(name: str, published: bytes, present: bytes | None) -> bool:
    """Whether a file holds what was published.

    The application writes some of these files, too, in its own form: the users in another order, YAML in
    another style. navigator.yml has to be the very file, because its marker tells one set from another.
    """
    if present is None or present == published:
        return present is not None
    if name == HTPASSWD:
        # Navigator breaks lines where Unix does, and nowhere else.
        return sorted(filter(None, published.split(b"\n"))) == sorted(filter(None, present.split(b"\n")))
    # A file of the tenants' may be made to grow where merge keys are followed.
    if name not in (MAP, SHOWCASES) or len(present) > _MAX_GROWTH_FACTOR * len(published) or b"<<" in present:
        return False
    try:
        return _is_equal(yaml_writer.load(published), yaml_writer.load(present))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def _is_equal(one: Any, other: Any) -> bool:
    """Equal in types and order as well; it goes no deeper than the first of both."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other)
