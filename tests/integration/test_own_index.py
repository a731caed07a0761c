"""A machine that owns the index: it is read in its place, watched, and never replaced."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from sidecar.config.settings import Duration, FetchSettings
from sidecar.demo.sample import add_user, write_index
from sidecar.errors import StoreError
from sidecar.inputs.store.local import LocalIndex
from tests.support.machine import SMALL, Machine, until
from tests.support.publisher import stamps, update


def owner(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, {"update": {"own_index": True}})
    write_index(machine.target("index.sqlite3"), SMALL)
    return machine


async def test_a_local_change_is_published_by_itself(tmp_path: Path) -> None:
    """A user added to the local index appears in htpasswd without a poke."""
    machine = owner(tmp_path)
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        add_user(machine.target("index.sqlite3"), "newcomer", "newcomer:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
        await until(lambda: b"newcomer:" in machine.targets()["htpasswd"])
        await until(lambda: daemon.status.last is not None and daemon.status.last.trigger == "local")


async def test_the_index_is_never_written(tmp_path: Path) -> None:
    """Neither its bytes nor its time change, whatever lies in the store."""
    machine = owner(tmp_path)
    machine.put_index(seed=7)
    index = machine.target("index.sqlite3")
    before = (hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns)
    async with machine.daemon(), machine.client() as client, client.post("update") as answer:
        assert answer.status == 200
    assert (hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns) == before


async def test_changes_that_are_still_in_the_log_count(tmp_path: Path) -> None:
    """A committed change in the write-ahead log is part of the index."""
    machine = owner(tmp_path)
    index = machine.target("index.sqlite3")
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute(
            "update users set password = 'logged:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=' where id = 3"
        )
        connection.commit()
        async with machine.daemon(), machine.client() as client, client.post("update") as answer:
            assert answer.status == 200
        assert b"logged:" in machine.targets()["htpasswd"]


def test_what_the_application_writes_itself_makes_no_generation(tmp_path: Path) -> None:
    """It writes users and events after each change, in its own form: equal data is no change, nor drift."""
    machine = owner(tmp_path)
    assert update(machine).state == "published"
    users, events = machine.target("htpasswd"), machine.target("showcases.yml")
    users.write_text("\n".join(reversed(users.read_text().splitlines())))
    data = yaml.load(events.read_text(), yaml.CSafeLoader)
    events.write_text(
        yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, indent=4, explicit_start=True)
    )
    before = stamps(machine)
    outcome = update(machine)
    assert (outcome.state, outcome.generation, outcome.drift) == ("unchanged", 1, {})
    assert stamps(machine) == before
    users.write_text(users.read_text().replace("{SHA}", "{SHA}x", 1).replace("$2", "$3", 1))
    assert update(machine).generation == 2


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_damaged_index_of_ones_own_is_never_touched(tmp_path: Path, content: bytes | None) -> None:
    """What happens to the index is the machine's own business: nothing is put back, and nothing is drift."""
    machine = owner(tmp_path)
    assert update(machine).state == "published"
    index = machine.target("index.sqlite3")
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    before = {name: stamp for name, stamp in stamps(machine).items() if name != index.name}
    outcome = update(machine)
    assert outcome.error is not None
    assert (index.read_bytes() if index.exists() else None) == content
    assert {name: stamp for name, stamp in stamps(machine).items() if name != index.name} == before


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A live index on its own."""
    path = tmp_path / "live" / "index.sqlite3"
    path.parent.mkdir()
    write_index(path, SMALL)
    return path


def local(index: Path, timeout: float = 5.0) -> LocalIndex:
    return LocalIndex(index, FetchSettings(timeout=Duration(timeout)), lambda *_: None)


@contextmanager
def in_wal_mode(index: Path) -> Iterator[sqlite3.Connection]:
    """The application, which has the index open."""
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute("select count(*) from users").fetchone()
        yield connection


def password_in(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("select password from users where id = 3").fetchone()[0])


def set_password(connection: sqlite3.Connection, password: str) -> None:
    connection.execute("update users set password = ? where id = 3", (password,))
    connection.commit()


async def test_reading_leaves_nothing_beside_the_index(index: Path, tmp_path: Path) -> None:
    """In WAL mode a look and a copy leave no files of the sidecar's user in the application's folder."""
    with in_wal_mode(index):
        pass
    before = index.stat()
    source = local(index)
    source.signature()
    assert await source.fetch("", tmp_path / "copy", None) is not None
    assert [path.name for path in index.parent.iterdir()] == ["index.sqlite3"]
    assert index.stat().st_mtime_ns == before.st_mtime_ns


async def test_only_a_change_of_content_changes_the_signature(index: Path, tmp_path: Path) -> None:
    """Opening and closing the index, and writing what is there already, is no change; a new row is."""
    source = local(index)
    with in_wal_mode(index):
        first = source.signature()
    assert source.signature() == first
    with in_wal_mode(index):
        assert source.signature() == first
    os.utime(index)
    assert source.signature() == first
    assert await source.fetch("", tmp_path / "copy", first) is None
    assert not (tmp_path / "copy").exists()
    with in_wal_mode(index) as application:
        set_password(application, "new")
        second = source.signature()
        assert second != first
    assert source.signature() == second
    fetched = await source.fetch("", tmp_path / "copy", first)
    assert fetched is not None
    assert (fetched.etag, fetched.sha256) == (second, second)
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == second
    assert password_in(tmp_path / "copy") == "new"


async def test_a_log_that_nobody_has_open_is_a_part_of_the_index(index: Path, tmp_path: Path) -> None:
    """What an application that was killed had committed counts, and its files stay as they are."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with in_wal_mode(index) as application:
        set_password(application, "logged")
        for name in ("index.sqlite3", "index.sqlite3-wal"):
            (kept / name).write_bytes((index.parent / name).read_bytes())
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert await local(kept / "index.sqlite3").fetch("", tmp_path / "copy", None) is not None
    assert password_in(tmp_path / "copy") == "logged"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


async def test_the_age_of_the_index_is_that_of_its_last_change(index: Path, tmp_path: Path) -> None:
    """A change that is still in the log counts for the age, too."""
    old = time.time() - 30 * 86400
    with in_wal_mode(index) as application:
        set_password(application, "new")
        os.utime(index, (old, old))
        fetched = await local(index).fetch("", tmp_path / "copy", None)
    assert fetched is not None
    assert fetched.modified is not None
    assert fetched.modified > old + 86400


async def test_a_locked_index_is_given_up_and_named(index: Path, tmp_path: Path) -> None:
    """An index that stays locked costs the time limit, not a thread for each attempt; the lock is named."""
    before = hashlib.sha256(index.read_bytes()).hexdigest()
    source = local(index, 0.1)
    with closing(sqlite3.connect(index)) as application:
        application.execute("begin exclusive")
        for number in range(12):
            with pytest.raises(StoreError, match="another process has kept it locked for") as caught:
                await asyncio.wait_for(source.fetch("", tmp_path / f"copy-{number}", None), 10)
            assert caught.value.code == "store_locked"
        with pytest.raises(StoreError, match="locked"):
            source.signature()
    assert hashlib.sha256(index.read_bytes()).hexdigest() == before
    assert list(tmp_path.glob("*copy*")) == []
    assert await source.fetch("", tmp_path / "copy", None) is not None


async def test_a_copy_that_nobody_waits_for_is_not_put_in_place(index: Path, tmp_path: Path) -> None:
    """A copy whose run was given up while the index was locked does not become the next run's file."""
    threads = threading.active_count()
    with closing(sqlite3.connect(index)) as application:
        application.execute("begin exclusive")
        fetching = asyncio.create_task(local(index).fetch("", tmp_path / "copy", None))
        await until(lambda: threading.active_count() > threads)
        fetching.cancel()
        await asyncio.wait({fetching})
    await asyncio.get_running_loop().shutdown_default_executor()
    assert list(tmp_path.glob("*copy*")) == []


async def test_an_index_that_cannot_be_read_does_not_end_the_daemon(tmp_path: Path) -> None:
    """With a folder in the index's place the daemon goes on, and follows the index when it is there again."""
    machine = owner(tmp_path)
    index = machine.target("index.sqlite3")
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        content = index.read_bytes()
        index.unlink()
        index.mkdir()
        async with client.post("update") as answer:
            assert answer.status == 502
        index.rmdir()
        index.write_bytes(content)
        add_user(index, "newcomer", "newcomer:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
        await until(lambda: b"newcomer:" in machine.targets()["htpasswd"])
        assert daemon.worker.alive
