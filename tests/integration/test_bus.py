"""The bus against a real NATS server: what is heard, what is not believed, and that nothing depends on it."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import examine
from sidecar.config.parse import parse
from sidecar.config.settings import Settings
from sidecar.daemon import Daemon
from sidecar.fleet.bus import BusListener, announcing
from sidecar.fleet.nats_link import BusError, NatsLink, connected, place
from sidecar.fleet.progress import NoProgress
from sidecar.fleet.run import FleetRequest, FleetUpdates
from sidecar.model.bus import (
    HINTS,
    MAX_SPREAD_SECONDS,
    STATEMENTS,
    Hint,
    Statement,
    fleet_key,
    machine_key,
    seal,
)
from sidecar.model.machine_report import MachineReport
from tests.support.cgi import sidecar
from tests.support.machine import SECRET, Machine, started, until
from tests.support.nats import NatsServer, nats_server

ONE, TWO = "1" * 64, "2" * 64
EARLY = 1.6e9
"""A stamp of some years ago: hints after it are in order, whatever the clock says."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for those who leave it alone."""
    for one in nats_server(tmp_path_factory.mktemp("nats")):
        asyncio.run(one.start())
        yield one


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """One to be stopped and started."""
    yield from nats_server(tmp_path / "nats")


def settings_of(folder: Path, url: str) -> Settings:
    """Of a fleet of its own: the folder is its store."""
    document = {"store": f"file://{folder}", "fleet": {"bus": url}, "trigger": {"secret": SECRET}}
    return parse(document, {})


class Ears:
    """A listener, and what it was told and told on."""

    def __init__(self, settings: Settings, **more: Any) -> None:
        self.heard: list[tuple[str, bool]] = []
        self.counted: list[str] = []
        self.served = MachineReport("m1", "iad", "synced", "healthy", sha256=ONE)
        self.done = True
        self.held = asyncio.Event()
        self.held.set()
        # A pause of a second after a lost connection, as shipped, is only waiting here.
        self.listener = BusListener(
            settings, "m1", self._follow, lambda: self.served, self.counted.append, pause=0.05, **more
        )

    async def _follow(self, sha256: str, who: str, fresh: bool) -> bool:
        self.heard.append((sha256, fresh))
        await self.held.wait()
        return self.done

    @asynccontextmanager
    async def open(self, *, connect: bool = True) -> AsyncIterator[Ears]:
        task = asyncio.create_task(self.listener.run())
        try:
            if connect:
                await until(lambda: self.listener.connected)
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def give(link: NatsLink, settings: Settings, sha256: str, stamp: float, secret: str = SECRET) -> None:
    """A hint with a stamp of one's choice."""
    key = fleet_key(settings.store, settings.index_key)
    await link.put(HINTS, key, seal(Hint(sha256), key, stamp, secret))


async def statement(link: NatsLink, settings: Settings, machine: str = "m1") -> bytes | None:
    """What a machine has stated."""
    key = fleet_key(settings.store, settings.index_key)
    return await link.get(STATEMENTS, machine_key(key, machine))


async def test_a_hint_is_heard_at_once_and_by_whoever_comes_later(server: NatsServer, tmp_path: Path) -> None:
    """The newest is stored: a machine that connects afterwards learns it without being told again."""
    settings = settings_of(tmp_path, server.url)
    async with Ears(settings).open() as early:
        async with announcing(settings) as announcement:
            await announcement.publish(ONE)
        await until(lambda: early.heard)
        async with Ears(settings).open() as late:
            await until(lambda: late.heard)
    assert early.heard == late.heard == [(ONE, True)]
    assert early.counted == ["followed"]


async def test_the_newest_hint_never_expires(server: NatsServer, tmp_path: Path) -> None:
    """A machine that wakes after a week must find it; statements do end, so that nobody gone is counted."""
    settings = settings_of(tmp_path, server.url)
    async with announcing(settings), connected(server.url, "test") as link:
        ages = [(await link._stream.stream_info(f"KV_{one}")).config.max_age for one in (HINTS, STATEMENTS)]
    assert not ages[0]
    assert ages[1] == 1800


async def test_an_old_hint_only_has_the_machine_look(server: NatsServer, tmp_path: Path) -> None:
    """What the store held long ago is not expected of it now."""
    settings = settings_of(tmp_path, server.url)
    async with announcing(settings), connected(server.url, "test") as link:
        await give(link, settings, ONE, EARLY)
        async with Ears(settings).open() as ears:
            await until(lambda: ears.heard)
    assert ears.heard == [(ONE, False)]


async def test_forged_and_repeated_hints_are_ignored(server: NatsServer, tmp_path: Path) -> None:
    """Only a signature of ours counts, only a stamp later than the newest, and only one that can be true."""
    settings = settings_of(tmp_path, server.url)
    key = fleet_key(settings.store, settings.index_key)
    async with announcing(settings), connected(server.url, "test") as link, Ears(settings).open() as ears:
        await give(link, settings, ONE, EARLY + 2)
        await until(lambda: ears.counted == ["followed"])
        for sha256, stamp, secret, outcome in (
            (TWO, EARLY + 3, "somebody-elses-secret", "forged"),
            (TWO, EARLY + 1, SECRET, "old"),
            (TWO, 4e9, SECRET, "forged"),
        ):
            count = len(ears.counted)
            await give(link, settings, sha256, stamp, secret)
            await until(lambda count=count: len(ears.counted) > count)
            assert ears.counted[-1] == outcome
            assert (ears.listener.problem() is not None) == (outcome == "forged")
        await link.put(HINTS, key, b"rubbish")
        await until(lambda: ears.counted.count("forged") == 3)
        await give(link, settings, TWO, EARLY + 4)
        await until(lambda: ears.counted[-1] == "followed")
        assert ears.listener.problem() is None
    assert [sha256 for sha256, _ in ears.heard] == [ONE, TWO]


async def test_whoever_publishes_replaces_a_hint_of_a_clock_that_is_fast(
    server: NatsServer, tmp_path: Path
) -> None:
    """A stamp is later than the one it replaces; one that is impossibly far ahead does not count."""
    settings = settings_of(tmp_path, server.url)
    async with announcing(settings) as announcement, connected(server.url, "test") as link:
        for ahead, heard in ((60.0, [ONE, TWO]), (1e9, [TWO])):
            await give(link, settings, ONE, _now() + ahead)
            async with Ears(settings).open() as ears:
                await until(lambda ears=ears: ears.counted)
                await announcement.publish(TWO)
                await until(lambda ears=ears: ears.counted[-1] == "followed" and ears.heard[-1][0] == TWO)
            assert [sha256 for sha256, _ in ears.heard] == heard


async def test_a_newer_hint_is_not_kept_waiting_by_an_older_ones_spread(
    server: NatsServer, tmp_path: Path
) -> None:
    """A large fleet's looks are spread over minutes: what comes meanwhile is heeded at once, if newer."""
    settings = settings_of(tmp_path, server.url)
    key, now = fleet_key(settings.store, settings.index_key), _now()
    async with announcing(settings), connected(server.url, "test") as link, Ears(settings).open() as ears:
        await link.put(HINTS, key, seal(Hint(ONE, MAX_SPREAD_SECONDS), key, now - 2, SECRET))
        await until(lambda: ears.listener._newest > 0)
        await link.put(HINTS, key, b"rubbish")
        await give(link, settings, TWO, now - 3)
        await give(link, settings, TWO, now + 1000)
        assert ears.heard == []
        await give(link, settings, TWO, now)
        await until(lambda: ears.heard)
    assert ears.heard == [(TWO, True)]


async def test_who_asks_what_is_stated_leaves_nothing_behind(server: NatsServer, tmp_path: Path) -> None:
    """Nor more and more: a bucket that somebody made may keep it for ever."""
    settings = settings_of(tmp_path, server.url)
    async with connected(server.url, "test") as link:
        for _ in range(3):
            async with announcing(settings), announcing(settings):
                pass
        stored = await link._stream.key_value(STATEMENTS)
        keys, prefix = await stored.keys(), fleet_key(settings.store, settings.index_key)
    marks = [one for one in keys if one.startswith(prefix)]
    assert len(marks) == 1


async def test_what_failed_is_tried_at_the_next_look(server: NatsServer, tmp_path: Path) -> None:
    """A hint is a level, not an edge; what is dealt with is not done twice."""
    settings = settings_of(tmp_path, server.url)
    # A look a minute, as shipped, is only waiting here.
    async with announcing(settings) as announcement, Ears(settings, look=0.1).open() as ears:
        ears.done = False
        await announcement.publish(ONE)
        await until(lambda: len(ears.heard) >= 3)
        ears.done = True
        await until(lambda: ears.counted[-1] == "followed")
        count = len(ears.heard)
        await asyncio.sleep(0.5)  # five more looks
        assert len(ears.heard) == count


async def test_a_slow_reader_takes_the_newest_of_many(server: NatsServer, tmp_path: Path) -> None:
    """Nothing queues up behind an update that takes its time, and nothing stalls."""
    settings = settings_of(tmp_path, server.url)
    async with announcing(settings), connected(server.url, "test") as link, Ears(settings).open() as ears:
        ears.held.clear()
        await give(link, settings, ONE, EARLY)
        await until(lambda: ears.heard)
        for number in range(1000):
            await give(link, settings, hashlib.sha256(bytes(number)).hexdigest(), EARLY + 1 + number)
        await give(link, settings, TWO, EARLY + 2000)
        await until(lambda: ears.listener._value is not None and TWO.encode() in ears.listener._value)
        ears.held.set()
        await until(lambda: ears.heard[-1][0] == TWO)
    assert [sha256 for sha256, _ in ears.heard] == [ONE, TWO]


async def test_a_server_that_comes_late_or_comes_back_is_found(
    own_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is away that is said, in the log once; what was published meanwhile is heard afterwards."""
    settings = settings_of(tmp_path, own_server.url)
    async with Ears(settings).open(connect=False) as ears:
        await until(lambda: ears.listener.problem() is not None)
        await own_server.start()
        await until(lambda: ears.listener.connected and ears.listener.problem() is None)
        own_server.stop()
        await until(lambda: not ears.listener.connected and ears.listener.problem() is not None)
        await own_server.start()
        await until(lambda: ears.listener.connected)
        ears.listener.reset()
        await until(lambda: not ears.listener.connected)
        async with announcing(settings) as announcement:
            await announcement.publish(ONE)
        await until(lambda: ears.heard)
        own_server.stop()
        await until(lambda: ears.listener.problem() is not None)
    assert ears.heard == [(ONE, True)]
    warned = [one for one in caplog.records if one.levelname == "WARNING" and one.name == "sidecar.fleet.bus"]
    assert len(warned) == 1


async def test_a_server_that_falls_silent_is_noticed(own_server: NatsServer) -> None:
    """An open connection that brings nothing is ended, and ending it does not wait for the other side."""
    await own_server.start()
    # A ping every five seconds, as shipped, is only waiting here.
    async with asyncio.timeout(8), connected(own_server.url, "test", ping_seconds=0.1) as link:
        own_server.freeze()
        try:
            with pytest.raises(BusError, match="ended"):
                await link.held(asyncio.Event().wait())
        finally:
            own_server.thaw()


async def test_a_request_to_a_silent_server_ends(own_server: NatsServer) -> None:
    """So does the connection to one, within five seconds."""
    await own_server.start()
    own_server.freeze()
    try:
        with pytest.raises(BusError, match="does not take the connection"):
            async with connected(own_server.url, "test"):
                pass
    finally:
        own_server.thaw()


async def test_wrong_credentials_are_said_without_them(tmp_path: Path) -> None:
    """A sentence names host and port, never user and password."""
    for one in nats_server(tmp_path / "nats"):
        server = NatsServer(one.folder, "fleet", "right")
        try:
            await server.start()
            async with connected(server.url, "test") as link:
                await link.make(HINTS)
            wrong = server.url.replace("right", "wrong-one")
            with pytest.raises(BusError, match="Authorization") as raised:
                async with connected(wrong, "test"):
                    pass
            assert "wrong-one" not in str(raised.value)
            assert place(wrong) in raised.value.message
        finally:
            server.stop()


async def test_tls_is_not_given_up(tmp_path: Path) -> None:
    """Whoever stands in between and says that there is none gets no password."""
    received = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
        while data := await reader.read(1000):
            received.extend(data)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BusError, match="offers no TLS"):
            async with connected(f"tls://fleet:password@127.0.0.1:{port}", "test"):
                pass
    assert b"password" not in received


def test_the_library_is_loaded_only_where_there_is_a_bus() -> None:
    """Neither a daemon nor a command needs it otherwise."""
    code = "import sidecar.daemon, sidecar.cli, sys; print([one for one in sys.modules if 'nats' in one])"
    found = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert found.strip() == "['sidecar.fleet.nats_link']"


async def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional, and a bus without it is a sentence."""
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(BusError, match="not installed") as raised:
        async with connected("nats://127.0.0.1:1", "test"):
            pass
    assert "navigator-sidecar[nats]" in raised.value.hint


async def test_a_machine_states_what_it_serves(server: NatsServer, tmp_path: Path) -> None:
    """Once there is a place for it; and again when it changes, with the hint that it has followed."""
    settings = settings_of(tmp_path, server.url)
    async with announcing(settings) as announcement, Ears(settings).open() as ears:
        await until(lambda: "m1" in announcement.statements)
        assert announcement.statements["m1"] == Statement(ears.served)
        ears.served = MachineReport("m1", "iad", "synced", "progressing", published=TWO, sha256=ONE)
        await announcement.publish(TWO)
        assert await announcement.verdict("unknown", TWO, ready=False) is None
        waiting = asyncio.create_task(announcement.verdict("m1", TWO, ready=False))
        await until(lambda: announcement.statements["m1"].hint > 0)
        assert not waiting.done()  # it has followed, but does not serve it yet
        ears.served = MachineReport("m1", "iad", "synced", "healthy", sha256=TWO, loaded=2)
        ears.listener.moved()
        verdict = await waiting
    assert verdict is not None
    assert (verdict.state, verdict.final) == ("loaded", True)


async def test_a_statement_of_before_the_hint_counts_for_nothing(server: NatsServer, tmp_path: Path) -> None:
    """A machine served this index once before: that it says so proves nothing of now."""
    settings = settings_of(tmp_path, server.url)
    key = fleet_key(settings.store, settings.index_key)
    own = machine_key(key, "m1")
    before = seal(
        Statement(MachineReport("m1", "", "synced", "healthy", sha256=ONE), EARLY), own, _now(), SECRET
    )
    async with connected(server.url, "test") as link, announcing(settings) as announcement:
        await link.put(STATEMENTS, own, before)
        await link.put(STATEMENTS, machine_key(key, "m2"), before)  # another machine's place
        await link.put(STATEMENTS, machine_key(key, "m3"), b"rubbish")
        await until(lambda: announcement.statements)
        await announcement.publish(ONE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(announcement.verdict("m1", ONE, ready=False), 0.2)
    assert set(announcement.statements) == {"m1"}


async def test_a_bus_needs_the_fleets_secret(tmp_path: Path) -> None:
    """Without one nobody's hint could be told from anybody's: that is said, and the bus is left alone."""
    settings = parse({"store": f"file://{tmp_path}", "fleet": {"bus": "nats://127.0.0.1:9"}}, {})
    async with Ears(settings).open(connect=False) as ears:
        await until(lambda: "trigger.secret" in (ears.listener.problem() or ""))
    with pytest.raises(BusError, match=r"trigger\.secret"):
        async with announcing(settings):
            pass


async def test_without_a_bucket_nothing_is_wrong(own_server: NatsServer, tmp_path: Path) -> None:
    """Machines make none: they may not be allowed to, and nobody has asked yet."""
    await own_server.start()
    settings = settings_of(tmp_path, own_server.url)
    async with Ears(settings, look=0.1).open() as ears, connected(own_server.url, "test") as link:
        await asyncio.sleep(0.3)
        assert ears.listener.connected
        assert ears.listener.problem() is None
        assert await statement(link, settings) is None
        async with announcing(settings) as announcement:
            await announcement.publish(ONE)
            await until(lambda: "m1" in announcement.statements)


def _now() -> float:
    import time

    return time.time()


# With a daemon


def bussed(folder: Path, url: str, **update: Any) -> Machine:
    """A machine on the bus, which looks at the store by itself only where a test says so."""
    folder.mkdir(exist_ok=True)
    return Machine(folder, {"fleet": {"bus": url}, "update": {"poll": "0s", **update}})


async def metric(machine: Machine, name: str) -> float:
    async with machine.client() as client, client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def loaded(daemon: Daemon, machine: Machine) -> None:
    """Navigator loads what is published."""
    await until(lambda: daemon.generations.current is not None)
    machine.load()
    await until(lambda: daemon.status.health().state == "healthy")


def current(daemon: Daemon) -> str | None:
    """The SHA-256 of the index in place."""
    found = daemon.generations.current
    return found.index.sha256 if found is not None else None


def digest(machine: Machine) -> str:
    return hashlib.sha256(machine.store_index.read_bytes()).hexdigest()


async def test_a_fleet_update_by_the_bus_pokes_nobody(server: NatsServer, tmp_path: Path) -> None:
    """The machine's statement is enough; its address leads nowhere, and nobody notices."""
    machine = bussed(tmp_path / "m", server.url)
    machine.extra["fleet"]["machines"] = [{"id": "test-machine", "url": "http://127.0.0.1:9"}]
    machine.put_index(seed=1)
    settings = machine.settings()
    async with announcing(settings) as announcement, machine.daemon() as daemon:
        await loaded(daemon, machine)
        await until(lambda: announcement.statements)
        machine.put_index(seed=2)
        updating = asyncio.create_task(FleetUpdates(settings).update(FleetRequest(), NoProgress()))
        await until(lambda: daemon.status.last is not None and daemon.status.last.trigger == "bus")
        machine.load()
        report = await updating
        assert [one.state for one in report.machines] == ["loaded"]
        assert report.machines[0].sha256 == digest(machine)
        shown = await sidecar(machine, "fleet", "status", "--bus", "--json")
        assert (shown.code, shown.json["good"]) == (0, True), shown
        assert [(one["machine"], one["state"]) for one in shown.json["machines"]] == [
            ("test-machine", "in_sync")
        ]
        finding = await examine._bus(settings)
        assert finding.good
        assert digest(machine)[:12] in finding.message
        assert await metric(machine, "sidecar_bus_connected") == 1
        assert await metric(machine, 'sidecar_bus_hints_total{outcome="followed"}') == 1
        assert await metric(machine, 'sidecar_updates_total{outcome="published",trigger="bus"}') == 1


async def test_with_the_bus_muted_or_gone_everything_converges(
    own_server: NatsServer, tmp_path: Path
) -> None:
    """Pokes and the regular look go on, the machine stays healthy, and status says what is wrong."""
    await own_server.start()
    # A look every ten minutes, as shipped, is only waiting here.
    machine = bussed(tmp_path / "m", own_server.url, poll="1s")
    machine.put_index(seed=1)
    async with machine.daemon() as daemon:
        await loaded(daemon, machine)
        await until(lambda: daemon.bus.connected)
        machine.put_index(seed=2)  # and nobody says so
        await until(lambda: current(daemon) == digest(machine))
        own_server.stop()
        await until(lambda: not daemon.bus.connected)
        machine.put_index(seed=3)
        async with machine.client() as client, client.post("/update") as answer:
            assert answer.status == 200
        assert current(daemon) == digest(machine)
        machine.load()
        await until(lambda: daemon.status.health().state == "healthy")
        assert any("bus" in one for one in daemon.status.status().problems)
        assert await metric(machine, "sidecar_bus_connected") == 0


async def test_the_machine_that_owns_the_index_follows_no_hint(tmp_path: Path) -> None:
    """It is where the change was made: it would wait in vain for its own index to be another."""
    machine = bussed(tmp_path / "m", "nats://127.0.0.1:9", own_index=True)
    machine.put_index()
    machine.store_index.rename(machine.target("index.sqlite3"))
    async with machine.daemon() as daemon:
        await started(daemon)
        assert await daemon._hinted(TWO, "the bus", True)
        assert daemon.status.last is not None
        assert daemon.status.last.trigger == "start"


async def test_a_fleet_update_goes_on_without_its_bus(tmp_path: Path) -> None:
    """It says so, and pokes."""
    machine = bussed(tmp_path / "m", "nats://127.0.0.1:9")
    machine.extra["fleet"].update(machines=[{"id": "m1", "url": "http://127.0.0.1:9"}], attempts=1)
    machine.put_index()
    said: list[str] = []

    class Ear(NoProgress):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    report = await FleetUpdates(machine.settings()).update(FleetRequest(), Ear())
    finding = await examine._bus(machine.settings())
    assert not finding.good
    assert "127.0.0.1:9" in finding.message
    assert [one.state for one in report.machines] == ["unreachable"]
    assert any("poked without it" in one and "127.0.0.1:9" in one for one in said)
