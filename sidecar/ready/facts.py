"""What the ready work must know of the generation in place, read from the archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import owners, programmes
from sidecar.generations import Generations
from sidecar.inputs.index import DeploymentFiles, read_index
from sidecar.model.artifacts import PRERENDER, TENANTS
from sidecar.model.index import Index, Page, Programme
from sidecar.ready.pages import parse_list


@dataclass(frozen=True, slots=True)
class GenerationData:
    """A generation: `served` are the stems of its tenants' databases, of those, too, that wait for theirs.

    `pages` are those worth prerendering.
    """

    generation: int
    fingerprint: str
    index: Index
    owned: Mapping[str, str | None]
    programmes: tuple[Programme, ...]
    served: tuple[str, ...]
    pages: tuple[Page, ...]


def read_facts(generations: Generations, deployed: Callable[[], DeploymentFiles]) -> GenerationData | None:
    """The facts of the generation in place; None before the first. Blocks for a moment."""
    current = generations.current
    if current is None:
        return None
    archive = generations.archive
    texts = {one.name: one.content for one in archive.artifacts(current.number)}
    index = read_index(archive.index(current.number), deployed())
    memo = ResultCache()
    owned = owners(index, memo)
    return GenerationData(
        generation=current.number,
        fingerprint=f"{current.fingerprint} {current.index.sha256}",
        index=index,
        owned=owned,
        programmes=tuple(programmes(index, owned, memo)),
        served=(
            *(PurePosixPath(line).stem for line in texts[TENANTS].decode().splitlines()),
            *current.withheld,
        ),
        pages=parse_list(texts[PRERENDER]),
    )
