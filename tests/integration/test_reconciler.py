"""The reconciler on real generations and markers, beside a scripted Navigator."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from watchfiles import awatch

from sidecar.daemon import Daemon
from sidecar.model.events import LifecycleEvent, Loaded, NotLoaded
from sidecar.model.navigator import Process
from sidecar.model.runs import Request
from sidecar.navigator import markers
from sidecar.navigator.markers import Markers
from sidecar.navigator.process import NavigatorError
from sidecar.navigator.server import Navigator
from sidecar.update.lifecycle import Phase
from sidecar.update.reconciler import Reconciler
from sidecar.update.rejections import Rejections
from tests.support.machine import Machine, until

# Far beyond what a test takes: where a limit shall run out, the test says so.
LIMIT = 60.0


class Scripted:
    """A process, a gate and probes as the test wants them; `loads` is what a look or signal makes it load."""

    def __init__(self, markers: Path) -> None:
        self.markers = markers
        self.process: Process | None = None
        self.started = 0
        self.loads: str | None = None
        self.signals = self.looks = self.probed = 0
        self.probe_errors: list[str] = []
        self.hold: asyncio.Event | None = None

    def start(self, configuration: str = "config/navigator.yml") -> None:
        """A new process, now."""
        self.started += 1
        ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        self.process = Process(1000 + self.started, ticks, "boot", configuration)

    def touch(self, fingerprint: str, age: float = 0.0) -> None:
        """What its ready hook does; the clock may be `age` seconds behind."""
        path = self.markers / fingerprint
        path.touch()
        if age:
            os.utime(path, (time.time() - age, time.time() - age))

    # process
    def find(self) -> Process | None:
        return self.process

    def stamp(self) -> object:
        return self.started

    def reload(self) -> Process:
        self.signals += 1
        if self.loads is not None:
            self.touch(self.loads)
        assert self.process is not None
        return self.process

    # gate
    async def answers(self) -> bool:
        return self.process is not None

    async def look(self) -> None:
        self.looks += 1
        if self.loads is not None:
            self.touch(self.loads)

    # probes
    def __bool__(self) -> bool:
        return bool(self.probe_errors) or self.hold is not None or self.probed > 0

    async def run(self) -> None:
        self.probed += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.probe_errors:
            raise NavigatorError(self.probe_errors.pop(0))


class Stage:
    """A daemon without a server that publishes, and a reconciler of our own that follows it."""

    def __init__(self, machine: Machine, daemon: Daemon, limit: float) -> None:
        self.machine, self.daemon, self.limit = machine, daemon, limit
        self.navigator = Scripted(machine.state / "loaded")
        self.asked: list[Request] = []
        self.events: list[LifecycleEvent] = []
        self.seed = 0
        self.reconciler = self.build()

    def build(self) -> Reconciler:
        """The reconciler of another daemon on the same files."""
        scripted: Any = self.navigator
        reconciler = Reconciler(
            self.daemon.generations,
            Navigator(scripted, Markers(self.navigator.markers), scripted, scripted),
            Rejections(self.machine.state / "rejected.json"),
            "",
            self.limit,
            self.asked.append,
        )
        reconciler.subscribe(self.events.append)
        return reconciler

    async def publish(self, *, index_only: bool = False) -> str:
        """The next generation, its fingerprint."""
        self.seed += 0 if index_only else 1
        path = self.machine.put_index(seed=self.seed)
        if index_only:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("create table unread (a)")
        outcome = await self.daemon.worker.submit(Request(trigger="socket", force=True))
        assert outcome.state == "published", outcome
        current = self.daemon.generations.current
        assert current is not None
        self.reconciler.published(current.number)
        return current.fingerprint

    async def phase_is(self, phase: Phase, generation: int | None = None) -> None:
        """Wait until it is so."""

        def is_so() -> bool:
            state = self.reconciler.state
            return state.phase is phase and generation in (None, state.generation)

        await until(is_so, 15)


@asynccontextmanager
async def stage(folder: Path, limit: float = LIMIT) -> AsyncIterator[Stage]:
    machine = Machine(folder)
    async with Daemon(machine.settings()).without_server() as daemon:
        one = Stage(machine, daemon, limit)
        task = asyncio.create_task(one.reconciler.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def load_first(one: Stage) -> str:
    """A Navigator that serves the first generation."""
    one.navigator.start()
    first = one.navigator.loads = await one.publish()
    await one.phase_is(Phase.LOADED, 1)
    return first


async def test_a_publication_is_signalled_loaded_and_recorded(tmp_path: Path) -> None:
    """Nobody else makes Navigator look: one signal, one event, the generation to go back to."""
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.loads = None
        fingerprint = await one.publish()
        await until(lambda: one.navigator.signals == 2)
        assert one.reconciler.pending == 2
        assert one.reconciler.served == 1
        one.navigator.touch(fingerprint)
        await one.phase_is(Phase.LOADED, 2)
        loads = [event for event in one.events if isinstance(event, Loaded)]
        assert [event.generation for event in loads] == [1, 2]
        assert loads[1].seconds is not None
        assert one.daemon.generations.last_loaded() == 2
        assert one.navigator.signals == 2


async def test_a_file_system_that_tells_of_no_change_delays_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some sandboxes, overlays and mounts are silent: the markers are looked at every two seconds anyhow."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(markers, "awatch", lambda _, **options: awatch(elsewhere, **options))
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.loads = None
        fingerprint = await one.publish()
        await until(lambda: one.navigator.signals == 2)
        one.navigator.touch(fingerprint)
        await one.phase_is(Phase.LOADED, 2)


async def test_a_restarted_navigator_has_not_loaded_anything(tmp_path: Path) -> None:
    """What an earlier process loaded says nothing of the living one."""
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.loads = None
        one.navigator.start("config/navigator-maintenance.yml")
        await one.phase_is(Phase.BOOTING)
        assert one.reconciler.served is None
        assert one.reconciler.health().state == "progressing"
        one.navigator.loads = one.daemon.generations.current.fingerprint  # type: ignore[union-attr]
        await until(lambda: one.navigator.looks > 0)
        await one.phase_is(Phase.LOADED)
        assert one.reconciler.health().state == "healthy"


async def test_an_index_alone_inherits_a_load_and_nothing_else(tmp_path: Path) -> None:
    """The same set is served already, if somebody serves it; without Navigator it is not loaded."""
    async with stage(tmp_path) as one:
        await load_first(one)
        await one.publish(index_only=True)
        await one.phase_is(Phase.LOADED, 2)
        assert one.navigator.signals == 1
        one.navigator.process = None
        await one.phase_is(Phase.WAITING)
        assert one.reconciler.served is None
        assert await one.reconciler.wait(2, 20) == "down"


@pytest.mark.parametrize("age", [600.0, -600.0], ids=["set back", "set forward"])
async def test_a_clock_that_steps_takes_no_load_away(tmp_path: Path, age: float) -> None:
    """The marker was removed at the publication: that it is there counts, whatever time it bears."""
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.loads = None
        fingerprint = await one.publish()
        one.navigator.touch(fingerprint, age)
        await one.phase_is(Phase.LOADED, 2)


async def test_a_set_that_comes_again_at_once_is_loaded_again(tmp_path: Path) -> None:
    """Another set took its place for a moment: that Navigator served it before says nothing of now."""
    async with stage(tmp_path) as one:
        first = await load_first(one)
        one.navigator.loads = None
        await one.publish()
        await one.phase_is(Phase.LOADING, 2)
        one.seed = 0  # the first set once more
        assert await one.publish() == first
        await one.phase_is(Phase.LOADING, 3)
        assert one.reconciler.pending == 3
        one.navigator.loads = first
        one.navigator.touch(first)
        await one.phase_is(Phase.LOADED, 3)
        one.navigator.loads = await one.publish()
        await one.phase_is(Phase.LOADED, 4)


async def test_another_daemon_knows_the_load_again(tmp_path: Path) -> None:
    """The recorded process and marker are proof after a restart, though the clock stepped since."""
    async with stage(tmp_path) as one:
        first = await load_first(one)
        record = one.daemon.generations.load_record()
        assert record is not None
        assert record.process == one.navigator.process
        assert one.navigator.process is not None
        # To the clock it looks as if Navigator had started long after it touched the marker.
        old = one.navigator.process
        one.navigator.process = Process(old.pid, old.started, old.boot, old.configuration)
        again = one.build()
        await again.look()
        assert again.state.phase is Phase.LOADED
        assert again.served == 1
        assert again.facts.served == first


async def test_a_probe_that_fails_once_is_made_again(tmp_path: Path) -> None:
    """A tenant that boots slowly is no reason to go back."""
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.probe_errors = ["no answer in time"]
        one.navigator.loads = None
        fingerprint = await one.publish()
        one.navigator.touch(fingerprint)
        await one.phase_is(Phase.LOADED, 2)
        assert one.navigator.probed == 2
        assert one.asked == []
        assert not [event for event in one.events if isinstance(event, NotLoaded)]


async def test_a_probe_speaks_of_the_generation_it_began_with(tmp_path: Path) -> None:
    """While a probe is under way a newer generation is published: its success is not the newer one's.

    Not even once that one is served: its own probe, held here, has to pass.
    """
    async with stage(tmp_path) as one:
        hold = one.navigator.hold = asyncio.Event()
        one.navigator.start()
        first = await one.publish()
        one.navigator.touch(first)
        await one.phase_is(Phase.PROBING, 1)
        second = await one.publish()
        one.navigator.hold = asyncio.Event()
        hold.set()
        await one.phase_is(Phase.LOADING, 2)
        assert one.daemon.generations.last_loaded() is None
        one.navigator.touch(second)
        await one.phase_is(Phase.PROBING, 2)
        assert not [event for event in one.events if isinstance(event, Loaded)]
        one.navigator.hold.set()
        await one.phase_is(Phase.LOADED, 2)


async def test_probes_that_go_on_failing_take_it_back(tmp_path: Path) -> None:
    """After the limit (short here: it has to run out) the last generation that was loaded is asked for."""
    async with stage(tmp_path, limit=1.0) as one:
        await load_first(one)
        one.navigator.probe_errors = ["/showcase/ answered 500 instead of 200"] * 100
        one.navigator.loads = None
        one.navigator.touch(await one.publish())
        await until(lambda: bool(one.asked), 15)
        assert (one.asked[0].rollback, one.asked[0].failed, one.asked[0].code) == (1, 2, "probe")
        assert "answered 500" in one.asked[0].reason
        (event,) = [event for event in one.events if isinstance(event, NotLoaded)]
        assert (event.reason, event.goes_back) == ("probe", 1)
        assert one.reconciler.health().state == "degraded"
        assert await one.reconciler.wait(2, 20) == "failed"


async def test_a_set_that_navigator_dies_of_is_taken_back(tmp_path: Path) -> None:
    """Start after start ends without a load: the older files come back, and nobody waits for a limit."""
    async with stage(tmp_path) as one:
        await load_first(one)
        one.navigator.process, one.navigator.loads = None, None
        await one.phase_is(Phase.WAITING)
        await one.publish()
        for _ in range(3):
            one.navigator.started += 1  # the pid file is written, and the process is gone
            one.reconciler.wake()
            await asyncio.sleep(0)
            await one.reconciler.look()
        await until(lambda: bool(one.asked), 15)
        assert (one.asked[0].rollback, one.asked[0].failed) == (1, 2)


async def test_another_regions_set_is_not_gone_back_to(tmp_path: Path) -> None:
    """Without a set of its own region it stays, and says that it is degraded."""
    async with stage(tmp_path, limit=0.5) as one:
        await load_first(one)
        one.reconciler._observer._region = "syd"
        one.navigator.loads = None
        await one.publish()
        await until(lambda: one.reconciler.state.given_up, 15)
        assert one.asked == []
        assert one.reconciler.health().state == "degraded"


async def test_whoever_waits_is_told_at_once_what_is_known_at_once(tmp_path: Path) -> None:
    """No Navigator: `down`, long before the time for a load is over; a newer one: `superseded`."""
    async with stage(tmp_path) as one:
        await one.publish()
        async with asyncio.timeout(LIMIT / 2):
            assert await one.reconciler.wait(1, LIMIT) == "down"
        await one.publish()
        assert await one.reconciler.wait(1, LIMIT) == "superseded"
