"""No history of two machines and a store loses what an event's owner wrote: real files, a folder as store."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.config.settings import FetchSettings, Settings
from sidecar.errors import StoreError
from sidecar.inputs.store.folder import FolderStore
from sidecar.model.index import Event, Index, Programme, Studio
from sidecar.model.objects import Stored
from sidecar.model.work import AddedTenants
from sidecar.ready.databases import Databases
from sidecar.ready.facts import GenerationData
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.memory import FileMemory
from sidecar.ready.plan import LastSynced
from sidecar.ready.push import Push
from sidecar.ready.report import StepReport
from sidecar.system.background import Background

NAME = "2026-boston"
STUDIO = Studio("boston", "Boston", None, None, None, None, None)
EVENT = Event(2026, "showcase", "Showcase", "boston", None)
REGIONS = ("iad", "syd")
_numbers = itertools.count(1)


class Killed(BaseException):
    """The end of a process, in the middle of what it does."""


class Bus(FolderStore):
    """The store, whose answer to an upload can be lost on the way, to a process that lives on or does not."""

    loses: type[BaseException] | None = None
    down = False

    async def objects(self, prefix: str) -> list[Stored]:
        """The listing, unless the store is out of reach."""
        if self.down:
            raise StoreError("out of reach")
        return await super().objects(prefix)

    async def put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        """Store it; then the answer may be lost."""
        etag = await super().put(key, source, modified, replaces)
        if self.loses is not None and key.endswith(".sqlite3"):
            raise self.loses("no answer")
        return etag


class Forgetful(FileMemory[LastSynced]):
    """A memory that can be killed before it has written down what happened."""

    killed = False

    def save(self) -> None:
        """Write it down, or die."""
        if self.killed:
            raise Killed
        super().save()


@dataclass
class Place:
    """A machine: its folder, what it remembers, how wrong its clock is, and whether it serves the event.

    `owner`: by its generation in place, which place owns the event. `withheld`: that generation leaves the
    event out until its database is here.
    """

    folder: Path
    region: str
    store: Bus
    background: Background
    offset: float = 0.0
    serves: bool = False
    withheld: bool = False
    owner: int = 0
    owned: bool = False
    parts: tuple[Databases, Push, Forgetful] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        self.start()

    @property
    def path(self) -> Path:
        """The event's database."""
        return self.folder / f"{NAME}.sqlite3"

    def start(self) -> None:
        """A new process, which knows what was written down."""
        files = DatabaseFolder(self.folder, self.folder / "state" / "databases", 0o644, -1, -1)
        memory = Forgetful(self.folder / "state" / "databases.json", LastSynced)
        databases = Databases(_settings(self.region), self.store, files, memory, self.background)
        push = Push(databases, self.store, files, memory, self.region, self.folder / "state")
        self.parts = databases, push, memory

    def write(self) -> None:
        """The application adds a row, at the time of this machine's clock."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("create table if not exists rows (id integer primary key)")
            connection.execute("insert into rows values (?)", (next(_numbers),))
        self.touch()

    def touch(self) -> None:
        """The file's time is that of this machine's clock; it goes on by ten seconds each time."""
        now = 1_770_000_000 + 10 * next(_numbers) + self.offset
        os.utime(self.path, (now, now))


def _settings(region: str) -> Settings:
    """A machine of a region that keeps copies of the others' databases."""
    shipped: Settings = Settings()
    return replace(
        shipped,
        machine=replace(shipped.machine, region=region),
        databases=replace(shipped.databases, copies=True),
    )


def rows_in(path: Path) -> frozenset[int]:
    """What a database holds."""
    if not path.exists() or not path.stat().st_size:
        return frozenset()
    with closing(sqlite3.connect(path)) as connection:
        return frozenset(row[0] for row in connection.execute("select id from rows"))


class World:
    """Two machines and the store they share; one region owns the event."""

    def __init__(self, folder: Path, background: Background) -> None:
        self.object = folder / "store" / "db" / f"{NAME}.sqlite3"
        store = Bus(folder / "store", FetchSettings(), lambda *_: None)
        self.store = store
        (folder / "store").mkdir()
        self.places = [Place(folder / region, region, store, background) for region in REGIONS]
        self.owner = 0

    async def begin(self) -> None:
        """The first publication of the first owner, which has no database of the event yet."""
        await self.places[0].parts[0].prepare(AddedTenants((NAME,), first=True))
        self.places[0].serves = self.places[0].owned = True

    def facts(self, place: Place) -> GenerationData:
        """The generation that says who owns the event."""
        region = REGIONS[place.owner]
        programme = Programme(2026, STUDIO, region, (EVENT,), single=True)
        served = (NAME,) if place.region == region else ()
        index = Index((), (STUDIO,), (EVENT,), ())
        return GenerationData(1, "", index, {"boston": region}, (programme,), served, ())

    def everything(self) -> frozenset[int]:
        """All rows that exist somewhere."""
        return rows_in(self.object).union(*(rows_in(place.path) for place in self.places))

    # What people and the application do

    def write(self, number: int | None = None) -> None:
        """The application writes where the event is served; it makes a database where there is none."""
        place = self.places[self.owner if number is None else number]
        if place.serves:
            place.write()

    def touch(self, number: int) -> None:
        """A tool reads a copy, say, and moves its time."""
        if self.places[number].path.exists():
            self.places[number].touch()

    def set_clock(self, number: int, offset: float) -> None:
        """The clock of a machine is wrong from now on."""
        self.places[number].offset = offset

    # What the machines do

    async def work(self, number: int, *, killed: bool) -> None:
        """The ready work, which a kill can end before it has written down what it did."""
        place = self.places[number]
        databases, _, memory = place.parts
        memory.killed = killed
        try:
            await databases.fetch(self.facts(place), StepReport(lambda: None, lambda _: None))
        except Killed:
            place.start()
        memory.killed = False
        if self.owner == place.owner == number and not place.serves:
            await self.publish(place)

    async def publish(self, place: Place) -> None:
        """An update of the owner, by the process that lives now: it serves the event once that may be."""
        databases, _, memory = place.parts
        if place.withheld and not databases.resolves((NAME,)):
            return
        try:
            prepared = await databases.prepare(AddedTenants((NAME,), (NAME,) if place.withheld else ()))
        except Killed:
            place.start()
        else:
            place.withheld = NAME in prepared.withheld
            place.serves = not place.withheld
            place.owned = place.owned or place.serves
        memory.killed = False

    async def push(self, lost: type[BaseException] | None, number: int | None = None) -> None:
        """An upload that somebody asked for, without insisting."""
        place = self.places[self.owner if number is None else number]
        self.store.loses = lost
        try:
            await place.parts[1].push(self.facts(place), [], overwrite=False)
        except Killed:
            place.start()
        finally:
            self.store.loses = None

    async def move(self, how: str) -> None:
        """The event's region becomes the other one; its machine serves it once its database is here.

        Its process may be `killed` on the way, and the store may be `down`.
        """
        self.owner = 1 - self.owner
        self.store.down = how == "down"
        await self.update(1 - self.owner)
        await self.update(self.owner, killed=how == "killed")
        self.store.down = False

    async def update(self, number: int, *, killed: bool = False) -> None:
        """A machine follows the index, whatever generation it had gone back to."""
        place = self.places[number]
        place.owner = self.owner
        if number != self.owner:
            place.serves = place.withheld = False
        elif not place.serves:
            place.withheld = False
            place.parts[2].killed = killed
            await self.publish(place)

    async def roll_back(self, number: int) -> None:
        """A machine goes back to a generation in which the event was its own, whoever owns it by now.

        That is refused where the database is not here and cannot come.
        """
        place = self.places[number]
        if not place.owned or place.serves:
            return
        prepared = await place.parts[0].prepare(AddedTenants((NAME,)))
        if NAME not in prepared.withheld:
            place.owner, place.serves, place.withheld = number, True, False


PLACES = st.integers(0, 1)
WRITE: tuple[Any, ...] = ("write",)
STORE: tuple[Any, ...] = ("push", None)
MOVE: tuple[Any, ...] = ("move", "fine")
STEPS = st.one_of(
    st.just(WRITE),
    st.tuples(st.just("write"), PLACES),
    st.tuples(st.just("push"), st.sampled_from([None, StoreError, Killed]), PLACES),
    st.tuples(st.just("roll_back"), PLACES),
    st.tuples(st.just("update"), PLACES),
    st.tuples(st.just("push"), st.sampled_from([None, None, StoreError, Killed])),
    st.tuples(st.just("move"), st.sampled_from(["fine", "fine", "killed", "down"])),
    st.tuples(st.just("work"), PLACES, st.booleans()),
    st.tuples(st.just("touch"), PLACES),
    st.tuples(st.just("set_clock"), PLACES, st.sampled_from([-86_400.0, -0.5, 0.0, 3600.0])),
)


def work(number: int) -> tuple[Any, ...]:
    return ("work", number, False)


@settings(max_examples=50)
@given(st.lists(STEPS, min_size=6, max_size=20))
@example([("move", "killed"), ("work", 1, True), WRITE, MOVE, WRITE, STORE, MOVE])  # killed on its way here
@example([WRITE, STORE, ("move", "down"), ("work", 1, True), work(0), WRITE, MOVE, WRITE, STORE, MOVE])
@example([WRITE, STORE, WRITE, MOVE, WRITE, STORE, work(0)])  # an unstored write, and a newer object
@example([WRITE, STORE, work(0), WRITE, MOVE, work(0), WRITE, STORE, work(0)])  # the same, looked at twice
@example([WRITE, MOVE, WRITE, STORE, work(0)])  # a first write that was never stored
@example([WRITE, STORE, MOVE, WRITE, MOVE, WRITE, STORE, MOVE, STORE, work(0)])  # there and back again
@example([WRITE, STORE, MOVE, ("roll_back", 0), ("write", 0), WRITE, STORE, work(0), ("update", 0), work(0)])
@example(
    [WRITE, STORE, MOVE, WRITE, ("roll_back", 0), ("write", 0), ("push", None, 0), work(1), STORE, work(0)]
)
@example([WRITE, ("push", Killed), WRITE, STORE, WRITE, MOVE, WRITE, STORE, work(0)])
@example([WRITE, STORE, MOVE, ("set_clock", 0, 3600.0), ("touch", 0), WRITE, STORE, MOVE, WRITE, STORE])
@example([WRITE, STORE, ("set_clock", 1, -86_400.0), MOVE, WRITE, STORE, MOVE, WRITE, STORE, work(1)])
def test_no_history_loses_a_write(steps: list[Any]) -> None:
    """Whatever happens in whatever order, what an owner wrote stays somewhere, until a person decides."""
    asyncio.run(play(steps))


async def play(steps: list[Any]) -> None:
    """One history; after each step of a machine every row is still somewhere."""
    background = Background(2, 0)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), background)
        try:
            await world.begin()
            for name, *arguments in steps:
                before = world.everything()
                if name == "write":
                    world.write(*arguments)
                    continue
                if name in ("touch", "set_clock"):
                    getattr(world, name)(*arguments)
                elif name == "work":
                    await world.work(arguments[0], killed=arguments[1])
                else:
                    await getattr(world, name)(*arguments)
                assert world.everything() == before, (name, arguments)
        finally:
            background.shutdown()


@pytest.mark.parametrize("lost", [StoreError, Killed])
async def test_an_upload_whose_end_nobody_saw(tmp_path: Path, lost: type[BaseException]) -> None:
    """The next look knows it again: no conflict, and the next change is stored."""
    background = Background(2, 0)
    world = World(tmp_path, background)
    try:
        await world.begin()
        world.write()
        await world.push(lost)
        world.write()
        await world.push(None)
        assert rows_in(world.object) == rows_in(world.places[0].path)
    finally:
        background.shutdown()
