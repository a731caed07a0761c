"""What the tenants' user can do to the sidecar in the folder of the databases, to which both may write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.config.settings import FetchSettings
from sidecar.errors import Busy, SidecarError
from sidecar.inputs.store.folder import FolderStore
from sidecar.ready.folder import DatabaseFolder
from sidecar.ready.lock import WorkLock
from tests.support.events import read_event, write_event

NAME = "2026-boston"
KEY = f"db/{NAME}.sqlite3"
NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")


class Shared:
    """The folder, and a file of the sidecar's own that the tenants' user would like to write to."""

    def __init__(self, folder: Path) -> None:
        self.precious = folder / "navigator.yml"
        self.precious.write_text("what root runs")
        self.precious.chmod(0o600)
        self.path = folder / "db"
        self.path.mkdir()
        self.databases = DatabaseFolder(self.path, folder / "state" / "databases", 0o660, -1, -1)
        self.database = self.path / f"{NAME}.sqlite3"
        self.store = FolderStore(folder / "store", FetchSettings(), lambda *_: None)
        self.object = folder / "store" / KEY
        self.object.parent.mkdir(parents=True)
        write_event(self.object, "the store's")

    def link(self, name: str) -> None:
        """A link to the precious file, made by somebody who can neither read nor write that."""
        (self.path / name).symlink_to(self.precious)
        os.lchown(self.path / name, NOBODY, NOBODY)

    async def fetch(self) -> None:
        """What the ready work does for one database."""
        seen = self.databases.look_at(NAME)
        staged = self.databases.staging(NAME)
        await self.store.fetch(KEY, staged, None)
        self.databases.install(staged, NAME, 1_700_000_000.0, seen)

    def check(self) -> None:
        """The precious file is as it was."""
        assert self.precious.read_text() == "what root runs"
        assert stat.S_IMODE(self.precious.stat().st_mode) == 0o600


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


@only_root
async def test_a_link_for_every_name_that_could_be_next(shared: Shared) -> None:
    """Whoever guesses the name of what is written next gets nothing written through a link."""
    for number in range(20):
        shared.link(f".{NAME}.{os.getpid()}-{number}.sidecar-new")
    shared.link(f".{NAME}.sqlite3.sidecar-new")
    await shared.fetch()
    assert read_event(shared.database) == "the store's"
    shared.databases.copy(NAME)
    await shared.fetch()
    shared.check()


@only_root
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_a_link_in_place_of_what_a_command_made(shared: Shared, end: str) -> None:
    """The file of a link is not given to the tenants' group, wherever among the files it stands."""
    if end:
        write_event(shared.database)
    shared.link(f"{NAME}.sqlite3{end}")
    shared.databases.adopt(NAME)
    shared.check()


def pipe(shared: Shared) -> None:
    os.mkfifo(shared.database)


def link(shared: Shared) -> None:
    shared.link(shared.database.name)


@pytest.mark.parametrize("place", [pipe, pytest.param(link, marks=only_root)])
async def test_no_file_in_place_of_a_database(shared: Shared, place: Callable[[Shared], None]) -> None:
    """It counts as missing: it is neither followed nor waited for, and the store's takes its place."""
    place(shared)
    assert shared.databases.look() == {}
    assert shared.databases.look_at(NAME) is None
    with pytest.raises(FileNotFoundError):
        shared.databases.has_md5(NAME, "0" * 32)
    await shared.fetch()
    assert read_event(shared.database) == "the store's"
    assert not shared.database.is_symlink()
    shared.check()


@only_root
async def test_another_database_is_not_read_through_a_link(shared: Shared) -> None:
    """Nor is the one that it leads to replaced: the sidecar's own history is a database, too."""
    history = shared.path.parent / "history.db"
    write_event(history, "the sidecar's own")
    shared.database.symlink_to(history)
    os.lchown(shared.database, NOBODY, NOBODY)
    with pytest.raises(SidecarError, match="is not there"):
        shared.databases.copy(NAME)
    assert shared.databases.versions(NAME) == frozenset()
    await shared.fetch()
    assert read_event(history) == "the sidecar's own"
    assert read_event(shared.database) == "the store's"


async def test_a_link_of_roots_is_followed(shared: Shared, tmp_path: Path) -> None:
    """Whoever keeps a database elsewhere has the file there replaced, whole or missing; the link stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shared.database.symlink_to(elsewhere / "real.sqlite3")
    for content in ("the store's", "a newer one"):
        write_event(shared.object, content)
        await shared.fetch()
        assert read_event(elsewhere / "real.sqlite3") == content
        assert shared.database.is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["real.sqlite3"]


@only_root
def test_a_circle_of_links_stops_nothing(shared: Shared) -> None:
    """Whatever somebody puts beside the databases, the others are seen."""
    write_event(shared.database)
    circle = shared.path / "2026-aaa.sqlite3"
    circle.symlink_to(circle.name)
    os.lchown(circle, NOBODY, NOBODY)
    assert shared.databases.look().keys() == {NAME}


@only_root
async def test_the_lock_is_not_taken_through_a_link(shared: Shared, tmp_path: Path) -> None:
    """Nothing is made, nor held, where somebody's link leads from the folder of tenants.list."""
    missing, lock = tmp_path / "navigator-maintenance.yml", shared.path / ".sidecar-ready.lock"
    for precious in (missing, shared.precious):
        lock.unlink(missing_ok=True)
        lock.symlink_to(precious)
        os.lchown(lock, NOBODY, NOBODY)
        async with WorkLock(lock).held():
            assert stat.S_ISREG(lock.lstat().st_mode)
    assert not missing.exists()
    shared.check()


async def test_a_lock_of_roots_elsewhere_is_taken(shared: Shared, tmp_path: Path) -> None:
    """Whoever keeps the lock file elsewhere has it held there; a pipe in its place is replaced."""
    lock, elsewhere = shared.path / ".sidecar-ready.lock", tmp_path / "lock"
    lock.symlink_to(elsewhere)
    async with WorkLock(lock).held():
        with pytest.raises(Busy):
            async with WorkLock(elsewhere, timeout=0).held():
                pass
    assert lock.is_symlink()
    elsewhere.unlink()
    os.mkfifo(elsewhere)
    async with WorkLock(lock).held():
        assert elsewhere.is_file()
