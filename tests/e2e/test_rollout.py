"""Rollouts and undo against a whole fleet on one computer: three daemons, each with a Navigator.

So the canary, the second wave and the rest are one machine each. One fleet serves all tests here, and one
client of its store: to make one takes longer than a rollout. Each begins with a fleet that is whole, and
leaves one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import sqlite3
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from sidecar.errors import Rejected
from sidecar.fleet.control import control
from sidecar.fleet.machines import FleetError
from sidecar.fleet.preview import preview
from sidecar.fleet.report import FleetReport, MachineResult
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.run import FleetRequest, FleetUpdates
from sidecar.fleet.undo import IndexHistory, Undo, past_lines
from sidecar.generate.check import LOSS
from sidecar.inputs.store import Store, open_store, own_index
from sidecar.model.runs import Request
from sidecar.update import sent
from tests.conftest import Bucket, s3_client
from tests.support.cgi import SIDECAR, environment, sidecar
from tests.support.fleet import KEY, Fleet, answers, fleet, hang, index, lose
from tests.support.machine import Machine, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MACHINES = ["m1", "m2", "m3"]
UNLOADABLE = "Unloadable"
RECORD = "db/index-rollout.json"


class Heard:
    """Keeps what is said, and lets a test wait for it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, step: str) -> None:
        self.said.append(f"step {step}")

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def expect(self, results: list[MachineResult]) -> None:
        pass

    def tell(self, result: MachineResult) -> None:
        self.said.append(f"{result.machine} {result.state} {result.note}")

    async def heard(self, words: str) -> None:
        await until(lambda: any(words in one for one in self.said), 60)


class Field:
    """The fleet, its store, and the administrator's machine."""

    def __init__(self, whole: Fleet, bucket: Bucket, admin: Machine, store: Store) -> None:
        self.whole = whole
        self.bucket = bucket
        self.admin = admin
        self.store = store
        self.updates = FleetUpdates(admin.settings(), store)
        self.undo = Undo(admin.settings(), store)

    @property
    def local(self) -> Path:
        return self.admin.application / "db" / "index.sqlite3"

    def change(self, statement: str) -> str:
        """Change the local index; the SHA-256 with which it goes into the store."""
        with closing(sqlite3.connect(self.local)) as connection, connection:
            assert connection.execute(statement).rowcount
        local = own_index(self.admin.settings(), lambda *_: None)
        assert local is not None
        return local.signature()

    def rename(self, name: str) -> str:
        """A harmless change."""
        return self.change(f"update locations set name = '{name}' where id = 1")

    def held(self) -> str:
        body = self.bucket.client.get_object(Bucket=self.bucket.name, Key=KEY)["Body"].read()
        return hashlib.sha256(body).hexdigest()

    def serving(self, sha256: str) -> set[str]:
        return {name for name in MACHINES if self.whole.serves(name) == sha256}

    def record(self) -> dict[str, Any]:
        body = self.bucket.client.get_object(Bucket=self.bucket.name, Key=RECORD)["Body"].read()
        return dict(json.loads(body))

    def expire(self) -> None:
        """As if the driver's lease had passed."""
        self.bucket.put(RECORD, json.dumps({**self.record(), "lease": 0.0}).encode())

    async def roll_out(self, canary: str = "1", heard: Heard | None = None, **more: Any) -> FleetReport:
        wanted = FleetRequest(index=self.local, canary=canary, **more)
        return await self.updates.update(wanted, heard or Heard())

    @contextmanager
    def holding(self, machine: str) -> Iterator[Callable[[], None]]:
        """Keep a machine from being reached until the given function is called."""
        free = asyncio.Event()

        async def wait(request: web.BaseRequest) -> None:
            await free.wait()

        self.whole.router.faults[machine] = wait
        try:
            yield free.set
        finally:
            free.set()
            del self.whole.router.faults[machine]

    async def history(self) -> IndexHistory:
        return await self.undo.history(Heard())

    async def control(self, word: str) -> Rollout:
        return await control(self.admin.settings(), word, Heard(), self.store)

    async def whole_again(self) -> None:
        """Every machine serves what the store holds."""
        held = self.held()
        await until(lambda: self.serving(held) == set(MACHINES))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    client = s3_client(s3_endpoint)
    client.create_bucket(Bucket="rollouts")
    bucket = Bucket(s3_endpoint, "rollouts", client)
    probe = {"url": "/showcase/", "user": "user0003", "password": "first"}
    folder = tmp_path_factory.mktemp("rollout")
    # A probe that fails takes the index back after this limit: 35 s as shipped, in which nothing happens.
    picky = {
        "navigator": {"probes": [probe], "reload_timeout": "2s"},
        "options": ("--refuse", UNLOADABLE),
    }
    async with fleet(folder, bucket, MACHINES, m3=picky) as whole:
        # In a soak of the shipped length nothing happens, and in the shipped limits and pauses neither.
        admin = whole.admin(canary_soak="300ms", timeout="40s", attempts=2)
        index(admin.application / "db" / "index.sqlite3")
        store = open_store(admin.settings(), lambda *_: None)
        await store.startup()
        field = Field(whole, bucket, admin, store)
        first = await field.roll_out()
        assert first.upload == "unchanged"
        # Each test by itself finds a history, and an index to go back to.
        field.rename("Before")
        assert (await field.roll_out()).good
        yield field
        await store.shutdown()
    client.close()


def change_password(field: Field, password: str) -> str:
    """What the canary's probe signs in with, or does not."""
    hashed = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    return field.change(f"update users set password = 'user0003:{{SHA}}{hashed}' where userid = 'user0003'")


async def test_a_good_index_goes_from_the_canary_to_all(field: Field) -> None:
    """First the canary ahead of the store, then a second wave, then the store and all others."""
    before, heard = field.held(), Heard()
    new = field.rename("Elsewhere")
    with field.holding("m2") as release:
        rolling = asyncio.create_task(field.roll_out(heard=heard))
        await heard.heard("wave 2")
        assert field.serving(new) == {"m1"}
        assert field.held() == before
        release()
        report = await rolling
    assert (report.rollout, report.good) == ("done", True), heard.said
    assert field.held() == new
    assert field.serving(new) == set(MACHINES)
    entry = (await field.history()).entries[0]
    assert (entry.sha256, entry.state, entry.loaded, entry.replaced) == (new, "loaded", 3, before)
    assert entry.changes == ("studios: 1 changed",)


async def test_a_preview_tells_each_region_and_touches_nobody(field: Field) -> None:
    """From one place: what comes and goes where, and who would refuse it; no machine is asked anything."""
    seen, held = dict(field.whole.router.seen), field.held()
    shutil.copy(field.local, field.local.with_name("kept"))
    field.change("delete from showcases where id % 5 = 1")
    settings = field.admin.settings()
    told = await preview(settings, "", Heard())
    (iad,) = told.regions
    assert (told.good, iad.region, iad.machines) == (True, "iad", tuple(MACHINES))
    assert iad.removed.count == iad.before - iad.after > 0
    assert "navigator.yml" in iad.files
    field.change("delete from users where id > 2")
    refused = await sidecar(field.admin, "fleet", "preview")
    assert refused.code == 1
    assert "refused: the index would drop" in refused.out
    assert "Not known from here" in refused.out
    kept = field.local.with_name("kept")
    assert (await preview(settings, str(kept), Heard())).regions[0].files == ()
    assert (dict(field.whole.router.seen), field.held()) == (seen, held)
    kept.replace(field.local)


async def test_the_canary_keeps_it_when_it_looks_at_the_store_meanwhile(field: Field) -> None:
    """Whatever makes it look, the store's older index is no news to it; once it was told to go back it is."""
    before, heard = field.held(), Heard()
    new = field.rename("Nowhere")
    await killed_at(field, heard, "wave 2")
    daemon = field.whole.daemons["m1"]
    looked = await daemon.worker.submit(Request(trigger="timer"))
    assert (looked.state, field.whole.serves("m1"), field.held()) == ("unchanged", new, before)
    field.expire()
    ended = await field.control("abort")
    assert (ended.phase, ended.reason) == ("taken_back", "at wave 2: a person has aborted it")
    assert field.held() == before
    await field.whole_again()
    assert (await daemon.worker.submit(Request(trigger="timer"))).state == "unchanged"
    assert field.serving(new) == set()


async def test_a_canary_that_slept_through_the_taking_back_wakes_to_the_index_before(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell it, and nobody has to: it believes the store again once it was asleep for long."""
    monkeypatch.setattr(sent, "LIMIT", 0.0)  # as shipped, ten minutes
    new = field.rename("Asleep")
    await killed_at(field, Heard(), "wave 2")
    field.expire()
    field.whole.router.faults["m1"] = answers(502)
    ended = await field.control("abort")
    assert (ended.phase, ended.lagging) == ("taken_back", ("m1",))
    assert field.serving(new) == {"m1"}
    del field.whole.router.faults["m1"]
    await field.whole.daemons["m1"].worker.submit(Request(trigger="wake"))
    await field.whole_again()
    assert field.serving(new) == set()


async def killed_at(field: Field, heard: Heard, words: str) -> None:
    """A driver that is killed as soon as it says these words."""
    process = await asyncio.create_subprocess_exec(
        *(SIDECAR, "--config", field.admin.write_settings(), "fleet", "update", "--canary", "1"),
        stdout=PIPE, stderr=PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while line := (await process.stdout.readline()).decode():
                heard.said.append(line)
                if words in line:
                    break
    finally:
        process.kill()
        await process.communicate()
    assert words in heard.said[-1], heard.said


@pytest.mark.parametrize("words", ["watching m1", "all machines"])
async def test_a_driver_that_dies_is_followed_by_another(field: Field, words: str) -> None:
    """While its lease lasts nobody else may; then the next one comes to the same end."""
    new = field.rename(f"Town of {words}")
    await killed_at(field, Heard(), words)
    with pytest.raises(FleetError, match="drives a rollout") as second:
        await field.roll_out()
    assert second.value.code == "fleet_driven"
    field.expire()
    ended = await field.control("resume")
    assert (ended.phase, field.held()) == ("done", new)
    assert field.serving(new) == set(MACHINES)
    newest = (await field.history()).entries[0]
    assert (newest.state, newest.loaded) == ("loaded", 3)


async def test_what_the_canary_does_not_prove_is_taken_back(field: Field) -> None:
    """It passes all checks, but the canary's probe fails: the store and all others never hear of it."""
    before = field.held()
    bad = change_password(field, "another")
    told = await sidecar(field.admin, "fleet", "update", "--canary", "m3", "--json")
    assert told.code == 3, told.out
    assert told.json["rollout"] == "taken_back"
    assert "at the canary: m3 does not take it: it was refused (probe)" in told.json["reason"]
    states = {one["machine"]: one["state"] for one in told.json["machines"]}
    assert states == {"m1": "untouched", "m2": "untouched", "m3": "returned"}
    assert field.held() == before
    assert field.serving(before) == set(MACHINES)
    newest = (await field.history()).entries[0]
    assert (newest.sha256, newest.state) == (bad, "taken_back")
    with pytest.raises(FleetError) as held:
        await field.roll_out(unattended=True)
    assert held.value.code == "fleet_held"
    change_password(field, "first")
    field.rename("The first password again")
    assert (await field.roll_out()).rollout == "done"


async def test_what_navigator_itself_does_not_load_is_taken_back(field: Field) -> None:
    """It passes all checks, and only Navigator says no: nobody but the canary was ever told of it."""
    before, known = field.held(), field.local.with_name("kept")
    shutil.copy(field.local, known)
    bad = field.change(f"update locations set name = '{UNLOADABLE}'")
    asked = {name: field.whole.router.seen[name, "POST"] for name in MACHINES}
    report = await field.roll_out(canary="m3")
    assert report.rollout == "taken_back", report
    assert report.reason.startswith("at the canary: m3 does not take it: ")
    assert field.held() == before
    assert field.serving(before) == set(MACHINES)
    assert [name for name in MACHINES if field.whole.router.seen[name, "POST"] > asked[name]] == ["m3"]
    newest = (await field.history()).entries[0]
    assert (newest.sha256, newest.state) == (bad, "taken_back")
    assert newest.note == report.reason
    # It serves what the store holds, and knows it: nobody has to look at it.
    assert (await field.updates.overview(Heard())).good
    status = field.whole.daemons["m3"].status
    assert status.in_sync(), (status.sync(), status.health())
    known.replace(field.local)


async def test_what_every_machine_refuses_stops_at_the_first(field: Field) -> None:
    """More than half of all users are gone: no machine but the canary is asked."""
    before = field.held()
    shutil.copy(field.local, field.local.with_name("kept"))
    field.change("delete from users where id > 2")
    asked = {name: field.whole.router.seen[name, "POST"] for name in MACHINES}
    report = await field.roll_out()
    assert report.rollout == "taken_back", report
    assert "m1 does not take it: it answers 422" in report.reason
    assert field.held() == before
    assert field.serving(before) == set(MACHINES)
    assert [name for name in MACHINES if field.whole.router.seen[name, "POST"] > asked[name]] == ["m1"]
    field.local.with_name("kept").replace(field.local)


async def test_a_machine_that_refuses_in_the_last_wave_takes_it_back_from_all(field: Field) -> None:
    """The store goes back to the index before, and so does every machine."""
    before = field.held()
    bad = change_password(field, "another")
    report = await field.roll_out()
    assert report.rollout == "taken_back", report
    assert report.reason.startswith("at rest: m3 does not take it")
    assert {one.state for one in report.machines} == {"returned"}
    assert field.held() == before
    await field.whole_again()
    assert field.serving(bad) == set()
    change_password(field, "first")


@pytest.mark.parametrize("fault", [hang, "another"])
async def test_a_canary_that_proves_nothing_is_replaced(field: Field, fault: Any) -> None:
    """Stopped, hanging, or another that answers for it: the next machine is the canary, and it lags."""
    new = field.rename(f"Town without {fault}")
    router = field.whole.router
    own = router.machines["m1"]
    if fault == "another":
        router.machines["m1"] = router.machines["m2"]
    else:
        router.faults["m1"] = fault
    heard = Heard()
    # While one hangs for as long as shipped, twice, nothing happens.
    impatient = field.whole.admin(canary_soak="300ms", answer_timeout="2s", timeout="40s", attempts=1)
    try:
        wanted = FleetRequest(index=field.local, canary="1")
        report = await FleetUpdates(impatient.settings(), field.store).update(wanted, heard)
    finally:
        router.machines["m1"] = own
        router.faults.clear()
    assert "watching m2" in " ".join(heard.said)
    assert (report.rollout, report.good) == ("done", False), report
    assert (await field.history()).entries[0].state == "lagging"
    assert field.held() == new
    # It wakes, and looks at the store by itself.
    await field.whole.daemons["m1"].worker.submit(Request(trigger="timer"))
    await field.whole_again()
    assert field.serving(new) == set(MACHINES)


async def test_pause_and_abort_reach_the_driver(field: Field) -> None:
    """Between two waves it rests, with the canary ahead of the store, until it is told to go back."""
    before, heard = field.held(), Heard()
    new = field.rename("Halfway")
    with field.holding("m1") as release:
        rolling = asyncio.create_task(field.roll_out(heard=heard))
        await heard.heard("wave 1")
        assert (await field.control("pause")).wish == "pause"
        release()
        await heard.heard("paused")
    assert field.held() == before
    with pytest.raises(FleetError, match="drives a rollout"):
        await field.updates.update(FleetRequest(), Heard())
    ended = await field.control("abort")
    assert ended.phase == "taken_back"
    assert (await rolling).rollout == "taken_back"
    assert field.held() == before
    await field.whole_again()
    assert field.serving(new) == set()
    with field.holding("m1") as release:
        again = asyncio.create_task(field.roll_out(heard=(other := Heard())))
        await other.heard("wave 1")
        await field.control("pause")
        release()
        await other.heard("paused")
    await field.control("resume")
    assert (await again).rollout == "done"
    with pytest.raises(FleetError, match="no rollout is under way"):
        await field.control("pause")


async def test_a_loss_that_nothing_notices_is_undone_by_one_command(field: Field) -> None:
    """Two in ten events are gone, which passes all checks: a rollback names what comes back, and is done."""
    before = field.held()
    field.change("delete from showcases where id % 10 < 2")
    field.change("delete from users where userid = 'user0004'")
    report = await field.roll_out()
    bad = field.held()
    assert (report.rollout, field.serving(bad)) == ("done", set(MACHINES))
    assert past_lines(await field.history(), time.time())[1].startswith(f"*  {bad[:12]}")
    refused = await sidecar(field.admin, "fleet", "rollback")
    assert (refused.code, field.held()) == (1, bad)
    assert "1 can sign in again: user0004" in refused.err
    assert "events added: " in refused.err
    undone = await sidecar(field.admin, "fleet", "rollback", "--yes", "--json")
    assert undone.code == 0, undone.err
    assert field.held() == before
    assert field.serving(before) == set(MACHINES)
    newest = (await field.history()).entries[0]
    assert (newest.kind, newest.sha256, newest.replaced, newest.state) == ("rollback", before, bad, "loaded")
    with pytest.raises(FleetError) as held:
        await field.roll_out(unattended=True)
    assert held.value.code == "fleet_held"
    heard = Heard()
    new = field.rename("After the rollback")
    assert (await field.roll_out(canary="", heard=heard)).good
    assert any("this ends the rollback by" in one for one in heard.said)
    assert field.serving(new) == set(MACHINES)


async def test_a_large_loss_of_one_region_is_refused_before_the_upload(field: Field) -> None:
    """Few of all, but many of one region's: nobody hears of it, by canary or not, until a person insists."""
    before, newest = field.held(), (await field.history()).entries[0]
    shutil.copy(field.local, field.local.with_name("kept"))
    lost = lose(field.local, "lax", 7)
    asked = dict(field.whole.router.seen)
    for canary in ("1", ""):
        with pytest.raises(Rejected, match=lost) as refused:
            await field.roll_out(canary=canary)
        assert refused.value.code == LOSS
    assert field.held() == before
    assert (await field.history()).entries[0] == newest
    told = await preview(field.admin.settings(), "", Heard())
    assert (told.good, lost in told.refused) == (False, True)
    async with field.admin.daemon() as daemon, field.admin.client() as client:
        assert await daemon.fleet.follow()  # it is for people
        state = daemon.fleet.state()
        assert state.error is not None
        assert (state.state, state.error.code) == ("failed", LOSS)
        browser = {"Accept": "text/html"}
        async with client.get("page/fleet?canary=1", headers=browser) as answer:
            page = await answer.text()
        assert lost in page
        form = dict(re.findall(r'name="(canary|force|token)" value="([^"]+)"', page))
        assert (form["canary"], form["force"]) == ("1", "1")
        for said in ({**form, "word": "yes"}, {**form, "word": "lose", "force": ""}):
            async with client.post("page/fleet", data=said, allow_redirects=False) as answer:
                assert answer.status in (400, 403)
        assert (dict(field.whole.router.seen), field.held()) == (asked, before)
        form["word"] = "lose"
        async with client.post("page/fleet", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
        await until(lambda: daemon.fleet.state().state == "done", 60)
    assert (await field.history()).entries[0].state == "loaded"
    assert field.serving(field.held()) == set(MACHINES)
    field.local.with_name("kept").replace(field.local)
    assert (await field.roll_out(canary="")).good


async def test_a_rollback_that_was_compared_with_something_else_does_nothing(field: Field) -> None:
    """Between the question and the answer somebody stored another index: that one stays."""
    undo = field.undo
    plan = await undo.plan("", None, Heard())
    new = field.rename("In between")
    assert (await field.roll_out(canary="")).good
    with pytest.raises(FleetError, match="nothing was put back"):
        await undo.roll_back(plan, "", Heard())
    assert field.held() == new
    moment = (await field.history()).entries[0].at
    assert (await undo.plan("", moment, Heard())).to.sha256 == plan.held


async def test_the_page_shows_a_rollout_and_controls_it(field: Field) -> None:
    """Its wave and what can be done with it, each in words; a form of another rollout is refused."""
    new, asked = field.rename("On the page"), field.whole.router.seen["m1", "POST"]
    browser = {"Accept": "text/html"}

    def forms(page: str) -> dict[str, str]:
        return dict(
            re.findall(r'name="word" value="(\w+)"[^>]*><input[^>]*name="token" value="([^"]+)"', page)
        )

    async with field.admin.daemon() as daemon, field.admin.client() as client:

        async def shown() -> str:
            async with client.get("page/fleet/rollout", headers=browser) as answer:
                assert answer.status == 200
                return await answer.text()

        async def press(word: str, token: str, status: int = 303) -> None:
            said = {"word": word, "token": token}
            async with client.post("page/fleet/rollout", data=said, allow_redirects=False) as answer:
                assert answer.status == status

        assert "No rollout by canary is under way" in await shown()
        async with client.get("fleet", headers=browser) as answer:
            assert 'href="./page/fleet?canary=1"' in await answer.text()
        with field.holding("m1") as release:
            rolling = asyncio.create_task(daemon.fleet.update(FleetRequest(canary="1"), "somebody"))
            await until(lambda: field.whole.router.seen["m1", "POST"] > asked)
            page = await shown()
            assert "Wave 1 of 2, then all others" in page
            assert forms(page).keys() == {"pause", "abort"}
            await press("abort", forms(page)["pause"], 403)
            await press("pause", forms(page)["pause"])
            page = await shown()
            assert forms(page).keys() == {"resume", "abort"}
            release()
        await press("resume", forms(page)["resume"])
        assert (await rolling).rollout == "done"
        await press("abort", forms(page)["abort"], 403)
    assert field.serving(new) == set(MACHINES)


async def test_a_daemon_does_the_same(field: Field) -> None:
    """History, the question before a rollback, the rollback, and control, for an administrator over HTTP."""
    before = field.held()
    field.rename("By the daemon")
    json_wanted = {"Accept": "application/json"}
    async with field.admin.daemon() as daemon, field.admin.client() as client:
        async with client.post("fleet/update?canary=m2", headers=json_wanted) as answer:
            report = await answer.json()
            assert (answer.status, report["rollout"]) == (200, "done")
        async with client.get("fleet/history") as answer:
            newest = (await answer.json())["entries"][0]
            assert (newest["sha256"], newest["state"]) == (report["sha256"], "loaded")
        async with client.get("fleet/rollback") as answer:
            plan = await answer.json()
            assert (plan["held"], plan["to"]["sha256"]) == (report["sha256"], before)
        async with client.post(f"fleet/rollback?held={before}", headers=json_wanted) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (409, "store_changed")
        browser = {"Accept": "text/html"}
        async with client.get("page/fleet/rollback", headers=browser) as answer:
            asked = await answer.text()
        assert f"from the index {plan['held'][:12]} back to {before[:12]}" in asked
        form = dict(re.findall(r'name="(to|held|token)" value="([^"]+)"', asked))
        async with client.post("page/fleet/rollback", data={**form, "to": "0" * 64}) as answer:
            assert answer.status == 403
        async with client.post("page/fleet/rollback", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
        await until(lambda: field.held() == before)
        await until(lambda: daemon.fleet.state().state == "done")
        plan = await daemon.fleet.plan(report["sha256"])
        async with client.post(f"fleet/rollback?held={before}&to={plan.to.sha256}") as answer:
            assert (answer.status, (await answer.json())["good"]) == (200, True)
        for word in ("pause", "resume", "abort"):
            async with client.post(f"fleet/{word}", headers=json_wanted) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (409, "fleet_idle")
        async with client.get("metrics") as answer:
            assert 'sidecar_fleet_updates_total{outcome="loaded"} 3.0' in await answer.text()
    assert field.held() == report["sha256"]
    await field.whole_again()
