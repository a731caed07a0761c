"""What is to be seen of the living Navigator: its process, and whose marker it touched last.

Everything is looked at anew each time. Kept from look to look is only what could not be seen any more: how a
marker looked at first, and which process touched it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from sidecar.errors import NotFound
from sidecar.generations import Generations, LastLoaded, Manifest
from sidecar.model.navigator import Process
from sidecar.navigator.markers import Marker
from sidecar.navigator.server import Navigator
from sidecar.update.lifecycle import Facts, Published
from sidecar.update.sent import since_boot

logger = logging.getLogger(__name__)

# The generation to go back to is looked for when a load has not come at once.
_FALLBACK_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Sight:
    """A marker as it was first seen.

    `owner` is the process that surely touched it, `touched` when, in seconds since boot: a clock that is set
    later does not move that.
    """

    marker: Marker
    owner: Process | None
    touched: float


class Observer:
    """Gathers the facts that files, processes and ports tell."""

    def __init__(self, generations: Generations, navigator: Navigator, region: str) -> None:
        """`region` is this machine's: no other's set is one to go back to."""
        self._generations = generations
        self._navigator = navigator
        self._region = region
        self._maintenance = generations.maintenance_name
        self._sights: dict[str, _Sight] = {}
        self._serves: tuple[Process, str, float] | None = None
        self._answers: Process | None = None
        self._published: tuple[int, float, Process | None] | None = None
        self._stamp: object = None
        self._starts = 0
        self._fallback: tuple[int, int | None, int | None] | None = None
        self._numbers: dict[str, int] = {}
        self._last: Manifest | None = None
        self.process: Process | None = None
        """Navigator's process at the last look."""
        self.marker: Marker | None = None
        """The marker of the set in place as it was seen last."""

    def note_publication(self, number: int, process: Process | None) -> None:
        """A generation was put in place, while this process lived, or nobody knows which."""
        if self._published is None or self._published[0] != number:
            self._published = (number, time.monotonic(), process)
            self._starts, self._stamp = 0, self._navigator.process.stamp()

    def published_under(self, process: Process | None) -> bool:
        """Whether the generation in place was put there while this very process lived."""
        return self._published is not None and self._published[2] == process

    async def observe(self, since: float) -> Facts:
        """The facts, but for what others tell; `since` is when the phase began, on the monotonic clock."""
        process = self._navigator.process.find()
        current = self._generations.current
        if current is not None:
            self.note_publication(current.number, None)
        record = self._generations.load_record()
        last = self._last_loaded(record)
        published = self._describe(current, last)
        served, is_shown = self._served(process, published, record, last)
        if published is not None and served == published.fingerprint and is_shown:
            self._starts = 0
        else:
            self._count_starts(process)
        fallback = None
        if published is not None and time.monotonic() - since > _FALLBACK_SECONDS:
            fallback = await self._find_fallback(published, last)
        self.process = process
        return Facts(
            process=process,
            on_maintenance=process is not None and self._is_maintenance(process),
            answers=await self._does_answer(process),
            published=published,
            served=served,
            is_shown=is_shown,
            starts=self._starts,
            fallback=fallback,
        )

    def _describe(self, current: Manifest | None, last: Manifest | None) -> Published | None:
        if current is None or self._published is None:
            return None
        return Published(
            current.number,
            current.fingerprint,
            self._published[1],
            proven=last is not None and last.fingerprint == current.fingerprint,
            restored=current.source is not None and not current.pinned,
        )

    def _count_starts(self, process: Process | None) -> None:
        """A start of Navigator writes its process id anew, unless it cannot parse its file."""
        stamp = self._navigator.process.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            if stamp is not None and not (process is not None and self._is_maintenance(process)):
                self._starts += 1

    def _is_maintenance(self, process: Process) -> bool:
        return process.configuration.rpartition("/")[2] == self._maintenance

    async def _does_answer(self, process: Process | None) -> bool:
        if process is not None and process != self._answers and await self._navigator.gate.answers():
            self._answers = process
        return process is not None and process == self._answers

    def _served(
        self,
        process: Process | None,
        published: Published | None,
        record: LastLoaded | None,
        last: Manifest | None,
    ) -> tuple[str | None, bool]:
        """The set whose marker this process touched last, and whether that was after the publication."""
        if process is None:
            return None, True
        if record is not None and last is not None and record.process is not None:
            marker = Marker(last.fingerprint, record.touched, record.inode)
            self._sights.setdefault(last.fingerprint, _Sight(marker, record.process, 0.0))
            if record.process == process and self._serves is None:
                self._serves = process, last.fingerprint, 0.0
        ours = [one for one in self._navigator.markers.all() if self._is_of(one, process, published)]
        # It was removed at the publication: that it is there says more than any clock.
        newest = next((one for one in ours if published and one.fingerprint == published.fingerprint), None)
        if newest is not None:
            self.marker = newest
        else:
            newest = ours[0] if ours else None
        known = self._serves if self._serves is not None and self._serves[0] == process else None
        there = newest is not None and self._sights[newest.fingerprint].touched
        shown = newest is not None and published is not None and newest.fingerprint == published.fingerprint
        if newest is not None and (shown or known is None or there > known[2]):
            known = self._serves = process, newest.fingerprint, there
        if known is None:
            return None, True
        # Its marker may be gone, because the same set was published anew: it goes on serving that.
        return known[1], shown or published is None or known[1] != published.fingerprint

    def _is_of(self, marker: Marker, process: Process, published: Published | None) -> bool:
        """Whether this process touched the marker."""
        sight = self._sights.get(marker.fingerprint)
        if sight is None or sight.marker != marker:
            of_published = published is not None and marker.fingerprint == published.fingerprint
            here = of_published and self.published_under(process)
            touched = since_boot() - (time.time() - marker.touched / 1e9)
            known_owner = sight is not None and sight.owner == process == self.process
            sight = _Sight(marker, process if here or known_owner else None, touched)
            self._sights[marker.fingerprint] = sight
        return sight.owner == process or sight.touched >= process.started / _TICKS

    async def _find_fallback(self, published: Published, last: Manifest | None) -> int | None:
        """The generation to go back to: the last one loaded, whole, another set, and of this region."""
        key = (published.generation, last.number if last else None)
        if self._fallback is None or self._fallback[:2] != key:
            found = None
            if last is not None and last.fingerprint != published.fingerprint and self._fits(last):
                try:
                    await asyncio.to_thread(self._generations.archive.artifacts, last.number)
                    found = last.number
                except NotFound as error:
                    logger.error("cannot go back to generation %d: %s", last.number, error)  # noqa: TRY400
            self._fallback = (*key, found)
        return self._fallback[2]

    def _fits(self, manifest: Manifest) -> bool:
        return manifest.region is None or manifest.region == self._region

    def _last_loaded(self, record: LastLoaded | None) -> Manifest | None:
        if record is None:
            return None
        if self._last is None or self._last.number != record.generation:
            self._last = self._manifest(record.generation)
        return self._last

    def _manifest(self, number: int) -> Manifest | None:
        current = self._generations.current
        if current is not None and current.number == number:
            return current
        try:
            return self._generations.archive.manifest(number)
        except (NotFound, OSError):
            return None

    def number(self, fingerprint: str | None) -> int | None:
        """The newest generation with this set."""
        if fingerprint is None:
            return None
        current = self._generations.current
        if current is not None and current.fingerprint == fingerprint:
            return current.number
        if fingerprint not in self._numbers:
            with suppress(OSError):
                for number in self._generations.archive.numbers():
                    if (found := self._manifest(number)) is not None:
                        self._numbers[found.fingerprint] = number
        return self._numbers.get(fingerprint)
