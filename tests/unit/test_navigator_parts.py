"""The computed parts of navigator.yml: expressions match what they should and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.generate.cache import ResultCache
from sidecar.generate.navigator_yml import auth_patterns, replay_routes, tenant_entries
from sidecar.generate.ownership import programmes, tenants
from sidecar.generate.yaml_writer import plain
from sidecar.model.index import Event, Index, Programme, Region, Studio

ROOT = "/showcase"
REGIONS = tuple(Region(code, "", 0.0, 0.0) for code in ("iad", "syd"))


def programme(
    year: int,
    key: str,
    region: str | None,
    *events: str,
    locale: str | None = None,
    logo: str | None = None,
) -> Programme:
    """One programme; without events it is a single one."""
    studio = Studio(key, key.upper(), None, None, region, locale, logo)
    rows = tuple(Event(year, event, event, key, None) for event in events or ("showcase",))
    (made,) = programmes(Index((), (studio,), rows, REGIONS), {key: region}, ResultCache())
    return made


PROGRAMMES = [
    programme(2026, "boston", "iad", "ball", "spring-fling"),
    programme(2026, "lincoln", "syd"),
    programme(2026, "mel-bourne", "syd", "gala"),
    programme(2026, "nowhere", None, "ball"),
    programme(2025, "boston", "iad"),
    programme(2025, "lincoln", "syd", "ball"),
]


def exempt(
    path: str, programmes: Sequence[Programme] = PROGRAMMES, root: str = ROOT, *, fly: bool = True
) -> bool:
    """Whether a path needs no login."""
    found = auth_patterns(programmes, root, regional=fly)
    assert all(pattern["action"] == "off" for pattern in found)
    return any(re2.search(pattern["pattern"], path) for pattern in found)


def replayed(
    path: str, here: str, programmes: Sequence[Programme] = PROGRAMMES, root: str = ROOT
) -> list[str]:
    """The regions that a path is sent to."""
    routes = replay_routes(programmes, root, here)
    assert all(route["status"] == 307 for route in routes)
    return [route["region"] for route in routes if re2.search(route["path"], path)]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/showcase/2026/boston",
        "/showcase/2026/boston/",
        "/showcase/2026/mel-bourne/",
        "/showcase/2026/nowhere/",
        "/showcase/2025/lincoln/",
        "/showcase/2026/boston/ball/public/",
        "/showcase/2026/boston/spring-fling/public/counter",
        "/showcase/regions/iad/cable",
        "/showcase/regions/syd/cable",
        "/showcase/regions/syd/demo/",
        "/showcase/regions/syd/demo/people/1",
    ],
)
def test_what_needs_no_login(path: str) -> None:
    """The root, index pages of several events, public pages, and every region's cable and demo."""
    assert exempt(path)


@pytest.mark.parametrize(
    "path",
    [
        "/showcase/2026/boston/ball/",
        "/showcase/2026/boston/ball",
        "/showcase/2026/boston/ball/people/public/",
        "/showcase/2026/boston/public/",
        "/showcase/2026/bostonx/",
        "/showcase/2026/xboston/",
        "/showcase/2026/boston/x",
        "/showcase/2026/lincoln/",
        "/showcase/2026/lincoln/public/",
        "/showcase/2025/boston/",
        "/showcase/2025/boston/ball/public/",
        "/showcase/2027/boston/",
        "/2026/boston/",
        "/x/showcase/2026/boston/",
        "/showcase/regions/iad/cable/x",
        "/showcase/regions/lax/cable",
        "/showcase/regions/iad/",
        "/x",
        "",
    ],
)
def test_what_needs_a_login(path: str) -> None:
    """Events themselves, single events, other years, and whatever only looks like an exemption."""
    assert not exempt(path)


def test_only_fly_has_regions() -> None:
    """Elsewhere there is no cable or demo of a region."""
    assert not exempt("/showcase/regions/iad/cable", fly=False)
    assert not exempt("/showcase/regions/iad/demo/", fly=False)
    assert exempt("/showcase/2026/boston/", fly=False)


def test_an_application_at_the_root() -> None:
    """Under Kamal nothing stands before the year."""
    assert exempt("/2026/boston/ball/public/x", root="", fly=False)
    assert not exempt("/showcase/2026/boston/", root="", fly=False)


def test_auth_patterns_as_written() -> None:
    """Escaped as the application's own generator does, a pattern a year, in order."""
    assert [pattern["pattern"] for pattern in auth_patterns(PROGRAMMES, ROOT, regional=True)] == [
        "^/$",
        "^/showcase/regions/(?:iad|syd)/cable$",
        "^/showcase/regions/(?:iad|syd)/demo/",
        r"^/showcase/2026/(?:boston|mel\-bourne|nowhere)/?$",
        "^/showcase/2025/(?:lincoln)/?$",
        r"^/showcase/2026/(?:boston/ball|boston/spring\-fling|mel\-bourne/gala|nowhere/ball)/public/",
        "^/showcase/2025/(?:lincoln/ball)/public/",
    ]


@pytest.mark.parametrize(
    ("path", "here", "expected"),
    [
        ("/showcase/2026/boston/ball/", "syd", ["iad"]),
        ("/showcase/2026/boston/ball", "syd", ["iad"]),
        ("/showcase/2026/boston/anything/else", "syd", ["iad"]),
        ("/showcase/2026/boston/", "syd", []),
        ("/showcase/2026/boston", "syd", []),
        ("/showcase/2026/lincoln", "iad", ["syd"]),
        ("/showcase/2026/lincoln/", "iad", ["syd"]),
        ("/showcase/2026/lincoln/heats", "iad", ["syd"]),
        ("/showcase/2026/lincolnshire/", "iad", []),
        ("/showcase/2025/lincoln/", "iad", []),
        ("/showcase/2025/lincoln/ball/", "iad", ["syd"]),
        ("/showcase/regions/syd/demo/", "iad", ["syd"]),
        ("/showcase/regions/syd/", "iad", []),
        ("/showcase/regions/iad/demo/", "iad", []),
        ("/x/showcase/2026/lincoln/", "iad", []),
    ],
)
def test_where_a_path_is_sent(path: str, here: str, expected: list[str]) -> None:
    """To the region that owns the event; index pages of several events are served here."""
    assert replayed(path, here) == expected


def test_routes_as_written() -> None:
    """Regions first; then by region, several events before single ones, years in order, a dash unescaped."""
    assert replay_routes(PROGRAMMES, ROOT, "iad") == [
        {"path": path, "region": "syd", "status": 307}
        for path in (
            "^/showcase/regions/syd/.+$",
            "^/showcase/(?:2026)/(?:mel-bourne)/.+$",
            "^/showcase/(?:2025)/(?:lincoln)/.+$",
            "^/showcase/(?:2026)/(?:lincoln)(?:/.*)?$",
        )
    ]


@pytest.mark.parametrize("code", ["x|.*", "x|", ".*", "[a-z]*", "a)|(.*"])
def test_a_region_s_code_is_no_expression(code: str) -> None:
    """Whatever characters a code has: it sends its own region's pages away, opens its cable, and no other."""
    odd = [programme(2026, "boston", code, "ball")]
    for path in ("/showcase/", "/anything/at/all", "/showcase/update_config", "/showcase/regions/iad/"):
        assert replayed(path, "iad", odd) == []
    assert replayed(f"/showcase/regions/{code}/x", "iad", odd) == [code]
    for path in ("/showcase/regions/y/cable", "/showcase/regions/y/demo/", "/showcase/regions//demo/"):
        assert not exempt(path, odd)
    assert exempt(f"/showcase/regions/{code}/cable", odd)
    assert exempt(f"/showcase/regions/{code}/demo/", odd)


def test_the_root_is_no_expression() -> None:
    """The folder of all is a text, too."""
    assert replayed("/a.b/2026/lincoln/", "iad", root="/a.b") == ["syd"]
    assert replayed("/axb/2026/lincoln/", "iad", root="/a.b") == []
    assert replayed("/axb/regions/syd/x", "iad", root="/a.b") == []
    assert exempt("/a.b/2026/boston/", root="/a.b")
    for path in ("/axb/2026/boston/", "/axb/regions/iad/cable", "/axb/regions/iad/demo/"):
        assert not exempt(path, root="/a.b")


def test_nothing_of_its_own_or_of_nobody_is_sent_away() -> None:
    """Events of this region and of no region stay."""
    assert replay_routes([PROGRAMMES[0], PROGRAMMES[3], PROGRAMMES[4]], ROOT, "iad") == []


keys = st.text("ab.-+|()[]{}^$*#&~ é\U0001f600_:;,", min_size=1, max_size=4).filter(
    lambda key: not key.startswith((".", " "))
)
many = st.lists(
    st.builds(
        programme,
        st.sampled_from([2026, 2025]),
        keys,
        st.sampled_from(["iad", "syd", None]),
    )
    | st.builds(
        lambda year, key, region, events: programme(year, key, region, *events),
        st.sampled_from([2026, 2025]),
        keys,
        st.sampled_from(["iad", "syd", None]),
        st.lists(keys, min_size=1, max_size=3, unique=True),
    ),
    max_size=6,
    unique_by=lambda one: (one.year, one.studio.key),
).map(lambda found: sorted(found, key=lambda one: (-one.year, one.studio.key)))


@settings(max_examples=150)
@given(many, st.sampled_from(["iad", "syd"]))
def test_every_event_is_served_where_it_belongs(many: list[Programme], here: str) -> None:
    """Whatever the keys: an event of another region is sent there and nowhere else, all others stay."""
    for one in many:
        away = [one.region] if one.region not in (None, here) else []
        for tenant in tenants(one):
            assert replayed(f"{ROOT}/{tenant.scope}/", here, many) == away
        index_page = f"{ROOT}/{one.year}/{one.studio.key}/"
        assert replayed(index_page, here, many) == (away if one.single else [])


@settings(max_examples=150)
@given(many)
def test_only_index_and_public_pages_are_exempt(many: list[Programme]) -> None:
    """Whatever the keys: the index page of several events and public pages are open, an event never is."""
    for one in many:
        index_page = f"{ROOT}/{one.year}/{one.studio.key}"
        assert exempt(index_page, many) is exempt(f"{index_page}/", many) is not one.single
        for tenant in tenants(one):
            path = f"{ROOT}/{tenant.scope}/"
            assert exempt(f"{path}public/x", many) is not one.single
            assert not exempt(f"{path}people/", many)


def test_tenant_entries() -> None:
    """Path, database and environment of each event; a locale with an underscore, and only where given."""
    several = programme(2026, "linz", "iad", "ball", "gala", locale="de_AT", logo="linz.png")
    found = plain(
        {"tenants": tenant_entries([several, programme(2026, "york", None, locale="en-US")], ROOT, set())}
    )
    assert found["tenants"] == [
        {
            "path": "/showcase/2026/linz/ball/",
            "var": {"database": "2026-linz-ball"},
            "env": {
                "RAILS_APP_OWNER": "LINZ",
                "RAILS_APP_SCOPE": "2026/linz/ball",
                "SHOWCASE_LOGO": "linz.png",
                "RAILS_LOCALE": "de_AT",
            },
        },
        {
            "path": "/showcase/2026/linz/gala/",
            "var": {"database": "2026-linz-gala"},
            "env": {
                "RAILS_APP_OWNER": "LINZ",
                "RAILS_APP_SCOPE": "2026/linz/gala",
                "SHOWCASE_LOGO": "linz.png",
                "RAILS_LOCALE": "de_AT",
            },
        },
        {
            "path": "/showcase/2026/york/",
            "var": {"database": "2026-york"},
            "env": {
                "RAILS_APP_OWNER": "YORK",
                "RAILS_APP_SCOPE": "2026/york",
                "SHOWCASE_LOGO": "arthur-murray-logo.gif",
            },
        },
    ]


def test_tenants_that_wait_for_their_databases_are_left_out() -> None:
    """One event of a studio is withheld, the other one stays; of another studio nothing is left."""
    both = [programme(2026, "linz", "iad", "ball", "gala"), programme(2026, "york", None)]
    found = plain([tenant_entries(both, ROOT, {"2026-linz-ball", "2026-york"})])
    assert [one["path"] for one in found] == ["/showcase/2026/linz/gala/"]


def test_tenants_of_an_application_at_the_root() -> None:
    """An empty root leaves a clean path."""
    (found,) = plain([tenant_entries([programme(2026, "york", None)], "", set())])
    assert found["path"] == "/2026/york/"
