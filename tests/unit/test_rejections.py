"""What was refused: content until it or this machine's inputs change, the rest for a time only."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import Rejected
from sidecar.model.navigator import Process
from sidecar.update.rejections import FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS, Rejections

ERROR = Rejected("two tenants share a path", "rename one", code="duplicate")
NOT_LOADED = Rejected("generation 2 was taken back: Navigator did not load it", code="not_loaded")
NAVIGATOR, RESTARTED = Process(100, 5000, "boot"), Process(200, 9000, "boot")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rejected.json"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def known(
    rejections: Rejections,
    sha256: str,
    inputs: str = "inputs",
    process: Process | None = None,
    *,
    person: bool = False,
) -> bool:
    """Whether the content is still refused."""
    try:
        rejections.raise_if_known(sha256, inputs, process, person=person)
    except Rejected:
        return True
    return False


def test_the_same_refusal_is_raised_again(path: Path) -> None:
    """With its code, its hint and its sentence, and a word that it was known."""
    rejections = Rejections(path)
    rejections.add("a", "inputs", ERROR)
    with pytest.raises(Rejected) as caught:
        rejections.raise_if_known("a", "inputs")
    assert (caught.value.code, caught.value.hint) == ("duplicate", "rename one")
    assert caught.value.message.startswith("two tenants share a path")
    assert "before" in caught.value.message


def test_other_content_and_other_settings_are_tried(path: Path) -> None:
    """It is this index under these inputs that was refused."""
    rejections = Rejections(path)
    rejections.add("a", "inputs", ERROR)
    assert not known(rejections, "b")
    assert not known(rejections, "a", "other inputs")
    assert known(rejections, "a")


def test_it_outlives_a_restart(path: Path) -> None:
    """A new object on the same file knows it."""
    Rejections(path).add("a", "inputs", ERROR)
    assert known(Rejections(path), "a")


def test_the_newest_are_kept(path: Path) -> None:
    """Fifty of them; one that is refused again counts as new."""
    rejections = Rejections(path)
    for number in range(50):
        rejections.add(str(number), "inputs", ERROR)
    rejections.add("0", "inputs", ERROR)
    rejections.add("50", "inputs", ERROR)
    for one in (rejections, Rejections(path)):
        assert [number for number in range(51) if not known(one, str(number))] == [1]


def test_the_last_refusal_of_a_content_counts(path: Path) -> None:
    """A forced run may have found another reason."""
    rejections = Rejections(path)
    rejections.add("a", "inputs", ERROR)
    rejections.add("a", "inputs", Rejected("RE2 refuses it", code="expression"))
    with pytest.raises(Rejected, match="RE2"):
        rejections.raise_if_known("a", "inputs")


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'[{"content": 1}]', b"\xff\xfe", b"null"])
def test_a_file_that_cannot_be_read_is_no_harm(path: Path, content: bytes) -> None:
    """Nothing is known then, and the next refusal is kept again."""
    path.write_bytes(content)
    rejections = Rejections(path)
    assert not known(rejections, "a")
    rejections.add("a", "inputs", ERROR)
    assert known(Rejections(path), "a")


def test_a_file_that_cannot_be_written_is_no_harm(path: Path) -> None:
    """On a full disk the refusal itself must still be told: it is known until the next start."""
    rejections = Rejections(path.parent / "missing" / path.name)
    rejections.add("a", "inputs", ERROR)
    assert known(rejections, "a")


def newest(rejections: Rejections) -> tuple[str, str] | None:
    return rejections.newest


def test_the_newest_is_one_under_the_present_inputs(path: Path) -> None:
    """A refusal under a profile that was corrected since says nothing about the machine as it is."""
    rejections = Rejections(path)
    rejections.add("a", "inputs", ERROR)
    rejections.add("b", "other inputs", ERROR)
    for one in (rejections, Rejections(path)):
        assert newest(one) == ("b", "duplicate")
        assert not known(one, "c", "inputs")
        assert newest(one) == ("a", "duplicate")
        one.loaded("a", "inputs")
        assert newest(one) is None
        one.add("a", "inputs", ERROR)


# For a time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_pause_doubles_up_to_an_hour(path: Path, clock: Clock) -> None:
    """A minute at first, twice as long each time in a row, never more than an hour."""
    rejections = Rejections(path, clock)
    for expected in (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0):
        rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
        clock.now += expected - 1
        assert known(rejections, "a", process=NAVIGATOR)
        clock.now += 1
        assert not known(rejections, "a", process=NAVIGATOR)
    assert (FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS) == (60.0, 3600.0)


def test_the_sentence_says_when_it_is_tried_again(path: Path, clock: Clock) -> None:
    """With the true reason, and what a person can do."""
    rejections = Rejections(path, clock)
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    with pytest.raises(Rejected) as caught:
        rejections.raise_if_known("a", "inputs", NAVIGATOR)
    assert caught.value.code == "not_loaded"
    assert caught.value.message.startswith(NOT_LOADED.message)
    assert "tried again in 1 min" in caught.value.message
    assert "sidecar update" in caught.value.hint


def test_another_process_ends_it(path: Path, clock: Clock) -> None:
    """It says something of the Navigator that would not load it: one that was restarted gets it."""
    rejections = Rejections(path, clock)
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    assert known(rejections, "a", process=NAVIGATOR)
    assert not known(rejections, "a", process=RESTARTED)
    assert not known(rejections, "a", process=None)


def test_a_person_ends_it(path: Path, clock: Clock) -> None:
    """Whoever asks in person has it tried at once; unsound content stays refused for a person too."""
    rejections = Rejections(path, clock)
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    rejections.add("b", "inputs", ERROR)
    assert not known(rejections, "a", process=NAVIGATOR, person=True)
    assert known(rejections, "b", process=NAVIGATOR, person=True)


def test_a_clock_that_is_set_ends_it_at_most_early(path: Path, clock: Clock) -> None:
    """Set back by a day it does not hold for a day; set back by less than the pause it holds still."""
    rejections = Rejections(path, clock)
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    clock.now -= 86400
    assert not known(rejections, "a", process=NAVIGATOR)
    clock.now += 86400 + 30
    assert known(rejections, "a", process=NAVIGATOR)
    clock.now += 86400
    assert not known(rejections, "a", process=NAVIGATOR)


def test_a_refusal_for_a_time_outlives_a_restart(path: Path, clock: Clock) -> None:
    """Of the daemon: pause and process are in the file, so that the next one is longer still."""
    Rejections(path, clock).add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    again = Rejections(path, clock)
    assert known(again, "a", process=NAVIGATOR)
    again.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    clock.now += 119
    assert known(Rejections(path, clock), "a", process=NAVIGATOR)


def test_published_ends_a_refusal_of_the_content_only(path: Path, clock: Clock) -> None:
    """In place it is sound; whether it loads is to be seen, and the pause goes on growing."""
    rejections = Rejections(path, clock)
    rejections.add("a", "inputs", ERROR)
    rejections.published("a", "inputs")
    assert not known(rejections, "a")
    rejections.add_for_a_time("b", "inputs", NOT_LOADED, NAVIGATOR)
    rejections.published("b", "inputs")
    assert known(rejections, "b", process=NAVIGATOR)
    rejections.add_for_a_time("b", "inputs", NOT_LOADED, NAVIGATOR)
    clock.now += 119
    assert known(rejections, "b", process=NAVIGATOR)


def test_loaded_ends_all(path: Path, clock: Clock) -> None:
    """What Navigator serves is held against nobody: the next refusal of it lasts a minute again."""
    rejections = Rejections(path, clock)
    for _ in range(3):
        rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    rejections.loaded("a", "inputs")
    assert not known(rejections, "a", process=NAVIGATOR)
    assert rejections.newest is None
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    clock.now += 60
    assert not known(rejections, "a", process=NAVIGATOR)


def test_another_try_is_due_when_the_pause_is_over(path: Path, clock: Clock) -> None:
    """Of what was refused last, if that was for a time; a restart of Navigator makes it due at once."""
    rejections = Rejections(path, clock)
    assert not rejections.retry_due(NAVIGATOR)
    rejections.add_for_a_time("a", "inputs", NOT_LOADED, NAVIGATOR)
    assert not rejections.retry_due(NAVIGATOR)
    assert rejections.retry_due(RESTARTED)
    clock.now += 60
    assert rejections.retry_due(NAVIGATOR)
    rejections.add("b", "inputs", ERROR)
    assert not rejections.retry_due(NAVIGATOR)


def test_the_newest_refusal_is_told_by_digest_and_code(path: Path, clock: Clock) -> None:
    """For everybody who asks how the machine is doing."""
    rejections = Rejections(path, clock)
    assert rejections.newest is None
    rejections.add("a", "inputs", ERROR)
    rejections.add_for_a_time("b", "inputs", NOT_LOADED, NAVIGATOR)
    assert rejections.newest == ("b", "not_loaded")
