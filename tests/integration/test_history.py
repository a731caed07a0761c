"""The history file: what it keeps, and that nothing that happens to it stops an update."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.model.record import Problem
from sidecar.model.runs import Outcome
from sidecar.observe.history import History
from tests.support.machine import Machine

YEAR = 365 * 86400.0


def outcome(number: int | None = None, started: float | None = None, state: str = "published") -> Outcome:
    moment = time.time() if started is None else started
    return Outcome(state=state, trigger="cgi", who="somebody", started=moment, seconds=0.1, generation=number)


def test_entries_come_newest_first_and_in_pages(tmp_path: Path) -> None:
    """The list begins with the newest; `before` continues where a page ended."""
    history = History(tmp_path / "history.db", 100, YEAR)
    for number in range(1, 8):
        history.add(outcome(number))
    page = history.entries(3)
    assert [entry.outcome.generation for entry in page] == [7, 6, 5]
    assert [entry.outcome.generation for entry in history.entries(3, page[-1].run)] == [4, 3, 2]


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
    """No more than the number is kept, and nothing older than the age."""
    history = History(tmp_path / "history.db", 3, 3600)
    history.add(outcome(1, started=time.time() - 7200))
    assert history.entries() == []
    for number in range(2, 9):
        history.add(outcome(number))
    assert [entry.outcome.generation for entry in history.entries()] == [8, 7, 6]


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
        assert "published generation 1" in await answer.text()
