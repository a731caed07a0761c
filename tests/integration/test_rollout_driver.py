"""Drivers of rollouts that die, sleep, meet each other, and a store that fails: in memory, so all of it."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.errors import StoreError
from sidecar.fleet import driver as driver_module
from sidecar.fleet.driver import Driver, LeaseLost
from sidecar.fleet.machines import Target
from sidecar.fleet.progress import NoProgress
from sidecar.fleet.report import MachineResult
from sidecar.fleet.rollout import Rollout, halted, taken_over, waves
from sidecar.fleet.store_records import StoreRecords
from sidecar.fleet.verdicts import Verdict
from tests.support.memory_store import Died, MemoryStore

KEY = "db/index.sqlite3"
RECORD = "db/index-rollout.json"
OLD, NEW, OTHER = b"the old index", b"the new index", b"another's index"
NAMES = ("m1", "m2", "m3", "m4", "m5")


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Machines:
    """Machines that serve what they are told, unless they refuse the new index, or cannot be reached."""

    def __init__(self, store: MemoryStore, refusing: Iterable[str] = (), gone: Iterable[str] = ()) -> None:
        self._store = store
        self.refusing = set(refusing)
        self.gone = set(gone)
        self.serves = dict.fromkeys(NAMES, digest(OLD))
        self.ever: set[str] = set()

    async def active(self) -> tuple[Target, ...]:
        return tuple(Target(name, "", "", "http://x") for name in NAMES)

    async def bring(
        self, targets: Iterable[Target], sha256: str, body: Path | None
    ) -> tuple[MachineResult, ...]:
        results = []
        for target in targets:
            name, state = target.id, "loaded"
            self._store.before("poke", name)
            held = digest(self._store.content[KEY])
            if name in self.gone:
                state = "unreachable"
            elif name in self.refusing and sha256 == digest(NEW):
                state = "refused"
            elif body is None and sha256 != held:
                state = "stale"
            else:
                self.serves[name] = sha256
                self.ever |= {name} if sha256 == digest(NEW) else set()
            results.append(MachineResult(name, "", "", state, sha256=self.serves[name]))
            self._store.before("poked", name)
        return tuple(results)

    async def look(self, target: Target, sha256: str) -> Verdict | None:
        if target.id in self.gone:
            return Verdict("unreachable")
        return Verdict("loaded" if self.serves[target.id] == sha256 else "superseded")

    def look_at_store(self) -> None:
        """All machines look at it by themselves; who has the new index ahead of it keeps that for a while."""
        held = digest(self._store.content[KEY])
        for name in NAMES:
            if held == digest(NEW) and name not in self.refusing:
                self.serves[name] = held
                self.ever.add(name)

    def poll(self) -> None:
        """All machines look at the store, after the time in which they keep what was sent ahead of it."""
        self.serves = dict.fromkeys(NAMES, digest(self._store.content[KEY]))


class World:
    """A store, machines, and one driver after the other."""

    def __init__(self, folder: Path, refusing: Iterable[str] = (), gone: Iterable[str] = ()) -> None:
        self.store = MemoryStore()
        self.machines = Machines(self.store, refusing, gone)
        self.records = StoreRecords(self.store, KEY, folder)
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.store.content |= {KEY: OLD} | {f"db/index-history/{digest(one)}": one for one in (OLD, NEW)}
        self.rollout = Rollout(
            "first", "the first", 0.0, 5.0, digest(NEW), digest(OLD),
            hashlib.md5(OLD, usedforsecurity=False).hexdigest(), 1.0, 2.0,
            waves(NAMES, NAMES[:1]), len(NAMES),
        )  # fmt: skip

    def driver(self, **more: Any) -> Driver:
        """Another process, with a folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Driver(
            self.store,
            KEY,
            StoreRecords(self.store, KEY, folder),
            self.machines,
            lambda etag, sha256: None,
            NoProgress(),
            folder,
            soak=0.0,
            **more,
        )

    async def drive(self) -> Rollout:
        return await self.driver().drive(self.rollout, None)

    async def go_on(self, *, back: bool = False, token: str = "second") -> Rollout | None:
        """The next driver; None where the first has not come as far as to begin."""
        known = await self.records.get(RECORD, Rollout)
        if known is None or known[0].ended:
            return known[0] if known else None
        ours = taken_over(known[0], token, token, 10.0)
        return await self.driver().drive(halted(ours, "aborted") if back else ours, known[1])

    async def next_one(self, body: bytes) -> Rollout:
        """The rollout after this one has ended."""
        known = await self.records.get(RECORD, Rollout)
        assert known is not None
        held = self.store.content[KEY]
        self.store.content |= {f"db/index-history/{digest(one)}": one for one in (held, body)}
        etag = hashlib.md5(held, usedforsecurity=False).hexdigest()
        rollout = replace(
            self.rollout, token="next", started=9.0, target=digest(body), base=digest(held), base_etag=etag
        )
        return await self.driver().drive(rollout, known[1])

    def seen_in_store(self) -> set[bytes]:
        """Every index that the store holds from now on."""
        held, put = set(), self.store.put

        async def watched(key: str, source: Path, modified: float, replaces: str | None) -> str:
            try:
                return await put(key, source, modified, replaces)
            finally:
                held.add(self.store.content[KEY])

        self.store.put = watched  # type: ignore[method-assign]
        return held

    def record(self) -> Rollout:
        return msgspec.json.decode(self.store.content[RECORD], type=Rollout)

    def check(self) -> None:
        """What holds at every end: the store has what the end says, and so has whoever can be reached."""
        held, ended = digest(self.store.content[KEY]), self.record()
        assert ended.ended
        assert held == digest(NEW if ended.phase == "done" else OLD)
        reachable = set(NAMES) - self.machines.gone
        serving = {self.machines.serves[name] for name in reachable}
        assert serving == {held}, ended


def dies_at(number: int) -> Any:
    """A request at which the process dies, and every later one of it."""
    left = [number]

    def before(operation: str, key: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Died

    return before


async def steps(folder: Path, refusing: tuple[str, ...], gone: tuple[str, ...]) -> int:
    """How many moments there are in a rollout at which its driver can die."""
    world, seen = World(folder, refusing, gone), []
    world.store.before = lambda operation, key: seen.append(key)
    await world.drive()
    world.store.before = lambda operation, key: None
    world.check()
    return len(seen)


@pytest.mark.parametrize(
    ("refusing", "gone"), [((), ()), (("m1",), ()), (("m2",), ()), (("m5",), ()), ((), ("m1",))]
)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("polled", [False, True])
async def test_a_driver_may_die_at_any_moment(
    tmp_path: Path, refusing: tuple[str, ...], gone: tuple[str, ...], back: bool, polled: bool
) -> None:
    """Before and after every request to store and machines: whoever goes on, or aborts, comes to an end.

    So for machines that have fetched from the store, meanwhile, what it held.
    """
    for number in range(await steps(tmp_path, refusing, gone)):
        world = World(tmp_path, refusing, gone)
        world.store.before = dies_at(number)
        with pytest.raises(Died):
            await world.drive()
        world.store.before = lambda operation, key: None
        if polled:
            world.machines.look_at_store()
        if await world.go_on(back=back) is None:
            assert world.store.content[KEY] == OLD
            assert not world.machines.ever
            continue
        world.check()
        if refusing == ("m1",):
            assert not world.machines.ever


@given(
    deaths=st.lists(st.integers(0, 40), max_size=4),
    backs=st.lists(st.booleans(), min_size=5, max_size=5),
    refusing=st.sets(st.sampled_from(NAMES), max_size=2),
    gone=st.sets(st.sampled_from(NAMES), max_size=3),
    lost=st.sets(st.sampled_from([KEY, RECORD])),
    polls=st.lists(st.booleans(), min_size=5, max_size=5),
)
# Made anew for each example are the store and all that stands on it; the folder holds files on their way.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_ends_well(
    tmp_path: Path,
    deaths: list[int],
    backs: list[bool],
    refusing: set[str],
    gone: set[str],
    lost: set[str],
    polls: list[bool],
) -> None:
    """Several deaths in a row, lost answers, machines that refuse, are gone, or poll: the end is one of two.

    What the first machine that can be reached refuses, no other one has ever heard of, and the store has
    never held. A good index that comes after it comes to all, whatever was before.
    """

    async def history() -> None:
        world = World(tmp_path, refusing, gone)
        world.store.loses_answers = set(lost)
        held = world.seen_in_store()
        begun = False
        for number, death in enumerate([*deaths, None]):
            world.store.before = dies_at(death) if death is not None else lambda operation, key: None
            try:
                if not begun:
                    await world.drive()
                else:
                    await world.go_on(back=backs[number], token=f"driver {number}")
            except Died:
                if polls[number]:
                    world.machines.look_at_store()
            begun = RECORD in world.store.content
        world.check()
        if next((name for name in NAMES if name not in gone), None) in refusing:
            assert not world.machines.ever
            assert NEW not in held
        world.machines.gone.clear()
        world.machines.poll()
        world.check()
        world.machines.refusing.clear()
        assert (await world.next_one(OTHER)).phase == "done"
        assert world.store.content[KEY] == OTHER
        assert set(world.machines.serves.values()) == {digest(OTHER)}

    asyncio.run(history())


async def test_a_lost_answer_is_no_failure(tmp_path: Path) -> None:
    """The index was stored, the library asked again, and the store says that it is not the one it was."""
    for key in (KEY, RECORD):
        world = World(tmp_path)
        world.store.loses_answers = {key}
        assert (await world.drive()).phase == "done"
        world.check()


async def test_a_store_that_is_behind_misleads_nobody(tmp_path: Path) -> None:
    """It gives the index before it, and still that goes back into the store when the last wave refuses."""
    world = World(tmp_path, refusing=("m5",))

    def before(operation: str, key: str) -> None:
        world.store.behind = world.store.content[KEY] == NEW and key == KEY

    world.store.before = before
    assert (await world.drive()).phase == "taken_back"
    world.check()


async def test_a_driver_that_slept_is_refused_its_next_write(tmp_path: Path) -> None:
    """Another has taken it over and back meanwhile: the first one touches neither store nor machines."""
    world = World(tmp_path)
    asleep, awake = asyncio.Event(), asyncio.Event()
    look = world.machines.look

    async def slow(target: Target, sha256: str) -> Verdict | None:
        asleep.set()
        await awake.wait()
        return await look(target, sha256)

    world.machines.look = slow  # type: ignore[method-assign]
    first = asyncio.create_task(world.drive())
    await asleep.wait()
    world.machines.look = look  # type: ignore[method-assign]
    await world.go_on(back=True)
    awake.set()
    with pytest.raises(LeaseLost):
        await first
    world.check()
    assert world.record().token == "second"


@pytest.mark.parametrize("late", [False, True])
async def test_a_driver_that_slept_before_its_upload_stores_nothing_for_long(
    tmp_path: Path, late: bool
) -> None:
    """It was taken over: it uploads nothing, or, right before the upload, puts back what was there."""
    world = World(tmp_path)
    taken = False
    uploads = []

    def before(operation: str, key: str) -> None:
        nonlocal taken
        if (operation, key) == ("done", KEY):
            uploads.append(world.store.content[KEY])
        about_to = (operation, key) == (("put", KEY) if late else ("get", RECORD))
        if about_to and not taken and world.record().phase == "store":
            taken = True
            ended = replace(world.record(), token="second", phase="taken_back")
            world.store.content[RECORD] = msgspec.json.encode(ended)
            world.machines.serves = dict.fromkeys(NAMES, digest(OLD))

    world.store.before = before
    with pytest.raises(LeaseLost):
        await world.drive()
    world.check()
    assert uploads == ([NEW, OLD] if late else [])


async def test_an_upload_without_an_answer_does_not_stay_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was under way when its driver fell asleep: what it hears first is that another has taken it back."""
    monkeypatch.setattr(driver_module, "RENEW_SECONDS", 0.01)  # as shipped, ten seconds
    world, put = World(tmp_path), MemoryStore.put

    async def unanswered(key: str, source: Path, modified: float, replaces: str | None) -> str:
        etag = await put(world.store, key, source, modified, replaces)
        if key == KEY and world.store.content[KEY] == NEW:
            ended = replace(world.record(), token="second", phase="taken_back")
            world.store.content[RECORD] = msgspec.json.encode(ended)
            await asyncio.Event().wait()
        return etag

    world.store.put = unanswered  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        await world.drive()
    assert world.store.content[KEY] == OLD


@pytest.mark.parametrize("phase", ["back", "frozen"])
async def test_an_upload_that_comes_while_another_takes_back_does_not_stay(
    tmp_path: Path, phase: Any
) -> None:
    """The other driver has seen the index before in the store, and now tells machines: it looks no more."""
    world = World(tmp_path)
    taken = False

    def before(operation: str, key: str) -> None:
        nonlocal taken
        if (operation, key) == ("put", KEY) and not taken:
            taken = True
            other = replace(world.record(), token="second", phase=phase)
            world.store.content[RECORD] = msgspec.json.encode(other)

    world.store.before = before
    with pytest.raises(LeaseLost):
        await world.drive()
    assert world.store.content[KEY] == OLD


async def test_a_canary_that_is_degraded_while_it_is_watched_is_the_end(tmp_path: Path) -> None:
    """It has proven the index, and no longer does: no second machine tries it, and the reason is not that it
    could not be reached."""
    world = World(tmp_path)

    async def degraded(target: Target, sha256: str) -> Verdict | None:
        return Verdict("degraded", "it serves the index, but not as it should")

    world.machines.look = degraded  # type: ignore[method-assign]
    ended = await world.drive()
    assert (ended.phase, world.machines.ever) == ("taken_back", {"m1"})
    assert ended.reason.startswith("at the canary: m1 is degraded with it")
    world.check()


async def test_who_went_back_by_itself_is_told_again(tmp_path: Path) -> None:
    """Nobody drove for longer than the canary keeps it: whoever goes on does not take it for proven."""
    world = World(tmp_path)

    def before(operation: str, key: str) -> None:
        if (operation, key) == ("poke", "m2"):
            raise Died

    world.store.before = before
    with pytest.raises(Died):
        await world.drive()
    world.store.before = lambda operation, key: None
    world.machines.poll()
    ended = await world.go_on()
    assert ended is not None
    assert ended.phase == "done"
    world.check()


async def test_a_clock_that_is_set_ends_no_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the new time its lease was over long ago: it has renewed it all the same; one failure is none."""
    monkeypatch.setattr(driver_module, "RENEW_SECONDS", 0.01)  # as shipped, ten seconds
    world, now, failed = World(tmp_path), [1000.0], asyncio.Event()
    look = world.machines.look

    def before(operation: str, key: str) -> None:
        if now[0] > 1000.0 and (operation, key) == ("put", RECORD) and not failed.is_set():
            failed.set()
            raise StoreError("the store does not answer", code="store_timeout")

    async def slow(target: Target, sha256: str) -> Verdict | None:
        now[0] += 3600.0
        await failed.wait()
        return await look(target, sha256)

    world.store.before = before
    world.machines.look = slow  # type: ignore[method-assign]
    ended = await world.driver(wall=lambda: now[0]).drive(world.rollout, None)
    assert ended.phase == "done"
    world.check()


async def test_a_long_pause_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is sent again and again, and fetched once; what was read is gone."""
    world, looks = World(tmp_path), 0
    monkeypatch.setattr(driver_module, "_RENEW_BODY_SECONDS", 0.0)  # as shipped, three minutes
    monkeypatch.setattr(driver_module, "_LOOK_SECONDS", 0.0)

    def before(operation: str, key: str) -> None:
        nonlocal looks
        if (operation, key) == ("get", RECORD):
            looks += 1
            wish = "pause" if looks < 20 else ""
            world.store.content[RECORD] = msgspec.json.encode(replace(world.record(), wish=wish))

    world.store.before = before
    assert (await world.drive()).phase == "done"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) <= 2


async def test_the_second_of_two_drivers_is_told(tmp_path: Path) -> None:
    """Both saw no rollout; one of them has it."""
    world = World(tmp_path)
    both = await asyncio.gather(
        world.driver().drive(world.rollout, None),
        world.driver().drive(replace(world.rollout, token="another"), None),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in both) == ["NotBegun", "Rollout"]
    world.check()


async def test_another_index_in_the_store_stays(tmp_path: Path) -> None:
    """Somebody stores another one while the canary is watched: that stays, and the canary goes to it."""
    world = World(tmp_path)
    look = world.machines.look

    async def meanwhile(target: Target, sha256: str) -> Verdict | None:
        world.store.content[KEY] = OTHER
        return await look(target, sha256)

    world.machines.look = meanwhile  # type: ignore[method-assign]
    ended = await world.drive()
    assert (ended.phase, world.store.content[KEY]) == ("taken_back", OTHER)
    assert ended.reason == "at store: somebody has stored another index meanwhile"
    assert {world.machines.serves[name] for name in ("m1", "m2", "m3")} == {digest(OTHER)}


async def test_what_cannot_be_taken_back_is_frozen(tmp_path: Path) -> None:
    """The store takes no more uploads: it is said, and the next driver tries again."""
    world = World(tmp_path, refusing=("m5",))

    def before(operation: str, key: str) -> None:
        if (operation, key) == ("put", KEY) and world.store.content[KEY] == NEW:
            raise StoreError("the store is full")

    world.store.before = before
    ended = await world.drive()
    assert ended.phase == "frozen"
    assert ended.reason.endswith("not taken back: the store is full")
    world.store.before = lambda operation, key: None
    known = await world.records.get(RECORD, Rollout)
    assert known is not None
    assert (await world.driver().drive(taken_over(known[0], "second", "second", 10.0), known[1])).phase == (
        "taken_back"
    )
    world.check()
