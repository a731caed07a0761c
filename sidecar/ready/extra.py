"""Fetches the extra files, such as the drawn maps, before the pages are rendered that show them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sidecar.errors import SidecarError, StoreError
from sidecar.inputs.extra import ExtraEntry
from sidecar.inputs.store import Store
from sidecar.model.record import Record
from sidecar.ready.facts import GenerationData
from sidecar.ready.memory import FileMemory
from sidecar.ready.report import StepReport
from sidecar.system.background import Background
from sidecar.system.files import replace, signature_at


class FetchedExtra(Record, frozen=True):
    """What is remembered of a file: the ETag it was fetched with, and its signature then."""

    etag: str
    signature: str


class ExtraFiles:
    """The extra files of one machine.

    A machine that owns its index fetches none: they are made there, or come to it as the index does. Then
    they lie in `beside`, the index's folder, under their keys, and are put in place where they are newer.
    """

    def __init__(
        self,
        extras: tuple[ExtraEntry, ...],
        store: Store,
        memory: FileMemory[FetchedExtra],
        background: Background,
        owner: tuple[int, int],
        staging: Path,
        beside: Path | None = None,
    ) -> None:
        self._extras = extras
        self._store = store
        self._memory = memory
        self._background = background
        self._owner = owner
        self._staged = staging / "extra-file"
        self._beside = beside

    async def fetch(self, facts: GenerationData, report: StepReport, *, everything: bool) -> str | None:
        """Bring the files up to date; what the store does not hold stays as it is."""
        if not self._extras:
            return None
        if self._beside is not None:
            return await self._background.run(self._bring, self._beside, report)
        wanted = [(extra, key) for extra in self._extras for key in await self._keys(extra)]
        report.expect(len(wanted))
        written = 0
        try:
            for extra, key in wanted:
                report.begin(key)
                try:
                    written += await self._fetch(extra, key, known=not everything)
                except SidecarError as error:
                    report.fail(f"{key}: {error.message}")
                except OSError as error:
                    report.fail(f"{extra.target(key)} cannot be written: {error.strerror}")
                report.advance()
        finally:
            await self._background.run(self._memory.save)
        return f"{len(wanted)} looked at, {written} written"

    def _bring(self, beside: Path, report: StepReport) -> str | None:
        seen = written = 0
        for extra in self._extras:
            for key, path in extra.below(beside):
                seen, target = seen + 1, extra.target(key)
                try:
                    if not target.exists() or path.stat().st_mtime > target.stat().st_mtime:
                        written += self._install(path, target, extra.mode)
                except OSError as error:
                    report.fail(f"{target} cannot be written: {error.strerror}")
        return f"{seen} looked at, {written} written" if seen else None

    async def digest(self) -> str:
        """Changes whenever a file in place does; empty without any."""
        return await self._background.run(self._digest)

    def _digest(self) -> str:
        found = [
            (key, hashlib.sha256(path.read_bytes()).hexdigest())
            for extra in self._extras
            for key, path in extra.here()
        ]
        return hashlib.sha256(repr(found).encode()).hexdigest()[:32] if found else ""

    async def _keys(self, extra: ExtraEntry) -> list[str]:
        if not extra.several:
            return [extra.key]
        return [one.key for one in await self._store.objects(extra.key) if extra.fits(one.key)]

    async def _fetch(self, extra: ExtraEntry, key: str, *, known: bool) -> bool:
        """Fetch one unless it is in place already; whether it was written."""
        target, held = extra.target(key), self._memory.entries.get(key)
        signature = await self._background.run(signature_at, target) or ""
        in_place = known and held is not None and held.signature == signature
        self._staged.unlink(missing_ok=True)
        try:
            fetched = await self._store.fetch(key, self._staged, held.etag if in_place and held else None)
            if fetched is None:
                return False
            changed = await self._background.run(self._install, self._staged, target, extra.mode)
            now = await self._background.run(signature_at, target)
        except StoreError as error:
            if error.code == "store_missing":
                return False
            raise
        finally:
            self._staged.unlink(missing_ok=True)
        self._memory.entries[key] = FetchedExtra(fetched.etag, now or "")
        return changed

    def _install(self, source: Path, target: Path, mode: int) -> bool:
        """Write a file unless it has this content already; whether it was written."""
        content = source.read_bytes()
        if target.is_file() and target.read_bytes() == content:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(target, content, mode=mode, owner=self._owner, synced=True)
        return True
