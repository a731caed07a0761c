"""Who owns a studio, and which events make up whose programme of a year."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import distance, locale_of, owner, owners, programmes, regions_in, tenants
from sidecar.model.index import Event, Index, Programme, Region, Studio, Tenant

IAD = Region("iad", "Ashburn", 39.0, -77.5)
SYD = Region("syd", "Sydney", -33.9, 151.2)
WAW = Region("waw", "Warsaw", 52.2, 21.0)
REGIONS = (IAD, SYD, WAW)


def studio(
    key: str = "boston",
    latitude: float | None = None,
    longitude: float | None = None,
    region: str | None = None,
    locale: str | None = None,
    logo: str | None = None,
) -> Studio:
    return Studio(key, key.title(), latitude, longitude, region, locale, logo)


def event(key: str, studio: str = "boston", year: int = 2026) -> Event:
    return Event(year, key, key.title(), studio, None)


def grouped(*events: Event, studios: tuple[Studio, ...] = ()) -> list[Programme]:
    keys = sorted({event.studio for event in events})
    index = Index((), studios or tuple(studio(key) for key in keys), events, REGIONS)
    memo = ResultCache()
    return programmes(index, owners(index, memo), memo)


@pytest.mark.parametrize(
    ("latitude", "longitude", "place", "kilometres"),
    [
        (0.0, 0.0, (0.0, 0.0), 0.0),
        (0.0, 0.0, (90.0, 0.0), 6371 * math.pi / 2),
        (0.0, 0.0, (0.0, 180.0), 6371 * math.pi),
        (90.0, 0.0, (-90.0, 77.0), 6371 * math.pi),
        (0.0, 0.0, (0.0, 1.0), 6371 * math.pi / 180),
        (0.0, 179.5, (0.0, -179.5), 6371 * math.pi / 180),
        (51.5074, -0.1278, (48.8566, 2.3522), 343.556),
    ],
    ids=[
        "here",
        "to the pole",
        "antipodes",
        "pole to pole",
        "a degree",
        "over the date line",
        "London to Paris",
    ],
)
def test_distance_is_the_great_circle(
    latitude: float, longitude: float, place: tuple[float, float], kilometres: float
) -> None:
    """The haversine formula on a sphere of 6371 km."""
    assert distance(latitude, longitude, Region("x", "", *place)) == pytest.approx(kilometres, abs=5e-4)


@pytest.mark.parametrize(
    ("studio", "expected"),
    [
        (studio(region="syd"), "syd"),
        (studio(latitude=42.4, longitude=-71.1, region="syd"), "syd"),
        (studio(latitude=42.4, longitude=-71.1), "iad"),
        (studio(latitude=42.4, longitude=-71.1, region="lax"), "iad"),
        (studio(latitude=42.4, longitude=-71.1, region=""), "iad"),
        (studio(latitude=-37.8, longitude=145.0), "syd"),
        (studio(latitude=0.0, longitude=0.0), "waw"),
        (studio(region="lax"), None),
        (studio(), None),
        (studio(latitude=42.4), None),
        (studio(longitude=-71.1), None),
    ],
    ids=[
        *(
            "named",
            "named wins",
            "nearest",
            "named is not deployed",
            "named is empty",
            "nearest in the south",
        ),
        *("zeros are coordinates", "not deployed, nowhere", "nowhere", "no longitude", "no latitude"),
    ],
)
def test_owner(studio: Studio, expected: str | None) -> None:
    """The region that the studio names, if deployed; else the nearest; else, without coordinates, none."""
    assert owner(studio, REGIONS) == expected


def test_without_regions_nobody_owns() -> None:
    """Nothing deployed: no owner, whatever the studio says."""
    assert owner(studio(latitude=1.0, longitude=2.0, region="iad"), ()) is None


def test_a_tie_goes_to_the_first() -> None:
    """Two regions at the same distance: the order of the regions decides."""
    east, west = Region("east", "", 0.0, 10.0), Region("west", "", 0.0, -10.0)
    place = studio(latitude=0.0, longitude=0.0)
    assert owner(place, (east, west)) == "east"
    assert owner(place, (west, east)) == "west"


latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
regions = st.lists(
    st.builds(Region, st.sampled_from("abcdef"), st.just(""), latitudes, longitudes),
    max_size=4,
    unique_by=lambda region: region.code,
).map(tuple)
studios = st.builds(
    studio,
    st.just("any"),
    st.none() | latitudes,
    st.none() | longitudes,
    st.none() | st.sampled_from(["", "a", "b", "z"]),
)


@given(studios, regions)
def test_owner_is_a_deployed_region_or_none(studio: Studio, regions: tuple[Region, ...]) -> None:
    """Never a region that is not there; none only when nothing can be told; else no other is nearer."""
    found = owner(studio, regions)
    codes = [region.code for region in regions]
    if studio.region in codes:
        assert found == studio.region
    elif not regions or studio.latitude is None or studio.longitude is None:
        assert found is None
    else:
        north, east = studio.latitude, studio.longitude
        away = {region.code: distance(north, east, region) for region in regions}
        assert found is not None
        assert away[found] == min(away.values())


@given(st.lists(studios, max_size=3), regions, regions)
def test_owners_are_remembered_per_set_of_regions(
    places: list[Studio], before: tuple[Region, ...], after: tuple[Region, ...]
) -> None:
    """What was remembered under other regions does not answer for these."""
    memo = ResultCache()
    named = tuple(studio(f"s{number}", *place_of(place)) for number, place in enumerate(places))
    for regions in (before, after, before):
        found = owners(Index((), named, (), regions), memo)
        assert found == {one.key: owner(one, regions) for one in named}
        memo.rotate()


def place_of(studio: Studio) -> tuple[float | None, float | None, str | None]:
    return studio.latitude, studio.longitude, studio.region


def test_events_are_grouped_by_year_and_studio() -> None:
    """One programme a year and studio; its events and the programmes keep the index's order."""
    found = grouped(
        event("b", "boston"), event("a", "boston"), event("x", "raleigh"), event("b", "boston", 2025)
    )
    assert [(one.year, one.studio.key, [event.key for event in one.events]) for one in found] == [
        (2026, "boston", ["b", "a"]),
        (2026, "raleigh", ["x"]),
        (2025, "boston", ["b"]),
    ]


@pytest.mark.parametrize(
    ("keys", "single"),
    [(["showcase"], True), (["spring"], False), (["showcase", "spring"], False), (["Showcase"], False)],
)
def test_a_single_event_is_one_whose_key_is_showcase(keys: list[str], single: bool) -> None:
    """Exactly one event, with the key `showcase`; anything else is a programme of several."""
    (found,) = grouped(*(event(key) for key in keys))
    assert found.single is single


def test_a_programme_carries_its_owner() -> None:
    """The owner of the studio, or none."""
    places = (studio("boston", region="syd"), studio("raleigh"))
    found = grouped(event("a"), event("a", "raleigh"), studios=places)
    assert [one.region for one in found] == ["syd", None]


def test_no_events_no_programmes() -> None:
    """Studios without events have no programme."""
    assert grouped(studios=(studio(),)) == []


def test_tenants_of_a_single_event() -> None:
    """It lies at the studio's own path, and its database has no event in its name."""
    (one,) = grouped(event("showcase"))
    assert tenants(one) == (Tenant("2026/boston", "2026-boston", "Boston", "arthur-murray-logo.gif", None),)


def test_tenants_of_several_events() -> None:
    """Each lies below the studio, in the programme's order, with the studio's name, logo and locale."""
    place = studio("boston", locale="en_GB", logo="boston.png")
    (one,) = grouped(event("showcase"), event("ball"), studios=(place,))
    assert tenants(one) == (
        Tenant("2026/boston/showcase", "2026-boston-showcase", "Boston", "boston.png", "en-GB"),
        Tenant("2026/boston/ball", "2026-boston-ball", "Boston", "boston.png", "en-GB"),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        ("en_US", None),
        ("en-US", None),
        ("en_GB", "en-GB"),
        ("de-AT", "de-AT"),
        ("zh_Hant_TW", "zh-Hant-TW"),
    ],
)
def test_locale(given: str | None, expected: str | None) -> None:
    """Dashes, and nothing for the default."""
    assert locale_of(studio(locale=given)) == expected


def test_regions_in_order_of_occurrence() -> None:
    """Each region once, programmes of nobody left out."""
    places = tuple(
        studio(key, region=region) for key, region in [("a", "syd"), ("b", None), ("c", "iad"), ("d", "syd")]
    )
    found = grouped(*(event("x", place.key) for place in places), studios=places)
    assert regions_in(found) == ["syd", "iad"]
