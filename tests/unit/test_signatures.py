"""Used signatures: none counts twice, whatever happens in between."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.errors import Unauthorized
from sidecar.web.signatures import NotRecorded, UsedSignatures

NOW = 1_780_000_000
WINDOW = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signatures"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def started(path: Path, now: float = NOW, clock: Clock | None = None) -> UsedSignatures:
    used = UsedSignatures(path, WINDOW, clock or Clock())
    used.startup(now)
    return used


def use(used: UsedSignatures, signature: str, now: float = NOW) -> bool:
    """Whether the signature was taken."""
    try:
        used.use(signature, now)
    except Unauthorized:
        return False
    return True


def test_no_signature_twice(path: Path) -> None:
    """The first use passes, every later one is refused, and others are not concerned."""
    used = started(path)
    assert use(used, "v1=a")
    with pytest.raises(Unauthorized) as caught:
        used.use("v1=a", NOW)
    assert caught.value.code == "replayed"
    assert not use(used, "v1=a", NOW + 299)
    assert use(used, "v1=b")


def test_not_after_a_restart_either(path: Path) -> None:
    """A new object on the same file knows what the old one took, also after several restarts."""
    assert use(started(path), "v1=a")
    for later in (0, 1, 299):
        again = started(path, NOW + later)
        assert not use(again, "v1=a", NOW + later)
    assert use(started(path), "v1=b")
    assert not use(started(path), "v1=a")


def test_a_use_is_on_disk_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has it at once: whoever is killed right after, or loses power, does not forget."""
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_text())
        sync(descriptor)

    used = started(path)
    monkeypatch.setattr(os, "fsync", note)
    for signature, written in (("v1=a", f"{NOW} v1=a\n"), ("v1=b", f"{NOW} v1=a\n{NOW} v1=b\n")):
        use(used, signature)
        assert path.read_text() == written
        assert synced[-1] == written
    assert len(synced) == 2


def test_nobody_else_reads_what_was_used(path: Path) -> None:
    """Whichever way the file is written, at the start or for one more."""
    used = started(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    use(used, "v1=a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "torn", ["17800", f"{NOW}", f"{NOW} ", f"{NOW} v1=", "\0\0\0", " ", "x y", "-5 v1=z"]
)
def test_a_torn_last_line_does_no_harm(path: Path, torn: str) -> None:
    """After a crash in the middle of a line the whole lines count, and new ones are read back."""
    path.write_text(f"{NOW} v1=a\n{torn}")
    used = started(path)
    assert not use(used, "v1=a")
    assert use(used, "v1=b")
    assert not use(started(path), "v1=a")
    assert not use(started(path), "v1=b")


def test_bytes_that_are_no_text_do_no_harm(path: Path) -> None:
    """Nor does a file that something else wrote into."""
    path.write_bytes(b"\xff\xfe\x00garbage\n" + f"{NOW} v1=a\n".encode())
    assert not use(started(path), "v1=a")


def test_what_is_too_old_to_matter_is_forgotten(path: Path) -> None:
    """The file and the memory hold what a valid time could still bring back, not more."""
    clock = Clock()
    used = started(path, clock=clock)
    for number in range(50):
        use(used, f"v1={number}", NOW)
    later = NOW + 2 * WINDOW + 1
    clock.now += 2 * WINDOW + 1
    assert use(used, "v1=0", later)
    started(path, later)
    assert path.read_text() == f"{later} v1=0\n"


def test_a_clock_that_is_set_brings_nothing_back(path: Path) -> None:
    """The wall clock goes forth, far beyond the window, and back: what was used then still was."""
    used = started(path)
    assert use(used, "v1=a")
    assert use(used, "v1=b", NOW + 100 * WINDOW)
    assert not use(used, "v1=a")
    assert not use(started(path), "v1=a")


moments = st.integers(-WINDOW, WINDOW)


@settings(max_examples=100)
@given(moments, moments, st.booleans())
@example(-WINDOW, WINDOW, False)
@example(-WINDOW, WINDOW, True)
def test_no_signature_twice_within_its_time(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int, restart: bool
) -> None:
    """At any two moments at which a signature's time is within the window, it is taken once."""
    path = tmp_path_factory.getbasetemp() / "signatures"
    path.unlink(missing_ok=True)
    earlier, later = NOW + min(first, second), NOW + max(first, second)
    used = started(path, earlier)
    assert use(used, "v1=a", earlier)
    assert not use(started(path, later) if restart else used, "v1=a", later)


def test_a_use_that_cannot_be_kept_does_not_count(path: Path) -> None:
    """When the file cannot be written the request fails with the reason, and can be sent again."""
    used = started(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(NotRecorded, match="directory") as caught:
        used.use("v1=a", NOW)
    assert caught.value.status == 503
    path.rmdir()
    assert use(used, "v1=a")


def test_a_line_that_is_written_in_part_does_not_count(path: Path) -> None:
    """With room for half a line the signature is refused, and leaves nothing that spoils the next one."""
    used = started(path)
    assert use(used, "v1=first")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(NotRecorded):
            used.use("v1=second", NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_text() == f"{NOW} v1=first\n"
    assert use(used, "v1=second")
    again = started(path)
    assert not use(again, "v1=first")
    assert not use(again, "v1=second")


def test_a_start_needs_no_writable_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full or read-only disk is logged at the start; what was used before is known all the same.

    Half a line that a crash has left does not swallow the first line that is written when there is room.
    """
    path.write_text(f"{NOW} v1=a\n17800")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        used = started(path)
        assert not use(used, "v1=a")
        with pytest.raises(NotRecorded):
            used.use("v1=b", NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "signed pokes are refused" in caplog.text
    assert use(used, "v1=b")
    assert not use(started(path), "v1=b")


def test_what_could_not_be_read_at_the_start_is_read_before_the_first_use(path: Path) -> None:
    """As long as the signatures from before are not known no new one counts."""
    path.mkdir()
    used = started(path)
    with pytest.raises(NotRecorded):
        used.use("v1=a", NOW)
    path.rmdir()
    path.write_text(f"{NOW} v1=a\n")
    assert not use(used, "v1=a")
    assert use(used, "v1=b")


def test_the_file_does_not_grow_for_ever(path: Path) -> None:
    """A daemon that runs for long keeps the lines that matter, and a bounded number of others."""
    clock = Clock()
    used = started(path, clock=clock)
    for number in range(2500):
        clock.now += 2 * WINDOW
        path_size = path.stat().st_size
        assert use(used, f"v1={number}", NOW + number * 2 * WINDOW)
    assert path_size < 1200 * 30
    last = NOW + 2499 * 2 * WINDOW
    assert not use(started(path, last), "v1=2499", last)
