"""Where places lie on the drawn maps: the four projections of d3-geo that the maps were made with.

A conic projection turns degrees into the plane in four steps: the globe is turned until the cone's central
meridian is at zero, a raw formula unrolls the cone, the centre is taken away, and the rest is scaled to
pixels with y downwards. The maps' constants are d3's own, so that a point lands on the pixel it always had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Planar = tuple[float, float]
Raw = Callable[[float, float], Planar]
Projection = Callable[[float, float], Planar | None]

# d3's default translation, and the margin by which it keeps its insets apart.
_TRANSLATE = (480.0, 250.0)
_EPSILON = 1e-6
_US_SCALE = 1070.0


class Point(NamedTuple):
    """A map's name and a position on it in pixels."""

    map: str
    x: float
    y: float


def _equal_area(south: float, north: float) -> Raw:
    """Conic equal-area (Albers) with two standard parallels in radians."""
    n = (math.sin(south) + math.sin(north)) / 2
    c = 1 + math.sin(south) * (2 * n - math.sin(south))
    origin = math.sqrt(c) / n

    def raw(longitude: float, latitude: float) -> Planar:
        radius = math.sqrt(c - 2 * n * math.sin(latitude)) / n
        return radius * math.sin(longitude * n), origin - radius * math.cos(longitude * n)

    return raw


def _conformal(south: float, north: float) -> Raw:
    """Conic conformal (Lambert) with two standard parallels in radians."""

    def stretched(latitude: float) -> float:
        return math.tan((math.pi / 2 + latitude) / 2)

    n = math.log(math.cos(south) / math.cos(north)) / math.log(stretched(north) / stretched(south))
    f = math.cos(south) * stretched(south) ** n / n
    # The pole that the cone opens towards lies at infinity.
    pole = math.pi / 2 - _EPSILON

    def raw(longitude: float, latitude: float) -> Planar:
        latitude = max(latitude, -pole) if f > 0 else min(latitude, pole)
        radius = f / stretched(latitude) ** n
        return radius * math.sin(n * longitude), f - radius * math.cos(n * longitude)

    return raw


def _equidistant(south: float, north: float) -> Raw:
    """Conic equidistant with two standard parallels in radians."""
    n = (math.cos(south) - math.cos(north)) / (north - south)
    g = math.cos(south) / n + south

    def raw(longitude: float, latitude: float) -> Planar:
        radius = g - latitude
        return radius * math.sin(n * longitude), g - radius * math.cos(n * longitude)

    return raw


def _conic(
    family: Callable[[float, float], Raw],
    parallels: tuple[float, float],
    meridian: float,
    centre: tuple[float, float],
    scale: float,
    translate: Planar = _TRANSLATE,
) -> Callable[[float, float], Planar]:
    """A projection from (latitude, longitude) in degrees to pixels.

    `meridian` is the central one, `centre` the (longitude, latitude) relative to it that lies at `translate`.
    """
    raw = family(math.radians(parallels[0]), math.radians(parallels[1]))
    centre_x, centre_y = raw(math.radians(centre[0]), math.radians(centre[1]))
    left, top = translate[0] - scale * centre_x, translate[1] + scale * centre_y

    def project(latitude: float, longitude: float) -> Planar:
        turned = math.radians(longitude - meridian)
        if abs(turned) > math.pi:
            turned -= round(turned / math.tau) * math.tau
        x, y = raw(turned, math.radians(latitude))
        return left + scale * x, top - scale * y

    return project


@dataclass(frozen=True, slots=True)
class _Inset:
    """A part of the composite map of the USA: a projection, and the rectangle of pixels that it fills."""

    project: Callable[[float, float], Planar]
    left: float
    top: float
    right: float
    bottom: float

    def __call__(self, latitude: float, longitude: float) -> Planar | None:
        x, y = self.project(latitude, longitude)
        return (x, y) if self.left <= x <= self.right and self.top <= y <= self.bottom else None


def _inset(
    parallels: tuple[float, float],
    meridian: float,
    centre: tuple[float, float],
    relative_scale: float,
    offset: Planar,
    corners: tuple[float, float, float, float],
    margin: float,
) -> _Inset:
    """An inset; `offset` and `corners` (left, top, right, bottom) in units of the map's scale."""
    x, y = _TRANSLATE
    left, top, right, bottom = (side * _US_SCALE for side in corners)
    translate = (x + offset[0] * _US_SCALE, y + offset[1] * _US_SCALE)
    return _Inset(
        _conic(_equal_area, parallels, meridian, centre, _US_SCALE * relative_scale, translate),
        x + left + margin,
        y + top + margin,
        x + right - margin,
        y + bottom - margin,
    )


_ALBERS = ((29.5, 45.5), -96.0, (-0.6, 38.7))
_INSETS = (
    _inset(*_ALBERS, 1.0, (0.0, 0.0), (-0.455, -0.238, 0.455, 0.238), 0.0),
    _inset((55, 65), -154.0, (-2.0, 58.5), 0.35, (-0.307, 0.201), (-0.425, 0.120, -0.214, 0.234), _EPSILON),
    _inset((8, 18), -157.0, (-3.0, 19.9), 1.0, (-0.205, 0.212), (-0.214, 0.166, -0.115, 0.234), _EPSILON),
)
_WEST_OF_CANADA = _conic(_equal_area, *_ALBERS, _US_SCALE)


def _us(latitude: float, longitude: float) -> Planar | None:
    for inset in _INSETS:
        if point := inset(latitude, longitude):
            return point
    # Studios just north of the border are drawn too, moved until they fit.
    if 49 < latitude < 55 and -120 < longitude < -110:
        x, y = _WEST_OF_CANADA(latitude, longitude)
        return x - 50, y + 40
    return None


PROJECTIONS: Mapping[str, Projection] = {
    "us": _us,
    "eu": _conic(_conformal, (35, 65), 20.0, (0.0, 52.0), 1000),
    "au": _conic(_conformal, (-18, -36), 132.0, (13.0, -25.0), 750),
    "jp": _conic(_equidistant, (24, 46), 137.0, (0.0, 36.0), 1000),
}
"""Map -> projection from (latitude, longitude) in degrees to pixels, None where the map does not reach."""

# Map -> the box in degrees that it covers: south, north, west, east.
_BOXES = {
    "us": (21, 54, -160, -66),
    "eu": (35, 75, -25, 45),
    "au": (-45, -10, 110, 155),
    "jp": (24, 46, 122, 153),
}


def project(latitude: float, longitude: float) -> Point | None:
    """The map that shows a place, and where; None for a place (in degrees) that no map shows."""
    for name, (south, north, west, east) in _BOXES.items():
        if south <= latitude <= north and west <= longitude <= east:
            position = PROJECTIONS[name](latitude, longitude)
            if position is not None:
                return Point(name, *position)
    return None
