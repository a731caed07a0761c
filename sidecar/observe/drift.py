"""Whether what was published is still what lies there."""

from __future__ import annotations

import asyncio
import logging

from sidecar.errors import SidecarError
from sidecar.generations import Generations

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
_MAX_DIFF_CHARACTERS = 20_000


class Drift:
    """Notices published files that somebody else has changed; the next update repairs them, and says so."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._seen: object = None
        self._examined: object = None
        self.diffs: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """The files that are not as they were published."""
        return sorted(self.diffs)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Compare with what was published, once the files have rested since the last look."""
        generations = self._generations
        state = self._state()
        if generations.current is None or state == self._examined:
            return
        if state != self._seen:
            self._seen = state  # a publication may be under way
            return
        try:
            found = generations.drift(generations.site.present())
        except SidecarError as error:
            self._examined = state
            logger.warning("the published files cannot be compared: %s", error)
            return
        if self._state() != state:
            return  # a publication came in between: what was read is of two generations
        self._examined = state
        for name in found.keys() - self.diffs.keys():
            logger.warning("%s is not as it was published; the next update will replace it", name)
        self.diffs = {name: text[:_MAX_DIFF_CHARACTERS] for name, text in found.items()}

    def _state(self) -> object:
        return self._generations.current, self._generations.site.stamps()
