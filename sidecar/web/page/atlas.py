"""The map: regions and studios where map.yml projects them, each studio tied to the region that serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import msgspec

from sidecar.model.record import Record
from sidecar.model.words import plural
from sidecar.web.page import parts
from sidecar.web.page.markup import NONE, Content, Markup, h

_MAPS = {"us": "North America", "eu": "Europe", "au": "Australia", "jp": "Japan"}


class Coastline(Record, frozen=True):
    """The land of a map, or of an inset in it, and its borders, as SVG paths in the map's pixels.

    `frame` is left, top, right and bottom of what they reach.
    """

    frame: tuple[float, float, float, float]
    land: str
    borders: str

    def holds(self, x: float, y: float) -> bool:
        """Whether a place lies in the frame."""
        left, top, right, bottom = self.frame
        return left <= x <= right and top <= y <= bottom


COASTLINES = msgspec.json.decode(
    resources.files("sidecar").joinpath("web", "page", "assets", "coastlines.json").read_bytes(),
    type=dict[str, tuple[Coastline, ...]],
)
"""Map -> its coastline and those of its insets. docs/coastlines.py makes them of Natural Earth."""
_MARGIN = 36
_MAX_NAMED = 400
"""With more studios than this their names are left out of the picture, so that the page stays small."""


def atlas(document: Mapping[str, Any], states: Mapping[str, str], here: str | None) -> Markup | None:
    """All maps that show anything. `states` are those of the regions, as far as they are known."""
    regions = _mapping(document.get("regions"))
    studios = _mapping(document.get("studios"))
    drawn = [
        figure
        for name in _MAPS
        if (figure := _map(name, regions, studios, states, named=len(studios) <= _MAX_NAMED)) is not None
    ]
    if not drawn:
        return None
    return h.section(
        h.h2("Regions and studios"),
        h.div(drawn, class_="maps"),
        _legend(regions, studios, states, here),
        h.p("Coastlines and borders: Natural Earth, public domain.", class_="quiet"),
        class_="atlas",
    )


def _map(
    name: str,
    regions: Mapping[str, Any],
    studios: Mapping[str, Any],
    states: Mapping[str, str],
    *,
    named: bool,
) -> Markup | None:
    large = name == "us"
    shown = {key: one for key, one in studios.items() if one.get("map") == name and _placed(one)}
    bases = {code: one for code, one in regions.items() if one.get("map") == name and _placed(one)}
    if not shown and not bases:
        return None
    points = [(float(one["x"]), float(one["y"])) for one in (*shown.values(), *bases.values())]
    left, top = min(x for x, _ in points) - _MARGIN, min(y for _, y in points) - _MARGIN
    width = max(max(x for x, _ in points) - left + _MARGIN, 180.0)
    height = max(max(y for _, y in points) - top + _MARGIN, 135.0)
    if not large:
        # The small ones have one shape, so that they stand side by side.
        wider, higher = max(width, height * 4 / 3), max(height, width * 3 / 4)
        left, top, width, height = left - (wider - width) / 2, top - (higher - height) / 2, wider, higher
    unit = width / (940 if large else 290)  # about a pixel, where there is room
    title = _MAPS[name]
    groups: list[Content] = []
    by_region: dict[str | None, list[Mapping[str, Any]]] = {}
    for one in shown.values():
        by_region.setdefault(one.get("region"), []).append(one)
    for code, members in by_region.items():
        base = bases.get(str(code))
        spokes = "".join(
            f"M{_at(base['x'])} {_at(base['y'])}L{_at(one['x'])} {_at(one['y'])}"
            for one in members
            if base is not None
        )
        groups.append(
            h.g(
                h.path(d=spokes, class_="spoke") if spokes else None,
                [
                    h.circle(
                        h.title(str(one.get("name") or "")) if named else None,
                        cx=_at(one["x"]),
                        cy=_at(one["y"]),
                        r=round((3.5 if large else 2.5) * unit, 1),
                    )
                    for one in members
                ],
                class_=parts.tone(states.get(str(code), "")),
            )
        )
    for code, one in bases.items():
        x, y = float(one["x"]), float(one["y"])
        near_right = x > left + width * 0.82
        size = round((17 if large else 13) * unit, 1)
        groups.append(
            h.g(
                h.title(f"{code}, {one.get('name')}"),
                h.circle(cx=_at(x), cy=_at(y), r=round((9 if large else 5.5) * unit, 1)),
                h.text(
                    code,
                    x=_at(x + (-0.8 if near_right else 0.8) * size),
                    y=_at(y + 0.34 * size),
                    font_size=size,
                    text_anchor="end" if near_right else None,
                ),
                class_=f"base {parts.tone(states.get(code, ''))}",
            )
        )
    counted = f"{plural(len(bases), 'region')}, {plural(len(shown), 'studio')}"
    return h.figure(
        h.svg(
            _coastlines(name, points),
            groups,
            viewBox=f"{_at(left)} {_at(top)} {_at(width)} {_at(height)}",
            role="img",
            aria_label=f"Map of {title}: {counted}",
        ),
        h.figcaption(h.b(title), h.span(counted)),
        class_=f"map-{name}",
    )


def _coastlines(name: str, points: Sequence[tuple[float, float]]) -> Content:
    """The land, and over it the insets in which anything lies."""
    whole, *insets = COASTLINES[name]
    drawn: list[Content] = [h.path(d=whole.land, class_="land"), h.path(d=whole.borders, class_="borders")]
    for inset in insets:
        if any(inset.holds(*point) for point in points):
            left, top, right, bottom = inset.frame
            drawn += [
                h.rect(x=left, y=top, width=right - left, height=bottom - top, class_="inset"),
                h.path(d=inset.land, class_="land"),
                h.path(d=inset.borders, class_="borders"),
            ]
    return drawn


def _legend(
    regions: Mapping[str, Any], studios: Mapping[str, Any], states: Mapping[str, str], here: str | None
) -> Markup:
    counts: dict[str | None, int] = {}
    for one in studios.values():
        counts[one.get("region")] = counts.get(one.get("region"), 0) + 1
    rows = [
        h.li(
            parts.pill(states[code]) if code in states else h.span("Not looked at", class_="state quiet"),
            h.b(code),
            h.span(
                str(one.get("name") or ""),
                h.span("this machine", class_="badge") if code == here else None,
            ),
            h.span(plural(counts.get(code, 0), "studio"), class_="quiet"),
        )
        for code, one in sorted(regions.items())
    ]
    if counts.get(None):
        rows.append(
            h.li(
                h.span("Everywhere", class_="state quiet"),
                h.b(NONE),
                h.span("no region"),
                h.span(plural(counts[None], "studio"), class_="quiet"),
            )
        )
    return h.ul(rows, class_="regions")


def _at(value: Any) -> str:
    return f"{float(value):.0f}"


def _placed(one: Any) -> bool:
    return isinstance(one.get("x"), (int, float)) and isinstance(one.get("y"), (int, float))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {str(key): one for key, one in value.items() if isinstance(one, dict)}
