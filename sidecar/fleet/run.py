"""A fleet update from the upload to the last machine's load. Read this first.

    before   commands that prepare the index; one that fails ends the update
    upload   the local index goes into the store, if it differs and may
    find     who belongs to the fleet, and who of them is active
    poke     all in parallel, bounded; each with the digest that it must come to serve
    follow   until the machine says that it has loaded it
    retry    what failed, and only that, later and later
    after    commands that follow a good update, and whoever is to be told of it
    report   who has it, who has not, and why

A machine goes its own way from the poke to its last try: one that hangs keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp

from sidecar.config.settings import Fleet, Settings
from sidecar.errors import SettingsError, SidecarError, StoreError
from sidecar.fleet.around import Around, Notice
from sidecar.fleet.bus import ByBus, announcing
from sidecar.fleet.discovery import Discovery
from sidecar.fleet.extra import upload_extras
from sidecar.fleet.machines import FleetError, Found, Target, only, without
from sidecar.fleet.nats_link import BusError
from sidecar.fleet.poke import Order, Talk
from sidecar.fleet.report import Overview, Report, Result, Row, enough, row
from sidecar.fleet.upload import Current, Memory, Uploader
from sidecar.fleet.verdicts import GOOD, Answer, Verdict, of_poke, of_status, pause
from sidecar.inputs.extra import extras
from sidecar.inputs.store import Store, open_store
from sidecar.inputs.store.inventory import Inventory, Item, first_date
from sidecar.inputs.store.transfer import format_age
from sidecar.model.machine_report import Served, decode
from sidecar.model.record import Record
from sidecar.system.memory import seldom_collected

_FIRST_LOOK = 0.03
_LONGEST_LOOK = 1.0
_SLOWER = 1.5
_SPREAD = 0.2

Value = TypeVar("Value")


class Wanted(Record, frozen=True):
    """What is asked for.

    `index` is the local database to upload; None: poke with what the store holds. `replace` lets it replace
    an object that this machine has not seen. `only` are ids, names or regions, `but` the id of a machine to
    leave out. `quorum` machines are enough; None: all. `wait` is loaded or ready. `around` tells whether the
    commands before and after run, and the notices go out.
    """

    index: Path | None = None
    replace: bool = False
    only: tuple[str, ...] = ()
    but: str = ""
    quorum: int | None = None
    wait: str = "loaded"
    dry_run: bool = False
    around: bool = True


class Listener(Protocol):
    """Who wants to know how it goes."""

    def step(self, step: str) -> None:
        """One of `progress.STEPS` begins."""

    def say(self, sentence: str) -> None:
        """Something about the whole."""

    def expect(self, results: list[Result]) -> None:
        """These are the machines that will be poked."""

    def tell(self, result: Result) -> None:
        """Where a machine stands now."""


class Talker(Protocol):
    """Speaks with machines."""

    async def poke(self, target: Target, order: Order) -> Answer | Verdict:
        """Poke one."""

    async def ask(self, target: Target) -> Answer | Verdict:
        """Ask one how it is."""


class Crew:
    """All machines of an update, each on its way; at most `parallel` requests at once."""

    def __init__(
        self,
        settings: Fleet,
        talk: Talker,
        stopped: Callable[[Target], Awaitable[bool]],
        order: Order,
        listener: Listener,
        *,
        ready: bool,
    ) -> None:
        self._settings = settings
        self._talk = talk
        self._stopped = stopped
        self._order = order
        self._listener = listener
        self._ready = ready
        self._slots = asyncio.Semaphore(settings.parallel)

    async def update(self, targets: tuple[Target, ...]) -> tuple[Result, ...]:
        """Bring all of them up to date; every failure is a result."""
        with seldom_collected():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_Machine(self, target).update()) for target in targets]
        return tuple(task.result() for task in tasks)

    async def poke(self, target: Target, begin: Callable[[], None]) -> Verdict:
        """What a machine makes of a poke; `begin` is called when it has its turn."""
        async with self._slots:
            begin()
            answer = await self._talk.poke(target, self._order)
        return answer if isinstance(answer, Verdict) else of_poke(answer, target.id, self._order.sha256)

    async def follow(self, target: Target) -> Verdict:
        """Ask until there is something to say."""
        wait = _FIRST_LOOK
        while True:
            async with self._slots:
                answer = await self._talk.ask(target)
            verdict = (
                answer
                if isinstance(answer, Verdict)
                else of_status(answer, target.id, self._order.sha256, ready=self._ready)
            )
            if verdict is not None:
                return verdict
            await asyncio.sleep(wait)
            wait = min(_LONGEST_LOOK, wait * _SLOWER)

    async def stopped(self, target: Target) -> bool:
        """Whether a machine that failed has stopped meanwhile."""
        return await self._stopped(target)

    @property
    def limit(self) -> float:
        """How long one machine may take, in seconds."""
        return self._settings.timeout + (self._settings.ready_timeout if self._ready else 0.0)

    @property
    def goal(self) -> str:
        """What is waited for: loaded or ready."""
        return "ready" if self._ready else "loaded"

    @property
    def attempts(self) -> int:
        """How often one machine is poked."""
        return self._settings.attempts

    def pause(self, attempt: int, retry_after: float | None) -> float:
        """Seconds after an attempt that failed; all who failed together do not come back together."""
        spread = random.uniform(1.0, 1.0 + _SPREAD)  # noqa: S311 - not a secret
        return pause(attempt, self._settings.pause, retry_after) * spread

    def tell(self, result: Result) -> None:
        """Pass on where a machine stands."""
        self._listener.tell(result)


class _Machine:
    """One machine on its way."""

    def __init__(self, crew: Crew, target: Target) -> None:
        self._crew = crew
        self._target = target
        self._attempts = 0
        self._started: float | None = None
        self._last = Verdict("hanging", "it never had its turn")

    async def update(self) -> Result:
        try:
            async with asyncio.timeout(None) as limit:
                verdict = await self._work(limit)
        except TimeoutError:
            verdict = self._late()
        except SidecarError as error:
            verdict = Verdict("failing", str(error))
        result = self._result(verdict)
        self._crew.tell(result)
        return result

    async def _work(self, limit: asyncio.Timeout) -> Verdict:
        crew, target = self._crew, self._target
        while True:
            verdict = self._last = await crew.poke(target, lambda: self._begin(limit))
            if verdict.accepted:
                crew.tell(self._result(verdict))
                verdict = await crew.follow(target)
            if verdict.final:
                return verdict
            self._last = verdict
            if await crew.stopped(target):
                return Verdict("stopped", "it stopped meanwhile, and fetches when it wakes")
            if self._attempts >= crew.attempts:
                return verdict
            crew.tell(self._result(Verdict("retrying", verdict.reason)))
            await asyncio.sleep(crew.pause(self._attempts, verdict.retry_after))

    def _begin(self, limit: asyncio.Timeout) -> None:
        """A turn begins: the time that a machine may take counts from its first one."""
        self._attempts += 1
        if self._started is None:
            self._started = time.monotonic()
            limit.reschedule(asyncio.get_running_loop().time() + self._crew.limit)
        self._crew.tell(self._result(Verdict("poking")))

    def _late(self) -> Verdict:
        last = self._last
        if last.accepted:
            what = f"is not {self._crew.goal} after {self._crew.limit:g} s"
            return Verdict("hanging", f"it has taken the index, but {what}")
        return Verdict(last.state, f"{last.reason}; given up after {self._crew.limit:g} s")

    def _result(self, verdict: Verdict) -> Result:
        served = verdict.served
        return Result(
            self._target.id,
            self._target.name,
            self._target.region or (served.region if served else None) or "",
            verdict.state,
            served.loaded if served else None,
            served.sha256 if served else None,
            self._attempts,
            0.0 if self._started is None else time.monotonic() - self._started,
            verdict.reason,
        )


class Updates:
    """Fleet updates and overviews with one machine's settings."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        """`store` is one that is open already; without it there is one for each update."""
        self._settings = settings
        self._store = store

    async def update(self, wanted: Wanted, listener: Listener) -> Report:
        """One fleet update. What concerns the whole raises; what concerns one machine is in the report."""
        settings = self._settings
        if not settings.trigger.secret:
            raise SettingsError(
                "trigger.secret is not set: the machines take signed pokes only",
                "set it, or SIDECAR_TRIGGER_SECRET, to the fleet's secret",
            )
        started, clock = time.time(), time.monotonic()
        if not wanted.dry_run:
            _prepare(Path(settings.paths.state))
        async with self._open(listener) as (discovery, store, session, folder):
            around = Around(settings, session, listener.say)
            if wanted.around and not wanted.dry_run and settings.fleet.before:
                listener.step("before")
                await around.before()
            listener.step("upload")
            # Before the index, which has the machines look: what they then fetch belongs to it.
            if wanted.index is not None:
                state, dry = Path(settings.paths.state), wanted.dry_run
                await upload_extras(extras(settings), store, state, folder, listener.say, dry_run=dry)
            current = await self._current(store, folder, wanted)
            listener.say(_sentence(current))
            if current.upload == "uploaded":
                await self._renew_inventory(store, folder, current, listener)
            listener.step("find")
            found = without(only(await discovery.find(), wanted.only), wanted.but)
            if wanted.quorum is not None and wanted.quorum > len(found.targets):
                raise FleetError(
                    f"{wanted.quorum} machines cannot load it: {len(found.targets)} are active",
                    "ask for fewer with --quorum",
                    code="fleet_quorum",
                )
            waiting = [Result(one.id, one.name, one.region, "waiting") for one in found.targets]
            listener.expect(waiting)
            results = tuple(waiting)
            failures: tuple[str, ...] = ()
            if not wanted.dry_run:
                listener.step("update")
                order = Order(current.sha256, await self._body(current))
                ready = wanted.wait == "ready"
                async with self._talk(wanted, current, session, listener) as talk:
                    crew = Crew(settings.fleet, talk, discovery.stopped, order, listener, ready=ready)
                    results = await crew.update(found.targets)
                if wanted.around and enough(results, wanted.quorum):
                    failures = await self._follow_up(around, current, results, listener)
        return Report(
            started=started,
            seconds=time.monotonic() - clock,
            sha256=current.sha256,
            upload=current.upload,
            wait=wanted.wait,
            quorum=wanted.quorum,
            dry_run=wanted.dry_run,
            machines=results,
            skipped=found.skipped,
            failures=failures,
            good=enough(results, wanted.quorum) and not failures,
        )

    @asynccontextmanager
    async def _talk(
        self, wanted: Wanted, current: Current, session: aiohttp.ClientSession, listener: Listener
    ) -> AsyncIterator[Talker]:
        """How to speak with the machines: those that follow the hint of a bus need no poke."""
        settings = self._settings
        talk = Talk(settings.fleet, str.__str__(settings.trigger.secret), session)
        # What only some shall load is no hint for all; an index that goes along needs no look at the store.
        if not settings.fleet.bus or wanted.only or settings.fleet.send == "index":
            yield talk
            return
        async with AsyncExitStack() as stack:
            try:
                announcement = await stack.enter_async_context(announcing(settings))
                await announcement.publish(current.sha256)
                listener.say(f"told the bus; {len(announcement.statements)} machines are on it")
            except BusError as error:
                listener.say(f"{error.message}: the machines are poked without it")
                yield talk
                return
            yield ByBus(announcement, talk, ready=wanted.wait == "ready")

    async def _follow_up(
        self, around: Around, current: Current, results: tuple[Result, ...], listener: Listener
    ) -> tuple[str, ...]:
        """What a good update is followed by; the commands that failed."""
        failures: tuple[str, ...] = ()
        if self._settings.fleet.after:
            listener.step("after")
            failures = await around.after()
        if self._settings.fleet.notify:
            listener.step("notify")
            done = sum(one.state in GOOD for one in results)
            await around.notify(Notice(current.sha256, current.upload, done))
        return failures

    async def _renew_inventory(
        self, store: Store, folder: Path, current: Current, listener: Listener
    ) -> None:
        """Tell the application's tools, which look there first for an object's true age."""
        path = Path(self._settings.index_key)
        if current.path is None or current.etag is None or current.modified is None:
            return
        date = await asyncio.to_thread(first_date, current.path)
        item = Item(f'"{current.etag}"', date, format_age(current.modified))
        inventory = Inventory(store, "", folder)
        try:
            await inventory.renew({path.name: item})
        except StoreError as error:
            # Those tools ask the object itself where the inventory knows another ETag.
            listener.say(f"{inventory.key} was not renewed: {error.message}")

    async def overview(self, listener: Listener) -> Overview:
        """How every active machine is, against what the store holds."""
        async with self._open(listener) as (discovery, store, session, folder):
            uploader = self._uploader(store, folder)
            current, found = await asyncio.gather(uploader.look(content=False), discovery.find())
            talk = Talk(self._settings.fleet, "", session)
            rows = await self._ask_all(talk, found, current)
        return Overview(time.time(), current.sha256, current.modified, rows, found.skipped)

    async def overview_by_bus(self, listener: Listener) -> Overview:
        """The same from what the machines have stated of late on the bus: none is listed, none is asked."""
        if not self._settings.fleet.bus:
            raise SettingsError("fleet.bus is not set", "set it to the URL of the fleet's NATS server")
        async with self._open(listener) as (_, store, _, folder):
            current = await self._uploader(store, folder).look(content=False)
            async with announcing(self._settings) as announcement:
                stated = sorted(announcement.statements.items())
        targets = [(Result(name, "", one.served.region or "", ""), one.served) for name, one in stated]
        rows = tuple(row(target, served, current.sha256, current.modified) for target, served in targets)
        return Overview(time.time(), current.sha256, current.modified, rows, ())

    async def _ask_all(self, talk: Talk, found: Found, current: Current) -> tuple[Row, ...]:
        slots = asyncio.Semaphore(self._settings.fleet.parallel)

        async def ask(target: Target) -> Row:
            async with slots:
                answer = await talk.ask(target)
            result = Result(target.id, target.name, target.region, "")
            said = _word(answer, target)
            if isinstance(said, Served):
                return row(result, said, current.sha256, current.modified)
            return Row(target.id, target.name, target.region, said.state, note=said.reason)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(target)) for target in found.targets]
        return tuple(task.result() for task in tasks)

    @asynccontextmanager
    async def _open(
        self, listener: Listener
    ) -> AsyncIterator[tuple[Discovery, Store, aiohttp.ClientSession, Path]]:
        settings = self._settings
        connector = aiohttp.TCPConnector(limit=settings.fleet.parallel)
        with tempfile.TemporaryDirectory(prefix="sidecar-fleet-") as folder:
            async with aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            ) as session:
                discovery = Discovery(settings, session, listener.say)
                if self._store is not None:
                    yield discovery, self._store, session, Path(folder)
                    return
                store = open_store(settings, lambda *_: None)
                await store.startup()
                try:
                    yield discovery, store, session, Path(folder)
                finally:
                    await store.shutdown()

    def _uploader(self, store: Store, folder: Path) -> Uploader:
        settings = self._settings
        memory = Memory(Path(settings.paths.state))
        return Uploader(store, settings.index_key, memory, folder, settings.fetch)

    async def _current(self, store: Store, folder: Path, wanted: Wanted) -> Current:
        uploader = self._uploader(store, folder)
        if wanted.index is None:
            return await uploader.look(content=self._settings.fleet.send == "index")
        return await uploader.put(wanted.index, replace=wanted.replace, dry_run=wanted.dry_run)

    async def _body(self, current: Current) -> bytes:
        if self._settings.fleet.send != "index" or current.path is None:
            return b""
        return await asyncio.to_thread(
            lambda path: gzip.compress(path.read_bytes(), 6, mtime=0), current.path
        )


def _prepare(state: Path) -> None:
    """Make the state folder: an upload that cannot be remembered would have every later one refused."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = "" if os.access(state, os.W_OK | os.X_OK) else "it belongs to somebody else"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise SettingsError(
            f"paths.state: {state} cannot be written to: {problem}",
            "set it to a folder of your own; what the store was seen to hold is remembered there",
        )


def _word(answer: Answer | Verdict, target: Target) -> Served | Verdict:
    """What a machine says of itself, or why it is not known."""
    if isinstance(answer, Verdict):
        return answer
    served = decode(answer.body) if answer.status == 200 else None
    if served is not None and served.machine == target.id:
        return served
    verdict = of_status(answer, target.id, "", ready=False)
    return verdict or Verdict("failing", "its state cannot be understood")


def _sentence(current: Current) -> str:
    what = {
        "uploaded": "uploaded the local index",
        "unchanged": "the store holds the local index already",
        "planned": "the local index would be uploaded",
        "none": "the index in the store is the one to load",
    }[current.upload]
    return f"{what}: SHA-256 {current.sha256[:12]}"
