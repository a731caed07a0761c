"""Decides which pages are rendered: pure, by a fingerprint of the data that each page depends on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sidecar.model.index import Index, Page, Programme
from sidecar.model.record import Record

Item = TypeVar("Item")

_REGION = re.compile(r"regions/([^/]+)/\Z")
_STUDIO = re.compile(r"studios/([^/]+)/\Z")
_YEAR = re.compile(r"([0-9]+)/\Z")
_PROGRAMME = re.compile(r"([0-9]+)/([^/]+)/\Z")


class Rendered(Record, frozen=True):
    """What is remembered of a page: what it was made of, and the signature of the file that was written."""

    fingerprint: str
    signature: str


class RenderedPages(Record, frozen=True):
    """The pages to render, the number of those that are as they should be, the files to remove."""

    render: tuple[Page, ...]
    skipped: int
    remove: tuple[str, ...]


def parse_list(text: bytes) -> tuple[Page, ...]:
    """The pages of prerender.txt: path TAB file, one a line."""
    rows = (line.split("\t") for line in text.decode().splitlines())
    return tuple(Page(path, file) for path, file in rows)


def documentation(names: Iterable[str]) -> tuple[Page, ...]:
    """The pages made of documents, such as `docs/tasks/heats.md`; an index stands for its folder."""
    found = []
    for name in sorted(names):
        stem = name.rpartition(".")[0]
        path = stem.removesuffix("index") if stem.rpartition("/")[2] == "index" else stem
        found.append(Page(path, f"{stem}.html"))
    return tuple(found)


def fingerprints(
    pages: Iterable[Page],
    index: Index,
    programmes: Sequence[Programme],
    owned: Mapping[str, str | None],
    documents: Mapping[str, str],
) -> dict[str, str]:
    """File -> fingerprint of what its page depends on; `documents` are the digests of the docs, by file.

    An index page depends on everything, a studio's page on the studio and its events, a region's on its
    studios and their events, a year's on that year's events.
    """
    everything = _digest(index.regions, index.studios, index.events, sorted(index.partial))
    studios = {studio.key: studio for studio in index.studios}
    regions = {region.code: region for region in index.regions}
    located = _grouped(index.studios, lambda studio: owned.get(studio.key))
    of_region = _grouped(programmes, lambda one: one.region)
    of_studio = _grouped(programmes, lambda one: one.studio.key)
    of_year = _grouped(programmes, lambda one: one.year)

    def depends(path: str) -> str:
        if match := _REGION.match(path):
            code = match[1]
            return _digest(regions.get(code), located.get(code), of_region.get(code))
        if match := _STUDIO.match(path):
            key = match[1]
            return _digest(studios.get(key), owned.get(key), of_studio.get(key))
        if match := _YEAR.match(path):
            return _digest(of_year.get(int(match[1])))
        if match := _PROGRAMME.match(path):
            year = int(match[1])
            return _digest([one for one in of_studio.get(match[2], ()) if one.year == year])
        return everything

    return {page.file: documents.get(page.file) or depends(page.path) for page in pages}


def _grouped(items: Iterable[Item], by: Callable[[Item], Hashable]) -> dict[Hashable, list[Item]]:
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(by(item), []).append(item)
    return groups


def plan_pages(
    pages: Iterable[Page],
    wanted: Mapping[str, str],
    known: Mapping[str, Rendered],
    present: Mapping[str, str | None],
    *,
    everything: bool,
    remove: bool,
) -> RenderedPages:
    """Which pages to render. `wanted` are fingerprints, `present` the signatures of the files, both by file.

    Only files that were written here are ever removed.
    """
    render, skipped = [], 0
    for page in pages:
        before = known.get(page.file)
        if not everything and before == Rendered(wanted[page.file], present.get(page.file) or ""):
            skipped += 1
        else:
            render.append(page)
    gone = (file for file in known if file not in wanted and present.get(file) == known[file].signature)
    return RenderedPages(tuple(render), skipped, tuple(sorted(gone)) if remove else ())


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
