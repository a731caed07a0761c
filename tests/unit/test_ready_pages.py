"""Which pages are rendered, by what they depend on."""

from __future__ import annotations

import msgspec
import pytest

from sidecar.generate.cache import ResultCache
from sidecar.generate.documents import prerender_list, prerender_pages
from sidecar.generate.ownership import owners, programmes
from sidecar.model.index import Event, Index, Page, Region, Studio
from sidecar.ready.pages import Rendered, documentation, fingerprints, parse_list, plan_pages

IAD, SYD = Region("iad", "Ashburn", 38.9, -77.4), Region("syd", "Sydney", -33.9, 151.2)
EAST = Studio("east", "East", 38.0, -77.0, None, None, None)
SOUTH = Studio("south", "South", -33.0, 151.0, None, None, None)
INDEX = Index(
    (),
    (EAST, SOUTH),
    (
        Event(2026, "spring", "Spring", "east", None),
        Event(2026, "fall", "Fall", "east", None),
        Event(2025, "showcase", "Showcase", "south", None),
    ),
    (IAD, SYD),
)


def made_of(index: Index) -> dict[str, str]:
    memo = ResultCache()
    owned = owners(index, memo)
    found = programmes(index, owned, memo)
    return fingerprints(prerender_pages(index, found), index, found, owned, {})


def changed(index: Index) -> set[str]:
    before, after = made_of(INDEX), made_of(index)
    return {file for file, made in after.items() if before.get(file) != made}


INDEXES = {"index.html", "regions/index.html", "studios/index.html"}


def test_the_list_reads_back() -> None:
    """What prerender.txt says is what was written to it."""
    memo = ResultCache()
    pages = prerender_pages(INDEX, programmes(INDEX, owners(INDEX, memo), memo))
    assert list(parse_list(prerender_list(pages))) == pages


def test_users_change_no_page() -> None:
    """The pages are public: who may sign in does not matter to them."""
    from sidecar.model.index import User

    assert changed(msgspec.structs.replace(INDEX, users=(User("a", "a:b"),))) == set()


def test_a_studio_changes_its_pages_and_the_indexes() -> None:
    """A new name costs the studio's pages, its region's, its years', and the three index pages."""
    renamed = msgspec.structs.replace(EAST, name="Far East")
    assert changed(msgspec.structs.replace(INDEX, studios=(renamed, SOUTH))) == INDEXES | {
        "studios/east/index.html",
        "regions/iad/index.html",
        "2026/index.html",
        "2026/east/index.html",
    }


def test_an_event_changes_its_year_and_studio() -> None:
    """Another year and another studio stay as they are."""
    events = (*INDEX.events[:2], Event(2025, "showcase", "Showcase", "south", "2025-05-01"))
    assert changed(msgspec.structs.replace(INDEX, events=events)) == INDEXES | {
        "studios/south/index.html",
        "regions/syd/index.html",
        "2025/index.html",
    }


def test_documents_become_pages() -> None:
    """An index stands for its folder."""
    assert documentation(["docs/index.md", "docs/tasks/index.md", "docs/tasks/heats.md"]) == (
        Page("docs/", "docs/index.html"),
        Page("docs/tasks/heats", "docs/tasks/heats.html"),
        Page("docs/tasks/", "docs/tasks/index.html"),
    )


PAGES = (Page("a/", "a/index.html"), Page("b/", "b/index.html"))
WANTED = {"a/index.html": "1", "b/index.html": "2"}
KNOWN = {
    "a/index.html": Rendered("1", "s"),
    "b/index.html": Rendered("0", "s"),
    "gone.html": Rendered("3", "s"),
}


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"a/index.html": "s", "b/index.html": "s"}, ["b/index.html"]),
        ({"a/index.html": "t", "b/index.html": "s"}, ["a/index.html", "b/index.html"]),
        ({"a/index.html": None}, ["a/index.html", "b/index.html"]),
    ],
)
def test_a_page_is_left_out_only_when_its_file_is_the_one_written(
    present: dict[str, str | None], expected: list[str]
) -> None:
    """Other data, another file or none: the page is rendered."""
    todo = plan_pages(PAGES, WANTED, KNOWN, present, everything=False, remove=False)
    assert [page.file for page in todo.render] == expected
    assert todo.remove == ()


def test_only_files_that_were_written_here_are_removed() -> None:
    """A file that somebody else has put there since stays."""
    present: dict[str, str | None] = {"gone.html": "s"}
    assert plan_pages(PAGES, WANTED, KNOWN, present, everything=False, remove=True).remove == ("gone.html",)
    present = {"gone.html": "other"}
    assert plan_pages(PAGES, WANTED, KNOWN, present, everything=False, remove=True).remove == ()


def test_nothing_is_left_out_when_everything_is_asked_for() -> None:
    """Everything means all pages."""
    present: dict[str, str | None] = {"a/index.html": "s", "b/index.html": "s"}
    todo = plan_pages(PAGES, WANTED, KNOWN, present, everything=True, remove=False)
    assert todo.render == PAGES
