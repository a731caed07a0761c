"""map.yml, showcases.yml, tenants.list and the prerender list, from small indexes made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.generate.cache import ResultCache
from sidecar.generate.documents import (
    map_document,
    prerender_list,
    prerender_pages,
    showcases_document,
    tenants_list,
)
from sidecar.generate.ownership import owners, programmes
from sidecar.generate.projections import project
from sidecar.generate.yaml_writer import dump, plain
from sidecar.model.index import Event, Index, Page, Programme, Region, Studio

# In the Gulf of Guinea, outside every projected map.
IAD = Region("iad", "Ashburn, Virginia (US)", 0.0, 1.0)
SYD = Region("syd", "Sydney, Australia", -1.0, 0.0)
BOSTON = Studio("boston", "Boston", 42.35843, -71.05977, "iad", None, None)
LINCOLN = Studio("lincoln", "Lincoln", -2.0, 0.5, None, "en_GB", "lincoln.png")
NOWHERE = Studio("nowhere", "Nowhere: \U0001f600", None, None, None, "en_US", "arthur-murray-logo.gif")
INDEX = Index(
    users=(),
    studios=(BOSTON, LINCOLN, NOWHERE),
    events=(
        Event(2026, "showcase", "Showcase", "boston", "2026-05-01 - 2026-05-02"),
        Event(2026, "spring", "Spring", "lincoln", None),
        Event(2026, "ball", "The Ball", "lincoln", "2026-06-01"),
        Event(2025, "showcase", "Showcase", "boston", None),
        Event(2025, "medal", "Medal Ball", "nowhere", None),
    ),
    regions=(IAD, SYD),
)


def grouped(index: Index) -> list[Programme]:
    memo = ResultCache()
    return programmes(index, owners(index, memo), memo)


def documents(index: Index) -> tuple[Any, Any]:
    """map.yml and showcases.yml as plain data."""
    return plain(map_document(index, owners(index, ResultCache()))), plain(showcases_document(grouped(index)))


def test_map() -> None:
    """Regions as they come, studios with their coordinates and owners; no place on a map outside of all."""
    index = Index((), (LINCOLN, NOWHERE), (), (IAD, SYD))
    document, _ = documents(index)
    assert document == {
        "regions": {
            "iad": {"name": "Ashburn, Virginia (US)", "lat": 0.0, "lon": 1.0},
            "syd": {"name": "Sydney, Australia", "lat": -1.0, "lon": 0.0},
        },
        "studios": {
            "lincoln": {"name": "Lincoln", "lat": -2.0, "lon": 0.5, "region": "syd"},
            "nowhere": {"name": "Nowhere: \U0001f600", "lat": None, "lon": None, "region": None},
        },
    }
    assert list(document["regions"]) == ["iad", "syd"]
    assert list(document["studios"]) == ["lincoln", "nowhere"]


@pytest.mark.parametrize(
    ("latitude", "longitude", "name"),
    [(42.4, -71.1, "us"), (50.1, 14.4, "eu"), (-33.9, 151.2, "au"), (35.7, 139.7, "jp")],
)
def test_a_place_on_a_map(latitude: float, longitude: float, name: str) -> None:
    """Studio and region carry the map's name and the projected point, behind their other keys."""
    place = Studio("here", "Here", latitude, longitude, None, None, None)
    document, _ = documents(Index((), (place,), (), (Region("r", "There", latitude, longitude),)))
    point = project(latitude, longitude)
    assert point is not None
    where = {"map": name, "x": point.x, "y": point.y}
    assert document == {
        "regions": {"r": {"name": "There", "lat": latitude, "lon": longitude} | where},
        "studios": {"here": {"name": "Here", "lat": latitude, "lon": longitude, "region": "r"} | where},
    }
    assert list(document["studios"]["here"]) == ["name", "lat", "lon", "region", "map", "x", "y"]


@pytest.mark.parametrize(("latitude", "longitude"), [(42.4, None), (None, -71.1)])
def test_half_a_place_is_on_no_map(latitude: float | None, longitude: float | None) -> None:
    """Without both coordinates nothing is projected, and nobody owns."""
    place = Studio("here", "Here", latitude, longitude, None, None, None)
    document, _ = documents(Index((), (place,), (), (IAD,)))
    assert document["studios"] == {
        "here": {"name": "Here", "lat": latitude, "lon": longitude, "region": None}
    }


def test_showcases() -> None:
    """Years descend; a single event has its date, any other programme its events; defaults are left out."""
    _, document = documents(INDEX)
    assert document == {
        2026: {
            "boston": {":name": "Boston", ":region": "iad", ":date": "2026-05-01 - 2026-05-02"},
            "lincoln": {
                ":name": "Lincoln",
                ":region": "syd",
                ":locale": "en-GB",
                ":logo": "lincoln.png",
                ":events": {
                    "spring": {":name": "Spring"},
                    "ball": {":name": "The Ball", ":date": "2026-06-01"},
                },
            },
        },
        2025: {
            "boston": {":name": "Boston", ":region": "iad"},
            "nowhere": {
                ":name": "Nowhere: \U0001f600",
                ":region": None,
                ":events": {"medal": {":name": "Medal Ball"}},
            },
        },
    }
    assert list(document) == [2026, 2025]
    lincoln = document[2026]["lincoln"]
    assert list(lincoln) == [":name", ":region", ":locale", ":logo", ":events"]
    assert list(lincoln[":events"]) == ["spring", "ball"]


def test_showcases_have_symbols_for_ruby() -> None:
    """In the text the keys of an entry are bare symbols, and years are numbers."""
    index = Index((), (LINCOLN,), INDEX.events[1:3], (IAD, SYD))
    assert dump(showcases_document(grouped(index)), ResultCache()).decode() == (
        "---\n2026:\n  lincoln:\n    :name: Lincoln\n    :region: syd\n    :locale: en-GB\n"
        "    :logo: lincoln.png\n    :events:\n      spring:\n        :name: Spring\n"
        '      ball:\n        :name: The Ball\n        :date: "2026-06-01"\n'
    )


@pytest.mark.parametrize("date", [None, ""])
def test_an_empty_date_is_left_out(date: str | None) -> None:
    """Neither a single event nor one of several gets a date that says nothing."""
    events = (Event(2026, "showcase", "A", "boston", date), Event(2025, "b", "B", "boston", date))
    _, document = documents(Index((), (BOSTON,), events, ()))
    assert ":date" not in document[2026]["boston"]
    assert document[2025]["boston"][":events"] == {"b": {":name": "B"}}


def test_tenants_list() -> None:
    """One full path a line."""
    assert tenants_list(["index", "2026-boston"], "/data/db") == (
        b"/data/db/index.sqlite3\n/data/db/2026-boston.sqlite3\n"
    )


def test_prerender_pages() -> None:
    """Root, regions, studios, years and their multi-event studios: each path with its file."""
    assert prerender_pages(INDEX, grouped(INDEX)) == [
        Page("/", "index.html"),
        *(
            Page(path, f"{path}index.html")
            for path in [
                *("regions/", "regions/iad/", "regions/syd/"),
                *("studios/boston/", "studios/lincoln/", "studios/nowhere/"),
                *("2025/", "2025/nowhere/", "2026/", "2026/lincoln/"),
                "studios/",
            ]
        ),
    ]


def test_only_regions_with_showcases_have_a_page() -> None:
    """A deployed region that owns no event is not listed."""
    index = Index((), (BOSTON,), INDEX.events[:1], (IAD, SYD))
    paths = [page.path for page in prerender_pages(index, grouped(index))]
    assert "regions/iad/" in paths
    assert "regions/syd/" not in paths


def test_an_empty_index_has_the_fixed_pages() -> None:
    """Without studios and events three pages are left."""
    index = Index((), (), (), (IAD,))
    assert [page.path for page in prerender_pages(index, [])] == ["/", "regions/", "studios/"]


def test_prerender_list() -> None:
    """Path TAB file, one a line."""
    assert prerender_list([Page("/", "index.html"), Page("2026/", "2026/index.html")]) == (
        b"/\tindex.html\n2026/\t2026/index.html\n"
    )
