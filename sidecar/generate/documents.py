"""The documents about studios and events: map.yml, showcases.yml, tenants.list, the prerender list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from sidecar.generate.ownership import DEFAULT_LOGO, locale_of, regions_in
from sidecar.generate.projections import project
from sidecar.generate.yaml_writer import Entries
from sidecar.model.index import Index, Page, Programme, Region, Studio


def map_document(index: Index, owned: dict[str, str | None]) -> dict[str, Any]:
    """map.yml: regions and studios with their coordinates and places on the projected maps."""
    return {
        "regions": Entries(_map_region, index.regions, mapping=True),
        "studios": Entries(
            _map_studio, [(studio, owned[studio.key]) for studio in index.studios], mapping=True
        ),
    }


def _map_region(region: Region) -> dict[str, Any]:
    place = {"name": region.name, "lat": region.latitude, "lon": region.longitude}
    return {region.code: place | _projected(region.latitude, region.longitude)}


def _map_studio(item: tuple[Studio, str | None]) -> dict[str, Any]:
    studio, region = item
    place = {"name": studio.name, "lat": studio.latitude, "lon": studio.longitude, "region": region}
    return {studio.key: place | _projected(studio.latitude, studio.longitude)}


def _projected(latitude: float | None, longitude: float | None) -> dict[str, Any]:
    if latitude is None or longitude is None:
        return {}
    point = project(latitude, longitude)
    return {} if point is None else {"map": point.map, "x": point.x, "y": point.y}


def showcases_document(programmes: Sequence[Programme]) -> dict[int, Any]:
    """showcases.yml: year -> studio -> entry with Ruby symbols for keys."""
    return {
        year: Entries(_showcase, list(group), mapping=True)
        for year, group in groupby(programmes, key=lambda programme: programme.year)
    }


def _showcase(programme: Programme) -> dict[str, Any]:
    studio = programme.studio
    entry: dict[str, Any] = {":name": studio.name, ":region": programme.region}
    if locale := locale_of(studio):
        entry[":locale"] = locale
    if studio.logo and studio.logo != DEFAULT_LOGO:
        entry[":logo"] = studio.logo
    if programme.single:
        if date := programme.events[0].date:
            entry[":date"] = date
    else:
        entry[":events"] = {
            event.key: {":name": event.name} | ({":date": event.date} if event.date else {})
            for event in programme.events
        }
    return {studio.key: entry}


def tenants_list(databases: Iterable[str], folder: str) -> bytes:
    """tenants.list: the path of each tenant's database, one a line."""
    return "".join(f"{folder}/{database}.sqlite3\n" for database in databases).encode()


def prerender_pages(index: Index, programmes: Sequence[Programme]) -> list[Page]:
    """The public pages that can be rendered ahead of time, the same on every machine."""
    paths = ["regions/"]
    paths += (f"regions/{code}/" for code in sorted(regions_in(programmes)))
    paths += (f"studios/{studio.key}/" for studio in index.studios)
    for year in sorted({programme.year for programme in programmes}):
        paths.append(f"{year}/")
        paths += (f"{year}/{one.studio.key}/" for one in programmes if one.year == year and not one.single)
    paths.append("studios/")
    return [Page("/", "index.html"), *(Page(path, f"{path}index.html") for path in paths)]


def prerender_list(pages: Iterable[Page]) -> bytes:
    """The list of prerender pages: path TAB file, one a line."""
    return "".join(f"{page.path}\t{page.file}\n" for page in pages).encode()
