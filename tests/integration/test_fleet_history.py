"""Fleet updates and their history where stores and drivers fail: a store in memory, machines that agree."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from msgspec.structs import replace

from sidecar.errors import Rejected, SidecarError, StoreError
from sidecar.fleet import coordinator
from sidecar.fleet.bus import announcing
from sidecar.fleet.control import go_on, tell
from sidecar.fleet.driver import LeaseLost
from sidecar.fleet.index_history import PastIndex
from sidecar.fleet.machines import FleetError
from sidecar.fleet.nats_link import connected
from sidecar.fleet.report import MachineResult
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.run import FleetRequest, FleetUpdates
from sidecar.fleet.service import FleetService
from sidecar.fleet.store_records import StoreRecords
from sidecar.fleet.undo import Undo
from sidecar.model.bus import HINTS, Hint, fleet_key, opened
from sidecar.model.machine_report import MachineReport
from sidecar.model.runs import Outcome
from tests.support.fleet import KEY, index, lose, serve
from tests.support.machine import SECRET, Machine, until
from tests.support.memory_store import MemoryStore
from tests.support.nats import nats_server

RECORD = "db/index-rollout.json"


class Heard:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, step: str) -> None:
        pass

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def expect(self, results: list[MachineResult]) -> None:
        pass

    def tell(self, result: MachineResult) -> None:
        pass


class Field:
    """Two machines that take whatever they are told, the administrator's, and the store."""

    def __init__(self, folder: Path, urls: dict[str, str], bus: str = "") -> None:
        machines = [{"id": name, "url": url} for name, url in urls.items()]
        # In a soak of the shipped length nothing happens; who does not answer would only be asked again.
        fleet = {"machines": machines, "attempts": 1, "canary_soak": "10ms", "bus": bus}
        self.admin = Machine(folder, {"fleet": fleet})
        self.settings = self.admin.settings()
        self.store = MemoryStore()
        self.updates = FleetUpdates(self.settings, self.store)
        self.undo = Undo(self.settings, self.store)
        self.heard = Heard()
        self.local = folder / "local.sqlite3"
        index(self.local)

    def change(self, name: str) -> None:
        with closing(sqlite3.connect(self.local)) as connection, connection:
            connection.execute(f"update locations set name = '{name}' where id = 1")

    async def update(self, name: str, canary: str = "", **more: Any) -> str:
        """Bring another index to the fleet; the SHA-256 that the store holds then."""
        self.change(name)
        report = await self.updates.update(FleetRequest(index=self.local, canary=canary, **more), self.heard)
        assert report.good, report
        return self.held()

    def held(self) -> str:
        return hashlib.sha256(self.store.content[KEY]).hexdigest()

    async def entries(self) -> tuple[PastIndex, ...]:
        return (await self.undo.history(self.heard)).entries


def machine(name: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """One that serves whatever it was told last."""
    serves: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            serves.append(request.query["sha256"])
            outcome: Any = {"state": "published", "sha256": serves[-1]}
        else:
            outcome = MachineReport(name, "iad", "synced", "healthy", loaded=1, sha256=serves[-1])
        return web.Response(body=msgspec.json.encode(outcome), headers={"Sidecar-Machine": name})

    return answer


@asynccontextmanager
async def machines() -> AsyncIterator[dict[str, str]]:
    """The addresses of two of them."""
    async with serve(machine("m1")) as one, serve(machine("m2")) as other:
        yield {"m1": one, "m2": other}


@pytest_asyncio.fixture
async def field(tmp_path: Path) -> AsyncIterator[Field]:
    async with machines() as urls:
        yield Field(tmp_path, urls)


async def test_who_lost_a_rollout_does_not_say_how_it_ended(field: Field) -> None:
    """Another driver took it over and to its end: the history has that end, also when the first one wakes."""
    await field.update("one")
    taken = False

    def before(operation: str, key: str) -> None:
        nonlocal taken
        # While the first one slept, right before its upload, the other one has done all there was to do.
        if (operation, key) == ("put", KEY) and not taken:
            taken = True
            known = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
            field.store.content[RECORD] = msgspec.json.encode(replace(known, token="other", phase="done"))

    field.store.before = before
    field.change("two")
    with pytest.raises(LeaseLost):
        await field.updates.update(FleetRequest(index=field.local, canary="1"), field.heard)
    newest = (await field.entries())[0]
    assert (newest.sha256, newest.state) == (field.held(), "under_way")


async def test_a_rollout_whose_end_cannot_be_written_down_has_ended_all_the_same(field: Field) -> None:
    """The store gives the history no more, or forgets nothing: that is said, and is no failure."""
    await field.update("one")
    for refused, words in (("list", "does not tell how it ended"), ("remove", "keeps what is too old")):

        def before(operation: str, key: str, refused: str = refused) -> None:
            record = json.loads(field.store.content.get(RECORD, b"{}"))
            if operation == refused and (refused == "remove" or record.get("phase") == "done"):
                raise StoreError("the store refuses access", code="store_denied")

        for number in range(25 if refused == "remove" else 0):
            entry = PastIndex(f"{number:064}", 1, 1.0, 1.0 + number, "somebody", state="loaded")
            field.store.content[f"db/index-history/19700101T0000{number:02}.000-old.json"] = (
                msgspec.json.encode(entry)
            )
        field.store.before = before
        new = await field.update(f"two {refused}", canary="1")
        field.store.before = lambda operation, key: None
        field.store.content.pop(RECORD)
        assert any(words in one for one in field.heard.said), field.heard.said
        assert field.held() == new


async def test_a_rollback_whose_end_cannot_be_written_down_is_done_all_the_same(field: Field) -> None:
    """The report comes, and that the history lacks it is said."""
    first, _ = await field.update("one"), await field.update("two")
    plan = await field.undo.plan("", None, field.heard)

    def before(operation: str, key: str) -> None:
        if operation == "head" and key.endswith(".json"):
            raise StoreError("the store does not answer", code="store_timeout")

    field.store.before = before
    report = await field.undo.roll_back(plan, "", field.heard)
    assert (report.good, field.held()) == (True, first)
    assert any("does not tell how it ended" in one for one in field.heard.said)


async def test_a_large_loss_is_refused_where_no_history_can_be_written(field: Field) -> None:
    """And by a dry run, which writes nothing at all: what may be lost is judged before either."""
    held = await field.update("one")
    wanted = FleetRequest(index=field.local, canary="")
    dry = replace(wanted, dry_run=True)
    field.change("two")
    report = await field.updates.update(dry, field.heard)
    assert (report.good, report.upload) == (True, "planned")
    assert "no region would lose many of its events" in field.heard.said
    lost = lose(field.local, "lax", 7)

    def before(operation: str, key: str) -> None:
        if key.startswith("db/index-history/") or operation == "put":
            raise StoreError("the store refuses access", code="store_denied")

    field.store.before = before
    for asked in (wanted, dry):
        with pytest.raises(Rejected, match=lost):
            await field.updates.update(asked, field.heard)
    assert (await field.updates.update(replace(dry, force=True), field.heard)).good
    assert field.held() == held


@pytest.mark.parametrize("canary", ["", "1"])
async def test_an_index_that_is_stored_meanwhile_is_not_lost(field: Field, canary: str) -> None:
    """Between the look at the store and the comparison somebody else was faster: the second is told."""
    await field.update("one")

    def before(operation: str, key: str) -> None:
        if (operation, key) == ("get", KEY):
            field.store.content[KEY] = b"another's"

    field.store.before = before
    field.change("two")
    with pytest.raises(FleetError, match="has not seen"):
        await field.updates.update(FleetRequest(index=field.local, canary=canary), field.heard)
    assert field.store.content[KEY] == b"another's"


@pytest.mark.parametrize("ahead", [-1, 1])
async def test_whoever_comes_second_leaves_no_entry(field: Field, ahead: float) -> None:
    """Both saw no rollout, and one of them has it: the other has brought nothing to the fleet."""
    await field.update("one")
    held = await field.update("two", canary="1")
    ended, taken = msgspec.json.decode(field.store.content[RECORD], type=Rollout), False

    def before(operation: str, key: str) -> None:
        nonlocal taken
        if (operation, key) == ("put", RECORD) and not taken:
            taken = True
            other = replace(ended, token="other", phase="wave", started=time.time() + ahead)
            field.store.content[RECORD] = msgspec.json.encode(other)

    field.store.before = before
    field.change("three")
    with pytest.raises(LeaseLost, match="another driver began"):
        await field.updates.update(FleetRequest(index=field.local, canary="1"), field.heard)
    assert (await field.entries())[0].sha256 == held
    kept = {one.rpartition("/")[2] for one in field.store.content if one.startswith("db/index-history/")}
    assert {one for one in kept if "." not in one} == {one.sha256 for one in await field.entries()}


@pytest.mark.parametrize("canary", ["", "1"])
async def test_what_another_driver_prunes_meanwhile_is_kept_again(field: Field, canary: str) -> None:
    """It listed the history before this update had its entry: the index that it removes is one of ours."""
    await field.update("one")
    gone: list[str] = []

    def before(operation: str, key: str) -> None:
        # The moment after this update has seen to it that both are kept.
        if (operation, key) == ("done", RECORD if canary else KEY) and not gone:
            contents = [one for one in field.store.content if one.startswith("db/index-history/")]
            gone.extend(one for one in contents if not one.endswith(".json"))
            for one in gone:
                del field.store.content[one]

    field.store.before = before
    await field.update("two", canary=canary)
    field.store.before = lambda operation, key: None
    assert len(gone) == 2
    assert set(gone) <= field.store.content.keys()
    assert (await field.undo.roll_back(await field.undo.plan("", None, field.heard), "", field.heard)).good


async def test_a_record_that_cannot_be_understood_stops_an_update(field: Field) -> None:
    """A newer sidecar may drive a rollout by rules that this one does not know."""
    held = await field.update("one")
    field.store.content[RECORD] = b'{"phase": "something new"}'
    field.change("two")
    with pytest.raises(StoreError, match="cannot be understood"):
        await field.updates.update(FleetRequest(index=field.local, canary=""), field.heard)
    assert field.held() == held


async def test_what_starts_by_itself_needs_the_history(field: Field) -> None:
    """Without it nobody knows whether a person took this very index back; a person who asks knows."""
    first = await field.update("one")
    await field.update("two")
    await field.undo.roll_back(await field.undo.plan("", None, field.heard), "", field.heard)

    def before(operation: str, key: str) -> None:
        if operation == "list":
            raise StoreError("the store does not answer", code="store_timeout")

    field.store.before = before
    with pytest.raises(SidecarError):
        await field.updates.update(FleetRequest(index=field.local, canary="", unattended=True), field.heard)
    assert field.held() == first


async def test_a_rollback_leads_to_no_index_that_was_taken_back(field: Field) -> None:
    """It goes to all machines at once, and that one was refused by the first: it is named for nothing."""
    await field.update("one")
    await field.update("two")
    newest = (await field.entries())[0]
    refused = replace(newest, at=newest.at + 1, sha256="f" * 64, state="taken_back", note="m1 refused it")
    name = "db/index-history/29990101T000000.000-ffffffffffff.json"
    field.store.content[name] = msgspec.json.encode(refused)
    with pytest.raises(FleetError, match="m1 refused it"):
        await field.undo.plan("ffff", None, field.heard)
    # Nobody saw another one through, but the store may have held it: whoever names it means it.
    body = b"what the store may have held"
    digest = hashlib.sha256(body).hexdigest()
    field.store.content[f"db/index-history/{digest}"] = body
    field.store.content[name] = msgspec.json.encode(replace(refused, sha256=digest, state="under_way"))
    assert (await field.undo.plan(digest, None, field.heard)).to.sha256 == digest


async def test_after_a_rollout_the_inventory_has_the_index(field: Field) -> None:
    """As after any other upload."""
    await field.update("one")
    await field.update("two", canary="1")
    etag = hashlib.md5(field.store.content[KEY], usedforsecurity=False).hexdigest()
    assert etag in field.store.content["inventory/index.json"].decode()


@pytest.mark.parametrize(("word", "phase"), [("resume", "done"), ("abort", "taken_back")])
async def test_whoever_ends_a_rollout_tells_the_bus(tmp_path: Path, word: str, phase: str) -> None:
    """What the store holds then: who connects later is told of no older one, and keeps no newer one."""
    for server in nats_server(tmp_path / "nats"):
        await server.start()
        async with machines() as urls:
            field = Field(tmp_path, urls, server.url)
            old, new = await field.update("one"), await field.update("two", canary="1")
            field.store.content[RECORD] = msgspec.json.encode(
                replace(
                    msgspec.json.decode(field.store.content[RECORD], type=Rollout), phase="rest", lease=0.0
                )
            )
            async with announcing(field.settings) as announcement:
                await announcement.publish("1" * 64)
            ended, _ = await go_on(field.settings, word, field.heard, store=field.store)
            assert ended.phase == phase
            key = fleet_key(field.settings.store, field.settings.index_key)
            async with connected(server.url, "test") as link:
                value = await link.get(HINTS, key)
            assert value is not None
            assert opened(Hint, key, value, [SECRET])[0].sha256 == (new if phase == "done" else old)


async def test_the_history_is_in_order_whatever_the_clocks_say(field: Field, tmp_path: Path) -> None:
    """What takes the place of an entry comes after it, though the other driver's clock was fast."""
    await field.update("one")
    entry = (await field.entries())[0]
    await StoreRecords(field.store, KEY, tmp_path).add(replace(entry, at=time.time() + 100, kind="rollback"))
    new = await field.update("two")
    newest = (await field.entries())[0]
    assert (newest.sha256, newest.kind) == (new, "update")


async def test_who_renews_a_lease_drives_whatever_the_clocks_say(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this machine's clock the lease is over: the other one, which renews it, is told, not taken over."""
    monkeypatch.setattr(
        coordinator, "_RENEWED_SECONDS", 0.1
    )  # as shipped, longer than a lease may stay as it is
    await field.update("one")
    await field.update("two", canary="1")
    ended = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
    other = replace(ended, token="other", driver="another", phase="wave", lease=time.time() - 60)
    reads = 0

    def renews(operation: str, key: str) -> None:
        nonlocal reads
        if (operation, key) == ("get", RECORD):
            reads += 1
            known = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
            renewed = replace(known, lease=other.lease + reads)
            field.store.content[RECORD] = msgspec.json.encode(renewed)

    field.store.content[RECORD] = msgspec.json.encode(other)
    field.store.before = renews
    field.change("three")
    with pytest.raises(FleetError, match="another drives a rollout"):
        await field.updates.update(FleetRequest(index=field.local, canary=""), field.heard)
    told = await tell(field.settings, "pause", field.heard, store=field.store)
    assert told is not None
    assert told.wish == "pause"
    field.store.before = lambda operation, key: None
    known = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
    assert (known.token, known.wish) == ("other", "pause")
    assert await tell(field.settings, "abort", field.heard, store=field.store) is None
    assert (await go_on(field.settings, "abort", field.heard, store=field.store))[0].phase == "taken_back"


@pytest.mark.parametrize(("word", "end"), [("resume", "loaded"), ("abort", "taken_back")])
async def test_a_daemon_drives_a_rollout_as_it_runs_an_update(field: Field, word: str, end: str) -> None:
    """Whoever asked may go away: it is followed like an update, and remembered like one."""
    await field.update("one")
    await field.update("two", canary="1")
    ended = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
    left = msgspec.json.encode(replace(ended, phase="wave", wave=1, lease=0.0))
    field.store.content[RECORD] = left
    outcomes: list[Outcome] = []
    counted: list[str] = []
    service = FleetService(
        field.settings, "admin", field.store, lambda event: None, outcomes.append, counted.append
    )
    asking = asyncio.create_task(service.control(word, "somebody"))
    await until(lambda: service.state().started is not None)
    asking.cancel()
    await until(lambda: not service.state().running)
    state = service.state()
    assert (state.who, counted, len(outcomes)) == ("somebody", [end], 1)
    assert {one.machine for one in state.machines} == {"m1", "m2"}
    assert msgspec.json.decode(field.store.content[RECORD], type=Rollout).ended
    with pytest.raises(FleetError, match="no rollout is under way"):
        await service.control(word, "somebody")
    await service.close()


async def test_what_could_not_be_taken_back_is_nothing_to_go_back_to(field: Field) -> None:
    """The next update takes it back first: its own way back leads to the index before that."""
    good = await field.update("one")
    await field.update("two", canary="1")
    ended = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
    frozen = msgspec.json.encode(replace(ended, phase="frozen", reason="at rest: m2 does not take it"))
    field.store.content[RECORD] = frozen

    def before(operation: str, key: str) -> None:
        if (operation, key) == ("put", KEY):
            raise StoreError("the store is full")

    field.store.before = before
    field.change("three")
    report = await field.updates.update(FleetRequest(index=field.local, canary="1"), field.heard)
    assert (report.rollout, report.good) == ("frozen", False)
    assert "the index was taken back" not in " ".join(field.heard.said)
    field.store.before = lambda operation, key: None
    new = await field.update("four", canary="1")
    rollout = msgspec.json.decode(field.store.content[RECORD], type=Rollout)
    assert (rollout.phase, rollout.target, rollout.base) == ("done", new, good)
