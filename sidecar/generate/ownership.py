"""Which region owns a studio, and which events make up whose programme of a year."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from sidecar.generate.cache import ResultCache
from sidecar.model.changes import Changes, changes
from sidecar.model.index import Index, Programme, Region, Studio, Tenant

EARTH_RADIUS_KM = 6371.0
"""Mean radius in kilometres, as the application uses it."""

SINGLE = "showcase"
"""The key of an event that is a studio's only one of the year."""

DEFAULT_LOGO = "arthur-murray-logo.gif"
DEFAULT_LOCALE = "en-US"


def distance(latitude: float, longitude: float, region: Region) -> float:
    """Great-circle distance in kilometres from a place (degrees) to a region, by the haversine formula.

    A region of which nobody knows where it is has the distance infinity.
    """
    if region.latitude is None or region.longitude is None:
        return math.inf
    north = math.radians(region.latitude - latitude)
    east = math.radians(region.longitude - longitude)
    chord = (
        math.sin(north / 2) ** 2
        + math.cos(math.radians(latitude)) * math.cos(math.radians(region.latitude)) * math.sin(east / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.atan2(math.sqrt(chord), math.sqrt(max(0.0, 1 - chord)))


def compared(old: Index, new: Index, memo: ResultCache) -> Changes:
    """What changes from one index to another, the owners of the studios included."""
    return changes(old, owners(old, memo), new, owners(new, memo))


def owner(studio: Studio, regions: tuple[Region, ...]) -> str | None:
    """The code of the region that owns a studio: the one it names, else the nearest, else none."""
    if studio.region and any(region.code == studio.region for region in regions):
        return studio.region
    places = [region for region in regions if region.latitude is not None]
    if studio.latitude is None or studio.longitude is None or not places:
        return None
    latitude, longitude = studio.latitude, studio.longitude
    # min() keeps the first of equals: the order of the regions decides a tie.
    return min(places, key=lambda region: distance(latitude, longitude, region)).code


def owners(index: Index, memo: ResultCache) -> dict[str, str | None]:
    """Studio key -> code of the owning region, or None where every machine serves it."""
    regions = index.regions
    scope = memo.get((owners, regions), object)  # stands for these regions in every studio's key
    return {
        studio.key: memo.get((scope, studio), lambda studio=studio: owner(studio, regions))  # type: ignore[misc]
        for studio in index.studios
    }


def programmes(index: Index, owned: dict[str, str | None], memo: ResultCache) -> list[Programme]:
    """All programmes: years descending, studios ascending, events in their order.

    Relies on the order of `Index.events`: year, then studio, then the event's own order. A programme
    that was there before is given as the same object, which makes whatever is remembered for it quick
    to find.
    """
    studios = {studio.key: memo.get(studio, lambda studio=studio: studio) for studio in index.studios}  # type: ignore[misc]
    found: list[Programme] = []
    for (year, key), group in groupby(index.events, key=attrgetter("year", "studio")):
        events = tuple(group)
        # Whatever of it was left out: what is there keeps its address and its database.
        single = len(events) == 1 and events[0].key == SINGLE and (year, key) not in index.partial
        one = Programme(year, studios[key], owned[key], events, single)
        found.append(memo.get(one, lambda one=one: one))  # type: ignore[misc]
    return found


def tenants(programme: Programme) -> tuple[Tenant, ...]:
    """The tenants of a programme, in order."""
    studio = programme.studio
    year, place = programme.year, f"{programme.year}/{studio.key}"
    logo = studio.logo or DEFAULT_LOGO
    locale = locale_of(studio)
    if programme.single:
        return (Tenant(place, database_name(year, studio.key, None), studio.name, logo, locale),)
    return tuple(
        Tenant(f"{place}/{event.key}", database_name(year, studio.key, event.key), studio.name, logo, locale)
        for event in programme.events
    )


def database_name(year: int, studio: str, event: str | None) -> str:
    """The stem of an event's database, by the keys of studio and event; None for a single event."""
    return f"{year}-{studio}" if event is None else f"{year}-{studio}-{event}"


def locale_of(studio: Studio) -> str | None:
    """The studio's locale in the form `en-GB`; None where it is the default."""
    locale = (studio.locale or "").replace("_", "-")
    return None if locale in ("", DEFAULT_LOCALE) else locale


def regions_in(programmes: Iterable[Programme]) -> list[str]:
    """The owning regions that occur, in order of their first occurrence."""
    return list(dict.fromkeys(programme.region for programme in programmes if programme.region))
