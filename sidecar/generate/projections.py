"""Where places lie on the drawn maps: the four conic projections of d3-geo that the maps were made with.

On an unrolled cone every parallel is an arc around the apex. A point's angle there is its longitude from the
central meridian times the cone's constant, which is negative for a cone with its apex in the south; the
arc's radius as a function of latitude is what tells equal-area, conformal and equidistant cones apart. Each
map fixes these, a scale, and which place lies at which pixel. All constants are d3's own, so that a point
lands on the pixel that it has always had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, log, pi, radians, remainder, sin, sqrt, tan, tau
from math import pow as power  # unlike **, never complex
from typing import NamedTuple

Pixels = tuple[float, float]
Projection = Callable[[float, float], Pixels | None]

# d3's default translation and scale of the USA, and its tolerance: at infinity and between insets.
_TRANSLATE = (480.0, 250.0)
_US_SCALE = 1070.0
_EPSILON = 1e-6


class Point(NamedTuple):
    """A map's name and a position on it in pixels, y downwards."""

    map: str
    x: float
    y: float


class _Cone(NamedTuple):
    """A cone's constant, and the radius of a parallel (latitude in radians) for a globe of radius 1.

    Made from two different standard parallels in degrees. They must not mirror each other in the Equator, as
    none here do: the constant would be 0 and the cone a cylinder.
    """

    constant: float
    radius: Callable[[float], float]


def _equal_area(first: float, second: float) -> _Cone:
    """Albers: areas are true."""
    sine, other = sin(radians(first)), sin(radians(second))
    twice = sine + other
    squared = 1 + sine * other

    def radius(latitude: float) -> float:
        return 2 / twice * sqrt(squared - twice * sin(latitude))

    return _Cone(twice / 2, radius)


def _conformal(first: float, second: float) -> _Cone:
    """Lambert: angles are true."""
    start, end = radians(first), radians(second)
    constant = log(cos(start) / cos(end)) / log(tan((pi / 2 + end) / 2) / tan((pi / 2 + start) / 2))
    unit = cos(start) / constant * power(tan((pi / 2 + start) / 2), constant)
    # The pole away from the apex lies at infinity.
    far = pi / 2 - _EPSILON

    def radius(latitude: float) -> float:
        latitude = max(latitude, -far) if constant > 0 else min(latitude, far)
        return unit * power(tan((pi / 2 + latitude) / 2), -constant)

    return _Cone(constant, radius)


def _equidistant(first: float, second: float) -> _Cone:
    """Distances along the meridians are true."""
    start, end = radians(first), radians(second)
    constant = (cos(start) - cos(end)) / (end - start)
    apex = cos(start) / constant + start

    def radius(latitude: float) -> float:
        return apex - latitude

    return _Cone(constant, radius)


def _conic(
    cone: _Cone,
    meridian: float,
    centre: tuple[float, float],
    scale: float,
    translate: Pixels = _TRANSLATE,
) -> Callable[[float, float], Pixels]:
    """A projection from (latitude, longitude) in degrees to pixels.

    `meridian` is the central one; `centre`, as (longitude from there, latitude), lies at `translate`.
    """
    constant, radius = cone
    to_centre = scale * radius(radians(centre[1]))
    apex_x = translate[0] - to_centre * sin(constant * radians(centre[0]))
    apex_y = translate[1] - to_centre * cos(constant * radians(centre[0]))

    def projected(latitude: float, longitude: float) -> Pixels:
        angle = constant * remainder(radians(longitude - meridian), tau)
        arc = scale * radius(radians(latitude))
        return apex_x + arc * sin(angle), apex_y + arc * cos(angle)

    return projected


class _Frame(NamedTuple):
    """A rectangle of the composite map of the USA in pixels; what is projected outside is not shown."""

    left: float
    top: float
    right: float
    bottom: float


def _frame(left: float, top: float, right: float, bottom: float, margin: float = _EPSILON) -> _Frame:
    """A frame less a margin in pixels; the sides in units of the map's scale, from its middle."""
    x, y = _TRANSLATE
    return _Frame(
        x + left * _US_SCALE + margin,
        y + top * _US_SCALE + margin,
        x + right * _US_SCALE - margin,
        y + bottom * _US_SCALE - margin,
    )


def _beside(x: float, y: float) -> Pixels:
    """Where an inset's centre lies in pixels; given in units of the map's scale, from its middle."""
    return _TRANSLATE[0] + x * _US_SCALE, _TRANSLATE[1] + y * _US_SCALE


_lower_48 = _conic(_equal_area(29.5, 45.5), -96, (-0.6, 38.7), _US_SCALE)
_alaska = _conic(_equal_area(55, 65), -154, (-2, 58.5), _US_SCALE * 0.35, _beside(-0.307, 0.201))
_hawaii = _conic(_equal_area(8, 18), -157, (-3, 19.9), _US_SCALE, _beside(-0.205, 0.212))

_LEFT, _TOP, _RIGHT, _BOTTOM = _frame(-0.455, -0.238, 0.455, 0.238, margin=0)
_INSETS = (
    (_alaska, _frame(-0.425, 0.120, -0.214, 0.234)),
    (_hawaii, _frame(-0.214, 0.166, -0.115, 0.234)),
)


def _us(latitude: float, longitude: float) -> Pixels | None:
    """d3's Albers USA: the first of the lower 48 states, Alaska and Hawaii whose frame shows the place."""
    x, y = _lower_48(latitude, longitude)
    if _LEFT <= x <= _RIGHT and _TOP <= y <= _BOTTOM:
        return x, y
    for inset, (left, top, right, bottom) in _INSETS:
        inset_x, inset_y = inset(latitude, longitude)
        if left <= inset_x <= right and top <= inset_y <= bottom:
            return inset_x, inset_y
    # Western Canada lies just above the frame. Its studios are drawn too, moved to where the map has room.
    if 49 < latitude < 55 and -120 < longitude < -110:
        return x - 50, y + 40
    return None


PROJECTIONS: Mapping[str, Projection] = {
    "us": _us,
    "eu": _conic(_conformal(35, 65), 20, (0, 52), 1000),
    "au": _conic(_conformal(-18, -36), 132, (13, -25), 750),
    "jp": _conic(_equidistant(24, 46), 137, (0, 36), 1000),
}
"""Map -> projection from (latitude, longitude) in degrees to pixels, None where the map does not reach.

Latitudes are from -90 to 90; longitudes are finite and wrap around.
"""

# Map, its projection, and the box in degrees that it covers: south, north, west, east.
_MAPS = (
    ("us", PROJECTIONS["us"], 21, 54, -160, -66),
    ("eu", PROJECTIONS["eu"], 35, 75, -25, 45),
    ("au", PROJECTIONS["au"], -45, -10, 110, 155),
    ("jp", PROJECTIONS["jp"], 24, 46, 122, 153),
)


def project(latitude: float, longitude: float) -> Point | None:
    """The map on which a place (in degrees) is drawn and its position there in pixels.

    None for a place that no map shows: outside every map's box, or in a box where the map does not reach.
    """
    for name, projection, south, north, west, east in _MAPS:
        if south <= latitude <= north and west <= longitude <= east:
            position = projection(latitude, longitude)
            if position is not None:
                return Point(name, *position)
    return None
