"""Puts the parts of the ready work together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.generations import Generations
from sidecar.generations.installed import ids
from sidecar.inputs.extra import extras
from sidecar.inputs.index import DeploymentFiles
from sidecar.inputs.store import Store
from sidecar.model.events import LifecycleEvent, Loaded
from sidecar.model.stream import Emit
from sidecar.model.work import Work
from sidecar.ready.databases import Databases
from sidecar.ready.extra import ExtraFiles, FetchedExtra
from sidecar.ready.facts import GenerationData, read_facts
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.lock import WorkLock
from sidecar.ready.memory import FileMemory
from sidecar.ready.pages import Rendered
from sidecar.ready.plan import LastSynced
from sidecar.ready.prerender import Prerender
from sidecar.ready.push import Push
from sidecar.ready.report import StepReport
from sidecar.ready.runner import ReadyWork, StepFunction
from sidecar.system.background import Background


@dataclass(frozen=True, slots=True)
class ReadyParts:
    """The ready work of one machine, and what else works on its databases."""

    work: ReadyWork
    databases: Databases
    push: Push
    facts: Callable[[], Awaitable[GenerationData | None]]
    background: Background

    def on_event(self, event: LifecycleEvent) -> None:
        """A generation that is loaded has its slow work done."""
        if isinstance(event, Loaded):
            self.work.request("loaded", f"generation {event.generation}")


def assemble(
    settings: Settings,
    store: Store,
    generations: Generations,
    deployed: Callable[[], DeploymentFiles],
    places: Callable[[], Mapping[str, str]],
    emit: Emit,
    finished: Callable[[Work], None],
) -> ReadyParts:
    """The parts, as the settings want them. `places`: see `Databases`."""
    state, where = Path(settings.paths.state), generations.site.where
    background = Background(settings.databases.parallel, settings.ready.nice)
    owner, group = ids(
        "databases",
        settings.databases.owner or settings.files.owner,
        settings.databases.group or settings.files.group,
    )
    folder = DatabaseFolder(
        Path(settings.paths.databases), state / "databases", settings.databases.mode, owner, group
    )
    known = FileMemory(state / "databases.json", LastSynced)
    databases = Databases(settings, store, folder, known, background, places)
    extra = ExtraFiles(
        extras(settings),
        store,
        FileMemory(state / "extra.json", FetchedExtra),
        background,
        (where.owner, where.group),
        state,
        Path(settings.paths.databases) if settings.update.own_index else None,
    )
    prerender = Prerender(
        settings,
        FileMemory(state / "pages.json", Rendered),
        background,
        (where.owner, where.group),
        extra.digest,
    )

    async def facts() -> GenerationData | None:
        return await asyncio.to_thread(read_facts, generations, deployed)

    async def fetch(facts: GenerationData, report: StepReport, *, everything: bool) -> str | None:
        return await databases.fetch(facts, report) if settings.databases.fetch else None

    async def migrate(facts: GenerationData, report: StepReport, *, everything: bool) -> str | None:
        return await databases.migrate(facts, report)

    async def orphans(facts: GenerationData, report: StepReport, *, everything: bool) -> str | None:
        if not settings.databases.fetch:
            return None
        return await databases.orphans(facts, report, loaded=generations.last_loaded() == facts.generation)

    steps: dict[str, StepFunction] = {
        "databases": fetch,
        "migrate": migrate,
        "orphans": orphans,
        "extra": extra.fetch,
        "prerender": prerender.render,
    }
    return ReadyParts(
        work=ReadyWork(settings.ready, WorkLock(Path(settings.ready.lock)), facts, steps, emit, finished),
        databases=databases,
        push=Push(databases, store, folder, known, settings.machine.region, state),
        facts=facts,
        background=background,
    )
