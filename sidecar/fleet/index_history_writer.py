"""Writes the history: which index takes the place of which, what that changes, and how far it came."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from sidecar.config.settings import PathSettings
from sidecar.errors import ReadError, Rejected, StoreError
from sidecar.fleet.index_history import How, Kind, PastIndex
from sidecar.fleet.report import MachineResult
from sidecar.fleet.store_records import StoreRecords
from sidecar.fleet.upload import UploadPlan
from sidecar.fleet.verdicts import BAD, GOOD
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import check_regions
from sidecar.generate.ownership import compared
from sidecar.inputs.index import read_deployed, read_index
from sidecar.inputs.store import Store
from sidecar.model.changes import Changes
from sidecar.model.objects import Stored
from sidecar.model.record import Record
from sidecar.system.background import in_thread
from sidecar.system.tasks import together

# The history is in the order of time, and what was found was there before what takes its place.
_BEFORE_SECONDS = 0.01


def compare(before: Path, after: Path, paths: PathSettings) -> Changes:
    """What changes from one index to another, as this machine's deployment reads them; it blocks."""
    deployed = read_deployed(Path(paths.deployed), Path(paths.regions))
    return compared(read_index(before, deployed), read_index(after, deployed), ResultCache())


class Replacement(Record, frozen=True):
    """The index that another is to replace in the store: its object, SHA-256 and file, and what changes.

    `changes` is None where that cannot be known, `problem` says why.
    """

    stored: Stored
    sha256: str
    path: Path
    changes: Changes | None
    problem: str = ""

    def sentences(self) -> tuple[str, ...]:
        """What changes, without names."""
        if self.changes is None:
            return (f"what it changes is not known: {self.problem}",)
        return tuple(self.changes.sentences())

    def check(self, limit: float) -> None:
        """`Rejected` `loss` where one region would lose too many events; `limit` is the share of all."""
        if self.changes is not None:
            check_regions(self.changes.losses, limit)


class IndexHistoryWriter:
    """The history of the store's index, as one driver writes it."""

    def __init__(
        self, records: StoreRecords, store: Store, index_key: str, paths: PathSettings, folder: Path
    ) -> None:
        self._records = records
        self._store = store
        self._key = index_key
        self._paths = paths
        self._folder = folder

    async def compared(self, proposal: UploadPlan) -> Replacement | None:
        """What a proposal would replace and change in the store; None where that holds nothing.

        `StoreError` `store_changed` when the store does not hold what was seen there.
        """
        held, path = proposal.stored, proposal.current.path
        if held is None or path is None:
            return None
        before = Path(tempfile.mkdtemp(dir=self._folder)) / "before"
        fetched = await self._store.fetch(self._key, before, None)
        if fetched is None or fetched.etag != held.etag:
            raise StoreError(f"{self._key} has changed meanwhile", "run it again", code="store_changed")
        changes, problem = None, ""
        try:
            changes = await in_thread(compare, before, path, self._paths)
        except (Rejected, ReadError) as error:
            problem = error.message
        return Replacement(held, fetched.sha256, before, changes, problem)

    async def begin(
        self, proposal: UploadPlan, replacement: Replacement | None, who: str, kind: Kind
    ) -> PastIndex:
        """Keep an index and the one that it is to replace, and write down that it is under way."""
        current = proposal.current
        path, modified = current.path, current.modified
        if path is None or modified is None:
            raise StoreError("the index to store has no content")
        said: tuple[str, ...] = ()
        replaced = None
        now, more = time.time(), []
        if replacement is not None:
            held, replaced, said = replacement.stored, replacement.sha256, replacement.sentences()
            entries = await self._records.entries()
            if entries:  # whose clock may have been fast
                now = max(now, entries[0].at + 2 * _BEFORE_SECONDS)
            if not any(one.sha256 == replaced for one in entries):
                at = now - _BEFORE_SECONDS
                found = PastIndex(replaced, held.size, held.modified, at, "somebody", "found", state="stored")
                more.append(self._records.add(found))
            more.append(self._records.keep(replaced, replacement.path, held.modified))
        entry = PastIndex(current.sha256, path.stat().st_size, modified, now, who, kind, replaced, said)
        # At once: whatever is waited for here delays the update.
        await together(*more, self._records.keep(current.sha256, path, modified), self._records.add(entry))
        return entry

    async def end(
        self,
        entry: PastIndex,
        state: How,
        results: Iterable[MachineResult],
        say: Callable[[str], None],
        note: str = "",
    ) -> None:
        """Write down how far it came, and forget what is too old.

        Where the store takes neither, `say` is told why: what has become of the fleet is so all the same.
        """
        everyone = list(results)
        loaded = sum(one.state in GOOD for one in everyone)
        ended = replace(entry, state=state, loaded=loaded, machines=len(everyone), note=note)
        try:
            await self._records.write(ended)
        except StoreError as error:
            say(f"the history does not tell how it ended: {error.message}")
            return
        try:
            await self._records.keep_again(ended)
            await self._records.prune()
        except StoreError as error:
            say(f"the history keeps what is too old: {error.message}")


def how(results: Iterable[MachineResult]) -> tuple[How, str]:
    """How far an index came that is in the store, and why not everywhere."""
    missing = [f"{one.machine} {one.state.replace('_', ' ')}" for one in results if one.state in BAD]
    return ("lagging", f"not on {', '.join(missing[:10])}") if missing else ("loaded", "")
