"""The update: the main job, from the store to the files that the web server reads. Read this first.

    fetch     the index from the object store (or take the one that came with the poke)
    read      check the database and read it
    generate  make every artifact in memory
    check     look at the whole set, and ask the operator's own command
    databases see that the databases of new events are there, for a bounded time
    publish   put it in place as one numbered generation (see `generations`)

Nothing before `publish` touches what the web server reads, and a failure anywhere leaves the set that is
in place. A preview is the same run without the last step, a rollback is the last step with an older set.
Whether Navigator loads what was published is followed up in `lifecycle` and `reconciler`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import Busy, NotFound, PreconditionFailed, ReadError, Rejected, SidecarError, StoreError
from sidecar.generate import Generated, generate
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import Counts, LossLimits, check, counts, counts_in_place
from sidecar.generate.ownership import owners
from sidecar.generations import INDEX, Generations, IndexVersion, Manifest
from sidecar.generations.plan import Plan, PresentFiles, plan
from sidecar.inputs.index import DeploymentFiles, read_index
from sidecar.inputs.machine import Inputs
from sidecar.model.artifacts import HTPASSWD, TENANTS, Artifact
from sidecar.model.changes import changes, unified
from sidecar.model.index import Index
from sidecar.model.navigator import Process
from sidecar.model.runs import Outcome, Request, RunState
from sidecar.model.work import AddedTenants, PreparedTenants
from sidecar.system.background import in_thread
from sidecar.update.check_command import CheckCommand
from sidecar.update.fetch import FetchStage, IndexStore
from sidecar.update.rejections import Rejections
from sidecar.update.run import Run
from sidecar.update.sent import SentIndexes

logger = logging.getLogger(__name__)

_INDEX = INDEX.removesuffix(".sqlite3")

PrepareDatabases = Callable[[AddedTenants], Awaitable[PreparedTenants]]
"""Sees that the databases of new tenants are here. It never fails: those that are not are left out."""

Published = Callable[[Manifest, Request], None]
"""Told of each publication: what, and for whom."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set that was generated and checked, and what publishing it would write."""

    index: Index
    version: IndexVersion
    inputs: Inputs
    generated: Generated
    present: PresentFiles
    todo: Plan
    tag: str
    withheld: tuple[str, ...] = ()


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
        navigator: Callable[[], Process | None],
        published: Published,
    ) -> None:
        """`navigator` gives the living web server's process: what it did not load is refused for it alone."""
        self._settings = settings
        self._generations = generations
        self._rejections = rejections
        self._inputs = inputs
        self._check_command = check_command
        self._prepare_databases = prepare_databases
        self._navigator = navigator
        self._published = published
        sent = SentIndexes(Path(settings.paths.state) / "sent.json")
        self.fetch = FetchStage(settings.index_key, store, generations, rejections, inputs, sent, navigator)
        self._memo = ResultCache()
        self._known: tuple[str, DeploymentFiles, Index] | None = None
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
            return run.outcome("rejected" if isinstance(error, Rejected) else "failed", error)
        except asyncio.CancelledError:
            self._note_generation(run)  # its time was up; who ended it tells of it
            raise
        finally:
            self._memo.rotate()
            await in_thread(self._generations.discard_incoming)
        self._note_generation(run)
        return run.outcome(state, run.problem)

    async def _update(self, run: Run) -> RunState:
        request, current = run.request, self._generations.current
        if request.rollback is not None:
            return await self._roll_back(run, request.rollback)
        if current is not None and self._is_pinned(current) and not (request.person or request.preview):
            run.say(
                f"generation {current.source} was restored by hand; it stays until an administrator updates"
            )
            return "unchanged"
        incoming = await in_thread(self._generations.open_incoming)
        candidate = await self._newest(request, run, incoming)
        run.note(tag=candidate.tag)
        if request.if_match is not None and request.if_match != candidate.tag:
            raise PreconditionFailed(
                "the index or the machine has changed since the preview",
                "look at a new preview",
                code="changed",
            )
        if self._check_command and candidate.todo:
            with run.stage("check_command"):
                await self._ask(self._check_command, candidate, incoming, preview=request.preview)
        if request.preview:
            await in_thread(self._describe, run, candidate, True)
            return "previewed"
        if not candidate.todo:
            run.say("nothing changed; no file was touched")
            return "unchanged"
        withheld = await self._prepare_tenants(
            run, candidate.present.contents[TENANTS], candidate.generated[TENANTS]
        )
        if withheld:
            candidate = await in_thread(self._withhold, candidate, withheld)
            if not candidate.todo:
                run.say("nothing else changed; no file was touched")
                return "unchanged"
        await self._commit(request, self._publish, run, candidate)
        return "published"

    async def _newest(self, request: Request, run: Run, incoming: Path) -> Candidate:
        """The set made of the store's index, else of the one in place where that gives another set today."""
        try:
            with run.stage("fetch"):
                version = await self.fetch.obtain(run, incoming / INDEX)
            return await in_thread(self._prepare, run, incoming / INDEX, version)
        except (StoreError, ReadError, Rejected) as error:
            kept = None if request.preview or request.expect else await in_thread(self._kept_version)
            if kept is None or kept.sha256 == run.found.get("sha256"):
                raise
            # Another region, a changed profile: what lies there is not this machine's.
            (incoming / INDEX).unlink(missing_ok=True)
            try:
                candidate = await in_thread(self._prepare, run, incoming / INDEX, kept)
            except SidecarError as second:
                run.warn(f"the index in place does not do either: {second.message}")
                raise error from None
            run.problem = error
            run.say(f"{error.message}; the set is made anew of the index in place")
            return candidate

    def _kept_version(self) -> IndexVersion | None:
        """The index in place, when the set in place was made of other inputs than today's."""
        current = self._generations.current
        if current is None or self._generations.fits(self._inputs().digest):
            return None
        return current.index if self._generations.archive.index(current.number).exists() else None

    def _is_pinned(self, current: Manifest) -> bool:
        """Whether a person restored what is in place; another region's set no pin can keep."""
        return current.pinned and current.region in (None, self._settings.machine.region)

    async def _prepare_tenants(self, run: Run, before: bytes | None, after: bytes) -> tuple[str, ...]:
        """See that the databases are there before Navigator routes to them; which tenants must wait."""
        if self._prepare_databases is None:
            return ()
        current, new = self._generations.current, _new_databases(before, after)
        if not new:
            await self._prepare_databases(AddedTenants())
            return ()
        waiting = current.withheld if current is not None else ()
        with run.stage("databases"):
            withheld = tuple(name for name in waiting if name in new)
            prepared = await self._prepare_databases(AddedTenants(tuple(new), withheld, first=before is None))
        run.warn(*prepared.warnings)
        if prepared.withheld:
            run.say(f"{len(prepared.withheld)} tenants are not served before their databases are here")
        return prepared.withheld

    def _withhold(self, candidate: Candidate, withheld: tuple[str, ...]) -> Candidate:
        """The same without some tenants: the application would make them empty databases."""
        index, deployment = candidate.index, candidate.inputs.deployment
        users = candidate.present.contents[HTPASSWD] or b""
        generated = generate(index, deployment, self._memo, users, frozenset(withheld))
        todo = self._plan(generated, candidate.present, candidate.version)
        self.tenants = len(generated.tenants)
        return replace(candidate, generated=generated, todo=todo, withheld=withheld)

    def _plan(self, generated: Generated, present: PresentFiles, version: IndexVersion) -> Plan:
        """What publishing a set would write."""
        current = self._generations.current
        new_index = current is None or current.index.sha256 != version.sha256
        published = current.digests if current else {}
        return plan(generated.artifacts, present, published, index=new_index, unknown=self._is_unknown)

    @property
    def _is_unknown(self) -> bool:
        """Whether nothing here tells what a living Navigator has loaded."""
        return self._generations.current is None and self._navigator() is not None

    async def _commit(self, request: Request, publish: Callable[..., Manifest], *arguments: Any) -> Manifest:
        """Publish and tell of it: one step that a cancelled run ends first, and then counts as done."""

        async def step() -> Manifest:
            manifest = await asyncio.to_thread(publish, *arguments)
            self._published(manifest, request)
            return manifest

        task = asyncio.ensure_future(step())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The time limit was judged before: what is published by now is told as published.
            await asyncio.wait({task})
            return task.result()

    # read, generate, check

    def _prepare(self, run: Run, path: Path, version: IndexVersion) -> Candidate:
        generations, settings = self._generations, self._settings.update
        force = run.request.force
        inputs = self._inputs()
        if not force:
            self._rejections.raise_if_known(
                version.sha256, inputs.digest, self._navigator(), person=run.request.person
            )
        try:
            with run.stage("read"):
                index = self._read(path, version, inputs.deployed)
                present = generations.site.present()
            with run.stage("generate"):
                users = present.contents[HTPASSWD] or b""
                generated = generate(index, inputs.deployment, self._memo, users)
            with run.stage("check"):
                limits = LossLimits(settings.max_lost_tenants, settings.max_lost_users)
                before = self._counts_before(inputs, present, generated)
                check(generated, before, limits, self._memo, force=force)
        except Rejected as error:
            if not run.request.preview:
                self._rejections.add(version.sha256, inputs.digest, error)
            raise
        self._note_drift(run, present)
        run.warn(*inputs.deployed.ignored, *index.warnings, *generated.skipped)
        if generated.waiting:
            run.warn(
                f"{generated.waiting} users are left out of htpasswd for now: "
                "each update hashes a part of the plain-text passwords"
            )
        self.skipped_rows, self.tenants = len(generated.skipped), len(generated.tenants)
        if generated.skipped:
            run.say(f"{len(generated.skipped)} rows are unfit for htpasswd and were left out")
        todo = self._plan(generated, present, version)
        if not todo and not run.request.preview:
            generations.adopt(inputs.digest)
        return Candidate(
            index,
            version,
            inputs,
            generated,
            present,
            todo,
            f"{version.sha256[:16]}-{generated.fingerprint[-16:]}",
        )

    def _counts_before(self, inputs: Inputs, present: PresentFiles, now: Generated) -> Counts | None:
        """How much the set in place holds: what the limits on losses compare with; None where nothing is.

        Under other inputs, in another region, say, the same index gives other numbers: a loss is what today's
        inputs would have made of the index before. Without a generation to ask, the files in place tell.
        """
        current = self._generations.current
        if current is None:
            return counts_in_place(present.contents[HTPASSWD], present.contents[TENANTS], now)
        if current.inputs == inputs.digest:
            return current.counts
        try:
            index = read_index(self._generations.archive.index(current.number), inputs.deployed)
            return counts(generate(index, inputs.deployment, self._memo))
        except (OSError, SidecarError) as error:
            logger.warning("the index of generation %s cannot be counted anew: %s", current.number, error)
            return current.counts

    def _note_drift(self, run: Run, present: PresentFiles) -> None:
        """Say which published files are not as they were any more, and keep what changed in the records."""
        if not (drift := self._generations.drift(present)):
            return
        run.note(drift=drift)
        # Settings that are new are no deed of somebody else.
        if manners := [name for name in drift if drift[name] == present.manners.get(name)]:
            run.say(f"mode or owner is not what the settings say: {', '.join(manners)}")
        if changed := [name for name in drift if name not in manners]:
            run.say(f"changed by someone else since they were published: {', '.join(changed)}")

    def _read(self, path: Path, version: IndexVersion, deployed: DeploymentFiles) -> Index:
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

    async def _ask(
        self, command: CheckCommand, candidate: Candidate, incoming: Path, *, preview: bool
    ) -> None:
        artifacts, index = candidate.generated.artifacts, self._index_file(incoming)
        try:
            await in_thread(command.lay_out, artifacts, index)
            await command.ask()
        except Rejected as error:
            # The command may be at fault as well as the content.
            if not preview:
                self._rejections.add_for_a_time(
                    candidate.version.sha256, candidate.inputs.digest, error, self._navigator()
                )
            raise
        finally:
            await in_thread(command.clear)

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
                region=candidate.inputs.deployment.region or "",
                regions=candidate.index.regions,
                withheld=candidate.withheld,
            )

        self._describe(run, candidate, False)
        with run.stage("publish"):
            published = self._generations.publish(generated.artifacts, candidate.todo, manifest)
        self._rejections.published(candidate.version.sha256, candidate.inputs.digest)
        self._known = (candidate.version.sha256, candidate.inputs.deployed, candidate.index)
        written = [artifact.name for artifact in candidate.todo.artifacts]
        run.say(f"published generation {published.number}: {', '.join(written) or 'the index only'}")
        return published

    # roll back

    async def _roll_back(self, run: Run, number: int) -> RunState:
        """Publish the artifacts, and if so asked the index, of an older generation as a new one."""
        incoming = await in_thread(self._generations.open_incoming)
        older, artifacts, present, todo = await in_thread(self._choose, run.request, number, incoming)
        if not todo:
            run.say(f"generation {number} is what is in place; no file was touched")
            return "unchanged"
        listed = next((one.content for one in artifacts if one.name == TENANTS), b"")
        missing = await self._prepare_tenants(run, present.contents[TENANTS], listed)
        if missing and not run.request.takes_back:
            raise Busy(
                f"generation {number} serves {len(missing)} tenants whose databases are not here yet",
                "fetch them with `sidecar ready`, and roll back again",
                code="databases_missing",
            )
        await self._commit(run.request, self._restore, run, older, artifacts, todo)
        return "published"

    def _choose(
        self, request: Request, number: int, incoming: Path
    ) -> tuple[Manifest, tuple[Artifact, ...], PresentFiles, Plan]:
        """The generation to restore, what lies there, what to write; its index is linked into `incoming`."""
        generations, current = self._generations, self._generations.current
        if request.takes_back and (
            current is None or current.number != request.failed or generations.last_loaded() == request.failed
        ):
            raise NotFound(
                f"generation {request.failed} was replaced, or loaded in the end",
                "nothing is to be taken back",
            )
        older = generations.archive.manifest(number)
        artifacts = generations.archive.artifacts(number)
        with_index = request.with_index and (current is None or current.index.sha256 != older.index.sha256)
        if with_index:
            try:
                os.link(generations.archive.index(number), incoming / INDEX)
            except OSError as error:
                raise NotFound(
                    f"the index of generation {number} is gone: {error}", "choose another"
                ) from error
        present = generations.site.present()
        published = current.digests if current else {}
        todo = plan(artifacts, present, published, index=with_index, unknown=self._is_unknown)
        return older, artifacts, present, todo

    def _restore(self, run: Run, older: Manifest, artifacts: tuple[Artifact, ...], todo: Plan) -> Manifest:
        generations, request, current = self._generations, run.request, self._generations.current
        if request.takes_back and current is not None:
            # What Navigator would not load is not tried again at once.
            error = Rejected(
                f"generation {current.number}, made of this index, was taken back: {request.reason}",
                code=request.code,
            )
            self._rejections.add_for_a_time(current.index.sha256, current.inputs, error, self._navigator())

        def manifest(new: int, digests: dict[str, str]) -> Manifest:
            run.note(generation=new)
            return msgspec.structs.replace(
                older,
                number=new,
                created=run.started,
                trigger=request.trigger,
                index=older.index if todo.index or current is None else current.index,
                digests=digests,
                source=older.number,
                pinned=not request.takes_back,
                taken_back=request.reason if request.takes_back else "",
            )

        with run.stage("publish"):
            restored = generations.publish(artifacts, todo, manifest)
        run.note(written=tuple(artifact.name for artifact in todo.artifacts), sha256=restored.index.sha256)
        run.say(f"restored generation {older.number} as generation {restored.number}")
        return restored

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
                        artifact.name, candidate.present.contents.get(artifact.name), artifact.content
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

    async def is_intact(self) -> bool:
        """Whether the generation in place is whole, so that Navigator can serve it whatever else failed."""
        return await in_thread(self._stands)

    def _stands(self) -> bool:
        """Whether the set in place is this machine's, and each of its files there as it was published.

        A set of older settings serves as well: whoever boots has nothing better.
        """
        generations = self._generations
        try:
            return generations.is_of(self._settings.machine.region) and generations.is_whole(
                generations.site.present()
            )
        except SidecarError:
            return False

    def _note_generation(self, run: Run) -> None:
        current = self._generations.current
        run.note(generation=current.number if current else None)


def _new_databases(before: bytes | None, after: bytes) -> list[str]:
    """The databases of tenants that are in the list `after` and were not in the one before, by stem."""
    known = set(_stems(before or b""))
    return [name for name in _stems(after) if name not in known and name != _INDEX]


def _stems(listed: bytes) -> list[str]:
    lines = listed.decode("utf-8", "replace").splitlines()
    return [line.rpartition("/")[2].removesuffix(".sqlite3") for line in lines]
