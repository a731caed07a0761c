"""Refused content: not tried again until it, or the machine's own settings, change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import Rejected
from sidecar.update.rejections import Rejections

ERROR = Rejected("two tenants share a path", "rename one", code="duplicate")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rejected.json"


def known(rejections: Rejections, sha256: str, inputs: str = "inputs") -> bool:
    try:
        rejections.raise_if_known(sha256, inputs)
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
        one.forget("a", "inputs")
        assert newest(one) is None
        one.add("a", "inputs", ERROR)
