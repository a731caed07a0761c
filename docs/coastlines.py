"""Draws land and borders of the page's maps: `python docs/coastlines.py countries-50m.json`.

The source is Natural Earth (public domain, https://www.naturalearthdata.com), 1:50m countries, as the npm
package world-atlas 2.0.2 has them in TopoJSON. An arc that two countries share is a border. What comes out,
sidecar/web/page/assets/coastlines.json, are SVG paths a map, projected as its regions and studios are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.generate import projections

OUTPUT = Path(__file__).parents[1] / "sidecar" / "web" / "page" / "assets" / "coastlines.json"

# In pixels of the maps: what is further off a line is kept, and what is smaller is left out.
TOLERANCE, SMALLEST = 1.3, 7.0
MARGIN = 130
LONGEST_EDGE_DEGREES = 2.0

Pair = tuple[float, float]
Line = list[Pair]
Box = tuple[float, float, float, float]


class View(NamedTuple):
    """A part of a map: the box in degrees (west, south, east, north) that is drawn, and where it is shown.

    `frame` is left, top, right, bottom in pixels; None: what `shown`, a box in degrees, takes and a margin.
    """

    map: str
    project: Callable[[float, float], Pair]
    drawn: Box
    shown: Box | None = None
    frame: Box | None = None


def _frame(frame: Iterable[float], grow: float = 0.0) -> Box:
    left, top, right, bottom = frame
    return left - grow, top - grow, right + grow, bottom + grow


_MAIN = (projections._LEFT, projections._TOP, projections._RIGHT, projections._BOTTOM)
_HAWAII = projections._INSETS[1]  # Alaska lies north of what the map takes

VIEWS = (
    View("us", projections._lower_48, (-150, 5, -45, 70), frame=_frame(_MAIN, MARGIN)),
    View("us", _HAWAII[0], (-162, 17, -153, 24), frame=_frame(_HAWAII[1])),
    View("eu", projections.PROJECTIONS["eu"], (-60, 15, 85, 84), shown=(-25, 35, 45, 75)),  # type: ignore[arg-type]
    View("au", projections.PROJECTIONS["au"], (85, -60, 180, 10), shown=(110, -45, 155, -10)),  # type: ignore[arg-type]
    View("jp", projections.PROJECTIONS["jp"], (95, 5, 175, 65), shown=(122, 24, 153, 46)),  # type: ignore[arg-type]
)


def main(source: Path) -> None:
    """Read the TopoJSON and write the paths."""
    topology = json.loads(source.read_bytes())
    arcs = list(_arcs(topology))
    land = [_unwrapped(ring) for ring in _rings(topology["objects"]["land"], arcs)]
    used = Counter(
        number if number >= 0 else ~number for number in _numbers(topology["objects"]["countries"])
    )
    borders = [arcs[number] for number, count in used.items() if count > 1]
    found: dict[str, list[dict[str, Any]]] = {}
    for view in VIEWS:
        frame = view.frame or _around(view)
        paths = {
            "frame": [round(side) for side in frame],
            "land": "".join(_area(ring, view, frame) for ring in land),
            "borders": "".join(_strokes(border, view, frame) for border in borders),
        }
        found.setdefault(view.map, []).append(paths)
        print(view.map, f"land {len(paths['land'])}, borders {len(paths['borders'])}")
    OUTPUT.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def _arcs(topology: Any) -> Iterator[Line]:
    """Each arc in degrees."""
    (x_scale, y_scale), (west, south) = topology["transform"]["scale"], topology["transform"]["translate"]
    for arc in topology["arcs"]:
        x = y = 0
        line = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            line.append((x * x_scale + west, y * y_scale + south))
        yield line


def _rings(geometry: Any, arcs: list[Line]) -> Iterator[Line]:
    for polygon in _polygons(geometry):
        for ring in polygon:
            line: Line = []
            for number in ring:
                arc = arcs[number] if number >= 0 else arcs[~number][::-1]
                line += arc[1:] if line else arc
            yield line


def _unwrapped(ring: Line) -> Line:
    """Across the 180th meridian the longitudes go on beyond 180, instead of around the world."""
    line: Line = []
    for x, y in ring:
        while line and x - line[-1][0] > 180:
            x -= 360
        while line and x - line[-1][0] < -180:
            x += 360
        line.append((x, y))
    return line


def _numbers(geometry: Any) -> Iterator[int]:
    return (number for polygon in _polygons(geometry) for ring in polygon for number in ring)


def _polygons(geometry: Any) -> Iterator[list[list[int]]]:
    if geometry["type"] == "GeometryCollection":
        for one in geometry["geometries"]:
            yield from _polygons(one)
    elif geometry["type"] == "Polygon":
        yield geometry["arcs"]
    elif geometry["type"] == "MultiPolygon":
        yield from geometry["arcs"]


def _around(view: View) -> Box:
    """The frame that holds all that a map shows."""
    assert view.shown is not None
    west, south, east, north = view.shown
    edge = [
        view.project(latitude, longitude)
        for longitude in range(int(west), int(east) + 1)
        for latitude in range(int(south), int(north) + 1)
    ]
    xs, ys = [x for x, _ in edge], [y for _, y in edge]
    return _frame((min(xs), min(ys), max(xs), max(ys)), MARGIN)


def _area(ring: Line, view: View, frame: Box) -> str:
    """A ring of land as a closed path."""
    west, south, east, north = view.drawn
    clipped = _clip(ring, (west, south, east, north))
    placed = [view.project(latitude, longitude) for longitude, latitude in _dense(clipped)]
    placed = _simple(_clip(placed, frame))
    if len(placed) < 4 or _extent(placed) < SMALLEST:
        return ""
    return f"{_path(placed)}z"


def _strokes(border: Line, view: View, frame: Box) -> str:
    """A border as open paths, as far as the frame shows it."""
    west, south, east, north = view.drawn
    paths, line = [], list[Pair]()
    for longitude, latitude in [*border, (999.0, 0.0)]:
        place = None
        if west < longitude < east and south < latitude < north:
            place = view.project(latitude, longitude)
        if place is None or not _inside(place, frame):
            if len(simple := _simple(line)) > 1 and _extent(simple) > SMALLEST / 2:
                paths.append(_path(simple))
            line = []
        else:
            line.append(place)
    return "".join(paths)


def _dense(line: Line) -> Iterator[Pair]:
    """With points between those that lie far apart: parallels are curves."""
    for (x, y), (next_x, next_y) in zip(line, [*line[1:], line[0]] if line else [], strict=True):
        pieces = max(1, int(max(abs(next_x - x), abs(next_y - y)) / LONGEST_EDGE_DEGREES))
        for piece in range(pieces):
            yield x + (next_x - x) * piece / pieces, y + (next_y - y) * piece / pieces


def _clip(ring: Line, box: Box) -> Line:
    """The part of a polygon inside a box, one side after the other (Sutherland and Hodgman)."""
    for axis, limit, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        kept: Line = []
        for number, end in enumerate(ring):
            start = ring[number - 1]
            inside, was = sign * (end[axis] - limit) >= 0, sign * (start[axis] - limit) >= 0
            if inside != was:
                share = (limit - start[axis]) / (end[axis] - start[axis])
                kept.append((start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])))
            if inside:
                kept.append(end)
        ring = kept
    return ring


def _simple(line: Line) -> Line:
    """Without the points that hardly matter (Ramer, Douglas and Peucker)."""
    if len(line) < 3:
        return line
    keep, spans = {0, len(line) - 1}, [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        (ax, ay), (bx, by) = line[first], line[last]
        length = hypot(bx - ax, by - ay)
        far, most = 0, TOLERANCE
        for number in range(first + 1, last):
            x, y = line[number]
            off = (
                abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length if length else hypot(x - ax, y - ay)
            )
            if off > most:
                far, most = number, off
        if far:
            keep.add(far)
            spans += [(first, far), (far, last)]
    return [line[number] for number in sorted(keep)]


def _extent(line: Line) -> float:
    xs, ys = [x for x, _ in line], [y for _, y in line]
    return max(max(xs) - min(xs), max(ys) - min(ys))


def _inside(place: Pair, box: Box) -> bool:
    return box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]


def _path(line: Line) -> str:
    """Whole pixels, each from the one before."""
    x, y = round(line[0][0]), round(line[0][1])
    text = f"M{x} {y}l"
    first = True
    for place in line[1:]:
        dx, dy = round(place[0]) - x, round(place[1]) - y
        if dx or dy:
            text += f"{'' if first or dx < 0 else ' '}{dx}{'' if dy < 0 else ' '}{dy}"
            x, y, first = x + dx, y + dy, False
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
