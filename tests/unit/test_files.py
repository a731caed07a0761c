"""Files that are replaced whole: private, without leftovers, and what is there stays when that fails."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

import sidecar
from sidecar.demo.sample import write_index
from sidecar.generations.installed import InstalledFiles, Targets
from sidecar.model.artifacts import NAVIGATOR
from sidecar.ready.folder import DatabaseFolder
from sidecar.system.files import give, replace, temporary, write
from sidecar.system.sqlite import install_database
from tests.support.events import write_event
from tests.support.machine import SMALL

PACKAGE = Path(sidecar.__file__).parent


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_is_replaced_whole(tmp_path: Path, synced: bool) -> None:
    """The new content, private, with nothing beside it, whatever an attempt before has left."""
    path = tmp_path / "record"
    for content in (b"first", b"", b"second"):
        temporary(path).write_bytes(b"left by a crash")
        replace(path, content, synced=synced)
        assert path.read_bytes() == content
        assert mode_of(path) == 0o600
        assert list(tmp_path.iterdir()) == [path]


def test_the_umask_rules_where_no_mode_is_given(tmp_path: Path) -> None:
    """A file that others read gets the mode that any new file gets."""
    (tmp_path / "usual").touch()
    replace(tmp_path / "shared", b"content", mode=None)
    assert mode_of(tmp_path / "shared") == mode_of(tmp_path / "usual")


def test_what_is_there_stays_when_it_cannot_be_replaced(tmp_path: Path) -> None:
    """An error before the rename leaves the old file, and nothing beside it."""
    path = tmp_path / "record"
    path.write_bytes(b"old")

    def fail() -> None:
        assert temporary(path).read_bytes() == b"new"
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        replace(path, b"new", before=fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def no_chown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a system call filter that forbids to change owners."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chown", "fchown", "lchown"):
        monkeypatch.setattr(os, name, refuse)


@pytest.mark.usefixtures("no_chown")
def test_an_owner_that_is_as_it_shall_be_costs_no_call(tmp_path: Path) -> None:
    """Where no owner is named, or the file belongs to it already, the system is not asked to change it."""
    path = tmp_path / "file"
    write(path, b"content", 0o640)
    for owner, group in ((-1, -1), (os.geteuid(), -1), (-1, path.stat().st_gid)):
        give(path, owner, group)
    with path.open("rb") as stream:
        give(stream.fileno(), -1, -1)
    with pytest.raises(PermissionError):
        give(path, os.geteuid() + 1, -1)


@pytest.mark.usefixtures("no_chown")
def test_an_index_that_is_new_is_installed_where_owners_cannot_be_changed(tmp_path: Path) -> None:
    """The first index of a machine whose settings name no owner gets its place and its mode."""
    source = tmp_path / "source.sqlite3"
    write_index(source, SMALL)
    files = {NAVIGATOR: tmp_path / "navigator.yml"}
    where = Targets(files, tmp_path / "db" / "index.sqlite3", 0o644, 0o640, -1, -1)
    InstalledFiles(where, install_database, lambda _: None, tuple).put_index(source, None)
    assert where.index.read_bytes() == source.read_bytes()
    assert mode_of(where.index) == 0o660


@pytest.mark.usefixtures("no_chown")
def test_an_event_database_is_installed_where_owners_cannot_be_changed(tmp_path: Path) -> None:
    """A database that is new here, or made by a command, needs no change of owner when none is named."""
    folder = DatabaseFolder(tmp_path, 0o660, -1, -1)
    staged = folder.staging("event")
    write_event(staged)
    assert folder.install(staged, "event", 1_700_000_000.0, None) is not None
    folder.adopt("event")
    assert mode_of(folder.path("event")) == 0o660


def test_nothing_else_changes_owners() -> None:
    """The call that a sandbox may forbid has one home, which leaves it out where nothing would change."""
    calls = re.compile(r"\b[fl]?chown\(")
    found = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix in ("", ".py")]
    assert [path.name for path in found if calls.search(path.read_text())] == ["files.py"]
    assert len(calls.findall((PACKAGE / "system" / "files.py").read_text())) == 1


def test_nothing_else_writes_beside_and_renames() -> None:
    """The pattern has one home: no other module names a temporary file of its own."""
    found = [path for path in PACKAGE.rglob("*.py") if re.search(r"sidecar-new", path.read_text())]
    assert [path.name for path in found] == ["files.py"]
