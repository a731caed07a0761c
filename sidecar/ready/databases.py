"""The event databases: fetched, created, migrated, and told of when they do not belong here any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sidecar.config.settings import Settings
from sidecar.errors import CommandError, SettingsError, SidecarError, StoreError
from sidecar.inputs.store import Store
from sidecar.model.objects import Stored, is_md5
from sidecar.model.work import AddedTenants, PreparedTenants
from sidecar.ready.facts import GenerationData
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.memory import FileMemory
from sidecar.ready.plan import (
    INDEX,
    PREFIX,
    SUFFIX,
    Decision,
    DesiredDatabase,
    LastSynced,
    LocalDatabase,
    came_through,
    decide,
    keeps,
    key,
    migrations,
    orphans,
    wanted,
)
from sidecar.ready.report import StepReport
from sidecar.system.background import Background, each
from sidecar.system.commands import run_command
from sidecar.system.sqlite import check_database

_MAX_NAMED = 5
# The application starts anew for each call, which takes it seconds.
_MIGRATED_AT_ONCE = 20

# A database by its folder and its stem.
Place = tuple[DatabaseFolder, str]


@dataclass(frozen=True, slots=True)
class DatabaseRow:
    """A database: wanted, here, in the store, remembered; `age` is the object's true one, if known."""

    wanted: DesiredDatabase
    here: LocalDatabase | None
    stored: Stored | None
    known: LastSynced | None
    age: float | None
    verdict: Decision


class Databases:
    """The databases of one machine's folder against those of the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        folder: DatabaseFolder,
        memory: FileMemory[LastSynced],
        background: Background,
        places: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`places` gives the files of the databases that the profile puts elsewhere, by their stems.

        Those are made and migrated where they lie, and never fetched or stored.
        """
        self._settings = settings.databases
        self._own_index = settings.update.own_index
        self._region = settings.machine.region or None
        self._application = Path(settings.paths.application)
        self._store = store
        self._folder = folder
        self._places = places
        self._memory = memory
        self._background = background
        # As the last survey found it: what the store surely has not, and what only a person can settle.
        self._absent: frozenset[str] = frozenset()
        self._conflicts: tuple[str, ...] = ()
        # The tenants of the generation that was prepared last: nothing of theirs is removed.
        self._coming: frozenset[str] = frozenset()
        self._removing = asyncio.Lock()

    # What is, and what is to be done

    async def survey(self, facts: GenerationData) -> list[DatabaseRow]:
        """Every database that belongs here, and what is to become of it. Costs one listing."""
        listing = await self._list(PREFIX)
        here = await self._background.run(self._folder.look)
        belonging = self._belonging(facts)
        rows: dict[str, DatabaseRow] = {}

        async def judge(one: DesiredDatabase) -> None:
            rows[one.name] = await self._judge(one, here.get(one.name), listing.get(one.name))

        await each(belonging.values(), self._settings.parallel, judge)
        self._absent = frozenset(name for name in belonging if name not in listing)
        self._conflicts = tuple(name for name in sorted(rows) if rows[name].verdict.action == "conflict")
        return [rows[name] for name in sorted(belonging)]

    async def _list(self, prefix: str) -> dict[str, Stored]:
        return {
            one.key.removeprefix(PREFIX).removesuffix(SUFFIX): one
            for one in await self._store.objects(prefix)
            if one.key.endswith(SUFFIX)
        }

    async def _judge(
        self, one: DesiredDatabase, here: LocalDatabase | None, stored: Stored | None
    ) -> DatabaseRow:
        """What is to become of a database; what was learned on the way is remembered."""
        before = self._known(one.name)
        known = await self._recall(before or LastSynced(), stored)
        age = known.modified if stored is not None and known.etag == stored.etag else None
        same: bool | None = None
        verdict = decide(one, here, stored, known)
        if verdict.action == "ask" and stored is not None:
            age = await self._age(stored)
            verdict = decide(one, here, stored, known, age)
            if verdict.action == "keep":
                # Seen and not taken: so that it need not be asked for again.
                known = replace(known, etag=stored.etag, modified=age, signature="")
        elif verdict.action == "compare" and stored is not None:
            same = await self._is_same(one.name, stored)
            verdict = decide(one, here, stored, known, same=same)
            if same and here is not None:
                known = replace(known, etag=stored.etag, modified=here.modified, signature=here.signature)
        if one.ours or verdict.action != "conflict":
            known = replace(known, ours=one.ours)
        if self._known(one.name) is before and known != (before or LastSynced()):
            self._memory.entries[one.name] = known
        return DatabaseRow(one, here, stored, known, age, verdict)

    async def _recall(self, known: LastSynced, stored: Stored | None) -> LastSynced:
        """The same, once it is clear how the last upload ended."""
        sent = known.sent
        if sent is None or stored is None or stored.etag == known.etag:
            return known
        age = await self._age(stored) if stored.size == sent.size and stored.etag != sent.md5 else None
        if not came_through(sent, stored, age):
            return known
        return LastSynced(stored.etag, sent.modified, sent.signature, ours=True)

    async def _is_same(self, name: str, stored: Stored) -> bool:
        """Whether a file has the very bytes of an object, by the ETag of one that was plainly uploaded."""
        if not is_md5(stored.etag):
            return False
        try:
            return await self._background.run(self._folder.has_md5, name, stored.etag)
        except FileNotFoundError:
            return False

    def problem(self, withheld: Sequence[str]) -> str | None:
        """What only a person can settle, or what is still on its way, in a sentence; None for nothing."""
        sentences = []
        if self._conflicts:
            sentences.append(
                f"{_some(self._conflicts)}: this file and the store's object have both changed, or were never"
                " the same; see `sidecar databases status`, then push with --overwrite, or remove the file"
            )
        if withheld:
            sentences.append(
                f"{_some(withheld)}: not served yet, because the database is in the store and not here"
            )
        return ". ".join(sentences) or None

    def _belonging(self, facts: GenerationData) -> dict[str, DesiredDatabase]:
        places = self._places()
        return wanted(
            facts.programmes,
            [name for name in facts.served if name not in places],
            self._region,
            owns_all=self._settings.owns == "all",
            copies=self._settings.copies,
        )

    def _elsewhere(self) -> list[Place]:
        paths = map(Path, self._places().values())
        return [(self._folder.elsewhere(path.parent), path.stem) for path in paths]

    def _known(self, name: str) -> LastSynced | None:
        return self._memory.entries.get(name)

    async def _age(self, stored: Stored) -> float:
        head = await self._store.head(stored.key)
        return head.modified if head is not None else stored.modified

    # Step: databases

    async def fetch(self, facts: GenerationData, report: StepReport) -> str:
        """Fetch what is missing, empty or older here."""
        await self._background.run(self._folder.clean)
        rows = await self.survey(facts)
        todo = [row for row in rows if row.verdict.action == "fetch"]
        await self._put_right([row.wanted.name for row in rows if row.here and row.wanted.served], report)
        absent = [row.wanted.name for row in rows if row.verdict.action == "create" and row.wanted.served]
        creating: list[Place] = []
        if self._settings.create_command:
            creating = [(self._folder, name) for name in absent]
            creating += await self._background.run(self._missing_elsewhere)
        report.expect(len(todo) + len(creating))
        fetched = made = 0

        async def fetch(row: DatabaseRow) -> None:
            nonlocal fetched
            name = row.wanted.name
            report.begin(name)
            try:
                if await self._fetch(name, row.here, ours=row.wanted.ours):
                    fetched += 1
                else:
                    report.say(f"{name} is kept: it has just changed")
            except SidecarError as error:
                report.fail(f"{name}: {error}")
            report.advance()

        try:
            await each(todo, self._settings.parallel, fetch)
            for folder, name in creating:
                report.begin(name)
                made += await self._create(folder, name, report)
                report.advance()
        finally:
            await self._background.run(self._memory.save)
        whole = sum(row.verdict.action in ("keep", "push") for row in rows)
        said = f"{fetched} fetched, {whole} as they should be"
        if made:
            said += f", {made} made"
        if self._conflicts:
            said += f", {len(self._conflicts)} in conflict with the store ({_some(self._conflicts)})"
        if absent and not self._settings.create_command:
            said += f", {len(absent)} neither here nor in the store"
        return said

    def _missing_elsewhere(self) -> list[Place]:
        return [(folder, name) for folder, name in self._elsewhere() if _is_empty(folder.look_at(name))]

    async def _put_right(self, names: Sequence[str], report: StepReport) -> None:
        """See that the application may write to what is served."""

        def put_right() -> list[str]:
            failures = []
            for name in names:
                try:
                    self._folder.put_right(name)
                except SidecarError as error:
                    failures.append(f"{name}: {error}")
            return failures

        for failure in await self._background.run(put_right):
            report.fail(failure)

    async def _fetch(self, name: str, seen: LocalDatabase | None, *, ours: bool) -> bool:
        """Stage, check and install one database; False when another is there than the one `seen`."""
        staged = self._folder.staging(name)
        try:
            fetched = await self._store.fetch(key(name), staged, None)
            if fetched is None:
                raise StoreError(f"the store gave nothing for {key(name)}")
            await self._background.run(check_database, staged, f"the database {name}")
            modified = fetched.modified if fetched.modified is not None else staged.stat().st_mtime
            here = await self._background.run(self._folder.install, staged, name, modified, seen)
        finally:
            staged.unlink(missing_ok=True)
        if here is not None:
            self._memory.entries[name] = LastSynced(fetched.etag, modified, here.signature, ours)
        return here is not None

    async def _create(self, folder: DatabaseFolder, name: str, report: StepReport) -> bool:
        """Let the command make a database; whether it says that it has."""
        command = [*self._settings.create_command, str(folder.path(name))]
        try:
            finished = await run_command(
                command,
                self._application,
                self._settings.create_timeout,
                nice=self._background.nice,
                tell=report.say,
            )
            problem = f"{command[0]} failed with exit status {finished.status}" if finished.status else ""
        except CommandError as error:
            problem = str(error)
        if problem:
            report.fail(f"{name}: {problem}")
        await self._background.run(folder.adopt, name)
        return not problem

    # Before publishing

    async def prepare(self, asked: AddedTenants) -> PreparedTenants:
        """See that the databases of new tenants are here, and the newest; those that are not must wait.

        Bounded in time, and it never fails: what is not done is left to the ready work, which looks after
        what waits already.
        """
        try:
            places = self._places() if asked.names else {}
            names = [name for name in asked.names if name not in places]
            async with self._removing:
                self._coming = frozenset(names)
                here = await asyncio.to_thread(self._folder.look) if names else {}
        except (OSError, SettingsError) as error:
            return PreparedTenants((f"the databases of new tenants were not looked at: {error}",))
        waiting = [name for name in asked.withheld if self._waits(name, here)]
        missing = [name for name in names if _is_empty(here.get(name)) and name not in waiting]
        stale = [] if asked.first else [name for name in names if name not in asked.withheld]
        todo = list(dict.fromkeys((*missing, *stale)))
        # What has come for those that waited: whoever serves it writes to it from now on.
        self._take_over(name for name in asked.withheld if not _is_empty(here.get(name)))
        if todo:
            return await self._prepare(todo, here, waiting, making=not asked.first)
        if asked.withheld:
            await asyncio.to_thread(self._memory.save)
        return PreparedTenants((), tuple(waiting))

    def _take_over(self, names: Iterable[str]) -> None:
        """Remember that these are written here: what their files hold may be nowhere else."""
        for name in names:
            self._memory.entries[name] = replace(self._known(name) or LastSynced(), ours=True)

    def _waits(self, name: str, here: Mapping[str, LocalDatabase]) -> bool:
        """Whether a tenant that waits for its database must go on waiting."""
        return _is_empty(here.get(name)) and name not in self._absent

    def resolves(self, withheld: Sequence[str]) -> bool:
        """Whether one of the tenants that wait for their databases need not wait any more. Blocks."""
        here = self._folder.look() if withheld else {}
        return any(not self._waits(name, here) for name in withheld)

    async def _prepare(
        self, todo: Sequence[str], here: Mapping[str, LocalDatabase], waiting: Sequence[str], *, making: bool
    ) -> PreparedTenants:
        """Without `making` new ones are left to the ready work: no boot waits for what nobody has used."""
        failures: dict[str, str] = {}
        undone, unserved = set(todo), {name for name in todo if _is_empty(here.get(name))}

        async def prepare(name: str) -> None:
            report = StepReport(_nothing, _ignore)
            # Nobody has written it here yet, whoever may from now on.
            row = await self._judge(
                DesiredDatabase(name, None, False, False), here.get(name), listing.get(name)
            )
            action = row.verdict.action
            try:
                if action == "fetch":
                    unserved.add(name)
                    await self._fetch(name, row.here, ours=True)
                    unserved.discard(name)
                elif action == "create" and self._settings.create_command:
                    if making:
                        await self._create_anew(name, report)
                elif action == "create":
                    report.fail("it is neither here nor in the store, and no databases.create_command is set")
            except SidecarError as error:
                report.fail(error.message)
            failures.update((name, sentence) for sentence in report.failures)
            undone.discard(name)
            if name not in unserved:
                self._take_over([name])

        try:
            async with asyncio.timeout(self._settings.prepare_timeout):
                # Only where the store surely has none a new one may be made.
                listing = await self._list(key(todo[0]) if len(todo) == 1 else PREFIX)
                unserved &= listing.keys()
                await each(todo, self._settings.parallel, prepare)
        except TimeoutError:
            failures.update(dict.fromkeys(undone, "there was no time for it"))
        except StoreError as error:
            failures.update(dict.fromkeys(undone, error.message))
        await asyncio.to_thread(self._memory.save)
        return PreparedTenants(_summed_up(failures), (*waiting, *sorted(unserved)))

    async def _create_anew(self, name: str, report: StepReport) -> None:
        """Let the command make a database that nobody uses yet: half of one must not stay."""
        whole = False
        try:
            whole = await self._create(self._folder, name, report)
        finally:
            if not whole:
                self._folder.discard(name)

    # Step: migrate

    async def migrate(self, facts: GenerationData, report: StepReport) -> str | None:
        """Let the application migrate the databases that lack a migration."""
        folder = self._application / self._settings.migrations
        versions = await self._background.run(_migrations_in, folder)
        if not versions:
            return None
        names = [name for name, one in self._belonging(facts).items() if one.served]
        if self._own_index:
            names.append(INDEX)
        asked = [*((self._folder, name) for name in names), *self._elsewhere()]
        places = await self._background.run(self._present, asked, versions)
        lacking = [place for place, whole in places.items() if not whole]
        if not self._settings.migrate_command:
            return (
                f"{len(lacking)} lack a migration; no databases.migrate_command is set" if lacking else None
            )
        report.expect(len(lacking))
        for start in range(0, len(lacking), _MIGRATED_AT_ONCE):
            batch = lacking[start : start + _MIGRATED_AT_ONCE]
            report.begin(batch[0][1])
            await self._migrate(batch, versions, report)
            report.advance(len(batch))
        said = f"{len(lacking) - len(report.failures)} migrated, {len(places) - len(lacking)} up to date"
        if missing := len(asked) - len(places):
            said += f", {missing} not there"
        if not self._own_index and not versions <= await self._background.run(self._folder.versions, INDEX):
            said += "; the index lacks a migration, too: it is migrated where it is edited"
        return said

    def _present(self, places: Iterable[Place], versions: frozenset[str]) -> dict[Place, bool]:
        """Those of the databases that are there, and whether they have every migration."""
        return {
            (folder, name): versions <= folder.versions(name)
            for folder, name in places
            if not _is_empty(folder.look_at(name))
        }

    async def _migrate(self, batch: Sequence[Place], versions: frozenset[str], report: StepReport) -> None:
        command = [*self._settings.migrate_command, *(str(folder.path(name)) for folder, name in batch)]
        try:
            finished = await run_command(
                command,
                self._application,
                self._settings.migrate_timeout,
                nice=self._background.nice,
                tell=report.say,
            )
            problem = f"{command[0]} ended with exit status {finished.status}"
        except CommandError as error:
            problem = error.message
        for folder, name in batch:
            await self._background.run(folder.adopt, name)
        for (_, name), whole in (await self._background.run(self._present, batch, versions)).items():
            if not whole:
                report.fail(f"{name} still lacks a migration: {problem}")

    # Step: orphans

    async def orphans(self, facts: GenerationData, report: StepReport, *, loaded: bool) -> str | None:
        """Tell of databases whose events left; remove those that the store surely has, where configured.

        Only for a generation that is `loaded`: before, the tenants of the one before are still served.
        """
        here = await self._background.run(self._folder.look)
        names = orphans(here, self._belonging(facts))
        if not names:
            return None
        report.expect(len(names))
        removed = 0
        for name in names:
            report.begin(name)
            reason = await self._why_kept(name, here[name], loaded=loaded)
            if reason is None and await self._remove(name, here[name]):
                removed += 1
                self._memory.entries.pop(name, None)
                report.say(f"{name} was removed")
            else:
                report.say(f"{name} is kept: {reason or 'it has just changed'}")
            report.advance()
        if removed:
            await self._background.run(self._memory.save)
        return f"{removed} removed, {len(names) - removed} kept that no tenant here uses"

    async def _why_kept(self, name: str, here: LocalDatabase, *, loaded: bool) -> str | None:
        if not self._settings.remove_orphans:
            return "databases.remove_orphans is off"
        if not loaded:
            return "Navigator has not loaded the generation that leaves it out"
        # What the store holds now: a listing may be older than the object's removal.
        stored = await self._store.head(key(name))
        reason = keeps(here, stored, self._known(name))
        if reason is not None and stored is not None and stored.size == here.size:
            return keeps(here, stored, None, same=await self._is_same(name, stored))
        return reason

    async def _remove(self, name: str, here: LocalDatabase) -> bool:
        """Remove it, unless it has changed, or a generation that has it again is about to be published."""
        async with self._removing:
            return name not in self._coming and await self._background.run(self._folder.remove, name, here)


def _migrations_in(folder: Path) -> frozenset[str]:
    try:
        return migrations(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


def _is_empty(here: LocalDatabase | None) -> bool:
    return here is None or here.size == 0


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"


def _summed_up(failures: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each reason, with the first of the names."""
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(failures.items()):
        reasons.setdefault(reason.replace(name, "…"), []).append(name)
    sentences = []
    for reason, names in reasons.items():
        sentences.append(f"no database yet for {_some(names)}: {reason}")
    return tuple(sentences)


def _nothing() -> None:
    """Nobody follows this."""


def _ignore(line: str) -> None:
    """Nobody reads this."""
