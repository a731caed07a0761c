"""What becomes of an event database: every combination of the rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.generate.cache import Memo
from sidecar.generate.ownership import owners, programmes
from sidecar.model.index import Event, Index, Region, Studio
from sidecar.model.objects import Stored
from sidecar.ready.plan import Here, Known, Wanted, decide, keeps, migrations, orphans, pushes, wanted

IAD = Region("iad", "Ashburn", 38.9, -77.4)
SYD = Region("syd", "Sydney", -33.9, 151.2)

ages = st.floats(min_value=0, max_value=4_000_000_000)
wants = st.builds(Wanted, st.just("2026-x"), st.sampled_from([None, "iad"]), st.booleans(), st.booleans())
heres = st.none() | st.builds(Here, st.sampled_from([0, 4096]), ages, st.sampled_from(["a", "b"]))
objects = st.none() | st.builds(Stored, st.just("db/x"), st.sampled_from(["e", "f"]), ages, st.just(4096))
knowns = st.none() | st.builds(Known, st.sampled_from(["e", "f"]), ages, st.sampled_from(["a", "b", ""]))


@given(wants, heres, objects, knowns, st.none() | ages)
def test_the_rules_hold_without_exception(
    one: Wanted, here: Here | None, stored: Stored | None, known: Known | None, age: float | None
) -> None:
    """An owner's file is never overwritten, a missing one always fetched, an older object never taken."""
    verdict = decide(one, here, stored, known, age)
    empty = here is None or here.size == 0
    if stored is None:
        assert verdict.action == ("create" if empty else "keep")
    elif empty:
        assert verdict.action == "fetch"
    elif one.ours:
        assert verdict.action == "keep"
    elif verdict.action == "fetch":
        newest = age if known is None or known.etag != stored.etag else known.modified
        untouched = known is not None and here is not None and known.signature == here.signature
        assert newest is not None
        assert here is not None
        mine = known.modified if untouched and known else here.modified
        assert int(newest) > int(mine)


@given(wants, heres, objects, knowns, ages)
def test_an_age_settles_it(
    one: Wanted, here: Here | None, stored: Stored | None, known: Known | None, age: float
) -> None:
    """With the object's true age nothing is left to ask for."""
    assert decide(one, here, stored, known, age).action != "ask"


@given(heres, objects, knowns, st.none() | ages)
def test_what_was_pushed_or_fetched_is_not_pushed_again(
    here: Here | None, stored: Stored | None, known: Known | None, age: float | None
) -> None:
    """Only a file that differs from the object it came from, or that is not stored, has something new."""
    new = pushes(here, stored, known, age)
    if here is None or here.size == 0:
        assert not new
    elif stored is not None and known is not None and known.etag == stored.etag:
        assert not (new and known.signature == here.signature)
    elif stored is None:
        assert new


@given(st.builds(Here, st.just(1), ages, st.sampled_from(["a", "b"])), objects, knowns)
def test_an_orphan_with_something_new_is_kept(here: Here, stored: Stored | None, known: Known | None) -> None:
    """What the store does not surely have is not removed."""
    if keeps(here, stored, known) is None:
        assert stored is not None
        same = known is not None and known.etag == stored.etag and known.signature == here.signature
        assert same or int(here.modified) <= int(stored.modified)


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
) -> dict[str, Wanted]:
    memo = Memo()
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
    here = dict.fromkeys(["index", "demo", "2026-east", "2019-gone", "notes"], Here(1, 0.0, ""))
    assert orphans(here, belonging("iad", ["2026-east"])) == ["2019-gone"]


def test_migrations_are_told_by_their_files() -> None:
    """Only files that the application itself takes for migrations count."""
    names = ["20220101000000_a.rb", "20230101000000_b.rb", ".keep", "README.md", "2024.rb"]
    assert migrations(names) == {"20220101000000", "20230101000000"}
