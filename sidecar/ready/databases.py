"""The event databases: fetched, created, migrated, and told of when they do not belong here any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.errors import CommandError, SidecarError, StoreError
from sidecar.inputs.store import Store
from sidecar.model.objects import Stored
from sidecar.ready.facts import Facts
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.memory import Memory
from sidecar.ready.plan import (
    PREFIX,
    SUFFIX,
    Here,
    Known,
    Verdict,
    Wanted,
    decide,
    keeps,
    key,
    migrations,
    orphans,
    wanted,
)
from sidecar.ready.report import Report
from sidecar.system.background import Background, each
from sidecar.system.commands import run_command
from sidecar.system.sqlite import check_database

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A database: wanted, here, in the store, remembered; `age` is the object's true one, if known."""

    wanted: Wanted
    here: Here | None
    stored: Stored | None
    known: Known | None
    age: float | None
    verdict: Verdict


class Databases:
    """The databases of one machine's folder against those of the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        folder: DatabaseFolder,
        memory: Memory[Known],
        background: Background,
    ) -> None:
        self._settings = settings.databases
        self._region = settings.machine.region or None
        self._application = Path(settings.paths.application)
        self._store = store
        self._folder = folder
        self._memory = memory
        self._background = background

    # What is, and what is to be done

    async def survey(self, facts: Facts) -> list[Row]:
        """Every database that belongs here, and what is to become of it. Costs one listing."""
        listing = {
            one.key.removeprefix(PREFIX).removesuffix(SUFFIX): one
            for one in await self._store.objects(PREFIX)
            if one.key.endswith(SUFFIX)
        }
        here = await self._background.run(self._folder.look)
        rows: dict[str, Row] = {}

        async def judge(one: Wanted) -> None:
            found, stored, known = here.get(one.name), listing.get(one.name), self._known(one.name)
            age = known.modified if known and stored and known.etag == stored.etag else None
            verdict = decide(one, found, stored, known)
            if verdict.action == "ask" and stored is not None:
                age = await self._age(stored)
                verdict = decide(one, found, stored, known, age)
                if verdict.action == "keep":
                    # Seen and not taken: so that it need not be asked for again.
                    self._memory.entries[one.name] = Known(stored.etag, age, "")
            rows[one.name] = Row(one, found, stored, known, age, verdict)

        belonging = self._belonging(facts)
        await each(belonging.values(), self._settings.parallel, judge)
        return [rows[name] for name in sorted(belonging)]

    def _belonging(self, facts: Facts) -> dict[str, Wanted]:
        return wanted(
            facts.programmes,
            facts.served,
            self._region,
            owns_all=self._settings.owns == "all",
            copies=self._settings.copies,
        )

    def _known(self, name: str) -> Known | None:
        return self._memory.entries.get(name)

    async def _age(self, stored: Stored) -> float:
        head = await self._store.head(stored.key)
        return head.modified if head is not None else stored.modified

    # Step: databases

    async def fetch(self, facts: Facts, report: Report) -> str:
        """Fetch what is missing, empty or older here."""
        await self._background.run(self._folder.clean)
        rows = await self.survey(facts)
        todo = [row for row in rows if row.verdict.action == "fetch"]
        absent = [row.wanted.name for row in rows if row.verdict.action == "create" and row.wanted.served]
        creating = absent if self._settings.create_command else []
        report.expect(len(todo) + len(creating))

        async def fetch(row: Row) -> None:
            report.begin(row.wanted.name)
            try:
                await self._fetch(row.wanted.name, row.here)
            except SidecarError as error:
                report.fail(f"{row.wanted.name}: {error}")
            report.advance()

        try:
            await each(todo, self._settings.parallel, fetch)
            for name in creating:
                report.begin(name)
                await self._create(name, report)
                report.advance()
        finally:
            await self._background.run(self._memory.save)
        fetched = len(todo) - len(report.failures)
        said = f"{fetched} fetched, {len(rows) - len(todo) - len(absent)} as they should be"
        if absent and not creating:
            said += f", {len(absent)} neither here nor in the store"
        return said

    async def _fetch(self, name: str, seen: Here | None) -> None:
        """Stage, check and install one database."""
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
            self._memory.entries[name] = Known(fetched.etag, modified, here.signature)

    async def _create(self, name: str, report: Report) -> None:
        command = [*self._settings.create_command, str(self._folder.path(name))]
        try:
            finished = await run_command(
                command,
                self._application,
                self._settings.create_timeout,
                nice=self._background.nice,
                tell=report.say,
            )
            if finished.status:
                report.fail(f"{name}: {command[0]} failed with exit status {finished.status}")
        except CommandError as error:
            report.fail(f"{name}: {error}")
        await self._background.run(self._folder.adopt, name)

    # Before publishing

    async def prepare(self, names: Sequence[str]) -> tuple[str, ...]:
        """See that the databases of new tenants exist; sentences about those that do not.

        Bounded in time, and it never fails: what is not done is left to the ready work.
        """
        try:
            missing = await asyncio.to_thread(self._folder.missing, list(names))
            return await self._prepare(missing) if missing else ()
        except OSError as error:
            return (f"the databases of new tenants were not looked at: {error}",)

    async def _prepare(self, missing: Sequence[str]) -> tuple[str, ...]:
        failures: dict[str, str] = {}
        undone = set(missing)
        stored: set[str] = set()

        async def prepare(name: str) -> None:
            report = Report(_nothing, _ignore, _never)
            try:
                if key(name) in stored:
                    await self._fetch(name, await asyncio.to_thread(self._folder.look_at, name))
                elif self._settings.create_command:
                    await self._create_anew(name, report)
                else:
                    report.fail("it is neither here nor in the store, and no databases.create_command is set")
            except SidecarError as error:
                report.fail(error.message)
            failures.update((name, sentence) for sentence in report.failures)
            undone.discard(name)

        try:
            async with asyncio.timeout(self._settings.prepare_timeout):
                # Only where the store surely has none a new one may be made.
                prefix = key(missing[0]) if len(missing) == 1 else PREFIX
                stored.update(one.key for one in await self._store.objects(prefix))
                await each(missing, self._settings.parallel, prepare)
        except TimeoutError:
            failures.update(dict.fromkeys(undone, "there was no time for it"))
        except StoreError as error:
            failures.update(dict.fromkeys(undone, error.message))
        await asyncio.to_thread(self._memory.save)
        return _summed_up(failures)

    async def _create_anew(self, name: str, report: Report) -> None:
        """Let the command make a database that nobody uses yet: half of one must not stay."""
        whole = False
        try:
            await self._create(name, report)
            whole = not report.failures
        finally:
            if not whole:
                self._folder.discard(name)

    # Step: migrate

    async def migrate(self, facts: Facts, report: Report) -> str | None:
        """Let the application migrate the databases that lack a migration."""
        folder = self._application / self._settings.migrations
        versions = await self._background.run(_migrations_in, folder)
        if not versions:
            return None
        names = [name for name, one in self._belonging(facts).items() if one.served]
        lacking = await self._background.run(self._lacking, names, versions)
        if not self._settings.migrate_command:
            return (
                f"{len(lacking)} lack a migration; no databases.migrate_command is set" if lacking else None
            )
        report.expect(len(lacking))
        for start in range(0, len(lacking), self._settings.migrate_batch):
            batch = lacking[start : start + self._settings.migrate_batch]
            report.begin(batch[0])
            await self._migrate(batch, versions, report)
            report.advance(len(batch))
        return f"{len(lacking) - len(report.failures)} migrated, {len(names) - len(lacking)} up to date"

    def _lacking(self, names: Iterable[str], versions: frozenset[str]) -> list[str]:
        here = self._folder.look()
        return [
            name
            for name in names
            if (found := here.get(name)) and found.size and not versions <= self._folder.versions(name)
        ]

    async def _migrate(self, batch: Sequence[str], versions: frozenset[str], report: Report) -> None:
        command = [*self._settings.migrate_command, *(str(self._folder.path(name)) for name in batch)]
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
        for name in batch:
            await self._background.run(self._folder.adopt, name)
        for name in await self._background.run(self._lacking, batch, versions):
            report.fail(f"{name} still lacks a migration: {problem}")

    # Step: orphans

    async def orphans(self, facts: Facts, report: Report) -> str | None:
        """Tell of databases whose events left; remove those that the store surely has, where configured."""
        here = await self._background.run(self._folder.look)
        names = orphans(here, self._belonging(facts))
        if not names:
            return None
        report.expect(len(names))
        removed = 0
        for name in names:
            report.begin(name)
            reason: str | None = "databases.remove_orphans is off"
            if self._settings.remove_orphans:
                # What the store holds now: a listing may be older than the object's removal.
                stored = await self._store.head(key(name))
                reason = keeps(here[name], stored, self._known(name))
            if reason is None and await self._background.run(self._folder.remove, name, here[name]):
                removed += 1
                self._memory.entries.pop(name, None)
                report.say(f"{name} was removed")
            else:
                report.say(f"{name} is kept: {reason or 'it has just changed'}")
            report.advance()
        if removed:
            await self._background.run(self._memory.save)
        return f"{removed} removed, {len(names) - removed} kept that no tenant here uses"


def _migrations_in(folder: Path) -> frozenset[str]:
    try:
        return migrations(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


def _summed_up(failures: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each reason, with the first of the names."""
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(failures.items()):
        reasons.setdefault(reason.replace(name, "…"), []).append(name)
    sentences = []
    for reason, names in reasons.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        sentences.append(f"no database yet for {', '.join(names[:_NAMED])}{more}: {reason}")
    return tuple(sentences)


def _nothing() -> None:
    """Nobody follows this."""


def _ignore(line: str) -> None:
    """Nobody reads this."""


def _never() -> bool:
    return False
