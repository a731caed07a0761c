"""The daemon: builds every part and wires them together, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sidecar import __version__
from sidecar.errors import PublishError, Rejected, SidecarError
from sidecar.events import Broker
from sidecar.generate import Generated
from sidecar.generations import Generations, targets
from sidecar.index import install_index
from sidecar.machine import Machine, machine_id
from sidecar.metrics import Metrics
from sidecar.process import run_command
from sidecar.rejections import Rejections
from sidecar.run import Outcome, Request
from sidecar.settings import Settings
from sidecar.signatures import UsedSignatures
from sidecar.store import open_store
from sidecar.update import Updater
from sidecar.web.access import Administrators
from sidecar.web.api import Api
from sidecar.web.public import PublicTrigger
from sidecar.web.server import Server
from sidecar.worker import Throttle, Worker

logger = logging.getLogger("sidecar.daemon")

_GRACE = 2.0


class Daemon:
    """One machine's sidecar."""

    def __init__(self, settings: Settings) -> None:
        state = Path(settings.paths.state)
        trigger = settings.trigger
        self._settings = settings
        self._id = machine_id(settings)
        self._last: Outcome | None = None
        self._started = time.time()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None

        self.broker = Broker()
        self.metrics = Metrics(self._id, settings.machine.region)
        self.generations = Generations(state, targets(settings), install_index, settings.update.keep)
        self.store = open_store(settings, self.metrics.observe_store)
        self.updater = Updater(
            settings,
            self.store,
            self.generations,
            Rejections(state / "rejected.json"),
            Machine(settings, self.generations.markers).inputs,
            self._ask_check_command if settings.update.check_command else None,
        )
        self.worker = Worker(
            self.updater.run,
            self.broker.emit,
            self._finished,
            Throttle(trigger.interval, trigger.burst),
            settings.update.waiting,
            settings.update.timeout,
        )
        self._signatures = UsedSignatures(state / "signatures", trigger.window)
        self.api = Api(
            self.worker,
            self.status,
            self.metrics,
            self.broker,
            Administrators(settings.administrators),
            PublicTrigger(trigger, self._id, self.worker, self._signatures, state / "received"),
        )
        self.server = Server(self.api.application(), settings.listen)

    async def run(self) -> None:
        """Serve until a signal says to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            await self.startup(stack)
            await self._stop.wait()
            logger.info("stopping")
        if self._failure is not None:
            # Better to be started anew than to answer without doing the work.
            raise SidecarError("the loop that runs the updates ended") from self._failure

    async def once(self, request: Request) -> Outcome:
        """One run without a server, for a machine without a daemon; `Busy` beside one."""
        async with AsyncExitStack() as stack:
            await self._start_work(stack)
            return await self.worker.submit(request)

    async def startup(self, stack: AsyncExitStack) -> None:
        """Start every part; what was started is stopped in reverse when the stack closes."""
        await self._start_work(stack)
        await self.server.startup()
        stack.push_async_callback(self.server.shutdown)
        stack.callback(self.broker.close)
        stack.push_async_callback(self.worker.close, _GRACE)
        logger.info(
            "listening on %s and %s", self._settings.listen.socket, self.server.url or "no TCP address"
        )
        if self._settings.update.at_start:
            first = asyncio.create_task(
                self.worker.submit(Request(trigger="start", who="the daemon's start"))
            )
            stack.push_async_callback(_cancel, first)

    async def _start_work(self, stack: AsyncExitStack) -> None:
        self.broker.startup()
        stack.callback(self.generations.shutdown)
        try:
            for sentence in await asyncio.to_thread(self.generations.startup):
                logger.warning(sentence)
        except PublishError as error:
            # The daemon is worth more running: it can say what is wrong, and try again.
            logger.error("%s", error)  # noqa: TRY400 - the sentence is enough
        self._signatures.startup(time.time())
        current = self.generations.current
        self.metrics.set_generation("current", current.number if current else None)
        await self.store.startup()
        stack.push_async_callback(self.store.shutdown)
        working = asyncio.create_task(self.worker.run())
        working.add_done_callback(self._working_ended)
        stack.push_async_callback(_cancel, working)

    def status(self) -> dict[str, Any]:
        """This machine as `GET /status` tells it: nothing secret, no names of users."""
        current = self.generations.current
        last, running = self._last, self.worker.running
        return {
            "version": __version__,
            "machine": self._id,
            "app": self._settings.machine.app or None,
            "region": self._settings.machine.region or None,
            "state": self._state(),
            "generation": {"current": current.number if current else None},
            "fingerprint": current.fingerprint if current else None,
            "index": {
                "etag": current.index.etag if current else None,
                "sha256": current.index.sha256 if current else None,
                "modified": current.index.modified if current else None,
            },
            "published": current.created if current else None,
            "tenants": current.counts.tenants if current else None,
            "users": current.counts.users if current else None,
            "pending": self.worker.waiting,
            "running": {"trigger": running.request.trigger, "since": running.started} if running else None,
            "last": None
            if last is None
            else {
                "state": last.state,
                "trigger": last.trigger,
                "started": last.started,
                "seconds": last.seconds,
                "stages": last.stages,
            },
            "error": last.error if last else None,
            "started": self._started,
        }

    def _working_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = task.exception()
            self._stop.set()

    def _state(self) -> str:
        if self.worker.running is not None:
            return "updating"
        if self._last is None:
            return "starting"
        if self._last.error is not None:
            return "out_of_sync"
        return "in_sync"

    def _finished(self, outcome: Outcome) -> None:
        self.metrics.count_update(outcome, self.updater.tenants, self.updater.skipped_rows)
        if outcome.state != "previewed":
            self._last = outcome
        self.broker.emit(
            "finished", {"state": outcome.state, "generation": outcome.generation, "seconds": outcome.seconds}
        )

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
                f"the check command refused the set, status {finished.status}: {finished.output.strip()[-500:]}",
                "its output says why; correct the index, or the command",
                code="veto",
            )


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
