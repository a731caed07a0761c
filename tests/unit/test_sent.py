"""Indexes that were sent ahead of the store: for how long the store may be behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.update.sent import LIMIT, SentIndexes


@dataclass
class Clocks:
    """The wall's clock, which can be set, and the one that only goes on."""

    wall: float = 1777636800.0
    steady: float = 100.0

    def open(self, path: Path) -> SentIndexes:
        return SentIndexes(path, lambda: self.wall, lambda: self.steady)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sent.json"


def test_what_was_replaced_may_still_be_served(path: Path) -> None:
    """By the very index that was sent, until the time is up."""
    clocks = Clocks()
    sent = clocks.open(path)
    sent.add("new", "old")
    assert sent.seconds_behind("new", "old") == LIMIT
    assert sent.seconds_behind("new", "other") == 0
    assert sent.seconds_behind("old", "new") == 0
    clocks.steady += LIMIT
    assert sent.seconds_behind("new", "old") == 0


def test_several_in_a_row_have_replaced_all_before_them(path: Path) -> None:
    """The store may be behind by more than one; an index that was sent twice has not replaced itself."""
    sent = Clocks().open(path)
    sent.add("b", "a")
    sent.add("c", "b")
    assert sent.seconds_behind("c", "a")
    assert sent.seconds_behind("c", "b")
    sent.add("a", "c")
    assert sent.seconds_behind("a", "b")
    assert not sent.seconds_behind("a", "a")


def test_what_the_store_has_served_is_confirmed(path: Path) -> None:
    """From then on nothing is behind it, after a restart too."""
    clocks = Clocks()
    sent = clocks.open(path)
    sent.add("new", "old")
    sent.confirm("old")
    assert clocks.open(path).seconds_behind("new", "old")
    sent.confirm("new")
    assert not sent.seconds_behind("new", "old")
    assert not clocks.open(path).seconds_behind("new", "old")


def test_one_that_was_refused_takes_nothing_from_the_one_before(path: Path) -> None:
    """What is in place decides: the index that was sent last need not be."""
    sent = Clocks().open(path)
    sent.add("good", "old")
    sent.add("bad", "good")
    assert sent.seconds_behind("good", "old")


@pytest.mark.parametrize(
    ("step", "left"),
    [(0.0, LIMIT), (60.0, LIMIT - 60), (-60.0, LIMIT - 60), (LIMIT, 0.0), (-86400.0, 0.0), (86400.0, 0.0)],
)
def test_a_clock_that_was_set_makes_it_no_longer(path: Path, step: float, left: float) -> None:
    """While the daemon runs the wall's clock does not matter; over a restart it can only shorten the time."""
    clocks = Clocks()
    sent = clocks.open(path)
    sent.add("new", "old")
    clocks.wall += step
    assert sent.seconds_behind("new", "old") == LIMIT
    assert clocks.open(path).seconds_behind("new", "old") == left


def test_the_memory_is_bounded(path: Path) -> None:
    """However many are sent, the file stays small."""
    sent = Clocks().open(path)
    for number in range(100):
        sent.add(str(number + 1), str(number))
    assert sent.seconds_behind("100", "99")
    assert not sent.seconds_behind("100", "1")
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize("content", [b"", b"[{}]", b"not json"])
def test_a_damaged_memory_is_none(path: Path, content: bytes) -> None:
    """The file may be lost without harm."""
    path.write_bytes(content)
    assert not Clocks().open(path).seconds_behind("new", "old")


def test_a_memory_that_cannot_be_written_still_counts(tmp_path: Path) -> None:
    """On a full or read-only disk it lasts as long as the daemon."""
    sent = Clocks().open(tmp_path / "not there" / "sent.json")
    sent.add("new", "old")
    assert sent.seconds_behind("new", "old")


def test_what_is_sent_again_is_still_meant(path: Path) -> None:
    """The store may be behind for as long once more; what never was ahead of it does not become so."""
    clocks = Clocks()
    sent = clocks.open(path)
    sent.add("new", "old")
    clocks.steady += LIMIT - 1
    sent.renew("new")
    sent.renew("other")
    assert sent.seconds_behind("new", "old") == LIMIT
    assert sent.seconds_behind("other", "old") == 0
