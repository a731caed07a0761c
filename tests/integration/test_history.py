"""The history file: what it keeps, and that nothing that happens to it stops an update."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.model.events import Loaded
from sidecar.model.record import Problem
from sidecar.model.runs import Outcome, Request, RunState
from sidecar.model.work import Work
from sidecar.observe.history import History, HistoryWriter, Search, is_recorded
from tests.support.machine import Machine, until

YEAR = 365 * 86400.0


def outcome(
    number: int | None = None, started: float | None = None, state: RunState = "published"
) -> Outcome:
    moment = time.time() if started is None else started
    return Outcome(state=state, trigger="cgi", who="somebody", started=moment, seconds=0.1, generation=number)


def test_an_entry_of_another_version_hides_no_other(tmp_path: Path) -> None:
    """A version that is gone back from may have written words that this one does not know."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for number in (1, 2, 3):
        history.add(outcome(number))
    with closing(sqlite3.connect(tmp_path / "history.db")) as connection, connection:
        connection.execute("update runs set state = 'paused' where generation = 2")
    assert [entry.outcome.generation for entry in history.entries()] == [3, 1]


def work(generation: int) -> Work:
    return Work(generation, "content", "loaded", "", time.time(), 0.1, "done", ())


def test_entries_come_newest_first_and_in_pages(tmp_path: Path) -> None:
    """The list begins with the newest; `before` continues where a page ended."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for number in range(1, 8):
        history.add(outcome(number))
    page = history.entries(3)
    assert [entry.outcome.generation for entry in page] == [7, 6, 5]
    assert [entry.outcome.generation for entry in history.entries(3, page[-1].run)] == [4, 3, 2]


@pytest.mark.parametrize(
    ("search", "runs"),
    [
        (Search(), [4, 3, 2, 1]),
        (Search(trigger="http"), [4, 2]),
        (Search(who="ANN"), [4, 1]),
        (Search(who="%"), []),
        (Search(state="rejected"), [4, 3]),
        (Search(trigger="http", who="ann", state="rejected"), [4]),
        (Search(published=True), [2, 1]),
    ],
)
def test_runs_are_found_by_what_is_known_of_them(tmp_path: Path, search: Search, runs: list[int]) -> None:
    """Trigger and ending are whole words, the name is a part of one, and all that is given has to fit."""
    history = History(tmp_path / "history.db", 100, YEAR)
    runs_of: list[tuple[str, str, RunState]] = [
        ("cgi", "Ann", "published"),
        ("http", "bob", "published"),
        ("cgi", "bob", "rejected"),
        ("http", "joanne", "rejected"),
    ]
    for trigger, who, state in runs_of:
        number = 1 if state == "published" else None
        history.add(msgspec.structs.replace(outcome(number, state=state), trigger=trigger, who=who))
    assert [entry.run for entry in history.entries(10, None, search)] == runs
    assert [entry.run for entry in history.entries(10, 4, search)] == [run for run in runs if run < 4]
    assert (found := history.run(3)) is not None
    assert found.outcome.state == "rejected"
    assert history.run(9) is None


def test_the_history_is_private(tmp_path: Path) -> None:
    """It holds what changed in htpasswd: nobody else reads it or its logs, also if they could before."""
    for found in (False, True):
        path = tmp_path / f"{found}" / "history.db"
        path.parent.mkdir()
        if found:
            path.touch(0o644)
        before = os.umask(0)
        try:
            history = History(path, 100, YEAR)
            with closing(sqlite3.connect(path)) as reader:
                history.add(outcome(1))
                assert reader.execute("select count(*) from runs").fetchone() == (1,)
                modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(("history.db", "history.db-wal", "history.db-shm"), 0o600)


def test_what_became_of_a_generation_is_recorded(tmp_path: Path) -> None:
    """A load and a rollback change the generation's entry, and no other."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for number in (1, 2):
        history.add(outcome(number))
    history.settle(1, "loaded", 0.2)
    history.settle(2, "rolled_back", None, "Navigator did not load it")
    first, second = history.generation(1), history.generation(2)
    assert first is not None
    assert second is not None
    assert (first.state, first.reload_seconds, first.note) == ("loaded", 0.2, None)
    assert (second.state, second.note) == ("rolled_back", "Navigator did not load it")
    assert history.generation(3) is None


def test_retention_by_number_and_age(tmp_path: Path) -> None:
    """No more than the number is kept, and nothing that is older than the newest entries by the age."""
    history = History(tmp_path / "history.db", 10, 3600)
    history.add(outcome(1, started=time.time() - 7200))
    for number in range(2, 8):
        history.add(outcome(number))
    assert [entry.outcome.generation for entry in history.entries()] == [7, 6, 5, 4, 3, 2]
    for number in range(8, 19):
        history.add(outcome(number))
    assert [entry.outcome.generation for entry in history.entries()] == list(range(18, 8, -1))


@pytest.mark.parametrize("wrong", [-30 * YEAR, 30 * YEAR], ids=["past", "future"])
def test_a_wrong_clock_does_not_empty_the_history(tmp_path: Path, wrong: float) -> None:
    """Two runs under a clock that is years off remove no older entries, nor do the runs after them."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for number in range(1, 8):
        history.add(outcome(number))
    for number in (8, 9):
        history.add(outcome(number, started=time.time() + wrong))
    history.add(outcome(10))
    assert {1, 2, 3, 4, 5, 6, 7, 10} <= {entry.outcome.generation for entry in history.entries()}


def test_entries_of_kept_generations_stay(tmp_path: Path) -> None:
    """However much happens, a generation that is kept on disk has its entry: the newest of its number."""
    kept = {2, 3}
    history = History(tmp_path / "history.db", 4, 3600, lambda: kept)
    history.add(outcome(2, started=time.time() - 9 * 3600))
    for number in (1, 2, 3):
        history.add(outcome(number, started=time.time() - 8 * 3600))
    for _ in range(20):
        history.add(outcome(state="rejected"))
    assert [entry.outcome.generation for entry in history.entries() if entry.outcome.generation] == [3, 2]
    kept.clear()
    history.add(outcome(state="rejected"))
    assert [entry.outcome.state for entry in history.entries()] == ["rejected"] * 4


def test_nothing_is_removed_while_the_generations_are_unknown(tmp_path: Path) -> None:
    """A folder of generations that cannot be listed costs no entries."""

    def kept() -> list[int]:
        raise PermissionError(13, "Permission denied")

    history = History(tmp_path / "history.db", 2, YEAR, kept)
    for number in range(1, 5):
        history.add(outcome(number))
    assert len(history.entries()) == 4


STORE_DOWN = Problem("store_timeout", "fetching took longer than 20 s", "", 502)


@pytest.mark.parametrize("nobody", [{"public": True}, {"trigger": "timer"}], ids=["public", "timer"])
def test_what_nobody_asked_for_is_recorded_when_it_is_news(nobody: dict[str, Any]) -> None:
    """Strangers and the timer leave an entry for a publication and for a new failure, and no other."""
    poke = msgspec.structs.replace(outcome(state="unchanged"), **nobody)
    published = msgspec.structs.replace(poke, state="published")
    failed = msgspec.structs.replace(poke, state="failed", error=STORE_DOWN)
    assert not is_recorded(poke, None)
    assert is_recorded(published, published)
    assert is_recorded(failed, None)
    assert is_recorded(failed, published)
    assert not is_recorded(failed, failed)
    other = msgspec.structs.replace(STORE_DOWN, code="store_denied")
    assert is_recorded(failed, msgspec.structs.replace(failed, error=other))


def test_a_fleet_update_that_is_tried_again_is_recorded_once() -> None:
    """As long as it fails in the same way; its success, and somebody else's attempt, are recorded."""
    missed = Problem("fleet", "not loaded by m2", "the log below says why of each", 502)
    failed = msgspec.structs.replace(outcome(state="failed"), trigger="fleet", error=missed)
    assert is_recorded(failed, None)
    assert not is_recorded(failed, failed)
    assert is_recorded(msgspec.structs.replace(failed, who="somebody else"), failed)
    done = msgspec.structs.replace(failed, state="fleet_updated", error=None)
    assert is_recorded(done, failed)
    assert is_recorded(done, done)


def test_what_somebody_asked_for_is_recorded() -> None:
    """A signed poke, a command, a start: each leaves an entry, whatever came of it; a preview leaves none."""
    for trigger in ("cgi", "socket", "http", "webhook", "start", "boot", "resume"):
        asked = msgspec.structs.replace(outcome(state="unchanged"), trigger=trigger)
        assert is_recorded(asked, asked)
        failed = msgspec.structs.replace(asked, state="failed", error=STORE_DOWN)
        assert is_recorded(failed, failed)
    assert not is_recorded(msgspec.structs.replace(outcome(state="previewed"), trigger="preview"), None)


async def test_pokes_of_strangers_do_not_flush_the_history(machine: Machine) -> None:
    """Unsigned pokes that change nothing leave no entries; the first one, which published, does."""
    machine.extra["history"] = {"keep": 3}
    machine.extra["trigger"] = {"secret": "", "interval": 0.001, "burst": 100}
    machine.put_index()
    async with machine.daemon() as daemon:
        for _ in range(6):
            await daemon.worker.submit(Request(trigger="cgi", public=True))
        await daemon.worker.submit(Request(trigger="socket"))
        await until(lambda: len(daemon.history.entries()) == 2)
        assert [entry.outcome.trigger for entry in daemon.history.entries()] == ["socket", "start"]
        assert daemon.history.generation(1) is not None


def test_only_the_newest_of_a_number_is_settled(tmp_path: Path) -> None:
    """After the generations were lost the numbers begin anew; what was told of the old ones stays."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for state in ("loaded", "rolled_back"):
        history.add(outcome(1))
        history.settle(1, state)
    history.add_ready(work(1))
    assert [(entry.state, entry.ready is not None) for entry in history.entries()] == [
        ("rolled_back", True),
        ("loaded", False),
    ]


async def test_a_load_before_the_runs_end_is_written_behind_its_entry(tmp_path: Path) -> None:
    """A load and ready work that are told of before the run is recorded count for it, not for an old one."""
    history = History(tmp_path / "history.db", 100, YEAR)
    history.add(outcome(1))
    writer = HistoryWriter(history)
    writer.track(1)
    writer.settle(1, "loaded", 0.5)
    writer.add_ready(work(1))
    writer.add(outcome(1))
    writer.settle(1, "rolled_back", None, "later")
    await writer.close()
    assert [(entry.state, entry.note, entry.ready is not None) for entry in history.entries()] == [
        ("rolled_back", "later", True),
        ("published", None, False),
    ]


async def test_the_writer_keeps_the_order(tmp_path: Path) -> None:
    """What is told one after the other is written so, and `close` waits for all of it."""
    history = History(tmp_path / "history.db", 1000, YEAR)
    writer = HistoryWriter(history)
    for number in range(1, 51):
        writer.add(outcome(number))
        writer.settle(number, "loaded", float(number))
    await writer.close()
    entries = history.entries(100)
    assert [entry.outcome.generation for entry in entries] == list(range(50, 0, -1))
    assert all(entry.reload_seconds == entry.outcome.generation for entry in entries)


async def test_what_becomes_of_a_generation_is_written_behind_its_entry(machine: Machine) -> None:
    """A load that is told of before the run has ended, as for a set that is served already, is not lost."""
    machine.put_index()
    async with machine.daemon() as daemon:
        await until(lambda: daemon.generations.current is not None)
        daemon._history_writer.track(2)
        daemon._history_writer.on_event(Loaded(2, 0.1))
        daemon._history_writer.add(outcome(2))
    entry = History(machine.state / "history.db", 100, YEAR).generation(2)
    assert entry is not None
    assert entry.state == "loaded"


def test_a_file_that_vanishes_is_made_anew(tmp_path: Path) -> None:
    """The tables are made once, and again when somebody has removed the file."""
    history = History(tmp_path / "history.db", 100, YEAR)
    history.startup()
    history.add(outcome(1))
    (tmp_path / "history.db").unlink()
    history.add(outcome(2))
    assert [entry.outcome.generation for entry in history.entries()] == [2]


def test_a_run_without_a_publication_is_not_the_generations(tmp_path: Path) -> None:
    """A refused run is in the list, but is not what `/generations/{n}` tells of the one in place."""
    history = History(tmp_path / "history.db", 100, YEAR)
    history.add(outcome(1))
    error = Problem("loss", "too many users would go", "", 422)
    history.add(Outcome("rejected", "cgi", "", time.time(), 0.1, generation=1, error=error))
    entry = history.generation(1)
    assert entry is not None
    assert entry.outcome.state == "published"
    assert [one.outcome.state for one in history.entries()] == ["rejected", "published"]


@pytest.mark.parametrize("damage", [b"this is no database" * 500, b""], ids=["garbage", "empty"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    """A file that is no history does not stop the history: it is kept under another name."""
    path = tmp_path / "history.db"
    path.write_bytes(damage)
    history = History(path, 100, YEAR)
    history.startup()
    history.add(outcome(1))
    assert len(history.entries()) == 1
    assert len(list(tmp_path.glob("history.db.damaged-*"))) == (1 if damage else 0)


def test_damage_inside_is_noticed_at_start(tmp_path: Path) -> None:
    """Pages overwritten in the middle are found when the daemon starts."""
    path = tmp_path / "history.db"
    history = History(path, 1000, YEAR)
    for number in range(300):
        history.add(outcome(number))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    history.startup()
    history.add(outcome(1))
    assert len(history.entries()) == 1


async def test_an_unusable_history_stops_no_update(machine: Machine) -> None:
    """With a folder where the history should be, updates are published all the same."""
    machine.put_index()
    (machine.state / "history.db").mkdir(parents=True)
    async with machine.daemon(), machine.client() as client, client.post("update") as answer:
        assert answer.status == 200
        assert "generation 1" in await answer.text()
