"""Fleet updates in a daemon: one at a time, told as events, remembered in the history and for the page."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.fleet.control import go_on, tell, under_way
from sidecar.fleet.index_history_writer import compare
from sidecar.fleet.machines import FleetError
from sidecar.fleet.progress import STEPS, NoProgress, line
from sidecar.fleet.report import FleetOverview, FleetReport, FleetState, MachineResult, lines
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.run import FleetRequest, FleetUpdates
from sidecar.fleet.undo import IndexHistory, RollbackPlan, Undo
from sidecar.generate.check import LOSS
from sidecar.inputs.store import Store, own_index
from sidecar.model.changes import Changes
from sidecar.model.record import Problem, Record
from sidecar.model.runs import Outcome
from sidecar.model.stream import Emit, FleetEnded, FleetLogLine, FleetSize, FleetStarted
from sidecar.system.background import in_thread
from sidecar.system.files import load, replace

logger = logging.getLogger(__name__)

FLEET_ENDINGS = ("loaded", "failed", "taken_back", "frozen")
"""How fleet updates end, for the metrics."""

_MAX_LINES = 400
_REACHED = "fleet-reached.json"


Work = Callable[["FleetProgress"], Awaitable[FleetReport]]


class _Reached(Record, frozen=True):
    """The SHA-256 of the local index that the whole fleet was last brought to."""

    sha256: str


class FleetProgress:
    """How the update under way stands, or how the last one ended; a listener that tells events."""

    def __init__(self, who: str, emit: Emit) -> None:
        self.who = who
        self.started = time.time()
        self.lines: list[str] = []
        self.machines: dict[str, MachineResult] = {}
        self.report: FleetReport | None = None
        self.error: Problem | None = None
        self._emit = emit

    def step(self, step: str) -> None:
        """A step begins."""
        self.say(STEPS[step])

    def say(self, sentence: str) -> None:
        """Something about the whole."""
        self._note(sentence)
        self._emit(FleetLogLine(sentence))

    def expect(self, results: list[MachineResult]) -> None:
        """Who will be poked."""
        self.machines = {one.machine: one for one in results}
        self._emit(FleetSize(len(results)))

    def tell(self, result: MachineResult) -> None:
        """Where a machine stands."""
        self.machines[result.machine] = result
        if result.state == "retrying":
            self._note(line(result))
        self._emit(result)

    def _note(self, sentence: str) -> None:
        self.lines.append(sentence)
        del self.lines[:-_MAX_LINES]

    def state(self) -> FleetState:
        """Who asked, since when, each machine, and how it ended."""
        report, error = self.report, self.error
        if report is not None and report.rollout in ("taken_back", "frozen"):
            what = "was taken back" if report.rollout == "taken_back" else "could not be taken back wholly"
            error = Problem("fleet_rollout", f"the index {what}, {report.reason}", "mend the index", 502)
        running = report is None and self.error is None
        return FleetState(
            state="running" if running else "done" if report is not None and report.good else "failed",
            running=running,
            who=self.who,
            started=self.started,
            seconds=report.seconds if report else None,
            sha256=report.sha256 if report else None,
            machines=tuple(self.machines.values()),
            skipped=report.skipped if report else (),
            error=error,
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
        count: Callable[[str], None],
    ) -> None:
        """`remember` is for the history, `count` for the metrics."""
        self._settings = settings
        self._store = store
        self._updates = FleetUpdates(settings, store)
        self._machine = machine
        named = settings.fleet.machines or settings.fleet.app or settings.machine.app
        self._configured = bool(named and settings.trigger.secret)
        self._index = Path(settings.paths.databases) / "index.sqlite3" if settings.update.own_index else None
        self._local = own_index(settings, lambda *_: None)
        self._reached = Path(settings.paths.state) / _REACHED
        self._emit = emit
        self._remember = remember
        self._count = count
        self._undo = Undo(settings, store)
        self._standing: FleetProgress | None = None
        self._running: asyncio.Task[FleetReport] | None = None
        self._looking: asyncio.Task[FleetOverview] | None = None
        self.overview: FleetOverview | None = None
        """How the fleet was when it was looked at last."""
        self.ended: FleetState | None = None
        """How the last update ended."""

    def state(self) -> FleetState:
        """How the update under way stands, or how the last one ended; and how the fleet was seen last."""
        state = self._standing.state() if self._standing is not None else FleetState()
        return msgspec.structs.replace(state, overview=self.overview)

    def known(self) -> FleetState | None:
        """The same; None where this machine knows of no fleet."""
        return self.state() if self._configured else None

    async def update(self, wanted: FleetRequest, who: str, *, upload: bool = True) -> FleetReport:
        """Run one; `FleetConflict` `fleet_busy` while another is under way.

        With `upload` the machine's own index goes into the store first, where it owns that, and the commands
        around an update run. The update goes on to its end when the caller goes away.
        """
        wanted = msgspec.structs.replace(
            wanted, index=self._index if upload else None, around=upload, who=self._name(who)
        )
        # Only what every machine was asked for is where the fleet is.
        is_whole = not (wanted.only or wanted.but or wanted.quorum or wanted.dry_run)

        async def work(standing: FleetProgress) -> FleetReport:
            index = await self._local_digest() if is_whole and wanted.index is not None else None
            report = await self._updates.update(wanted, standing)
            if index is not None and report.good:
                await asyncio.to_thread(self._remember_reached, index)
            return report

        return await self._start(work, who)

    async def history(self) -> IndexHistory:
        """What the store has held."""
        with _configured():
            return await self._undo.history(NoProgress())

    async def plan(self, digest: str) -> RollbackPlan:
        """What a rollback would change; without a digest one step back."""
        with _configured():
            return await self._undo.plan(digest, None, NoProgress())

    async def roll_back(self, digest: str, held: str, who: str) -> FleetReport:
        """Put an older index back, and see that all machines load it; `held` is what the store must hold.

        `FleetConflict` `fleet_busy` while an update is under way, `store_changed` when it holds another one.
        """
        plan = await self.plan(digest)
        if held != plan.held:
            raise FleetConflict(
                "the store holds another index by now; nothing was put back",
                "look at what a rollback would change now",
                code="store_changed",
            )
        return await self._start(lambda standing: self._undo.roll_back(plan, self._name(who), standing), who)

    async def rollout(self) -> Rollout | None:
        """The rollout under way, whoever drives it; None where there is none."""
        with _configured():
            return await under_way(self._settings, NoProgress(), self._store)

    async def control(self, word: str, who: str) -> Rollout:
        """Pause, resume or abort the rollout under way, whoever drives it: the rollout as it is then.

        Where its driver has died, this daemon goes on with it, or takes it back, as it runs an update: to the
        end when the caller goes away; `FleetConflict` `fleet_busy` while another is under way.
        """
        name, settings, store = self._name(who), self._settings, self._store
        with _configured():
            told = await tell(settings, word, NoProgress(), name, store)
        if told is not None:
            return told
        ended: list[Rollout] = []

        async def work(progress: FleetProgress) -> FleetReport:
            end, report = await go_on(settings, word, progress, name, store)
            ended.append(end)
            return report

        await self._start(work, who)
        return ended[0]

    def _name(self, who: str) -> str:
        return f"{who} at {self._machine}"

    async def _start(self, work: Work, who: str) -> FleetReport:
        """One at a time; it goes on to its end when the caller goes away."""
        if self._running is not None and not self._running.done():
            raise FleetConflict(
                "a fleet update is under way already", "follow it at /fleet, and try again", code="fleet_busy"
            )
        self._running = asyncio.create_task(self._run(work, who))
        self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._running)

    async def look(self) -> FleetOverview:
        """Ask every active machine how it is. Whoever asks meanwhile gets the same answer."""
        if self._looking is None or self._looking.done():
            self._looking = self._begin_look()
        return await asyncio.shield(self._looking)

    def _begin_look(self) -> asyncio.Task[FleetOverview]:
        task = asyncio.create_task(self._look())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _look(self) -> FleetOverview:
        with _configured():
            self.overview = await self._updates.overview(NoProgress())
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
            return await in_thread(compare, stored, local, self._settings.paths)

    async def relay(self) -> bool:
        """Tell all other machines to look at the store, for a webhook that reached this one; is all done?"""
        return (await self.update(FleetRequest(but=self._machine), "a webhook", upload=False)).good

    async def follow(self) -> bool:
        """Bring the fleet to the local index, unless it was brought there before; is it there now?"""
        index = await self._local_digest()
        reached = load(self._reached, _Reached)
        if index is None or (reached is not None and reached.sha256 == index):
            return True
        try:
            return (await self.update(FleetRequest(unattended=True), "a change of the local index")).good
        except SidecarError as error:
            if error.code not in ("fleet_held", LOSS):
                raise
            logger.warning("the fleet was not updated: %s", error)
            return True  # it is for people to ask for it

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

    async def _run(self, work: Work, who: str) -> FleetReport:
        standing = self._standing = FleetProgress(who, self._emit)
        self._emit(FleetStarted(standing.started, who))
        try:
            with _configured():
                report = standing.report = await work(standing)
        except SidecarError as error:
            standing.error = Problem(error.code, error.message, error.hint, error.status)
            raise
        except BaseException:
            standing.error = Problem("internal", "the fleet update broke off", "the log has the details", 500)
            raise
        finally:
            self.ended = standing.state()
            self._remember(_outcome(standing))
            self._count(_ending(standing))
            self._emit(FleetEnded(self.ended.state))
        if not report.dry_run:
            self._looking = self._begin_look()  # they are awake now, and what was seen before is no longer so
        return report


@contextmanager
def _configured() -> Iterator[None]:
    """What is not configured for it on this machine is no failure of the daemon."""
    try:
        yield
    except SettingsError as error:
        raise FleetConflict(error.message, error.hint, code="fleet_settings") from error


def _ending(standing: FleetProgress) -> str:
    """One of `FLEET_ENDINGS`."""
    report = standing.report
    if report is None or not (report.good or report.rollout in ("taken_back", "frozen")):
        return "failed"
    return report.rollout if report.rollout in ("taken_back", "frozen") else "loaded"


def _outcome(standing: FleetProgress) -> Outcome:
    """An entry for the history."""
    report, error = standing.report, standing.error
    if report is not None and not report.good:
        failed = [one.machine for one in report.machines if one.state not in ("loaded", "ready", "stopped")]
        message = "; ".join(report.failures) or report.reason or f"not loaded by {', '.join(failed[:10])}"
        error = Problem("fleet", message, "the log below says why", 502)
    return Outcome(
        state="failed" if error else "fleet_updated",
        trigger="fleet",
        who=standing.who,
        started=standing.started,
        seconds=time.time() - standing.started,
        sha256=report.sha256 if report else None,
        log=tuple([*standing.lines, *(lines(report) if report else ())][-_MAX_LINES:]),
        error=error,
    )
