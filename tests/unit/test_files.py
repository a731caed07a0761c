"""Files that are replaced whole: private, without leftovers, and what is there stays when that fails."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

import sidecar
from sidecar.system.files import replace, temporary

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


def test_nothing_else_writes_beside_and_renames() -> None:
    """The pattern has one home: no other module names a temporary file of its own."""
    found = [path for path in PACKAGE.rglob("*.py") if re.search(r"sidecar-new", path.read_text())]
    assert [path.name for path in found] == ["files.py"]
