"""The update: the main job, from the store to the files that the web server reads. Read this first.

    fetch     the index from the object store (or take the one that came with the poke)
    read      check the database and read it
    generate  make every artifact in memory
    check     look at the whole set, and ask the operator's own command
    databases see that the databases of new events are there, for a bounded time
    publish   put it in place as one numbered generation (see `generations`)

Nothing before `publish` touches what the web server reads, and a failure anywhere leaves the set that is
in place. A preview is the same run without the last step, a rollback is the last step with an older set.
Whether Navigator loads what was published is followed up in `reload`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import NotFound, PreconditionFailed, Rejected, SidecarError, StoreError
from sidecar.generate import TENANTS, Generated, generate
from sidecar.generate.cache import Memo
from sidecar.generate.check import Limits, check, counts
from sidecar.generate.ownership import owners
from sidecar.generations import INDEX, Generations, IndexVersion, Manifest
from sidecar.generations.plan import Plan, plan
from sidecar.inputs.index import Deployed, read_index
from sidecar.inputs.machine import Inputs
from sidecar.model.changes import changes, unified
from sidecar.model.index import Index
from sidecar.model.runs import Outcome, Request
from sidecar.system.background import in_thread
from sidecar.update.fetch import FetchStage, IndexStore
from sidecar.update.rejections import Rejections
from sidecar.update.run import Run
from sidecar.update.sent import SentIndexes

logger = logging.getLogger(__name__)

_INDEX = INDEX.removesuffix(".sqlite3")

AUTOMATIC = frozenset({"boot", "local", "resume", "start", "timer"})
"""Triggers that no person is behind; a generation restored by hand outlasts them."""


class CheckCommand(Protocol):
    """The operator's veto: raises `Rejected` when the set in the folder must not be published."""

    def __call__(self, generated: Generated, folder: Path, index: Path) -> Awaitable[None]: ...


PrepareDatabases = Callable[[Sequence[str]], Awaitable[tuple[str, ...]]]
"""Sees that the databases of new tenants exist; sentences about those that do not. It never fails."""

Published = Callable[[Manifest, Request, bool], None]
"""Told of each publication: what, for whom, and whether the web server has something to load."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set that was generated and checked, and what publishing it would write."""

    index: Index
    version: IndexVersion
    inputs: Inputs
    generated: Generated
    present: dict[str, bytes | None]
    todo: Plan
    tag: str


class Updater:
    """Runs updates, one at a time; the worker sees to that."""

    def __init__(
        self,
        settings: Settings,
        store: IndexStore,
        generations: Generations,
        rejections: Rejections,
        inputs: Callable[[], Inputs],
        check_command: CheckCommand | None,
        prepare_databases: PrepareDatabases | None,
        published: Published,
    ) -> None:
        self._settings = settings
        self._generations = generations
        self._rejections = rejections
        self._inputs = inputs
        self._check_command = check_command
        self._prepare_databases = prepare_databases
        self._published = published
        sent = SentIndexes(Path(settings.paths.state) / "sent.json")
        self.fetch = FetchStage(settings.index_key, store, generations, rejections, inputs, sent)
        self._memo = Memo()
        self._known: tuple[str, Deployed, Index] | None = None
        self.tenants = 0
        self.skipped_rows = 0

    async def run(self, run: Run) -> Outcome:
        """One update, or preview. Every expected failure is an outcome, not an exception."""
        try:
            state = await self._update(run)
        except SidecarError as error:
            run.say(f"{error.message}. The configuration in place stays.")
            if error.detail:
                run.warn(error.detail)
            self._note_generation(run)
            if isinstance(error, StoreError):
                run.note(stands=await self._in_thread(self._stands))
            return run.outcome("rejected" if isinstance(error, Rejected) else "failed", error)
        finally:
            self._memo.rotate()
            await self._in_thread(self._generations.discard_incoming)
        self._note_generation(run)
        return run.outcome(state)

    async def _update(self, run: Run) -> str:
        request, current = run.request, self._generations.current
        if request.rollback is not None:
            return await self._roll_back(run, request.rollback)
        if current is not None and current.pinned and request.trigger in AUTOMATIC:
            run.say(
                f"generation {current.source} was restored by hand; it stays until an update is asked for"
            )
            return "unchanged"
        incoming = await self._in_thread(self._generations.open_incoming)
        with run.stage("fetch"):
            version = await self.fetch.obtain(run, incoming / INDEX)
        candidate = await self._in_thread(self._prepare, run, incoming / INDEX, version)
        run.note(tag=candidate.tag)
        if request.if_match is not None and request.if_match != candidate.tag:
            raise PreconditionFailed(
                "the index or the machine has changed since the preview",
                "look at a new preview",
                code="changed",
            )
        if self._check_command and candidate.todo:
            with run.stage("check_command"):
                await self._ask(self._check_command, candidate, incoming)
        if request.preview:
            await self._in_thread(self._describe, run, candidate, True)
            return "previewed"
        if not candidate.todo:
            run.say("nothing changed; no file was touched")
            return "unchanged"
        if self._prepare_databases is not None and (new := _new_databases(candidate)):
            # Before Navigator routes to a tenant, its database must be there.
            with run.stage("databases"):
                for sentence in await self._prepare_databases(new):
                    run.warn(sentence)
        published = await self._in_thread(self._publish, run, candidate)
        self._published(published, request, bool(candidate.todo.artifacts))
        return "published"

    _in_thread = staticmethod(in_thread)

    # read, generate, check

    def _prepare(self, run: Run, path: Path, version: IndexVersion) -> Candidate:
        generations, settings = self._generations, self._settings.update
        force = run.request.force
        inputs = self._inputs()
        if not force:
            self._rejections.raise_if_known(version.sha256, inputs.digest)
        try:
            with run.stage("read"):
                index = self._read(path, version, inputs.deployed)
                present = generations.site.present()
            with run.stage("generate"):
                before = present["htpasswd"] or b""
                generated = generate(index, inputs.deployment, self._memo, before)
            with run.stage("check"):
                current = generations.current
                limits = Limits(settings.max_lost_tenants, settings.max_lost_users)
                check(generated, current.counts if current else None, limits, self._memo, force=force)
        except Rejected as error:
            self._rejections.add(version.sha256, inputs.digest, error)
            raise
        self._note_drift(run, present)
        for warning in (*index.warnings, *generated.skipped):
            run.warn(warning)
        self.skipped_rows, self.tenants = len(generated.skipped), len(generated.databases)
        if generated.skipped:
            run.say(f"{len(generated.skipped)} rows are unfit for htpasswd and were left out")
        current = generations.current
        new_index = (
            current is None or current.index.sha256 != version.sha256 or not generations.site.has_index()
        )
        return Candidate(
            index,
            version,
            inputs,
            generated,
            present,
            plan(generated.artifacts, present, index=new_index),
            f"{version.sha256[:16]}-{generated.fingerprint[-16:]}",
        )

    def _note_drift(self, run: Run, present: dict[str, bytes | None]) -> None:
        """Say which published files somebody else has changed, and keep what they changed in the records."""
        generations = self._generations
        if generations.current is None or not (drifted := generations.drift(present)):
            return
        published = {
            one.name: one.content for one in generations.archive.artifacts(generations.current.number)
        }
        run.note(drift={name: unified(name, published[name], present[name] or b"") for name in drifted})
        run.say(f"changed by someone else since they were published: {', '.join(drifted)}")

    def _read(self, path: Path, version: IndexVersion, deployed: Deployed) -> Index:
        known = self._known
        if known is not None and known[:2] == (version.sha256, deployed):
            return known[2]
        return read_index(self._index_file(path.parent), deployed)

    def _index_file(self, incoming: Path) -> Path:
        """The database file of the run: the one that came in, else the one in place."""
        path = incoming / INDEX
        current = self._generations.current
        if path.exists() or current is None:
            return path
        return self._generations.archive.index(current.number)

    async def _ask(self, command: CheckCommand, candidate: Candidate, incoming: Path) -> None:
        try:
            await command(candidate.generated, incoming, self._index_file(incoming))
        except Rejected as error:
            self._rejections.add(candidate.version.sha256, candidate.inputs.digest, error)
            raise

    # publish

    def _publish(self, run: Run, candidate: Candidate) -> Manifest:
        generated, tally = candidate.generated, counts(candidate.generated)

        def manifest(number: int, digests: dict[str, str]) -> Manifest:
            run.note(generation=number)
            return Manifest(
                number=number,
                created=run.started,
                trigger=run.request.trigger,
                fingerprint=generated.fingerprint,
                index=candidate.version,
                digests=digests,
                counts=tally,
                inputs=candidate.inputs.digest,
                regions=candidate.index.regions,
            )

        self._describe(run, candidate, False)
        with run.stage("publish"):
            published = self._generations.publish(generated.artifacts, candidate.todo, manifest)
        self._rejections.forget(candidate.version.sha256, candidate.inputs.digest)
        self._known = (candidate.version.sha256, candidate.inputs.deployed, candidate.index)
        written = [artifact.name for artifact in candidate.todo.artifacts]
        run.say(f"published generation {published.number}: {', '.join(written) or 'the index only'}")
        return published

    # roll back

    async def _roll_back(self, run: Run, number: int) -> str:
        incoming = await self._in_thread(self._generations.open_incoming)
        manifest, todo = await self._in_thread(self._restore, run, number, incoming)
        if manifest is None:
            run.say(f"generation {number} is what is in place; no file was touched")
            return "unchanged"
        self._published(manifest, run.request, bool(todo.artifacts))
        return "published"

    def _restore(self, run: Run, number: int, incoming: Path) -> tuple[Manifest | None, Plan]:
        """Publish the artifacts, and if so asked the index, of an older generation as a new one."""
        generations, request, current = self._generations, run.request, self._generations.current
        if request.failed is not None and (
            current is None or current.number != request.failed or generations.loaded() == request.failed
        ):
            raise NotFound(
                f"generation {request.failed} was replaced, or loaded in the end",
                "nothing is to be taken back",
            )
        older = generations.archive.manifest(number)
        artifacts = generations.archive.artifacts(number)
        if request.automatic and current is not None:
            # What Navigator would not load is bad until it changes.
            error = Rejected(
                f"Navigator did not load generation {current.number}, made of this index", code="not_loaded"
            )
            self._rejections.add(current.index.sha256, current.inputs, error)
        with_index = request.with_index and (current is None or current.index.sha256 != older.index.sha256)
        if with_index:
            try:
                os.link(generations.archive.index(number), incoming / INDEX)
            except OSError as error:
                raise NotFound(
                    f"the index of generation {number} is gone: {error}", "choose another"
                ) from error
        todo = plan(artifacts, generations.site.present(), index=with_index)
        if not todo:
            return None, todo

        def manifest(new: int, digests: dict[str, str]) -> Manifest:
            run.note(generation=new)
            return msgspec.structs.replace(
                older,
                number=new,
                created=run.started,
                trigger=request.trigger,
                index=older.index if with_index or current is None else current.index,
                digests=digests,
                source=number,
                pinned=not request.automatic,
            )

        with run.stage("publish"):
            restored = generations.publish(artifacts, todo, manifest)
        run.note(written=tuple(artifact.name for artifact in todo.artifacts), sha256=restored.index.sha256)
        run.say(f"restored generation {number} as generation {restored.number}")
        return restored, todo

    def _describe(self, run: Run, candidate: Candidate, diffs: bool) -> None:
        """Note down what changes, in numbers and names; with diffs for a preview."""
        old = self._current_index(candidate)
        if old is not None:
            delta = changes(old, owners(old, self._memo), candidate.index, candidate.generated.owners)
            run.note(changes=delta)
            for sentence in delta.sentences():
                run.say(sentence)
        run.note(written=tuple(artifact.name for artifact in candidate.todo.artifacts))
        if diffs:
            run.note(
                diffs={
                    artifact.name: unified(
                        artifact.name, candidate.present.get(artifact.name), artifact.content
                    )
                    for artifact in candidate.todo.artifacts
                }
            )

    def _current_index(self, candidate: Candidate) -> Index | None:
        """The index in place, to compare with; None when there is none, or it cannot be read any more."""
        current = self._generations.current
        if current is None:
            return None
        if self._known is not None and self._known[0] == current.index.sha256:
            index = self._known[2]
        else:
            try:
                index = read_index(self._generations.archive.index(current.number), candidate.inputs.deployed)
            except (OSError, SidecarError) as error:
                logger.warning(
                    "the index of generation %s cannot be compared with: %s", current.number, error
                )
                return None
        return index if current.regions is None else msgspec.structs.replace(index, regions=current.regions)

    def _stands(self) -> bool:
        """Whether every file of the generation in place is there and as it was published."""
        generations = self._generations
        try:
            drift = generations.drift(generations.site.present())
        except SidecarError:
            return False
        return generations.current is not None and generations.site.has_index() and not drift

    def _note_generation(self, run: Run) -> None:
        current = self._generations.current
        run.note(generation=current.number if current else None)


def _new_databases(candidate: Candidate) -> list[str]:
    """The databases of tenants that this machine has not served so far, by stem."""
    listed = candidate.present[TENANTS] or b""
    if listed == candidate.generated[TENANTS]:
        return []
    lines = listed.decode("utf-8", "replace").splitlines()
    before = {line.rpartition("/")[2].removesuffix(".sqlite3") for line in lines}
    return [name for name in candidate.generated.databases if name not in before and name != _INDEX]
