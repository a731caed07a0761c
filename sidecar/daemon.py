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
from sidecar.errors import NotFound, PublishError, SidecarError
from sidecar.fleet.bus import BusListener
from sidecar.fleet.debounce import Debounce
from sidecar.fleet.service import FleetService
from sidecar.generate import login, places
from sidecar.generations import Generations, Manifest, targets
from sidecar.inputs.index import DeploymentFiles, read_deployed, read_pending
from sidecar.inputs.machine import Machine, machine_id
from sidecar.inputs.store import open_store, own_index
from sidecar.model.artifacts import HTPASSWD, MAINTENANCE
from sidecar.model.events import LifecycleEvent
from sidecar.model.machine_report import LoadedIndex, MachineReport, served
from sidecar.model.runs import LoadVerdict, Outcome, Request
from sidecar.model.stream import ReadyProgress, RunFinished
from sidecar.model.work import Work
from sidecar.navigator.markers import Markers
from sidecar.navigator.probes import NavigatorPort, OwnLogin, Probes
from sidecar.navigator.process import NavigatorProcess
from sidecar.navigator.server import Navigator
from sidecar.observe.comparison import Comparison
from sidecar.observe.drift import Drift
from sidecar.observe.events import Broker
from sidecar.observe.history import History, HistoryWriter
from sidecar.observe.metrics import Metrics
from sidecar.observe.status import StatusSource
from sidecar.ready.assembly import assemble
from sidecar.system import systemd
from sidecar.system.sqlite import install_database, warm_up
from sidecar.system.tasks import Tasks, end
from sidecar.update.check_command import CheckCommand
from sidecar.update.reconciler import Reconciler
from sidecar.update.rejections import Rejections
from sidecar.update.store_lag import submit
from sidecar.update.triggers import IndexWatcher, Ticker
from sidecar.update.updater import Updater
from sidecar.update.worker import RunLimits, Throttle, Worker
from sidecar.web.access import BasicAuth
from sidecar.web.app import application
from sidecar.web.background import BackgroundViews
from sidecar.web.browser.common import Common
from sidecar.web.browser.fleet import FleetPages
from sidecar.web.browser.history import HistoryPages
from sidecar.web.browser.look import Look
from sidecar.web.browser.preview import PreviewPages
from sidecar.web.browser.status import StatusPages
from sidecar.web.fleet import FleetViews
from sidecar.web.operations import Operations
from sidecar.web.public import PublicTrigger, discard_received
from sidecar.web.routes import Handlers
from sidecar.web.server import Server
from sidecar.web.signatures import UsedSignatures
from sidecar.web.views import Views

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 2.0
# A bucket tells of one change more than once, and in no order.
_RELAY_QUIET_SECONDS, _RELAY_MAX_SECONDS = 1.0, 10.0
# `update --once` runs no daemon afterwards: how long it looks for the load of what it published, in seconds.
_ONCE_SECONDS = 5.0
_ONCE_VERDICTS: dict[LoadVerdict, str] = {
    "loaded": "Navigator has loaded it",
    "down": "Navigator is down; it will load it when it starts",
    "failed": "Navigator did not load it",
}


class Daemon:
    """One machine's sidecar."""

    def __init__(self, settings: Settings) -> None:
        state = Path(settings.paths.state)
        trigger, navigator = settings.trigger, settings.navigator
        self._settings = settings
        self._id = machine_id(settings)
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks = Tasks()

        self.broker = Broker()
        self.metrics = Metrics(self._id, settings.machine.region)
        self.history = History(
            state / "history.db",
            settings.history.keep,
            settings.history.max_age,
            lambda: self.generations.archive.numbers(),
        )
        self._history_writer = HistoryWriter(self.history)
        markers = Markers(state / "loaded")
        process = NavigatorProcess(Path(navigator.pid_file), navigator.process_names)
        self.generations = Generations(
            state,
            targets(settings),
            install_database,
            settings.update.keep,
            markers.clear,
        )
        self.store = open_store(settings, self.metrics.observe_store)
        self._own_index = own_index(settings, self.metrics.observe_store)
        machine = Machine(settings, state / "loaded")
        self._inputs = machine.inputs
        self.ready = assemble(
            settings,
            self.store,
            self.generations,
            self._deployed,
            lambda: places(self._inputs().deployment),
            self.broker.emit,
            self._worked,
        )
        self._rejections = Rejections(state / "rejected.json")
        self.reconciler = Reconciler(
            self.generations,
            Navigator(
                process,
                markers,
                NavigatorPort(navigator.port, self.generations.site.where.files[MAINTENANCE]),
                Probes(
                    navigator.port,
                    navigator.probes,
                    OwnLogin(login.PATH, machine.own_login) if navigator.login_probe else None,
                ),
            ),
            self._rejections,
            settings.machine.region,
            navigator.reload_timeout,
            lambda request: self._tasks.start(self._ask(request)),
        )
        self.updater = Updater(
            settings,
            self._own_index or self.store,
            self.generations,
            self._rejections,
            self._inputs,
            CheckCommand(settings.update, state) if settings.update.check_command else None,
            self.ready.databases.prepare if settings.databases.fetch else None,
            lambda: self.reconciler.process,
            self._published,
        )
        self.worker = Worker(
            self.updater.run,
            self.broker.emit,
            self._finished,
            Throttle(trigger.interval, trigger.burst),
            self.reconciler.may_publish,
            RunLimits(settings.update.waiting, trigger.waiting, settings.update.timeout),
            lambda: systemd.notify("WATCHDOG=1"),
        )
        self.drift = Drift(self.generations)
        self._ticker = Ticker(settings.update.poll, self._poll, self._resumed)
        self.status = StatusSource(
            settings,
            self._id,
            self.generations,
            self.worker,
            self.reconciler,
            self.drift,
            self.ready.work,
            self.updater.fetch,
            lambda: self._ticker.due,
        )
        self.bus = BusListener(settings, self._id, self._hinted, self._served, self.metrics.count_hint)
        self.fleet = FleetService(
            settings, self._id, self.store, self.broker.emit, self._remember, self.metrics.count_fleet
        )
        self._relay = Debounce(self.fleet.relay, _RELAY_QUIET_SECONDS, _RELAY_MAX_SECONDS)
        self._followed = Debounce(self.fleet.follow, settings.fleet.quiet, settings.fleet.longest)
        self._signatures = UsedSignatures(state / "signatures", trigger.window)
        self.server = Server(application(self._handlers(), _names(settings)), settings.listen)
        self._follow(process)

    def _handlers(self) -> Handlers:
        """What answers requests, of the parts that do the work."""
        settings, trigger = self._settings, self._settings.trigger
        comparison = Comparison(self.generations, self._deployed)
        administrators = BasicAuth(settings.administrators, behind_navigator=settings.page.through_navigator)
        common = Common(administrators, self.status, self.worker)
        look = Look(self.status, self.worker, self.reconciler, self.fleet.known)
        fleet_pages = FleetPages(common, look, settings, self.generations, self.fleet)
        return Handlers(
            Operations(
                self.worker,
                self.reconciler,
                self.updater.is_intact,
                self.ready.work,
                self.broker,
                administrators,
                trigger.webhook_token,
                settings.navigator.reload_timeout,
                self._relay.changed if settings.fleet.relay_webhook else lambda: None,
            ),
            BackgroundViews(self.ready, self.broker, administrators),
            Views(
                self.worker,
                self.status,
                self.history,
                self.metrics,
                self.broker,
                administrators,
                comparison,
            ),
            PublicTrigger(
                trigger,
                self._id,
                self.worker,
                self.reconciler,
                self.updater.is_intact,
                self._signatures,
                Path(settings.paths.state) / "received",
                self._served,
                settings.fetch.expect_timeout,
            ),
            FleetViews(self.fleet, self.broker, administrators),
            StatusPages(common, look, fleet_pages, self.broker, settings),
            PreviewPages(common, settings, self.generations, self._pending_regions),
            fleet_pages,
            HistoryPages(common, self.generations, self.history, comparison, self.drift),
        )

    def _follow(self, process: NavigatorProcess) -> None:
        """Who is told what becomes of a generation, and where metrics and status look."""
        for subscriber in (
            self.metrics.on_event,
            self.broker.on_event,
            self._history_writer.on_event,
            self.ready.on_event,
            self._on_event,
        ):
            self.reconciler.subscribe(subscriber)
        self.metrics.follow_navigator(lambda: self.reconciler.process is not None)
        self.metrics.follow_state(self.status.sync, self.status.health)
        self.metrics.follow_loaded(lambda: self.reconciler.served)
        self.metrics.follow_published(
            lambda: current.counts.users if (current := self.generations.current) else 0,
            lambda: (current.index.modified or 0.0) if (current := self.generations.current) else 0.0,
            lambda: len(self.drift.names),
        )
        self.metrics.follow_ready(
            lambda: work.started if (work := self.ready.work.current) is not None else 0.0
        )
        self.metrics.follow_bus(lambda: self.bus.connected)
        self.metrics.fleet.overview = lambda: self.fleet.overview
        self.metrics.fleet.ended = lambda: self.fleet.ended
        self.status.problems += [
            lambda: self.server.problem,
            self.generations.site.unwritable,
            process.hidden,
            lambda: process.unreadable(self.generations.site.where.files[HTPASSWD]),
            self._databases_problem,
            self.bus.problem,
        ]

    # Life

    async def run(self) -> None:
        """Serve until a signal says to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            await self.startup(stack)
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
            await self.store.startup()
            yield self

    async def startup(self, stack: AsyncExitStack) -> None:
        """Start every part; what was started is stopped in reverse when the stack closes."""
        work = await self._start_work(stack)
        await self.reconciler.look()  # what is said from the first answer on was looked at
        self._keep_running(stack, self.reconciler.run())
        self._keep_running(stack, self.drift.run())
        self._keep_running(stack, self._relay.run())
        stack.push_async_callback(self.fleet.close)
        self._keep_running(stack, self._ticker.run())
        if self._settings.fleet.bus:
            self._keep_running(stack, self.bus.run())
        if self._own_index is not None:
            if self._settings.fleet.follow_local_index:
                self._followed.changed()  # it may have changed while no daemon ran
            self._keep_running(stack, self._followed.run())
            self._keep_running(stack, IndexWatcher(self._own_index.signature, self._local_changed).run())
        await self.server.startup(systemd.listening_sockets())
        stack.push_async_callback(self.server.shutdown)
        self._tasks.start(self.server.run())
        stack.callback(self.broker.close)
        # Before the server ends, so that whoever still waits gets an answer.
        stack.callback(self.reconciler.release_waiters)
        stack.push_async_callback(end, work)
        stack.push_async_callback(self.worker.close, _GRACE_SECONDS)
        stack.push_async_callback(self.server.leave_to_successor)
        logger.info(
            "listening on %s and %s", self._settings.listen.socket, self.server.url or "no TCP address"
        )
        if self._settings.ready.at_start:
            self.ready.work.request("start", "the daemon's start")
        self._keep_running(stack, self.ready.work.run())
        if self._settings.update.at_start:
            self._tasks.start(self._ask(Request(trigger="start", who="the daemon's start")))
        systemd.notify(f"READY=1\nSTATUS={self.status.sentence()}")
        # The store's library is a third of all that is loaded: who comes meanwhile is accepted, and waits.
        await self.store.startup()

    async def _start_work(self, stack: AsyncExitStack) -> asyncio.Task[None]:
        await asyncio.to_thread(warm_up)
        self.broker.startup()
        stack.callback(self.generations.shutdown)
        try:
            inputs = await asyncio.to_thread(self._todays_inputs)
            for sentence in await asyncio.to_thread(
                self.generations.startup, inputs, self._settings.machine.region
            ):
                logger.warning(sentence)
        except PublishError as error:
            # The daemon is worth more running: it can say what is wrong, and try again.
            logger.error("%s", error)  # noqa: TRY400 - the sentence is enough
        await asyncio.to_thread(self.history.startup)
        stack.push_async_callback(self._history_writer.close)
        await asyncio.to_thread(self._signatures.startup, time.time())
        await asyncio.to_thread(discard_received, Path(self._settings.paths.state) / "received")
        current = self.generations.current
        self.metrics.set_generation("current", current.number if current else None)
        self.metrics.set_generation("ready", self.generations.ready())
        stack.callback(self.ready.background.shutdown)
        stack.push_async_callback(self.store.shutdown)
        stack.push_async_callback(self._tasks.end)
        return self._keep_running(stack, self.worker.run())

    def _todays_inputs(self) -> str | None:
        """The digest of today's inputs; None when they are unusable."""
        try:
            return self._inputs().digest
        except SidecarError as error:
            logger.error("the generation in place cannot be compared with the settings: %s", error)  # noqa: TRY400
            return None

    def _keep_running(self, stack: AsyncExitStack, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a loop for as long as the daemon lives; should it end by itself, the daemon ends too."""
        task = asyncio.create_task(loop)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self._failure = task.exception()
                logger.critical("a loop that must not end has ended", exc_info=self._failure)
                self._stop.set()

        task.add_done_callback(ended)
        stack.push_async_callback(end, task)
        return task

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
        self.bus.reset()
        await self._ask(Request(trigger="wake", who=f"waking after {gap:.0f} s"))
        # Copies of other regions' databases may have aged meanwhile.
        self.ready.work.request("resume", f"waking after {gap:.0f} s")

    async def _hinted(self, sha256: str, who: str, fresh: bool) -> bool:
        """Look at the store because of a hint; is it dealt with, be it by a refusal?"""
        current = self.generations.current
        # Where the index is made, nothing comes from elsewhere.
        if self._own_index is not None or (current is not None and current.index.sha256 == sha256):
            return True
        # An old one says no more than that something has changed.
        request = Request(trigger="bus", who=who, expect=sha256 if fresh else None)
        try:
            outcome = await submit(self.worker, request, self._settings.fetch.expect_timeout)
        except SidecarError as error:
            logger.warning("the update for %s was not run: %s", request.trigger, error)
            return False
        return outcome.good or outcome.refused or outcome.state == "rejected"

    # From run to publication to load

    def _finished(self, outcome: Outcome) -> None:
        self.metrics.count_update(outcome, self.updater.tenants, self.updater.skipped_rows)
        self.status.note(outcome)
        self._history_writer.add(outcome)
        self.broker.emit(RunFinished(outcome.state, outcome.generation, outcome.seconds))
        self.bus.moved()
        systemd.notify(f"STATUS={self.status.sentence()}")

    def _remember(self, outcome: Outcome) -> None:
        self._history_writer.add(outcome)

    def _published(self, manifest: Manifest, request: Request) -> None:
        self._history_writer.track(manifest.number)
        self.reconciler.published(manifest.number)
        if request.rollback is not None and not request.takes_back:
            self.metrics.count_rollback("requested")

    def _on_event(self, event: LifecycleEvent) -> None:
        self.worker.wake()
        self.bus.moved()
        systemd.notify(f"STATUS={self.status.sentence()}")

    async def follow_once(self) -> str:
        """Without a daemon: make Navigator load what was published, and say within seconds how that went."""
        task = asyncio.create_task(self.reconciler.run())
        current = self.generations.current
        verdict: LoadVerdict = (
            "pending" if current is None else await self.reconciler.wait(current.number, _ONCE_SECONDS)
        )
        await end(task)
        return _ONCE_VERDICTS.get(verdict, "there is no sign yet that Navigator has loaded it")

    def _worked(self, work: Work) -> None:
        """The ready work has ended."""
        self.metrics.count_ready(work)
        if work.good:
            try:
                self.generations.mark_ready(work.generation)
            except PublishError as error:
                logger.warning("%s", error)
            self.metrics.set_generation("ready", work.generation)
        self._history_writer.add_ready(work)
        self.bus.moved()
        self._tasks.start(self._serve_the_waiting())
        self.broker.emit(ReadyProgress(work.generation, work.state, work.steps))

    async def _serve_the_waiting(self) -> None:
        """A tenant whose database has come is served from now on."""
        current = self.generations.current
        withheld = current.withheld if current is not None else ()
        try:
            resolved = await asyncio.to_thread(self.ready.databases.resolves, withheld)
        except OSError as error:
            logger.warning("the folder of the databases cannot be looked at: %s", error)
            return
        if resolved:
            await self._ask(Request(trigger="databases", who="the ready work"))

    def _databases_problem(self) -> str | None:
        current = self.generations.current
        return self.ready.databases.problem(current.withheld if current is not None else ())

    def _served(self) -> MachineReport:
        """What everyone may know of this machine."""
        number, current = self.reconciler.served, self.generations.current
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
        return served(self.status.status(), loaded, self._rejections.newest)

    def _deployed(self) -> DeploymentFiles:
        paths = self._settings.paths
        return read_deployed(Path(paths.deployed), Path(paths.regions))

    def _pending_regions(self) -> list[str]:
        """In sentences: regions that deployed.json says are not deployed yet, or not removed yet."""
        added, removed = read_pending(Path(self._settings.paths.deployed))
        return [
            *(f"region {code} is to be added" for code in added),
            *(f"region {code} is to be removed" for code in removed),
        ]


def _names(settings: Settings) -> list[str]:
    """The names that requests on TCP may be for."""
    names = [settings.listen.host, *settings.listen.names]
    if settings.page.through_navigator and settings.machine.app:
        names.append(f"{settings.machine.app}.fly.dev")  # Navigator passes on what its client asked for
    return names
