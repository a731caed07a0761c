"""What becomes of an event database: every combination of the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import owners, programmes
from sidecar.model.index import Event, Index, Region, Studio
from sidecar.model.objects import Stored
from sidecar.ready.plan import (
    DesiredDatabase,
    LastSynced,
    LocalDatabase,
    UnconfirmedUpload,
    came_through,
    decide,
    keeps,
    migrations,
    orphans,
    wanted,
)

IAD = Region("iad", "Ashburn", 38.9, -77.4)
SYD = Region("syd", "Sydney", -33.9, 151.2)

COPY, OURS = (DesiredDatabase("2026-x", "iad", ours, True) for ours in (False, True))
FILE, EMPTY = LocalDatabase(4096, 2000.0, "file"), LocalDatabase(0, 2000.0, "empty")
OBJECT = Stored("db/2026-x.sqlite3", "object", 9e9, 4096)
# The object that file and store once both were, written here or elsewhere; "file" is how it lies here now.
CLEAN, CHANGED = LastSynced("object", 2000.0, "file"), LastSynced("object", 2000.0, "before")
CLEAN_OTHER, CHANGED_OTHER = LastSynced("before", 1000.0, "file"), LastSynced("before", 1000.0, "before")
LOOKED_AT = LastSynced("object", 2000.0)


def left(known: LastSynced | None) -> LastSynced:
    """The same, for an event that was written here when it was looked at last."""
    return replace(known or LastSynced(), ours=True)


# What | wanted, here, stored, known | age, same | action
ROWS: list[
    tuple[
        str,
        DesiredDatabase,
        LocalDatabase | None,
        Stored | None,
        LastSynced | None,
        float | None,
        bool | None,
        str,
    ]
] = [
    ("nowhere", OURS, None, None, None, None, None, "create"),
    ("empty, and not stored", COPY, EMPTY, None, None, None, None, "create"),
    ("missing", OURS, None, OBJECT, None, None, None, "fetch"),
    ("missing, and remembered", OURS, None, OBJECT, CLEAN, None, None, "fetch"),
    ("empty", OURS, EMPTY, OBJECT, left(CLEAN), None, None, "fetch"),
    ("only here", OURS, FILE, None, None, None, None, "push"),
    ("a copy of nothing", COPY, FILE, None, CLEAN, None, None, "keep"),
    ("only here, and moved", COPY, FILE, None, left(None), None, None, "conflict"),
    ("the same", OURS, FILE, OBJECT, left(CLEAN), None, None, "keep"),
    ("the same copy", COPY, FILE, OBJECT, CLEAN, None, None, "keep"),
    ("the same, and moved", COPY, FILE, OBJECT, left(CLEAN), None, None, "keep"),
    ("changed here", OURS, FILE, OBJECT, left(CHANGED), None, None, "push"),
    ("changed here, and came", OURS, FILE, OBJECT, CHANGED, None, None, "push"),
    ("changed here, and moved", COPY, FILE, OBJECT, left(CHANGED), None, None, "conflict"),
    ("a copy that changed", COPY, FILE, OBJECT, CHANGED, None, None, "keep"),
    ("a copy that was put back", COPY, replace(FILE, modified=1999.0), OBJECT, CHANGED, None, None, "fetch"),
    ("changed in the store", COPY, FILE, OBJECT, CLEAN_OTHER, None, None, "fetch"),
    ("changed in the store, and moved", COPY, FILE, OBJECT, left(CLEAN_OTHER), None, None, "fetch"),
    ("changed in the store, ours", OURS, FILE, OBJECT, left(CLEAN_OTHER), None, None, "conflict"),
    ("both changed", OURS, FILE, OBJECT, left(CHANGED_OTHER), None, None, "compare"),
    ("both changed, to the same", OURS, FILE, OBJECT, left(CHANGED_OTHER), None, True, "keep"),
    ("both changed, not to the same", OURS, FILE, OBJECT, left(CHANGED_OTHER), None, False, "conflict"),
    ("both changed, and moved", COPY, FILE, OBJECT, left(CHANGED_OTHER), None, False, "conflict"),
    ("both changed, of other sizes", OURS, replace(FILE, size=8192), OBJECT, None, None, None, "conflict"),
    ("never seen", OURS, FILE, OBJECT, None, None, None, "compare"),
    ("never seen, and another", OURS, FILE, OBJECT, None, 9e9, False, "conflict"),
    ("only looked at", OURS, FILE, OBJECT, LOOKED_AT, None, None, "compare"),
    ("a copy that nobody knows", COPY, FILE, OBJECT, None, None, None, "ask"),
    ("a copy that is older", COPY, FILE, OBJECT, None, 2001.0, None, "fetch"),
    ("a copy of the same second", COPY, FILE, OBJECT, None, 2000.9, None, "keep"),
    ("a changed copy that is older", COPY, FILE, OBJECT, CHANGED_OTHER, 2001.0, None, "fetch"),
    ("a copy that was only looked at", COPY, FILE, OBJECT, LOOKED_AT, None, None, "keep"),
]


@pytest.mark.parametrize(
    ("one", "here", "stored", "known", "age", "same", "action"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_each_row_of_the_table(
    one: DesiredDatabase,
    here: LocalDatabase | None,
    stored: Stored | None,
    known: LastSynced | None,
    age: float | None,
    same: bool | None,
    action: str,
) -> None:
    """Each combination of file, object and memory has one verdict, and a reason."""
    verdict = decide(one, here, stored, known, age, same)
    assert verdict.action == action
    assert verdict.reason


ages = st.floats(min_value=0, max_value=4_000_000_000)
wants = st.sampled_from([COPY, OURS])
heres = st.none() | st.builds(LocalDatabase, st.sampled_from([0, 4096]), ages, st.sampled_from(["a", "b"]))
objects = st.none() | st.builds(Stored, st.just("db/x"), st.sampled_from(["e", "f"]), ages, st.just(4096))
knowns = st.none() | st.builds(
    LastSynced, st.sampled_from(["e", "f"]), ages, st.sampled_from(["a", "b", ""]), st.booleans()
)


@given(wants, heres, objects, knowns, st.none() | ages, st.none() | st.booleans())
def test_the_rules_hold_without_exception(
    one: DesiredDatabase,
    here: LocalDatabase | None,
    stored: Stored | None,
    known: LastSynced | None,
    age: float | None,
    same: bool | None,
) -> None:
    """What was written here is only replaced where the store had it; no object is that was never seen."""
    verdict = decide(one, here, stored, known, age, same)
    known = known or LastSynced()
    if here is None or here.size == 0:
        assert verdict.action == ("create" if stored is None else "fetch")
        return
    clean = bool(known.signature) and known.signature == here.signature
    if verdict.action == "fetch":
        assert stored is not None
        assert not one.ours
        assert clean or not known.ours
    if verdict.action == "push":
        assert one.ours
        assert stored is None or (known.etag == stored.etag and known.signature)
    if verdict.action == "conflict":
        assert one.ours or known.ours


@given(wants, heres, objects, knowns, ages, st.booleans())
def test_with_all_that_can_be_asked_it_is_settled(
    one: DesiredDatabase,
    here: LocalDatabase | None,
    stored: Stored | None,
    known: LastSynced | None,
    age: float,
    same: bool,
) -> None:
    """With the object's true age, and both compared, nothing is left to ask for."""
    assert decide(one, here, stored, known, age, same).action not in ("ask", "compare")


@given(st.builds(LocalDatabase, st.just(1), ages, st.sampled_from(["a", "b"])), objects, knowns)
def test_an_orphan_with_something_new_is_kept(
    here: LocalDatabase, stored: Stored | None, known: LastSynced | None
) -> None:
    """What the store does not surely have is not removed, whatever the ages."""
    if keeps(here, stored, known) is None:
        assert stored is not None
        assert known is not None
        assert (known.etag, known.signature) == (stored.etag, here.signature)


def test_an_upload_without_an_answer_is_known_again() -> None:
    """By its MD5, or where the store names contents in another way by size and true age."""
    sent = UnconfirmedUpload("0" * 32, 4096, 2000.25, "file")
    assert came_through(sent, replace(OBJECT, etag="0" * 32), None)
    assert came_through(sent, OBJECT, 2000.25)
    assert not came_through(sent, OBJECT, 2000.0)
    assert not came_through(sent, replace(OBJECT, size=1), 2000.25)
    assert not came_through(sent, OBJECT, None)


def index() -> Index:
    east = Studio("east", "East", 38.0, -77.0, None, None, None)
    south = Studio("south", "South", -33.0, 151.0, None, None, None)
    nowhere = Studio("nowhere", "Nowhere", None, None, None, None, None)
    events = tuple(
        Event(2026, "showcase", "Showcase", studio, None) for studio in ("east", "nowhere", "south")
    )
    return Index((), (east, nowhere, south), events, (IAD, SYD))


def belonging(
    region: str | None, served: list[str], *, owns_all: bool = False, copies: bool = False
) -> dict[str, DesiredDatabase]:
    memo = ResultCache()
    found = programmes(index(), owners(index(), memo), memo)
    return wanted(found, served, region, owns_all=owns_all, copies=copies)


def test_a_region_owns_its_events_and_no_others() -> None:
    """Events of no region are copies everywhere; tenants that are no events are written here."""
    found = belonging("iad", ["index", "demo", "2026-east", "2026-nowhere"])
    assert {name: one.ours for name, one in found.items()} == {
        "2026-east": True,
        "2026-nowhere": False,
        "demo": True,
    }


def test_copies_of_other_regions_are_kept_where_set() -> None:
    """With `copies` every event's database belongs here, and is still not ours."""
    found = belonging("iad", ["2026-east"], copies=True)
    assert {name for name, one in found.items() if not one.served} == {"2026-nowhere", "2026-south"}
    assert not found["2026-south"].ours


def test_a_host_that_owns_all_writes_all() -> None:
    """Without regions the setting says whether the databases are written here."""
    served = ["2026-east", "2026-south"]
    assert not any(one.ours for one in belonging(None, served).values())
    assert all(one.ours for one in belonging(None, served, owns_all=True).values())


def test_only_events_are_orphans() -> None:
    """The index, the demonstration and whatever else lies there are nobody's orphans."""
    here = dict.fromkeys(["index", "demo", "2026-east", "2019-gone", "notes"], LocalDatabase(1, 0.0, ""))
    assert orphans(here, belonging("iad", ["2026-east"])) == ["2019-gone"]


def test_migrations_are_told_by_their_files() -> None:
    """Only files that the application itself takes for migrations count."""
    names = ["20220101000000_a.rb", "20230101000000_b.rb", ".keep", "README.md", "2024.rb"]
    assert migrations(names) == {"20220101000000", "20230101000000"}
