"""kill -9 at any moment: the next start finds, or makes, a whole generation, and the right one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import yaml

from sidecar.cli.client import Client, NoDaemon
from sidecar.demo.sample import Size, set_password, write_index
from sidecar.generations import INDEX, Manifest
from tests.support import warm
from tests.support.cgi import environment
from tests.support.machine import Machine
from tests.support.publisher import (
    Press,
    check_whole,
    leftovers,
    machine_in_memory,
    open_generations,
    sha256,
    stamps,
    update,
)

SIZE = Size(events=12, studios=8, users=8)
NAVIGATOR = "navigator.yml"
READ_ALL_THE_TIME = (NAVIGATOR, "showcases.yml", "htpasswd")
RANDOM_KILLS = 24
# Of calls each second one: what lies between two checkpoints is of one kind.
STEPS = {"checkpoint": 1, "call": 2}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that has an old generation to remove at each publication."""
    with machine_in_memory(tmp_path, update={"keep": 2}) as machine:
        yield machine


def everything(path: Path, turn: int) -> None:
    """Nothing is as in the turn before."""
    write_index(path, SIZE, seed=turn % 2)


def one_password(path: Path, turn: int) -> None:
    """A password is all that changes."""
    write_index(path, SIZE, seed=1)
    set_password(path, "user0001", f"user0001:{{SHA}}{'ab'[turn % 2] * 27}=")


Change = Callable[[Path, int], None]


class Store:
    """Puts indexes into the folder store of a machine, and keeps a copy of each."""

    def __init__(self, machine: Machine, change: Change) -> None:
        self._machine = machine
        self._copies = [machine.folder / f"copy-{turn}.sqlite3" for turn in range(2)]
        for turn, copy in enumerate(self._copies):
            change(copy, turn)
        self._turn = 0

    def put_next(self) -> Path:
        """Put another index than last time; returns a copy of it."""
        self._turn += 1
        copy = self._copies[self._turn % 2]
        incoming = self._machine.store_index.with_name("incoming")
        shutil.copyfile(copy, incoming)
        incoming.replace(self._machine.store_index)
        return copy

    def find(self, manifest: Manifest) -> Path:
        """The copy of the index that a generation was made of."""
        return next(copy for copy in self._copies if sha256(copy) == manifest.index.sha256)


def start_again(machine: Machine) -> Manifest | None:
    """What is in place after a new start; all that is kept is whole, and a second start has nothing to do."""
    for last in (False, True):
        generations = open_generations(machine)
        try:
            said = generations.startup()
        finally:
            generations.shutdown()
        assert not (last and said)
    for number in generations.archive.numbers():
        assert generations.archive.artifacts(number)
        manifest = generations.archive.manifest(number)
        assert sha256(generations.archive.folder(number) / INDEX) == manifest.index.sha256
    return generations.current


def navigator_is_newest(machine: Machine) -> bool:
    times = {name: machine.target(name).stat().st_mtime_ns for name in machine.targets()}
    return all(times[NAVIGATOR] > moment for name, moment in times.items() if name != NAVIGATOR)


def newest_generation(machine: Machine) -> int:
    folder = machine.state / "generations"
    return max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)


@pytest.mark.parametrize("kind", ["checkpoint", "call"])
@pytest.mark.parametrize("change", [everything, one_password])
def test_killed_at_every_point_of_a_change(machine: Machine, change: Change, kind: str) -> None:
    """Killed before the commit, the old set is untouched; after it, the next start completes the new one.

    Points are all checkpoints, and every second call that changes something on disk, until one run survives.
    """
    store = Store(machine, change)
    for _ in range(3):  # so that there is an old generation to remove, too
        old = store.put_next()
        assert update(machine).state == "published"
    committed: list[bool] = []
    with Press(machine) as press:
        for number in range(1, 1000, STEPS[kind]):
            before, generation = stamps(machine), newest_generation(machine)
            new = store.put_next()
            answer = press.run(kind, number)
            if not answer.killed:
                break
            committed.append(newest_generation(machine) > generation)
            assert committed[-1] == answer.points[-1].committed
            if not committed[-1]:
                assert {name: stamps(machine)[name] for name in before} == before
            manifest = start_again(machine)
            check_whole(machine, manifest, new if committed[-1] else old)
            if committed[-1]:
                assert navigator_is_newest(machine)
                assert stamps(machine)[NAVIGATOR][1] > before[NAVIGATOR][1]
            else:
                assert stamps(machine) == before
            old = store.put_next() if committed[-1] else new
            assert update(machine).state == "published", answer.points[-1]
            check_whole(machine, start_again(machine), old)
        assert (answer.status, answer.state) == (0, "published")
    assert committed == sorted(committed), "the commit is one point"
    assert 15 < len(committed) < 999
    assert any(committed)
    assert not all(committed)


@pytest.mark.parametrize("kind", ["checkpoint", "call"])
def test_killed_at_every_point_of_the_first_publication(machine: Machine, kind: str) -> None:
    """Killed before the first commit there is nothing in place; after it, the next start completes it."""
    store = Store(machine, everything)
    committed: list[bool] = []
    with Press(machine) as press:
        for number in range(1, 1000, STEPS[kind]):
            for folder in (machine.state, machine.application):
                shutil.rmtree(folder, ignore_errors=True)
            index = store.put_next()
            answer = press.run(kind, number)
            if not answer.killed:
                break
            committed.append(newest_generation(machine) > 0)
            assert committed[-1] == answer.points[-1].committed
            if committed[-1]:
                check_whole(machine, start_again(machine), index)
                assert navigator_is_newest(machine)
            else:
                assert start_again(machine) is None
                assert stamps(machine) == {}
                assert leftovers(machine) == []
            after = store.put_next()
            assert update(machine).state == "published", answer.points[-1]
            check_whole(machine, start_again(machine), after)
        assert (answer.status, answer.state) == (0, "published")
    assert committed == sorted(committed), "the commit is one point"
    assert 15 < len(committed) < 999
    assert any(committed)
    assert not all(committed)


class Disk:
    """Notes what a process has asked the disk to keep, and what it has renamed, in order, and does it.

    A rename is noted with the files concerned whose present content was not synced before.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[int, str] = {}
        self.events: list[tuple[str, Path]] = []
        self.lost: list[Path] = []
        fsync, rename = os.fsync, os.rename

        def note_sync(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_file():
                self._synced[path.stat().st_ino] = sha256(path)
            self.events.append(("sync", path))

        def note_rename(source: Path, target: Path) -> None:
            self.events.append(("rename", Path(target)))
            for path in [source] if source.is_file() else [*source.iterdir(), source]:
                if path.is_dir():
                    safe = ("sync", path) in self.events
                else:
                    safe = self._synced.get(path.stat().st_ino) == sha256(path)
                if not safe:
                    self.lost.append(path)
            rename(source, target)

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(os, "rename", note_rename)

    def place(self, kind: str, path: Path) -> int:
        """When it happened first."""
        return self.events.index((kind, path))


def test_nothing_counts_before_the_disk_has_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut takes what was not synced: whatever a step is built on is on the disk before that step.

    So each prefix of what a publication does, with all or none of what was not synced, is what a kill between
    two calls leaves.
    """
    store = Store(machine, everything)
    for number in (1, 2):
        store.put_next()
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            assert update(machine).state == "published"
        generations = machine.state / "generations"
        committed = disk.place("rename", generations / f"{number:08}")
        targets = [machine.target(name) for name in machine.targets()]
        written = [target for target in targets if ("rename", target) in disk.events]
        assert len(written) >= 5
        installed = [disk.place("rename", target) for target in written]
        synced = [disk.events.index(("sync", target.parent), max(installed)) for target in written]
        recorded = disk.place("rename", machine.state / "installed.json")
        assert committed < disk.place("sync", generations) < min(installed)
        assert max(synced) < recorded
        # All that may be lost are records that a start can do without.
        assert {path.name for path in disk.lost} <= {
            f".{name}.sidecar-new" for name in ("installed.json", "databases.json", "ready.json")
        }


def test_killed_while_it_recovers(machine: Machine) -> None:
    """A start that completes a publication can itself be killed anywhere; the next one completes it."""
    store = Store(machine, everything)
    store.put_next()
    update(machine)
    store.put_next()
    kills = 0
    with Press(machine) as press:
        points = press.run("checkpoint", 0).points
        commit = next(number for number, point in enumerate(points, 1) if point.committed)
        for number in range(1, 1000):
            index = store.put_next()
            assert press.run("checkpoint", commit).killed
            answer = press.run("call", number)
            kills += answer.killed
            check_whole(machine, start_again(machine), index)
            assert navigator_is_newest(machine)
            if not answer.killed:
                break
        assert (answer.status, answer.state) == (0, "unchanged")
    assert kills > 15


class Reader:
    """Reads what is published without a pause, and notes what is not a whole content.

    `contents` are the whole contents of each file that is read; of the index, what its queries give.
    """

    QUERIES = ("select userid, password from users order by id", "select name from showcases order by id")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._contents: dict[str, set[bytes]] = {name: set() for name in READ_ALL_THE_TIME}
        self._indexes: list[list[object]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.torn: list[str] = []
        self.rounds = 0

    def learn(self) -> None:
        """Remember what is in place now as a whole content."""
        for name, known in self._contents.items():
            content = self._machine.target(name).read_bytes()
            if name.endswith(".yml"):
                assert yaml.safe_load(content.replace(b":name:", b"name:"))
            known.add(content)
        self._indexes.append(self._query())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for name, known in self._contents.items():
                    content = self._machine.target(name).read_bytes()
                    if content not in known:
                        self.torn.append(f"{name}: {content[-200:]!r}")
                if self._query() not in self._indexes:
                    self.torn.append("the index is a mixture")
            except (OSError, sqlite3.Error) as error:
                self.torn.append(repr(error))
            self.rounds += 1
            time.sleep(0.003)  # the daemon wants to get on, too

    def _query(self) -> list[object]:
        with closing(sqlite3.connect(self._machine.target(INDEX), isolation_level=None)) as connection:
            connection.execute("begin")
            return [connection.execute(query).fetchall() for query in self.QUERIES]


class Poker:
    """Lets the running daemon publish one index after the other, until it is stopped."""

    def __init__(self, machine: Machine, store: Store) -> None:
        self._client = Client(str(machine.socket), timeout=20)
        self._store = store
        self._stop = threading.Event()
        self.answered = threading.Event()
        self.acknowledged = 0
        self.wrong: list[object] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._store.put_next()
            try:
                status, body = self._client.request("POST", "/update")
            except NoDaemon:
                self._stop.wait(0.01)  # not yet, or not any more
                continue
            if status != 200:
                self.wrong.append(body)
            else:
                self.acknowledged = body["generation"]
            self.answered.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)


def wait_for_publication(machine: Machine) -> None:
    """Return in the midst of the next publication: files lie beside their targets already."""
    deadline = time.monotonic() + 30
    while not any((machine.application / "db").glob(".*sidecar-new")):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(machine: Machine, seed: int) -> None:
    """A daemon that publishes all the time, killed at random moments, never loses or mixes a set.

    What it has answered for is in place after the restart, and no reader ever sees a torn file.
    """
    rng = random.Random(seed)
    store = Store(machine, everything)
    config = machine.write_settings()
    reader = Reader(machine)
    for _ in range(2):
        store.put_next()
        update(machine)
        reader.learn()
    command = ["--config", str(config), "serve"]
    interrupted = acknowledged = 0
    with reader, open(machine.folder / "log", "ab") as log:
        for _ in range(RANDOM_KILLS):
            serve = warm.start(command, environment(), stdin=0, stdout=log.fileno(), stderr=log.fileno())
            poker = Poker(machine, store)
            try:
                moment = rng.choice(("starting", "any", "publishing", "publishing"))
                if moment == "starting":
                    time.sleep(rng.uniform(0, 0.2))
                else:
                    assert poker.answered.wait(30), (machine.folder / "log").read_text()[-2000:]
                    if moment == "any":
                        time.sleep(rng.uniform(0, 0.1))
                    else:
                        wait_for_publication(machine)
                        time.sleep(rng.uniform(0, 0.005))
            finally:
                serve.kill()
                serve.wait_blocking(10)
                poker.stop()
            assert poker.wrong == []
            assert serve.returncode == -signal.SIGKILL
            acknowledged = max(acknowledged, poker.acknowledged)
            if rng.random() < 0.25:
                continue  # the next daemon recovers by itself, and may be killed while it does
            newest = newest_generation(machine)
            generations = open_generations(machine)
            said = generations.startup()
            generations.shutdown()
            interrupted += bool(said)
            assert generations.current is not None
            assert generations.current.number == newest >= acknowledged
            check_whole(machine, generations.current, store.find(generations.current))
            assert not said or navigator_is_newest(machine)
    assert reader.torn == []
    assert reader.rounds > RANDOM_KILLS
    print(f"{RANDOM_KILLS} kills, {interrupted} publications completed afterwards, {reader.rounds} reads")
