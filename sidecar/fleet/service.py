"""Fleet updates in a daemon: one at a time, told as events, remembered in the history and for the page."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sidecar.config.settings import Paths, Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.fleet.machines import FleetError
from sidecar.fleet.progress import STEPS, Silence, line
from sidecar.fleet.report import Overview, Report, Result, State, lines
from sidecar.fleet.run import Updates, Wanted
from sidecar.generate.cache import Memo
from sidecar.generate.ownership import owners
from sidecar.inputs.index import read_deployed, read_index
from sidecar.inputs.store import Store, own_index
from sidecar.model.changes import Changes, changes
from sidecar.model.record import Problem, Record
from sidecar.model.runs import Outcome
from sidecar.model.stream import Emit, FleetEnded, FleetLogLine, FleetSize, FleetStarted
from sidecar.system.background import in_thread
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

_KEPT_LINES = 400
_REACHED = "fleet-reached.json"


class _Reached(Record, frozen=True):
    """The SHA-256 of the local index that the whole fleet was last brought to."""

    sha256: str


class Standing:
    """How the update under way stands, or how the last one ended; a listener that tells events."""

    def __init__(self, who: str, emit: Emit) -> None:
        self.who = who
        self.started = time.time()
        self.lines: list[str] = []
        self.machines: dict[str, Result] = {}
        self.report: Report | None = None
        self.error: Problem | None = None
        self._emit = emit

    def step(self, step: str) -> None:
        """A step begins."""
        self.say(STEPS[step])

    def say(self, sentence: str) -> None:
        """Something about the whole."""
        self._note(sentence)
        self._emit(FleetLogLine(sentence))

    def expect(self, results: list[Result]) -> None:
        """Who will be poked."""
        self.machines = {one.machine: one for one in results}
        self._emit(FleetSize(len(results)))

    def tell(self, result: Result) -> None:
        """Where a machine stands."""
        self.machines[result.machine] = result
        if result.state == "retrying":
            self._note(line(result))
        self._emit(result)

    def _note(self, sentence: str) -> None:
        self.lines.append(sentence)
        del self.lines[:-_KEPT_LINES]

    def state(self) -> State:
        """Who asked, since when, each machine, and how it ended."""
        report = self.report
        running = report is None and self.error is None
        return State(
            state="running" if running else "done" if report is not None and report.good else "failed",
            running=running,
            who=self.who,
            started=self.started,
            seconds=report.seconds if report else None,
            sha256=report.sha256 if report else None,
            machines=tuple(self.machines.values()),
            skipped=report.skipped if report else (),
            error=self.error,
        )


class FleetConflict(FleetError):
    """Not now, or not as this machine is configured."""

    status = 409


class FleetService:
    """Runs fleet updates for a daemon."""

    def __init__(
        self,
        settings: Settings,
        machine: str,
        store: Store,
        emit: Emit,
        remember: Callable[[Outcome], object],
    ) -> None:
        self._settings = settings
        self._store = store
        self._updates = Updates(settings, store)
        self._machine = machine
        named = settings.fleet.machines or settings.fleet.app or settings.machine.app
        self._configured = bool(named and settings.trigger.secret)
        self._index = Path(settings.paths.databases) / "index.sqlite3" if settings.update.own_index else None
        self._local = own_index(settings, lambda *_: None)
        self._reached = Path(settings.paths.state) / _REACHED
        self._emit = emit
        self._remember = remember
        self._standing: Standing | None = None
        self._running: asyncio.Task[Report] | None = None
        self._looking: asyncio.Task[Overview] | None = None
        self.overview: Overview | None = None
        """How the fleet was when it was looked at last."""
        self.ended: State | None = None
        """How the last update ended."""

    def state(self) -> State:
        """How the update under way stands, or how the last one ended; and how the fleet was seen last."""
        state = self._standing.state() if self._standing is not None else State()
        return msgspec.structs.replace(state, overview=self.overview)

    def known(self) -> State | None:
        """The same; None where this machine knows of no fleet."""
        return self.state() if self._configured else None

    async def update(self, wanted: Wanted, who: str, *, upload: bool = True) -> Report:
        """Run one; `FleetConflict` `fleet_busy` while another is under way.

        With `upload` the machine's own index goes into the store first, where it owns that, and the commands
        around an update run. The update goes on to its end when the caller goes away.
        """
        if self._running is not None and not self._running.done():
            raise FleetConflict(
                "a fleet update is under way already", "follow it at /fleet, and try again", code="fleet_busy"
            )
        wanted = msgspec.structs.replace(wanted, index=self._index if upload else None, around=upload)
        self._running = asyncio.create_task(self._run(wanted, who))
        self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._running)

    async def look(self) -> Overview:
        """Ask every active machine how it is. Whoever asks meanwhile gets the same answer."""
        if self._looking is None or self._looking.done():
            self._looking = self._begin_look()
        return await asyncio.shield(self._looking)

    def _begin_look(self) -> asyncio.Task[Overview]:
        task = asyncio.create_task(self._look())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _look(self) -> Overview:
        try:
            self.overview = await self._updates.overview(Silence())
        except SettingsError as error:
            raise FleetConflict(error.message, error.hint, code="fleet_settings") from error
        return self.overview

    async def changes(self) -> Changes | None:
        """What an update would change in the store; None where this machine uploads nothing.

        Raises `SidecarError` when that cannot be found out.
        """
        if self._local is None:
            return None
        with tempfile.TemporaryDirectory(prefix="sidecar-fleet-") as folder:
            stored, local = Path(folder) / "stored", Path(folder) / "local"
            await self._store.fetch(self._settings.index_key, stored, None)
            await self._local.fetch(self._settings.index_key, local, None)
            return await in_thread(_compare, stored, local, self._settings.paths)

    async def relay(self) -> bool:
        """Tell all other machines to look at the store, for a webhook that reached this one; is all done?"""
        return (await self.update(Wanted(but=self._machine), "a webhook", upload=False)).good

    async def follow(self) -> bool:
        """Bring the fleet to the local index, unless it was brought there before; is it there now?"""
        index = await self._local_digest()
        reached = load(self._reached, _Reached)
        if index is None or (reached is not None and reached.sha256 == index):
            return True
        return (await self.update(Wanted(), "a change of the local index")).good

    async def _local_digest(self) -> str | None:
        """The SHA-256 of the local index as it is now; None where there is none."""
        return (await asyncio.to_thread(self._local.signature) or None) if self._local else None

    def _remember_reached(self, index: str) -> None:
        try:
            replace(self._reached, msgspec.json.encode(_Reached(index)))
        except OSError as error:
            logger.warning(
                "%s cannot be written, so the fleet is updated once more: %s", self._reached, error
            )

    async def close(self) -> None:
        """Give up what is under way, at the daemon's end."""
        tasks = [task for task in (self._running, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, wanted: Wanted, who: str) -> Report:
        standing = self._standing = Standing(who, self._emit)
        self._emit(FleetStarted(standing.started, who))
        # Only what every machine was asked for is where the fleet is.
        is_whole = wanted == Wanted(index=self._index, replace=wanted.replace, wait=wanted.wait)
        try:
            index = await self._local_digest() if is_whole and self._index is not None else None
            report = standing.report = await self._updates.update(wanted, standing)
        except SettingsError as error:
            conflict = FleetConflict(error.message, error.hint, code="fleet_settings")
            standing.error = Problem(conflict.code, conflict.message, conflict.hint, conflict.status)
            raise conflict from error
        except SidecarError as error:
            standing.error = Problem(error.code, error.message, error.hint, error.status)
            raise
        except BaseException:
            standing.error = Problem("internal", "the fleet update broke off", "the log has the details", 500)
            raise
        finally:
            self.ended = standing.state()
            self._remember(_outcome(standing))
            self._emit(FleetEnded(self.ended.state))
        if not wanted.dry_run:
            self._looking = self._begin_look()  # they are awake now, and what was seen before is no longer so
        if index is not None and report.good:
            await asyncio.to_thread(self._remember_reached, index)
        return report


def _compare(before: Path, after: Path, paths: Paths) -> Changes:
    deployed, memo = read_deployed(Path(paths.deployed), Path(paths.regions)), Memo()
    old, new = read_index(before, deployed), read_index(after, deployed)
    return changes(old, owners(old, memo), new, owners(new, memo))


def _outcome(standing: Standing) -> Outcome:
    """An entry for the history."""
    report, error = standing.report, standing.error
    if report is not None and not report.good:
        failed = [one.machine for one in report.machines if one.state not in ("loaded", "ready", "stopped")]
        message = "; ".join(report.failures) or f"not loaded by {', '.join(failed[:10])}"
        error = Problem("fleet", message, "the log below says why", 502)
    return Outcome(
        state="failed" if error else "fleet_updated",
        trigger="fleet",
        who=standing.who,
        started=standing.started,
        seconds=time.time() - standing.started,
        sha256=report.sha256 if report else None,
        log=tuple([*standing.lines, *(lines(report) if report else ())][-_KEPT_LINES:]),
        error=error,
    )
