"""The daemon: builds every part and wires them together, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sidecar.config.settings import Settings
from sidecar.errors import NotFound, PublishError, Rejected, SidecarError
from sidecar.fleet.follower import Follower
from sidecar.fleet.run import Wanted
from sidecar.fleet.service import FleetService
from sidecar.generate import Generated
from sidecar.generations import Generations, Manifest, targets
from sidecar.inputs.index import Deployed, read_deployed, read_pending
from sidecar.inputs.machine import Machine, machine_id
from sidecar.inputs.store import open_store, own_index
from sidecar.model.machine_report import LoadedIndex, Served, served
from sidecar.model.runs import Outcome, Request
from sidecar.model.work import Work
from sidecar.navigator.process import Markers, NavigatorProcess, Probes
from sidecar.observe.events import Broker
from sidecar.observe.history import History
from sidecar.observe.metrics import Metrics
from sidecar.observe.status import Drift, Status
from sidecar.ready.assembly import assemble
from sidecar.system import systemd
from sidecar.system.commands import run_command
from sidecar.system.sqlite import install_database
from sidecar.update.rejections import Rejections
from sidecar.update.reload import ReloadTracker
from sidecar.update.triggers import LocalWatch, Ticker
from sidecar.update.updater import Updater
from sidecar.update.worker import Throttle, Worker
from sidecar.web.access import Administrators
from sidecar.web.app import application
from sidecar.web.background import Background
from sidecar.web.fleet import FleetViews
from sidecar.web.operations import Operations
from sidecar.web.pages import Pages
from sidecar.web.public import PublicTrigger
from sidecar.web.server import Server
from sidecar.web.signatures import UsedSignatures
from sidecar.web.views import Views

logger = logging.getLogger(__name__)

_GRACE = 2.0
# A bucket tells of one change more than once, and in no order.
_RELAY_QUIET, _RELAY_LONGEST = 1.0, 10.0
# Navigator looks by itself after these: its CGI or hook names the configuration to look at.
_LOOKS_BY_ITSELF = frozenset({"boot", "cgi", "resume"})


class Daemon:
    """One machine's sidecar."""

    def __init__(self, settings: Settings) -> None:
        state = Path(settings.paths.state)
        trigger, navigator = settings.trigger, settings.navigator
        self._settings = settings
        self._id = machine_id(settings)
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._background: set[asyncio.Task[Any]] = set()

        self.broker = Broker()
        self.metrics = Metrics(self._id, settings.machine.region)
        self.history = History(state / "history.db", settings.history.keep, settings.history.max_age)
        markers = Markers(state / "loaded")
        self.generations = Generations(
            state,
            targets(settings),
            _leave_index if settings.update.own_index else install_database,
            settings.update.keep,
            markers.clear,
        )
        self.store = open_store(settings, self.metrics.observe_store)
        self._own_index = own_index(settings, self.metrics.observe_store)
        self.ready = assemble(
            settings, self.store, self.generations, self._deployed, self.broker.emit, self._worked
        )
        self.metrics.follow_ready(
            lambda: work.started if (work := self.ready.work.current) is not None else 0.0
        )
        self._rejections = Rejections(state / "rejected.json")
        self.updater = Updater(
            settings,
            self._own_index or self.store,
            self.generations,
            self._rejections,
            Machine(settings, state / "loaded").inputs,
            self._ask_check_command if settings.update.check_command else None,
            self.ready.databases.prepare if settings.databases.fetch else None,
            self._published,
        )
        self.tracker = ReloadTracker(
            NavigatorProcess(Path(navigator.pid_file), navigator.process_names),
            markers,
            Probes(navigator.port, navigator.probes).run,
            navigator.reload_timeout,
            self,
            self._roll_back,
            self.broker.emit,
        )
        self.metrics.follow_navigator(lambda: self.tracker.process is not None)
        self.worker = Worker(
            self.updater.run,
            self.broker.emit,
            self._finished,
            Throttle(trigger.interval, trigger.burst),
            lambda: self.tracker.settled,
            settings.update.waiting,
            settings.update.timeout,
            lambda: systemd.notify("WATCHDOG=1"),
        )
        self.drift = Drift(self.generations)
        self.status = Status(
            settings, self._id, self.generations, self.worker, self.tracker, self.drift, self.ready.work
        )
        self.fleet = FleetService(settings, self._id, self.store, self.broker.emit, self._remember)
        self._relay = Follower(self.fleet.relay, _RELAY_QUIET, _RELAY_LONGEST)
        self._followed = Follower(
            lambda: self.fleet.update(Wanted(), "a change of the local index"),
            settings.fleet.quiet,
            settings.fleet.longest,
        )
        self._signatures = UsedSignatures(state / "signatures", trigger.window)
        administrators = Administrators(
            settings.administrators, behind_navigator=settings.page.through_navigator
        )
        self.server = Server(
            application(
                Operations(
                    self.worker,
                    self.tracker,
                    self.ready.work,
                    self.broker,
                    administrators,
                    trigger.webhook_token,
                    navigator.reload_timeout,
                    self._relay.changed if settings.fleet.relay_webhook else lambda: None,
                ),
                Background(self.ready, self.broker, administrators),
                Views(self.worker, self.status, self.history, self.metrics, self.broker, administrators),
                PublicTrigger(
                    trigger,
                    self._id,
                    self.worker,
                    self._signatures,
                    state / "received",
                    self._served,
                    settings.fetch.expect_timeout,
                ),
                Pages(
                    settings,
                    self.worker,
                    self.status,
                    self.tracker,
                    self.generations,
                    self.history,
                    self.broker,
                    administrators,
                    self._deployed,
                    self._pending_regions,
                    self.fleet.known,
                    lambda who: self.fleet.update(Wanted(), who),
                ),
                FleetViews(self.fleet, self.broker, administrators),
            ),
            settings.listen,
        )

    # Life

    async def run(self) -> None:
        """Serve until a signal says to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            await self.startup(stack)
            systemd.notify(f"READY=1\nSTATUS={self.status.sentence()}")
            await self._stop.wait()
            logger.info("stopping")
            systemd.notify("STOPPING=1")
        if self._failure is not None:
            # Better to be started anew than to answer without doing the work.
            raise SidecarError("a loop that must not end has ended") from self._failure

    @asynccontextmanager
    async def without_server(self) -> AsyncIterator[Daemon]:
        """All but the server and the watching, for one command where no daemon runs; `Busy` beside one."""
        async with AsyncExitStack() as stack:
            await self._start_work(stack)
            yield self

    async def startup(self, stack: AsyncExitStack) -> None:
        """Start every part; what was started is stopped in reverse when the stack closes."""
        work = await self._start_work(stack)
        self._follow_last_publication()
        self._keep_running(stack, self.tracker.run())
        self._keep_running(stack, self.drift.run())
        self._keep_running(stack, self._relay.run())
        stack.push_async_callback(self.fleet.close)
        self._keep_running(stack, Ticker(self._settings.update.poll, self._poll, self._resumed).run())
        if self._own_index is not None:
            self._keep_running(stack, self._followed.run())
            self._keep_running(stack, LocalWatch(self._own_index.signature, self._local_changed).run())
        await self.server.startup(systemd.listening_sockets())
        stack.push_async_callback(self.server.shutdown)
        stack.callback(self.broker.close)
        # Before the server ends, so that whoever still waits gets an answer.
        stack.callback(self.tracker.let_go)
        stack.push_async_callback(_cancel, work)
        stack.push_async_callback(self.worker.close, _GRACE)
        stack.push_async_callback(self.server.leave_to_successor)
        logger.info(
            "listening on %s and %s", self._settings.listen.socket, self.server.url or "no TCP address"
        )
        if self._settings.ready.at_start:
            self.ready.work.request("start", "the daemon's start")
        self._keep_running(stack, self.ready.work.run())
        if self._settings.update.at_start:
            self._soon(self._ask(Request(trigger="start", who="the daemon's start")))

    async def _start_work(self, stack: AsyncExitStack) -> asyncio.Task[None]:
        self.broker.startup()
        stack.callback(self.generations.shutdown)
        try:
            for sentence in await asyncio.to_thread(self.generations.startup):
                logger.warning(sentence)
        except PublishError as error:
            # The daemon is worth more running: it can say what is wrong, and try again.
            logger.error("%s", error)  # noqa: TRY400 - the sentence is enough
        await asyncio.to_thread(self.history.startup)
        self._signatures.startup(time.time())
        current = self.generations.current
        self.metrics.set_generation("current", current.number if current else None)
        self.metrics.set_generation("loaded", self.generations.loaded())
        self.metrics.set_generation("ready", self.generations.ready())
        stack.callback(self.ready.background.shutdown)
        await self.store.startup()
        stack.push_async_callback(self.store.shutdown)
        stack.push_async_callback(self._end_background)
        return self._keep_running(stack, self.worker.run())

    def _keep_running(self, stack: AsyncExitStack, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a loop for as long as the daemon lives; should it end by itself, the daemon ends too."""
        task = asyncio.create_task(loop)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self._failure = task.exception()
                logger.critical("a loop that must not end has ended", exc_info=self._failure)
                self._stop.set()

        task.add_done_callback(ended)
        stack.push_async_callback(_cancel, task)
        return task

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something in the background; nothing waits for it but the daemon's end."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _end_background(self) -> None:
        for task in list(self._background):
            await _cancel(task)

    # Triggers without a client

    async def _ask(self, request: Request) -> None:
        try:
            await self.worker.submit(request)
        except SidecarError as error:
            logger.warning("the update for %s was not run: %s", request.trigger, error)

    async def _poll(self) -> None:
        await self._ask(Request(trigger="timer", who="the poll"))

    async def _local_changed(self) -> None:
        if self._settings.fleet.follow_local_index:
            self._followed.changed()
        await self._ask(Request(trigger="local", who="a change of the local index"))

    async def _resumed(self, gap: float) -> None:
        # The other ends of the connections have long forgotten them.
        await self.store.reset()
        await self._ask(Request(trigger="resume", who=f"waking after {gap:.0f} s"))
        # Copies of other regions' databases may have aged meanwhile.
        self.ready.work.request("resume", f"waking after {gap:.0f} s")

    # From run to publication to load

    def _finished(self, outcome: Outcome) -> None:
        current = self.generations.current
        self.metrics.count_update(
            outcome,
            self.updater.tenants,
            self.updater.skipped_rows,
            restored=current is not None and current.source is not None,
        )
        if not outcome.is_preview:
            no_news = outcome.repeats(self.status.last) or (
                outcome.state == "unchanged" and outcome.trigger == "timer"
            )
            self.status.note(outcome)
            if not no_news:
                self._soon(asyncio.to_thread(self.history.add, outcome))
        self.broker.emit(
            "finished", {"state": outcome.state, "generation": outcome.generation, "seconds": outcome.seconds}
        )
        systemd.notify(f"STATUS={self.status.sentence()}")

    def _remember(self, outcome: Outcome) -> None:
        self._soon(asyncio.to_thread(self.history.add, outcome))

    def _published(self, manifest: Manifest, request: Request, has_files: bool) -> None:
        """Follow a publication until Navigator has loaded it; one of the index only needs no load."""
        pending = self.tracker.pending
        if not has_files and pending is None:
            self.loaded(manifest.number, None)
            return
        self.tracker.expect(
            manifest.number,
            manifest.fingerprint,
            self.generations.published,
            at_once=request.trigger not in _LOOKS_BY_ITSELF,
            is_rollback=request.automatic,
        )
        if request.rollback is not None and not request.automatic:
            self.metrics.count_rollback("requested")

    def _follow_last_publication(self) -> None:
        """After a start: was what is in place loaded? If that is not known, look for evidence."""
        current = self.generations.current
        if current is None:
            return
        if self.generations.loaded() == current.number:
            self.tracker.remember(current.fingerprint)
        else:
            self.tracker.expect(
                current.number, current.fingerprint, self.generations.published, at_once=False
            )

    def loaded(self, generation: int, seconds: float | None) -> None:
        """A generation is loaded: it is the one to go back to."""
        try:
            self.generations.mark_loaded(generation)
        except PublishError as error:
            logger.warning("%s", error)
        after = "" if seconds is None else f" {seconds * 1000:.0f} ms after its publication"
        logger.info(
            "Navigator has loaded generation %d%s", generation, after, extra={"generation": generation}
        )
        self.metrics.count_load(seconds)
        self.metrics.set_generation("loaded", generation)
        self._soon(asyncio.to_thread(self.history.settle, generation, "loaded", seconds))
        self.broker.emit("loaded", {"generation": generation, "seconds": seconds})
        self.status.unloaded = None
        self.worker.wake()
        self.ready.work.request("loaded", f"generation {generation}")

    def failed(self, generation: int, reason: str, sentence: str) -> None:
        """A generation was not loaded."""
        self.status.unloaded = sentence
        self._soon(asyncio.to_thread(self.history.settle, generation, "rolled_back", None, sentence))
        self.broker.emit("not_loaded", {"generation": generation, "reason": reason, "message": sentence})
        self.worker.wake()

    def _worked(self, work: Work) -> None:
        """The ready work has ended."""
        self.metrics.count_ready(work)
        if work.good:
            try:
                self.generations.mark_ready(work.generation)
            except PublishError as error:
                logger.warning("%s", error)
            self.metrics.set_generation("ready", work.generation)
        self._soon(asyncio.to_thread(self.history.add_ready, work))
        self.broker.emit("ready", {"generation": work.generation, "state": work.state, "steps": work.steps})

    def _roll_back(self, generation: int, reason: str) -> bool:
        """Go back to the last generation that was loaded; False when there is none."""
        target = self.generations.loaded()
        if target is None or target == generation:
            return False
        try:
            self.generations.archive.artifacts(target)
        except NotFound as error:
            logger.error("cannot go back to generation %d: %s", target, error)  # noqa: TRY400 - said as it is
            return False
        self.metrics.count_rollback(reason)
        who = f"no load of generation {generation}" if reason == "not_loaded" else f"{reason} of {generation}"
        self._soon(self._ask(Request(trigger="rollback", who=who, rollback=target, failed=generation)))
        return True

    def _served(self) -> Served:
        """What everyone may know of this machine."""
        number, current = self.generations.loaded(), self.generations.current
        found = current if current is not None and current.number == number else None
        if found is None and number is not None:
            try:
                found = self.generations.archive.manifest(number)
            except NotFound as error:
                logger.warning("the loaded generation cannot be told of: %s", error)
        loaded = (
            LoadedIndex(found.index.sha256, found.index.modified, found.created)
            if found is not None
            else None
        )
        return served(self.status.data(), loaded, self._rejections.newest)

    def _deployed(self) -> Deployed:
        paths = self._settings.paths
        return read_deployed(Path(paths.deployed), Path(paths.regions))

    def _pending_regions(self) -> list[str]:
        """In sentences: regions that deployed.json says are not deployed yet, or not removed yet."""
        added, removed = read_pending(Path(self._settings.paths.deployed))
        return [
            *(f"region {code} is to be added" for code in added),
            *(f"region {code} is to be removed" for code in removed),
        ]

    async def _ask_check_command(self, generated: Generated, folder: Path, index: Path) -> None:
        """Let the operator's own command look at the set, in a folder that holds it."""
        update = self._settings.update
        for artifact in generated.artifacts:
            (folder / artifact.name).write_bytes(artifact.content)
        finished = await run_command(
            update.check_command, folder, update.check_timeout, {"CHECK_INDEX": str(index)}
        )
        if finished.status != 0:
            raise Rejected(
                f"the check command refused the set with exit status {finished.status}",
                "its output is among the warnings; correct the index, or the command",
                code="veto",
                detail=f"the check command: {finished.output.strip()[-2000:]}",
            )


def _leave_index(source: Path, target: Path, modified: float | None) -> None:
    """The machine that owns the index has it in place already."""


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
