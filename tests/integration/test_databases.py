"""Event databases between a real S3 server and a real folder, by a daemon in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.daemon import Daemon
from sidecar.demo.sample import Size, add_event, write_index
from sidecar.errors import SidecarError
from sidecar.generations import LastLoaded
from sidecar.inputs.profiles import load_profile
from sidecar.inputs.store.inventory import first_date
from sidecar.model.runs import Request
from sidecar.model.work import Step, Work
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.report import StepReport
from tests.conftest import Bucket
from tests.support import proxy as faults
from tests.support.events import VERSIONS, change_event, read_event, write_event
from tests.support.machine import QUIET_START, SMALL, Machine, until
from tests.support.proxy import Fault, Proxy

OLD, NEW = "2026-01-01 00:00:00 UTC", "2026-06-01 12:30:00.5 UTC"
NEW_SECONDS = 1780317000.5


@asynccontextmanager
async def published(machine: Machine, bucket: Bucket, size: Size = SMALL) -> AsyncIterator[Daemon]:
    """A daemon with a generation in place, made of the machine's sample index."""
    bucket.put("db/index.sqlite3", machine.put_index(size).read_bytes())
    async with machine.daemon() as daemon:
        outcome = await daemon.worker.submit(Request(trigger="socket"))
        assert outcome.error is None
        yield daemon


async def work(daemon: Daemon, *, everything: bool = False) -> Work:
    async with asyncio.timeout(60):
        done = await daemon.ready.work.request("socket", "a test", everything=everything)
    assert done is not None
    return done


def step(done: Work, name: str) -> Step:
    return next(one for one in done.steps if one.name == name)


def tenants(machine: Machine) -> list[str]:
    """The stems of the databases that this machine serves, the index left out."""
    lines = machine.target("tenants.list").read_text().splitlines()
    return [Path(line).stem for line in lines if Path(line).stem != "index"]


def database(machine: Machine, name: str) -> Path:
    return machine.application / "db" / f"{name}.sqlite3"


MIGRATES = (
    "import sqlite3, sys\n"
    "c = sqlite3.connect(sys.argv[1])\n"
    "c.execute('create table if not exists schema_migrations (version)')\n"
    "c.execute(\"insert into schema_migrations values ('20240101000000')\")\n"
    "c.commit(); c.close()\n"
)
"""A program that gives a database the migration of 2024."""


def machine_on(tmp_path: Path, bucket: Bucket, **more: Any) -> Machine:
    """A machine with the bucket as store, whose work starts only when asked for.

    It has no region, and so owns no database as shipped: where the owner is what is tested, it owns all.
    """
    extra = {**bucket.settings, "ready": {"at_start": False, "retry": 0}, **more}
    return Machine(tmp_path, extra)


def counted(daemon: Daemon, operation: str) -> float:
    """How many requests of a kind went to the store."""
    value = daemon.metrics.registry.get_sample_value(
        "sidecar_store_request_seconds_count", {"operation": operation}
    )
    return value or 0.0


async def test_first_all_then_none_then_one(tmp_path: Path, bucket: Bucket) -> None:
    """The first run fetches every database, the second lists once and fetches none, a change costs one."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket, Size(events=60, studios=20, users=12)) as daemon:
        names = tenants(machine)
        assert len(names) >= 60
        for number, name in enumerate(names):
            content = write_event(tmp_path / "event", name, size=100 * number)
            bucket.put(f"db/{name}.sqlite3", content, OLD)
        done = await work(daemon)
        assert done.state == "done"
        assert step(done, "databases").done == step(done, "databases").total == len(names)
        assert [read_event(database(machine, name)) for name in names] == names
        assert database(machine, names[0]).stat().st_mtime == 1767225600

        listed, got = counted(daemon, "list"), counted(daemon, "get")
        again = await work(daemon)
        assert again.state == "done"
        assert counted(daemon, "list") == listed + 1
        assert counted(daemon, "get") == got
        assert counted(daemon, "head") == 0

        bucket.put(f"db/{names[3]}.sqlite3", write_event(tmp_path / "event", "changed"), NEW)
        await work(daemon)
        assert counted(daemon, "get") == got + 1
        assert read_event(database(machine, names[3])) == "changed"
        assert database(machine, names[3]).stat().st_mtime == NEW_SECONDS


async def test_what_is_remembered_survives_a_restart(tmp_path: Path, bucket: Bucket) -> None:
    """A new daemon knows the ETags: it only lists. Without its memory it asks once, and fetches none."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        for name in tenants(machine):
            bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", name), OLD)
        await work(daemon)
    async with published(machine, bucket) as daemon:
        got = counted(daemon, "get")
        await work(daemon)
        assert counted(daemon, "get") == got
        assert counted(daemon, "head") == 0
    (machine.state / "databases.json").write_bytes(b"{torn")
    async with published(machine, bucket) as daemon:
        got = counted(daemon, "get")
        await work(daemon)
        assert counted(daemon, "get") == got
        assert counted(daemon, "head") == len(tenants(machine))
        await work(daemon)
        assert counted(daemon, "head") == len(tenants(machine))


async def test_an_owner_is_never_overwritten(tmp_path: Path, bucket: Bucket) -> None:
    """What is written here stays, however new the store's copy; missing or empty files are fetched."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        mine, empty, missing = tenants(machine)[:3]
        write_event(database(machine, mine), "mine")
        os.utime(database(machine, mine), (1, 1))
        database(machine, empty).touch()
        for name in (mine, empty, missing):
            bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "theirs"), NEW)
        done = await work(daemon)
        assert done.state == "done"
        assert read_event(database(machine, mine)) == "mine"
        assert read_event(database(machine, empty)) == "theirs"
        assert read_event(database(machine, missing)) == "theirs"


async def test_a_copy_that_was_changed_here_is_kept(tmp_path: Path, bucket: Bucket) -> None:
    """A copy that is newer here than in the store stays, until the store has a newer one still."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "first"), OLD)
        await work(daemon)
        change_event(database(machine, name), "changed here")
        os.utime(database(machine, name), (1_770_000_000, 1_770_000_000))
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "older"), "2026-01-15 00:00:00 UTC")
        await work(daemon)
        assert read_event(database(machine, name)) == "changed here"
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "newest"), NEW)
        await work(daemon)
        assert read_event(database(machine, name)) == "newest"


async def test_readers_keep_reading(tmp_path: Path, bucket: Bucket) -> None:
    """A reader with an open connection, and an open transaction, sees old or new, never an error."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "first", wal=True), OLD)
        await work(daemon)
        with closing(sqlite3.connect(database(machine, name), isolation_level=None)) as reader:
            reader.execute("begin")
            assert reader.execute("select name from events").fetchone() == ("first",)
            bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "second", wal=True), NEW)
            done = await work(daemon)
            assert reader.execute("select name from events").fetchone() == ("first",)
            reader.execute("commit")
            seen = reader.execute("select name from events").fetchone()
            assert seen == ("second" if done.state == "done" else "first",)
        await work(daemon)
        assert read_event(database(machine, name)) == "second"


async def test_damage_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    """What is no sound database is not installed; the others are, and the step says which failed."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        good, bad, cut = tenants(machine)[:3]
        content = write_event(tmp_path / "event", "good", size=50_000)
        bucket.put(f"db/{good}.sqlite3", content)
        bucket.put(f"db/{bad}.sqlite3", b"not a database")
        bucket.put(f"db/{cut}.sqlite3", content[:9000])
        done = await work(daemon)
        assert done.state == "failed"
        said = step(done, "databases")
        assert said.state == "failed"
        assert said.error is not None
        assert said.error.message.startswith("2 of 3 failed")
        assert bad in said.output
        assert cut in said.output
        assert read_event(database(machine, good)) == "good"
        assert not database(machine, bad).exists()
        assert not database(machine, cut).exists()
        left = [path.name for path in (machine.application / "db").iterdir() if path.name.startswith(".")]
        assert left == []


async def test_what_is_said_of_databases_is_counted(tmp_path: Path, bucket: Bucket) -> None:
    """Each counts once, as what became of it: one that failed is neither fetched nor as it should be.

    Nor is the copy of another region's event that nobody has; and only what the command has made is made.
    """
    first = f"import os; os.makedirs({str(tmp_path / 'first')!r})\n"  # the second call fails, and so on
    command = [sys.executable, "-c", first + MIGRATES]
    machine = machine_on(tmp_path, bucket, databases={"owns": "all", "copies": True})
    machine.extra["machine"] = {"region": "iad"}
    async with published(machine, bucket, Size(events=120, studios=40, users=12)) as daemon:
        good, bad, ours, conflict, *absent = (name for name in tenants(machine) if name != "demo")
        assert len(absent) > 1
        bucket.put(f"db/{good}.sqlite3", write_event(tmp_path / "event", good))
        bucket.put(f"db/{bad}.sqlite3", b"not a database")
        write_event(database(machine, ours), ours)
        write_event(database(machine, conflict), "here")
        bucket.put(f"db/{conflict}.sqlite3", write_event(tmp_path / "event", "in the store"))
        survey = await daemon.ready.databases.survey(await facts(daemon))
        assert len(survey) > 4 + len(absent)
        conflicts = f"1 in conflict with the store ({conflict})"
        assert step(await work(daemon), "databases").said == (
            f"1 fetched, 1 as they should be, {conflicts}, {len(absent)} neither here nor in the store"
        )
    machine.extra["databases"]["create_command"] = command
    async with machine.daemon() as daemon:
        assert step(await work(daemon), "databases").said == (
            f"0 fetched, 2 as they should be, 1 made, {conflicts}"
        )


HOSTILE = [
    *("db/../../evil.sqlite3", "db//evil.sqlite3", "db/a/../../../evil.sqlite3", "db/..sqlite3"),
    *("db/.evil.sqlite3", "/evil.sqlite3", "evil.sqlite3"),
    *("views/event/../../_evilmap.html.erb", "views/event/_a/../../evilmap.html.erb"),
]


def _with_hostile_keys(answer: faults.Answer) -> faults.Answer:
    """A listing that names these objects, too, as sound ones."""
    begin, entry, rest = answer.body.partition(b"<Contents>")
    if not entry:
        return answer
    one, end, _ = rest.partition(b"</Contents>")
    more = b"".join(
        entry + re.sub(b"<Key>[^<]*", b"<Key>" + key.encode(), one) + end
        for key in HOSTILE
        if key.startswith("views") is (b"<Key>views" in one)
    )
    body = begin + more + entry + rest
    return dataclasses.replace(answer, body=body, length=len(body))


async def test_names_of_a_listing_lead_nowhere(tmp_path: Path, bucket: Bucket) -> None:
    """What is fetched, pushed or removed is named by the index: a listing can say what it likes."""
    maps = {"extra": [{"key": "views/event/_*map.html.erb", "path": "app/views/event"}]}
    machine = machine_on(
        tmp_path, bucket, databases={"owns": "all", "copies": True, "remove_orphans": True}, files=maps
    )
    bucket.put("views/event/_usmap.html.erb", b"a map")
    async with Proxy(bucket.endpoint) as proxy:
        machine.extra["s3"] = {**bucket.settings["s3"], "endpoint": proxy.url}  # type: ignore[dict-item]
        async with published(machine, bucket) as daemon:
            name = tenants(machine)[0]
            bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "stored"), OLD)
            (tmp_path / "evil.sqlite3").write_bytes(b"somebody's")
            before = {path for path in tmp_path.rglob("*") if "state" not in path.parts}
            proxy.always(faults.altered(_with_hostile_keys))
            done = await work(daemon, everything=True)
            assert done.state == "done", done
            async with (
                machine.client() as client,
                client.post("/databases/push", headers={"Accept": "application/json"}) as answer,
            ):
                assert answer.status == 200, await answer.text()
            new = {path for path in tmp_path.rglob("*") if "state" not in path.parts} - before
            views = machine.application / "app"
            assert {path for path in new if path.is_file() and path.name != "ready.lock"} == {
                database(machine, name),
                views / "views" / "event" / "_usmap.html.erb",
            }
            assert (tmp_path / "evil.sqlite3").read_bytes() == b"somebody's"
            asked = [one for one in proxy.requests if "list-type" not in one]
            assert [one for one in asked if "evil" in one or ".." in one] == []


async def test_a_store_that_fails_every_third_request(tmp_path: Path, bucket: Bucket) -> None:
    """Refusals and torn transfers are tried again: in the end everything is there."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket, Size(events=20, studios=10, users=5)):
        names = tenants(machine)
    for name in names:
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", name), OLD)
    async with Proxy(bucket.endpoint) as proxy:
        machine.extra["s3"] = {**bucket.settings["s3"], "endpoint": proxy.url}  # type: ignore[dict-item]
        machine.extra["fetch"] = {"attempts": 5}
        async with machine.daemon() as daemon:
            for fault in (faults.unavailable, faults.cut):
                proxy.every(3, fault)
                done = await work(daemon)
                if done.state != "done":
                    done = await work(daemon)
                assert done.state == "done", step(done, "databases").output
                assert [read_event(database(machine, name)) for name in names] == names
                for name in names:
                    database(machine, name).unlink()


async def test_new_tenants_have_their_database_before_navigator_knows(tmp_path: Path, bucket: Bucket) -> None:
    """The database of a new event is fetched, or made by the command, before the set is published."""
    seen = tmp_path / "seen"
    script = (
        "import shutil, sys;"
        f"shutil.copy({str(tmp_path / 'event')!r}, sys.argv[1]);"
        f"shutil.copy({str(tmp_path / 'app/tmp/tenants.list')!r}, {str(seen)!r})"
    )
    machine = machine_on(
        tmp_path,
        bucket,
        update=QUIET_START,
        databases={"create_command": [sys.executable, "-c", script], "create_timeout": 30},
    )
    bucket.put("db/index.sqlite3", machine.put_index().read_bytes())
    write_event(tmp_path / "event", "made")
    machine.extra["databases"]["fetch"] = False
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request(trigger="socket"))
        before = tenants(machine)
    machine.extra["databases"]["fetch"] = True
    index = machine.store_index
    with closing(sqlite3.connect(index)) as connection:
        (studio,) = connection.execute("select key from locations order by key").fetchone()
    add_event(index, studio, 2031, "stored", "Stored")
    add_event(index, studio, 2031, "made", "Made")
    bucket.put("db/index.sqlite3", index.read_bytes())
    bucket.put(f"db/2031-{studio}-stored.sqlite3", write_event(tmp_path / "other", "stored"), OLD)
    async with machine.daemon() as daemon:
        outcome = await daemon.worker.submit(Request(trigger="socket"))
        assert outcome.state == "published"
        assert "databases" in outcome.stages
        assert outcome.warnings == ()
    assert read_event(database(machine, f"2031-{studio}-stored")) == "stored"
    assert read_event(database(machine, f"2031-{studio}-made")) == "made"
    assert f"2031-{studio}" not in seen.read_text()
    assert len(tenants(machine)) == len(before) + 2


async def test_half_a_database_does_not_stay(tmp_path: Path, bucket: Bucket) -> None:
    """When the command that makes a new event's database is cut off, nothing of it is left.

    A first generation waits for no such command: what is nowhere is made by the ready work.
    """
    script = "import sys, time; open(sys.argv[1], 'w').write('half'); time.sleep(600)"
    machine = machine_on(
        tmp_path,
        bucket,
        databases={"create_command": [sys.executable, "-c", script], "prepare_timeout": 1, "parallel": 1},
    )
    async with published(machine, bucket) as daemon:
        assert list((machine.application / "db").glob("20*.sqlite3")) == []
        index = machine.store_index
        with closing(sqlite3.connect(index)) as connection:
            (studio,) = connection.execute("select key from locations order by key").fetchone()
        add_event(index, studio, 2031, "one", "One")
        bucket.put("db/index.sqlite3", index.read_bytes())
        outcome = await daemon.worker.submit(Request(trigger="socket"))
    assert outcome.state == "published"
    assert any("there was no time for it" in warning for warning in outcome.warnings)
    assert list((machine.application / "db").glob("20*.sqlite3")) == []


async def test_a_missing_database_is_a_warning(tmp_path: Path, bucket: Bucket) -> None:
    """A new event whose database is nowhere is published all the same, with one sentence about it."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        index = machine.store_index
        with closing(sqlite3.connect(index)) as connection:
            (studio,) = connection.execute("select key from locations order by key").fetchone()
        add_event(index, studio, 2031, "one", "One")
        add_event(index, studio, 2031, "two", "Two")
        bucket.put("db/index.sqlite3", index.read_bytes())
        outcome = await daemon.worker.submit(Request(trigger="socket"))
        assert outcome.state == "published"
        (warning,) = outcome.warnings
        assert f"2031-{studio}-one, 2031-{studio}-two" in warning


async def test_databases_that_lack_a_migration_are_migrated(tmp_path: Path, bucket: Bucket) -> None:
    """The command gets the databases that lack one, several a call; one that still lacks it is a failure."""
    calls = tmp_path / "calls"
    script = (
        "import sqlite3, sys\n"
        f"open({str(calls)!r}, 'a').write(str(len(sys.argv) - 1) + chr(10))\n"
        "print('migrating')\n"
        "for path in sys.argv[1:]:\n"
        "    if 'stubborn' in path: continue\n"
        "    c = sqlite3.connect(path)\n"
        "    c.execute(\"insert into schema_migrations values ('20240101000000')\")\n"
        "    c.commit(); c.close()\n"
    )
    machine = machine_on(tmp_path, bucket, databases={"migrate_command": [sys.executable, "-c", script]})
    migrations = machine.application / "db" / "migrate"
    migrations.mkdir(parents=True)
    for version in ("20220101000000", "20230101000000", "20240101000000"):
        (migrations / f"{version}_change.rb").touch()
    async with published(machine, bucket) as daemon:
        names = tenants(machine)[:23]
        for name in names:
            write_event(database(machine, name), name)
        done = await work(daemon)
        assert step(done, "migrate").state == "done"
        assert "migrating" in step(done, "migrate").output
        assert calls.read_text().split() == ["20", "3"]
        again = await work(daemon)
        assert step(again, "migrate").said.startswith("0 migrated")
        assert len(calls.read_text().split()) == 2

        index = machine.store_index
        with closing(sqlite3.connect(index)) as connection:
            (studio,) = connection.execute("select key from locations order by key").fetchone()
        add_event(index, studio, 2031, "stubborn", "Stubborn")
        add_event(index, studio, 2031, "other", "Other")
        bucket.put("db/index.sqlite3", index.read_bytes())
        await daemon.worker.submit(Request(trigger="socket"))
        write_event(database(machine, f"2031-{studio}-stubborn"), "")
        failed = await work(daemon)
        said = step(failed, "migrate")
        assert said.error is not None
        assert "stubborn still lacks a migration" in said.error.message


async def test_a_database_of_the_profiles_own_is_made_and_migrated_where_it_lies(
    tmp_path: Path, bucket: Bucket
) -> None:
    """The demonstration's: no update waits for it; nobody fetches it, stores it, or makes it elsewhere."""
    command = [sys.executable, "-c", MIGRATES]
    where = tmp_path / "demo" / "db" / "demo.sqlite3"
    where.parent.mkdir(parents=True)
    profile = tmp_path / "profile.yml"
    profile.write_text(f"extends: {tmp_path}/shipped.yml\n")
    text = yaml.safe_dump(load_profile("kamal").data).replace("/demo/db/demo.sqlite3", str(where))
    profile.write_text(text)
    machine = machine_on(
        tmp_path, bucket, profile=str(profile), databases={"create_command": command, "owns": "all"}
    )
    async with published(machine, bucket, Size(events=2, studios=2, users=12)) as daemon:
        assert "demo" in tenants(machine)
        assert not where.exists()
        assert step(await work(daemon), "databases").state == "done"
        assert where.exists()
        assert not database(machine, "demo").exists()
        assert step(await work(daemon), "databases").said.startswith("0 fetched")
        survey = await daemon.ready.databases.survey(await facts(daemon))
        assert "demo" not in [row.wanted.name for row in survey]
    migrations = machine.application / "db" / "migrate"
    migrations.mkdir(parents=True)
    (migrations / "20240101000000_change.rb").touch()
    where.unlink()
    write_event(where, "demo")
    machine.extra["databases"] = {"migrate_command": command, "owns": "all"}
    async with published(machine, bucket, Size(events=2, studios=2, users=12)) as daemon:
        said = step(await work(daemon), "migrate").said
        assert said.startswith("1 migrated, 2 up to date")


async def test_a_database_that_is_not_there_is_not_up_to_date(tmp_path: Path, bucket: Bucket) -> None:
    """It is counted by itself; the index, which is migrated where it is edited, is told of."""
    machine = machine_on(tmp_path, bucket, databases={"migrate_command": ["true"]})
    migrations = machine.application / "db" / "migrate"
    migrations.mkdir(parents=True)
    (migrations / "20220101000000_change.rb").touch()
    async with published(machine, bucket, Size(events=2, studios=2, users=12)) as daemon:
        write_event(database(machine, tenants(machine)[0]), "")
        said = step(await work(daemon), "migrate").said
    assert said == (
        "0 migrated, 1 up to date, 1 not there; "
        "the index lacks a migration, too: it is migrated where it is edited"
    )


async def test_an_own_index_is_migrated_too(tmp_path: Path) -> None:
    """Where the index is the machine's own the application migrates it like any other database."""
    machine = Machine(tmp_path, {"update": {"own_index": True}, "ready": {"at_start": False, "retry": 0}})
    write_index(machine.target("index.sqlite3"), SMALL)
    machine.extra["databases"] = {"migrate_command": [sys.executable, "-c", MIGRATES]}
    migrations = machine.application / "db" / "migrate"
    migrations.mkdir(parents=True)
    (migrations / "20240101000000_change.rb").touch()
    async with machine.daemon() as daemon:
        assert (await daemon.worker.submit(Request(trigger="socket"))).error is None
        assert step(await work(daemon), "migrate").said.startswith("1 migrated, 0 up to date")
        assert step(await work(daemon), "migrate").said.startswith("0 migrated, 1 up to date")


async def test_a_hung_command_ends_with_its_children(tmp_path: Path, bucket: Bucket) -> None:
    """At its limit a command is ended, whatever it has started; the other steps go on."""
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('hanging', flush=True)\n"
        "time.sleep(600)\n"
    )
    machine = machine_on(
        tmp_path,
        bucket,
        databases={"migrate_command": [sys.executable, "-c", script], "migrate_timeout": 1.5},
    )
    migrations = machine.application / "db" / "migrate"
    migrations.mkdir(parents=True)
    (migrations / "20990101000000_change.rb").touch()
    async with published(machine, bucket) as daemon:
        write_event(database(machine, tenants(machine)[0]), "")
        done = await work(daemon)
    said = step(done, "migrate")
    assert said.state == "failed"
    assert "ended after its limit" in said.output
    assert step(done, "orphans").state == "skipped"
    for pid in pids.read_text().split():
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().split()[2] == "Z"


@pytest.mark.parametrize("remove", [False, True])
async def test_orphans(tmp_path: Path, bucket: Bucket, remove: bool) -> None:
    """Databases of events that left are reported; removed only when set, and when the store has the same."""
    machine = machine_on(tmp_path, bucket, databases={"remove_orphans": remove})
    async with published(machine, bucket) as daemon:
        daemon.generations.mark_loaded(LastLoaded(1, 0.0))
        same, newer, unstored = (f"2019-{name}" for name in ("same", "newer", "unstored"))
        for name in (same, newer, unstored):
            write_event(database(machine, name), name)
            os.utime(database(machine, name), (1_700_000_000, 1_700_000_000))
        bucket.put(f"db/{same}.sqlite3", database(machine, same).read_bytes(), OLD)
        # Of a later date, and yet without what was written here.
        bucket.put(f"db/{newer}.sqlite3", write_event(tmp_path / "event", "older"), NEW)
        write_event(database(machine, "demo"), "not an event")
        done = await work(daemon)
        said = step(done, "orphans")
        assert said.total == 3
        assert database(machine, same).exists() is not remove
        assert database(machine, newer).exists()
        assert database(machine, unstored).exists()
        assert database(machine, "demo").exists()
        assert f"{unstored} is kept" in said.output


async def test_push_brings_what_is_written_here_and_the_inventory(tmp_path: Path, bucket: Bucket) -> None:
    """A push stores what is newer here with its true age, and keeps the others' entries in the inventory."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket):
        name, other = tenants(machine)[:2]
        bucket.put("inventory/index.json", json.dumps({"2001-x.sqlite3": {"etag": '"e"'}}).encode())
        write_event(database(machine, name), "here")
        os.utime(database(machine, name), (1_770_000_000, 1_770_000_000))
        async with machine.client() as client:
            async with client.post("/databases/push", headers={"Accept": "application/json"}) as answer:
                assert answer.status == 200, await answer.text()
            head = bucket.client.head_object(Bucket=bucket.name, Key=f"db/{name}.sqlite3")
            assert head["Metadata"]["last-modified"] == "2026-02-02 02:40:00 UTC"
            inventory = json.loads(
                bucket.client.get_object(Bucket=bucket.name, Key="inventory/index.json")["Body"].read()
            )
            assert inventory[f"{name}.sqlite3"] == {
                "etag": head["ETag"],
                "date": "2026-05-01",
                "last_modified": "2026-02-02 02:40:00 UTC",
            }
            assert inventory["2001-x.sqlite3"] == {"etag": '"e"'}

            async with client.get("/databases", headers={"Accept": "application/json"}) as answer:
                rows = {row["name"]: row for row in await answer.json()}
            assert rows[name]["action"] == "keep"
            assert rows[other]["action"] == "create"
            async with client.post("/databases/push", headers={"Accept": "application/json"}) as answer:
                assert await answer.json() == {"said": [], "failed": []}


async def test_push_never_loses_somebody_elses_copy(tmp_path: Path, bucket: Bucket) -> None:
    """An object that was replaced since it was last seen is not overwritten, but for those who insist."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        write_event(database(machine, name), "here")
        assert (await daemon.ready.push.push(await facts(daemon), [name], overwrite=False)).failed == ()
        theirs = bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "theirs"), OLD)
        change_event(database(machine, name), "here again")
        pushed = await daemon.ready.push.push(await facts(daemon), [name], overwrite=False)
        assert pushed.failed == (name,)
        assert "another copy" in pushed.said[0]
        head = bucket.client.head_object(Bucket=bucket.name, Key=f"db/{name}.sqlite3")
        assert head["ETag"].strip('"') == theirs
        assert (await daemon.ready.push.push(await facts(daemon), [name], overwrite=True)).failed == ()


async def test_push_refuses_what_another_region_writes(tmp_path: Path, bucket: Bucket) -> None:
    """Only the owner uploads."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket):
        name = tenants(machine)[0]
        write_event(database(machine, name), "copy")
        async with machine.client() as client:
            body = json.dumps({"names": [name]})
            async with client.post("/databases/push", data=body) as answer:
                assert answer.status >= 400
                assert "not here" in await answer.text()
        assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="db/2")


async def facts(daemon: Daemon) -> Any:
    return await daemon.ready.facts()


async def test_a_folder_that_cannot_be_read_is_an_error_and_no_more(tmp_path: Path, bucket: Bucket) -> None:
    """An update is published whatever is wrong with the databases; the step says what it is."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        (machine.application / "db" / "2001-loop.sqlite3").symlink_to("2001-loop.sqlite3")
        index = machine.store_index
        with closing(sqlite3.connect(index)) as connection:
            (studio,) = connection.execute("select key from locations order by key").fetchone()
        add_event(index, studio, 2031, "new", "New")
        bucket.put("db/index.sqlite3", index.read_bytes())
        outcome = await daemon.worker.submit(Request(trigger="socket"))
        assert outcome.state == "published"
        assert any("loop" in warning for warning in outcome.warnings)
        said = step(await work(daemon), "databases")
        assert said.error is not None
        assert said.error.code == "disk"
        assert "loop" in said.error.message


async def test_an_orphan_stays_when_its_object_has_gone(tmp_path: Path, bucket: Bucket) -> None:
    """What the store held when it was listed is no reason to remove the last copy of it."""
    machine = machine_on(tmp_path, bucket, databases={"remove_orphans": True})
    async with published(machine, bucket) as daemon:
        found = await daemon.ready.facts()
        assert found is not None
        orphan = database(machine, "2019-last")
        bucket.put("db/2019-last.sqlite3", write_event(orphan, "last"), NEW)
        os.utime(orphan, (1_700_000_000, 1_700_000_000))
        await daemon.ready.databases.survey(found)
        bucket.client.delete_object(Bucket=bucket.name, Key="db/2019-last.sqlite3")
        report = StepReport(lambda: None, lambda line: None)
        assert (
            await daemon.ready.databases.orphans(found, report, loaded=True)
            == "0 removed, 1 kept that no tenant here uses"
        )
        assert orphan.exists()


async def test_an_orphan_stays_until_its_generation_is_loaded(tmp_path: Path, bucket: Bucket) -> None:
    """Before, Navigator still serves it, and the generation may be taken back."""
    machine = machine_on(tmp_path, bucket, databases={"remove_orphans": True})
    async with published(machine, bucket) as daemon:
        orphan = database(machine, "2019-gone")
        bucket.put("db/2019-gone.sqlite3", write_event(orphan, "gone"), OLD)
        assert "not loaded" in step(await work(daemon), "orphans").output
        assert orphan.exists()
        daemon.generations.mark_loaded(LastLoaded(1, 0.0))
        await work(daemon)
        assert not orphan.exists()


# What is written here, and what is in the store


async def test_a_lost_disk_loses_nothing(tmp_path: Path, bucket: Bucket) -> None:
    """Tenants whose databases are in the store and not here yet are not served before these have come.

    The application would make empty ones, and a push store those over the full ones.
    """
    names, machine = [], machine_on(tmp_path, bucket, databases={"owns": "all", "prepare_timeout": 1})
    async with published(machine, bucket) as daemon:
        names = tenants(machine)
    events = {
        f'"{bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", name), OLD)}"' for name in names
    }
    fresh = machine_on(tmp_path / "fresh", bucket, databases={"owns": "all", "prepare_timeout": 1})
    async with Proxy(bucket.endpoint) as proxy:
        fresh.extra["s3"] = {**bucket.settings["s3"], "endpoint": proxy.url}  # type: ignore[dict-item]
        answers = asyncio.Event()

        async def slow_events(answer: faults.Answer, writer: asyncio.StreamWriter) -> None:
            if any(value in events for _, value in answer.headers):
                await answers.wait()
            await faults.well(answer, writer)

        proxy.always(slow_events)
        async with published(fresh, bucket) as daemon:
            current = daemon.generations.current
            assert current is not None
            assert set(current.withheld) == set(names)
            assert tenants(fresh) == []
            text = fresh.target("navigator.yml").read_text()
            assert not any(name in text for name in names)
            (problem,) = daemon.status.status().problems
            assert "not served yet" in problem
            answers.set()
            await work(daemon)
            await until(lambda: tenants(fresh) == names)
            assert [read_event(database(fresh, name)) for name in names] == names
            assert daemon.status.status().problems == ()
            pushed = await daemon.ready.push.push(await facts(daemon), [], overwrite=False)
            assert pushed.said == ()


async def test_an_object_that_was_never_seen_is_not_pushed_over(tmp_path: Path, bucket: Bucket) -> None:
    """However new the file that lies here, an empty one, say: it is a conflict, told of, for a person."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        full = bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "full"), OLD)
        write_event(database(machine, name), "made by a visit")
        for names in ([], [name]):
            pushed = await daemon.ready.push.push(await facts(daemon), names, overwrite=False)
            assert not any("stored" in said for said in pushed.said)
            head = bucket.client.head_object(Bucket=bucket.name, Key=f"db/{name}.sqlite3")
            assert head["ETag"].strip('"') == full
        (problem,) = daemon.status.status().problems
        assert name in problem
        assert "conflict" in step(await work(daemon), "databases").said


async def test_a_file_that_has_the_very_bytes_is_known_again(tmp_path: Path, bucket: Bucket) -> None:
    """What the application's own tools have brought here or stored is no conflict; then a change is new."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        bucket.put(f"db/{name}.sqlite3", write_event(database(machine, name), "same"), OLD)
        await work(daemon)
        assert daemon.status.status().problems == ()
        change_event(database(machine, name), "diff")
        pushed = await daemon.ready.push.push(await facts(daemon), [], overwrite=False)
        assert pushed.said[0] == f"{name}: stored"


async def test_a_write_in_the_second_of_the_upload_is_new(tmp_path: Path, bucket: Bucket) -> None:
    """Neither age nor size tell whether there is something new: the same ones do not hide it."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        write_event(database(machine, name), "one")
        os.utime(database(machine, name), (1_770_000_000.1, 1_770_000_000.1))
        await daemon.ready.push.push(await facts(daemon), [], overwrite=False)
        change_event(database(machine, name), "two")
        os.utime(database(machine, name), (1_770_000_000.2, 1_770_000_000.2))
        pushed = await daemon.ready.push.push(await facts(daemon), [], overwrite=False)
        assert pushed.said[0] == f"{name}: stored"


@pytest.mark.parametrize("fault", [faults.reset, faults.hang])
async def test_a_lost_answer_to_an_upload(tmp_path: Path, bucket: Bucket, fault: Fault) -> None:
    """What the store has taken counts as stored, and the next change is pushed."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"}, fetch={"timeout": 2})
    async with Proxy(bucket.endpoint) as proxy:
        machine.extra["s3"] = {**bucket.settings["s3"], "endpoint": proxy.url}  # type: ignore[dict-item]
        async with published(machine, bucket) as daemon:
            name = tenants(machine)[0]
            write_event(database(machine, name), "one")
            asked = await facts(daemon)

            async def lose(answer: faults.Answer, writer: asyncio.StreamWriter) -> None:
                proxy.always(faults.well)
                await fault(answer, writer)

            async def once_put(answer: faults.Answer, writer: asyncio.StreamWriter) -> None:
                put = proxy.requests[-1].startswith(f"PUT /{bucket.name}/db/")
                await (lose if put else faults.well)(answer, writer)

            proxy.always(once_put)
            pushed = await daemon.ready.push.push(asked, [], overwrite=False)
            assert pushed.failed == (), pushed.said
            change_event(database(machine, name), "two")
            assert (await daemon.ready.push.push(asked, [], overwrite=False)).said[0] == f"{name}: stored"


async def test_a_log_without_its_database_is_not_replayed(tmp_path: Path, bucket: Bucket) -> None:
    """Whoever removes a database to have it fetched anew gets the store's, not a mixture."""
    machine = machine_on(tmp_path, bucket)
    async with published(machine, bucket) as daemon:
        name = tenants(machine)[0]
        path = database(machine, name)
        write_event(path, "old", wal=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("update events set name = 'old, from the log'")
            log = path.with_name(f"{path.name}-wal").read_bytes()
        path.unlink()
        path.with_name(f"{path.name}-wal").write_bytes(log)
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "new", wal=True), NEW)
        await work(daemon)
        assert read_event(path) == "new"


async def test_a_rollback_brings_the_databases_first(tmp_path: Path, bucket: Bucket) -> None:
    """An older set's tenants are served again only with their databases; else the rollback is refused."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all", "remove_orphans": True})
    async with published(machine, bucket) as daemon:
        index, before = machine.store_index, machine.store_index.read_bytes()
        studio = first_studio(index)
        add_event(index, studio, 2031, "ball", "Ball")
        bucket.put("db/index.sqlite3", index.read_bytes())
        name = f"2031-{studio}-ball"
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "full"), OLD)
        await daemon.worker.submit(Request(trigger="socket"))
        assert read_event(database(machine, name)) == "full"
        bucket.put("db/index.sqlite3", before)
        await daemon.worker.submit(Request(trigger="socket"))
        daemon.generations.mark_loaded(LastLoaded(3, 0.0))
        await work(daemon)
        assert not database(machine, name).exists()
        back = Request(trigger="rollback", rollback=2)
        outcome = await daemon.worker.submit(back)
        assert outcome.state == "published"
        assert read_event(database(machine, name)) == "full"
        database(machine, name).unlink()
        await daemon.worker.submit(Request(trigger="rollback", rollback=3))
        bucket.put(f"db/{name}.sqlite3", b"no database")
        refused = await daemon.worker.submit(back)
        assert refused.error is not None
        assert refused.error.code == "databases_missing"
        assert name not in machine.target("tenants.list").read_text()


async def test_a_studio_that_moves_here_brings_its_newest_database(tmp_path: Path, bucket: Bucket) -> None:
    """The copy from before, however old, is replaced before this machine writes to it."""
    machine = machine_on(tmp_path, bucket, databases={"owns": "all"})
    async with published(machine, bucket) as daemon:
        index = machine.store_index
        studio = first_studio(index)
        add_event(index, studio, 2031, "ball", "Ball")
        bucket.put("db/index.sqlite3", index.read_bytes())
        name = f"2031-{studio}-ball"
        write_event(database(machine, name), "left here long ago")
        os.utime(database(machine, name), (1_700_000_000, 1_700_000_000))
        bucket.put(f"db/{name}.sqlite3", write_event(tmp_path / "event", "newest"), NEW)
        await daemon.worker.submit(Request(trigger="socket"))
        assert name in machine.target("tenants.list").read_text()
        assert read_event(database(machine, name)) == "newest"


def test_a_file_of_somebody_else_is_left_where_it_grants_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its owner may change a file's mode: what the tenants' user made must not end the ready work."""
    write_event(tmp_path / "2026-boston.sqlite3", "theirs")
    (tmp_path / "2026-boston.sqlite3").chmod(0o664)
    folder = DatabaseFolder(tmp_path, tmp_path / "private", 0o660, -1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    folder.adopt("2026-boston")
    assert (tmp_path / "2026-boston.sqlite3").stat().st_mode & 0o777 == 0o664
    (tmp_path / "2026-boston.sqlite3").chmod(0o640)
    folder.adopt("2026-boston")
    assert (tmp_path / "2026-boston.sqlite3").stat().st_mode & 0o777 == 0o660


def first_studio(index: Path) -> str:
    with closing(sqlite3.connect(index)) as connection:
        (key,) = connection.execute("select key from locations order by key").fetchone()
    return str(key)


def test_a_locked_database_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A copy for an upload is given up when the application keeps the database locked, and says so."""
    write_event(tmp_path / "event", "2026-boston")
    (tmp_path / "event").rename(tmp_path / "2026-boston.sqlite3")
    folder = DatabaseFolder(tmp_path, tmp_path / "private", 0o644, -1, -1, patience=0.1)
    with closing(sqlite3.connect(tmp_path / "2026-boston.sqlite3")) as application:
        application.execute("begin exclusive")
        with pytest.raises(SidecarError, match=r"another process has kept it locked for 0\.1 s") as caught:
            folder.copy("2026-boston")
        assert caught.value.code == "locked"
    assert list((tmp_path / "private").iterdir()) == []
    assert read_event(folder.copy("2026-boston")) == "2026-boston"


ENDLESS = "with recursive r(n) as (select 1 union all select n + 1 from r) select 'v' || n as"


@pytest.mark.parametrize(
    "instead",
    [
        f"create view {{table}} as {ENDLESS} {{column}} from r",
        "create table {table} (a, {column} as (hex(zeroblob(400000000 + a))))",
        "create table {table} (a)",
    ],
    ids=["an endless view", "computed", "another table"],
)
def test_what_is_no_plain_table_is_not_read(tmp_path: Path, instead: str) -> None:
    """Of a database from elsewhere only stored values are read: neither memory nor time goes for others."""
    path = tmp_path / "2026-boston.sqlite3"
    write_event(path)
    folder = DatabaseFolder(tmp_path, tmp_path / "private", 0o644, -1, -1)
    assert folder.versions("2026-boston") == set(VERSIONS)
    assert first_date(path) == "2026-05-01"
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, column in [("schema_migrations", "version"), ("events", "date")]:
            connection.execute(f"drop table {table}")
            connection.execute(instead.format(table=table, column=column))
            if "view" not in instead:
                connection.execute(f"insert into {table} (a) values (1)")
    assert folder.versions("2026-boston") == set()
    assert first_date(path) is None


def test_long_values_are_not_read(tmp_path: Path) -> None:
    """A default costs a file nothing, however long it is and however many rows have it."""
    path = tmp_path / "2026-boston.sqlite3"
    write_event(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("drop table schema_migrations")
        connection.execute("create table schema_migrations (a)")
        connection.executemany("insert into schema_migrations values (?)", [(1,)] * 1000)
        connection.execute(f"alter table schema_migrations add column version default '{'v' * 100_000}'")
    assert DatabaseFolder(tmp_path, tmp_path / "private", 0o644, -1, -1).versions("2026-boston") == {"None"}
