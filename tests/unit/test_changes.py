"""What changed from one index to the next, in numbers and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.changes import Changes, Delta, NamedCount, RegionLoss, changes, unified
from sidecar.model.index import Event, Index, Region, Studio, User

FIRST, SECOND = User("user1", "user1:x"), User("user2", "user2:y")
BOSTON = Studio("boston", "Boston", None, None, "iad", None, None)
YORK = Studio("york", "York", None, None, None, None, None)
BALL, GALA = Event(2026, "ball", "Ball", "boston", None), Event(2026, "gala", "Gala", "boston", None)
IAD, SYD = Region("iad", "Ashburn", 39.0, -77.5), Region("syd", "Sydney", -33.9, 151.2)
INDEX = Index((FIRST, SECOND), (BOSTON, YORK), (BALL, GALA), (IAD, SYD))
OWNERS: dict[str, str | None] = {"boston": "iad", "york": None}


def one(*names: str) -> NamedCount:
    return NamedCount(len(names), names)


def index(
    users: tuple[User, ...] = INDEX.users,
    studios: tuple[Studio, ...] = INDEX.studios,
    events: tuple[Event, ...] = INDEX.events,
    regions: tuple[Region, ...] = INDEX.regions,
) -> Index:
    return Index(users, studios, events, regions)


def to(new: Index, owners: dict[str, str | None] = OWNERS) -> Changes:
    return changes(INDEX, OWNERS, new, owners)


def test_nothing_changed() -> None:
    """The same index has no changes and nothing to say."""
    found = to(index())
    assert found == Changes()
    assert found.sentences() == []


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (index(users=(FIRST, SECOND, User("user3", "user3:z"))), Changes(users=Delta(added=one("user3")))),
        (index(users=(FIRST,)), Changes(users=Delta(removed=one("user2")))),
        (index(users=(FIRST, User("user2", "user2:new"))), Changes(users=Delta(changed=one("user2")))),
        (index(studios=(BOSTON,)), Changes(studios=Delta(removed=one("york")))),
        (
            index(studios=(BOSTON, Studio("york", "New York", None, None, None, None, None))),
            Changes(studios=Delta(changed=one("york: name York to New York"))),
        ),
        (
            index(events=(BALL,)),
            Changes(events=Delta(removed=one("2026/boston/gala")), losses=(RegionLoss("iad", 2, 1),)),
        ),
        (
            index(events=(BALL, GALA, Event(2025, "ball", "Ball", "york", None))),
            Changes(events=Delta(added=one("2025/york/ball"))),
        ),
        (
            index(events=(BALL, Event(2026, "gala", "Gala", "boston", "May"))),
            Changes(events=Delta(changed=one("2026/boston/gala: date none to May"))),
        ),
        (index(regions=(IAD,)), Changes(regions=Delta(removed=one("syd")))),
        (
            index(regions=(IAD, Region("syd", "Sydney", -33.0, 151.0))),
            Changes(regions=Delta(changed=one("syd: place"))),
        ),
    ],
)
def test_each_kind_of_change(new: Index, expected: Changes) -> None:
    """Added, removed and changed, for users, studios, events and regions; what changed stands behind it."""
    assert to(new) == expected


def test_a_renamed_key_is_one_removed_and_one_added() -> None:
    """Keys are identities."""
    found = to(index(events=(BALL, Event(2026, "fest", "Gala", "boston", None)))).events
    assert found == Delta(added=one("2026/boston/fest"), removed=one("2026/boston/gala"))


@pytest.mark.parametrize(
    ("owner", "sentence"),
    [("syd", "boston: iad to syd"), (None, "boston: iad to everywhere")],
)
def test_a_studio_moves(owner: str | None, sentence: str) -> None:
    """From one region to another, or to all, even when its own row stayed as it was."""
    assert to(index(), OWNERS | {"boston": owner}) == Changes(studios=Delta(moved=one(sentence)))


def test_a_studio_gets_a_region() -> None:
    """From everywhere to one."""
    assert to(index(), OWNERS | {"york": "syd"}).studios.moved == one("york: everywhere to syd")


def test_a_new_studio_has_not_moved() -> None:
    """Nor has one that is gone."""
    new = Studio("linz", "Linz", None, None, "syd", None, None)
    found = to(index(studios=(BOSTON, new)), {"boston": "iad", "linz": "syd"}).studios
    assert found == Delta(added=one("linz"), removed=one("york"))


def test_sentences_have_numbers_and_no_names() -> None:
    """What the public may read: one line a kind, in a fixed order."""
    found = to(
        index(users=(FIRST, User("user3", "user3:z")), studios=(BOSTON,), events=(BALL,)), {"boston": "syd"}
    )
    assert found.sentences() == [
        "users: 1 added, 1 removed",
        "studios: 1 removed, 1 moved",
        "events: 1 removed",
    ]


def test_many_names_are_cut_and_counted() -> None:
    """The number is exact, the names are the first of them in order."""
    users = tuple(User(f"user{number:03}", "x") for number in range(999, -1, -1))
    added = to(index(users=(*INDEX.users, *users))).users.added
    assert added.count == 1000
    assert added.names == tuple(f"user{number:03}" for number in range(200))


users = st.lists(
    st.builds(User, st.sampled_from("abcdef"), st.sampled_from("xy")), unique_by=lambda user: user.userid
)


@given(users.map(tuple), users.map(tuple))
def test_forth_and_back(old: tuple[User, ...], new: tuple[User, ...]) -> None:
    """What is added one way is removed the other way, and the numbers add up."""
    forth = changes(index(users=old), OWNERS, index(users=new), OWNERS).users
    back = changes(index(users=new), OWNERS, index(users=old), OWNERS).users
    assert (forth.added, forth.removed, forth.changed) == (back.removed, back.added, back.changed)
    assert len(old) + forth.added.count - forth.removed.count == len(new)


def test_a_unified_diff() -> None:
    """As `diff -u` would show it, with the artifact's name."""
    assert unified("map.yml", b"a\nb\nc\n", b"a\nB\nc\n") == (
        "--- a/map.yml\n+++ b/map.yml\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    )


@pytest.mark.parametrize("content", [b"", b"a\n", b"no end"])
def test_no_diff_without_a_difference(content: bytes) -> None:
    """Nothing is shown for what is the same."""
    assert unified("x", content, content) == ""


def test_a_new_file_is_all_added() -> None:
    """What was not there before counts as empty, and bytes that are no text do no harm."""
    assert unified("x", None, b"a\n") == "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+a\n"
    assert "\ufffd" in unified("x", b"\xff\n", b"a\n")


def test_a_region_loses_what_is_gone_and_not_what_moves() -> None:
    """A studio that is another region's by now takes its events along; one with another key is as many."""
    york = Event(2025, "ball", "Ball", "york", None)
    assert to(index(), OWNERS | {"boston": "syd"}).losses == ()
    renamed = (Studio("newboston", "Boston", None, None, "iad", None, None), YORK)
    events = (Event(2026, "ball", "Ball", "newboston", None), Event(2026, "gala", "Gala", "newboston", None))
    assert to(index(studios=renamed, events=events), {"newboston": "iad", "york": None}).losses == ()
    assert to(index(events=(york,))).losses == (RegionLoss("iad", 2, 0),)
