"""What differs between two generations that are kept: by name, and file by file."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from sidecar.errors import NotFound, SidecarError
from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import compared
from sidecar.generations import Generations
from sidecar.inputs.index import DeploymentFiles, read_index
from sidecar.model.artifacts import NAMES
from sidecar.model.changes import Changes, Differences, unified
from sidecar.model.index import Index
from sidecar.model.words import hide_hashes

logger = logging.getLogger(__name__)


class Comparison:
    """Compares generations with today's knowledge of the deployment. All methods block."""

    def __init__(self, generations: Generations, deployed: Callable[[], DeploymentFiles]) -> None:
        self._generations = generations
        self._deployed = deployed

    def differences(self, before: int, after: int | None = None) -> Differences:
        """From one generation to another, or to the current one; `NotFound` where one is not kept whole."""
        if after is None:
            current = self._generations.current
            if current is None:
                raise NotFound("nothing is in place to compare with", "name two generations")
            after = current.number
        files = {name: hide_hashes(name, text) for name, text in self.files(before, after).items()}
        return Differences(before, after, self.changes(before, after), files)

    def files(self, before: int, after: int) -> dict[str, str]:
        """A unified diff of each artifact that is not the same in both."""
        archive = self._generations.archive
        older, newer = ({one.name: one.content for one in archive.artifacts(n)} for n in (before, after))
        return {
            name: unified(name, older.get(name), newer.get(name, b""))
            for name in NAMES
            if older.get(name) != newer.get(name)
        }

    def changes(self, before: int, after: int) -> Changes | None:
        """What changes from one index to the other; None where one of them cannot be read."""
        try:
            older, newer = self._index(before), self._index(after)
        except (OSError, SidecarError) as error:
            logger.warning(
                "the indexes of generations %d and %d cannot be compared: %s", before, after, error
            )
            return None
        return compared(older, newer, ResultCache())

    def _index(self, number: int) -> Index:
        """As it was read then: with the regions of that time."""
        archive = self._generations.archive
        read, regions = read_index(archive.index(number), self._deployed()), archive.manifest(number).regions
        return read if regions is None else msgspec.structs.replace(read, regions=regions)
