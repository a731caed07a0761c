"""A machine that owns the index: it is read in its place, watched, and never replaced."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.demo.sample import add_user, write_index
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
        await until(lambda: b"newcomer:" in machine.targets()["htpasswd"], 20)
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
