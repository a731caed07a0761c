"""The fetch: which index there is to work with, and whether its bytes must come at all.

The store names every content by an ETag, and answers one that is sent along without a body. What its answer
means depends on the content, not on the name, of which a store may give several to one content:

    expected   the request, a person's, names this digest: it is taken, whatever else is known of it
    stale      the request names another digest: the run ends, and whoever asked may ask again
    behind     it is what an index that came with a poke has replaced: the one in place stays
    in place   there is nothing to fetch
    refused    it was refused under the same inputs: it is refused again
    new        everything else: its bytes are needed

Only the last one needs a body. So the ETag that goes along is the one seen last, when this is not its case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sidecar.errors import Rejected, SidecarError, StoreError
from sidecar.generations import Generations, IndexVersion
from sidecar.inputs.machine import Inputs
from sidecar.model.navigator import Process
from sidecar.model.objects import Fetched, StoreLook
from sidecar.model.runs import STALE, Received, Request
from sidecar.model.words import short
from sidecar.system.background import in_thread
from sidecar.update.rejections import Rejections
from sidecar.update.run import Run
from sidecar.update.sent import SentIndexes


class IndexStore(Protocol):
    """What the update needs of an object store."""

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Write the object to `target`, or give None when its ETag still is `etag`."""


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What an answer of the store means: the index to work with, or the error that the run ends with."""

    version: IndexVersion
    error: SidecarError | None = None
    needs_bytes: bool = False
    behind: float = 0.0


class FetchStage:
    """The first stage of an update. One run at a time uses it, so it needs no lock."""

    def __init__(
        self,
        key: str,
        store: IndexStore,
        generations: Generations,
        rejections: Rejections,
        inputs: Callable[[], Inputs],
        sent: SentIndexes,
        navigator: Callable[[], Process | None],
    ) -> None:
        self._key = key
        self._store = store
        self._generations = generations
        self._rejections = rejections
        self._inputs = inputs
        self._sent = sent
        self._navigator = navigator
        self._last: IndexVersion | None = None
        self._seen: StoreLook | None = None

    @property
    def seen(self) -> StoreLook | None:
        """What the store held when it last answered, to a preview too; a failure leaves it as it was."""
        return self._seen

    def is_ahead(self, in_place: str) -> bool:
        """Whether an index came with a poke, and the store may serve the one before for a while yet."""
        return self._seen is not None and self._sent.seconds_behind(in_place, self._seen.sha256) > 0

    async def obtain(self, run: Run, target: Path) -> IndexVersion:
        """The index to work with: its bytes are at `target`, or it is the one in place."""
        if run.request.received is not None:
            version = await in_thread(self._take_received, run, run.request.received, target)
        else:
            version = await self._look(run, target)
        run.note(etag=version.etag, sha256=version.sha256)
        return version

    async def _look(self, run: Run, target: Path) -> IndexVersion:
        in_place = await in_thread(self._in_place)
        known, foreseen = await in_thread(self._foresee, run.request, in_place)
        target.unlink(missing_ok=True)
        fetched = await self._store.fetch(self._key, target, known.etag if known else None)
        if fetched is not None:
            served = IndexVersion(fetched.etag, fetched.sha256, fetched.modified, fetched.size)
            judgement = await in_thread(self._judge, served, run.request, in_place)
        elif known is not None and foreseen is not None:
            served, judgement = known, foreseen
        else:
            raise StoreError("the store answers that nothing changed, but there is nothing here yet")
        self._last, self._seen = served, StoreLook(served.sha256, served.etag, time.time())
        await in_thread(self._sent.confirm, served.sha256)
        if judgement.error is not None:
            run.note(etag=served.etag, sha256=served.sha256)
            raise judgement.error
        if fetched is not None and not run.request.preview:
            await in_thread(self._generations.date_index, served)
        if judgement.behind:
            target.unlink(missing_ok=True)
            run.say(
                "the store still serves the index before the one that was sent; kept the latter, for "
                f"{math.ceil(judgement.behind / 60)} min at most (an update with --force takes the store's)"
            )
        elif fetched is None:
            run.say(f"the index in the store is the one in place ({short(served.sha256)})")
        else:
            run.say(f"fetched the index: {fetched.size} bytes, SHA-256 {short(fetched.sha256)}")
        return judgement.version

    def _in_place(self) -> IndexVersion | None:
        """The index of the generation in place, if its file is there: else it must be fetched again."""
        current = self._generations.current
        if current is None or not self._generations.archive.index(current.number).exists():
            return None
        return current.index

    def _foresee(
        self, request: Request, in_place: IndexVersion | None
    ) -> tuple[IndexVersion | None, _Judgement | None]:
        """The version whose ETag goes along, and what follows if the store still holds it; None for neither.

        Judged before the request: what is said without a body must not have changed when the answer comes.
        """
        for version in (self._last, in_place):
            # Of one that came with a poke the store has yet to tell the age.
            if version is not None and version.modified is not None:
                judgement = self._judge(version, request, in_place)
                if not judgement.needs_bytes:
                    return version, judgement
        return None, None

    def _judge(self, served: IndexVersion, request: Request, in_place: IndexVersion | None) -> _Judgement:
        version, behind, expected = served, 0.0, request.expect
        # Whoever names the digest means it, but for a hint of the bus, which may be older than what was sent.
        is_meant = request.person and served.sha256 == expected
        if in_place is not None and not is_meant and not request.force:
            behind = self._sent.seconds_behind(in_place.sha256, served.sha256)
            version = in_place if behind else served
        if expected is not None and expected not in (version.sha256, served.sha256):
            error = StoreError(
                f"the store still serves another index ({short(served.sha256)}…) "
                f"than the one expected ({short(expected)}…)",
                "upload it, or wait until the store serves it in this region, and poke again",
                code=STALE,
            )
            return _Judgement(served, error)
        if in_place is not None and version.sha256 == in_place.sha256:
            return _Judgement(version, behind=behind)
        refusal = None if request.force else self._refusal(version, request)
        return _Judgement(version, refusal, needs_bytes=refusal is None)

    def _refusal(self, version: IndexVersion, request: Request) -> Rejected | None:
        try:
            self._rejections.raise_if_known(
                version.sha256, self._inputs().digest, self._navigator(), person=request.person
            )
        except Rejected as refusal:
            return refusal
        except SidecarError:
            return None  # of the inputs: whoever reads the index will say so
        return None

    def _take_received(self, run: Run, received: Received, target: Path) -> IndexVersion:
        received.path.rename(target)
        run.say(f"received the index: {received.size} bytes, SHA-256 {short(received.sha256)}")
        current = self._generations.current
        if current is not None and current.index.sha256 != received.sha256:
            self._sent.add(received.sha256, current.index.sha256)
        else:
            self._sent.renew(received.sha256)
        # A store names a plainly uploaded object by its MD5: so the next fetch knows the same content again.
        return IndexVersion(received.md5, received.sha256, None, received.size)
