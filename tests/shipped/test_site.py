"""The manual as a site: every page is in it, and every link in it leads somewhere."""

from __future__ import annotations

import re
import runpy
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import ROOT
from tests.shipped.test_docs import DOCS, PAGES

SITE = runpy.run_path(str(DOCS / "site.py"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once, without a network."""
    folder = tmp_path_factory.mktemp("site")
    SITE["build"](folder)
    return folder


def test_every_page_is_in_it(built: Path) -> None:
    """Each page of the manual, with a name in the navigation, a title and its tables."""
    assert SITE["PAGES"].keys() == {str(page.relative_to(ROOT)) for page in PAGES}
    for name in SITE["PAGES"]:
        text = (built / SITE["address"](name)).read_text()
        assert re.search(r"<title>.+</title>", text)
        assert text.count("aria-current") == 1
    assert "<table>" in (built / "docs" / "metrics.html").read_text()


def test_every_link_leads_somewhere(built: Path) -> None:
    """To a file of the site, and where it names a heading, to that; nothing is loaded from elsewhere."""
    pages = {path: path.read_text() for path in built.rglob("*.html")}
    anchors = {path: set(re.findall(r' id="([^"]+)"', text)) for path, text in pages.items()}
    broken = []
    for page, text in pages.items():
        for kind, link in re.findall(r'(href|src)="([^"]+)"', text):
            address, _, fragment = unquote(unescape(link)).partition("#")
            if re.match(r"\w+:", address):
                assert kind == "href", link
                continue
            target = (page.parent / address).resolve() if address else page
            if not target.exists() or (fragment and fragment not in anchors.get(target, {fragment})):
                broken.append(f"{page.relative_to(built)}: {link}")
    assert broken == []
