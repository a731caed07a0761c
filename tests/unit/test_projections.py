"""The maps' projections: d3-geo's figures, the theory's invariants, and which box holds which place."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.generate.projections import PROJECTIONS, Point, project

# Pixels; d3's own arithmetic is reproduced but for the order of a few operations.
CLOSE = 1e-9

# Map -> the box that it covers: south, north, west, east.
BOXES = {
    "us": (21, 54, -160, -66),
    "eu": (35, 75, -25, 45),
    "au": (-45, -10, 110, 155),
    "jp": (24, 46, 122, 153),
}

# Map, latitude, longitude, and the pixels that d3-geo 3 gives.
LOWER_48 = [
    ("us", 40.7128, -74.006, 794.5954450548626, 176.53258338778596),
    ("us", 47.6062, -122.3321, 159.10285740989343, 37.08535798159676),
    ("us", 25.7617, -80.1918, 755.9269214906512, 470.2066412697904),
]
ALASKA = [
    ("us", 61.2181, -149.9003, 171.16295961507143, 446.9441310429266),
    ("us", 58.3019, -134.4197, 224.38278025854416, 456.6612701495211),
    ("us", 54.0, -160.0, 135.26384449603694, 493.5821859135084),
]
HAWAII = [
    ("us", 21.3069, -157.8583, 298.4785715711044, 450.98746080412104),
    ("us", 19.7241, -155.0868, 347.2556199575081, 480.29782377079874),
]
MOVED = [
    ("us", 53.5461, -113.4938, 238.02283806579635, -4.11064655635721),
    ("us", 51.0447, -114.0719, 272.9064216363938, -0.850431776744017),
]
EUROPE = [
    ("eu", 51.5074, -0.1278, 271.47223737980687, 229.72843364321136),
    ("eu", 41.9028, 12.4964, 384.96227380665766, 415.9123180598199),
    ("eu", 60.1699, 24.9384, 521.9653398230728, 110.18105731145965),
]
AUSTRALIA = [
    ("au", -33.8688, 151.2093, 534.7129810064761, 372.8374258259643),
    ("au", -31.9523, 115.8613, 150.6500790959534, 343.4812149037157),
    ("au", -42.8821, 147.3272, 478.6571006486125, 485.2537196598805),
]
JAPAN = [
    ("jp", 35.6762, 139.6503, 516.8794308761658, 255.16511238702492),
    ("jp", 43.0618, 141.3545, 534.9988246570002, 125.55674817335591),
    ("jp", 26.2124, 127.6809, 335.20068684012165, 414.10816716453616),
]
# Latitudes in Hawaii's frame.
HAWAIIAN = (19, 22)
# Across the antimeridian from the map's middle, so that the turned longitude leaves -180 to 180.
WRAPPED = [
    ("eu", 10.0, -170.0, 1620.476692780243, -1536.5622605870026),
    ("au", -17.7134, -178.065, 934.7231640620771, 269.55651980682194),
    ("jp", 21.3, -157.8, 1476.6509947772133, 171.46433864397966),
]
KNOWN = [*LOWER_48, *ALASKA, *HAWAII, *MOVED, *EUROPE, *AUSTRALIA, *JAPAN, *WRAPPED]

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
# Places all over the globe, and as many in each map's box.
places = st.tuples(latitudes, longitudes) | st.one_of(
    [st.tuples(st.floats(south, north), st.floats(west, east)) for south, north, west, east in BOXES.values()]
)


def position(name: str, latitude: float, longitude: float) -> tuple[float, float]:
    """Where the map's projection puts a place; it must put it somewhere."""
    pixels = PROJECTIONS[name](latitude, longitude)
    assert pixels is not None
    return pixels


def holds(name: str, latitude: float, longitude: float) -> bool:
    """Whether a map's box holds a place."""
    south, north, west, east = BOXES[name]
    return south <= latitude <= north and west <= longitude <= east


@pytest.mark.parametrize(("name", "latitude", "longitude", "x", "y"), KNOWN)
def test_a_known_place(name: str, latitude: float, longitude: float, x: float, y: float) -> None:
    """A place lands on the pixel where d3-geo puts it."""
    assert position(name, latitude, longitude) == pytest.approx((x, y), rel=0, abs=CLOSE)


def test_reference_points(conformance: Path) -> None:
    """Every reference point agrees with d3-geo's, also in that there is none."""
    with (conformance / "projections.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["map"] for row in rows} == set(PROJECTIONS)
    assert {bool(row["x"]) for row in rows} == {True, False}
    for row in rows:
        pixels = PROJECTIONS[row["map"]](float(row["latitude"]), float(row["longitude"]))
        expected = (float(row["x"]), float(row["y"])) if row["x"] else None
        assert pixels == (expected and pytest.approx(expected, rel=0, abs=1e-6)), row


@pytest.mark.parametrize(
    ("name", "latitude", "longitude"),
    [("us", 38.7, -96.6), ("eu", 52, 20), ("au", -25, 145), ("jp", 36, 137)],
)
def test_the_middle_of_a_map(name: str, latitude: float, longitude: float) -> None:
    """A projection's centre lies at d3's default translation."""
    assert position(name, latitude, longitude) == pytest.approx((480, 250), rel=0, abs=CLOSE)


@pytest.mark.parametrize(
    ("name", "parallels", "meridian", "pixels"),
    [
        ("us", (29.5, 45.5), -96, 1070),
        ("us", (55, 65), -154, 1070 * 0.35),
        ("us", HAWAIIAN, -157, 1070),
        ("eu", (35, 65), 20, 1000),
        ("au", (-18, -36), 132, 750),
        ("jp", (24, 46), 137, 1000),
    ],
)
def test_what_is_true(name: str, parallels: tuple[float, float], meridian: float, pixels: float) -> None:
    """The USA keep areas, Europe and Australia angles, Japan distances along meridians.

    All have north up where the map is, parallels that cross meridians at right angles, and the true scale
    along their standard parallels (Hawaii's, 8 and 18 N, lie outside its frame).
    """
    step = 1e-4
    for latitude in (parallels[0], sum(parallels) / 2, parallels[1]):
        for longitude in (meridian - 2, meridian + 2):
            south, north = (position(name, latitude + turn, longitude) for turn in (-step, step))
            west, east = (position(name, latitude, longitude + turn) for turn in (-step, step))
            up = complex(north[0] - south[0], south[1] - north[1])
            right = complex(east[0] - west[0], west[1] - east[1])
            assert (up / right).real == pytest.approx(0, abs=1e-6)
            assert (up / right).imag > 0
            unit = 2 * math.radians(step) * pixels
            along_meridian = abs(up) / unit
            along_parallel = abs(right) / unit / math.cos(math.radians(latitude))
            match name:
                case "us":
                    assert along_meridian * along_parallel == pytest.approx(1, rel=1e-6)
                case "jp":
                    assert along_meridian == pytest.approx(1, rel=1e-6)
                case _:
                    assert along_meridian == pytest.approx(along_parallel, rel=1e-6)
            if latitude in parallels and parallels != HAWAIIAN:
                assert along_parallel == pytest.approx(1, rel=1e-6)


# The composite's frames, as d3 gives them: from the middle in units of the scale, less a margin in pixels.
@pytest.mark.parametrize(
    ("shown", "hidden", "axis", "edge"),
    [
        ((30, -120), (30, -145), 0, 480 - 0.455 * 1070),
        ((30, -75), (30, -55), 0, 480 + 0.455 * 1070),
        ((48, -85), (54, -85), 1, 250 - 0.238 * 1070),
        ((27, -100), (20, -100), 1, 250 + 0.238 * 1070),
        ((52, -170), (52, -200), 0, 480 - 0.425 * 1070 + 1e-6),
        ((58, -140), (58, -120), 0, 480 - 0.214 * 1070 - 1e-6),
        ((65, -152), (75, -152), 1, 250 + 0.120 * 1070 + 1e-6),
        ((55, -154), (50, -154), 1, 250 + 0.234 * 1070 - 1e-6),
        ((21, -158), (21, -165), 0, 480 - 0.214 * 1070 + 1e-6),
        ((20, -156), (20, -150), 0, 480 - 0.115 * 1070 - 1e-6),
        ((21, -157), (26, -157), 1, 250 + 0.166 * 1070 + 1e-6),
        ((20, -157), (15, -157), 1, 250 + 0.234 * 1070 - 1e-6),
    ],
)
def test_a_frame_of_the_usa(
    shown: tuple[float, float], hidden: tuple[float, float], axis: int, edge: float
) -> None:
    """The last place shown on the way out of the lower 48, Alaska or Hawaii lies at the frame's edge."""
    assert PROJECTIONS["us"](*shown) is not None
    assert PROJECTIONS["us"](*hidden) is None
    for _ in range(100):
        middle = ((shown[0] + hidden[0]) / 2, (shown[1] + hidden[1]) / 2)
        if PROJECTIONS["us"](*middle) is None:
            hidden = middle
        else:
            shown = middle
    assert position("us", *shown)[axis] == pytest.approx(edge, rel=0, abs=CLOSE)


def test_western_canada_moves_where_the_frame_ends() -> None:
    """On 115 W, places stay where Albers USA has them up to the frame's top, and beyond move by -50, +40."""
    assert position("us", 50, -115) == pytest.approx((258.1725357077619, 15.73402091068533), rel=0, abs=CLOSE)
    stays, moves = 50.0, 54.0
    for _ in range(100):
        middle = (stays + moves) / 2
        if position("us", middle, -115)[0] > 235:
            stays = middle
        else:
            moves = middle
    before, after = position("us", stays, -115), position("us", moves, -115)
    assert before[1] == pytest.approx(250 - 0.238 * 1070, rel=0, abs=CLOSE)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((-50, 40), rel=0, abs=CLOSE)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((math.nextafter(55, 0), -115), (55, -115)),
        ((54, math.nextafter(-120, 0)), (54, -120)),
        ((54, math.nextafter(-110, -180)), (54, -110)),
    ],
)
def test_western_canada_ends(inside: tuple[float, float], outside: tuple[float, float]) -> None:
    """Places above the frame are moved south of 55 N, between 120 W and 110 W, and at neither of these."""
    assert PROJECTIONS["us"](*inside) is not None
    assert PROJECTIONS["us"](*outside) is None


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(47.198571, -141.932253), (51.317906, -78.148126), (54, -70)]
)
def test_in_a_box_but_not_on_its_map(latitude: float, longitude: float) -> None:
    """A place in the box of the USA that Albers USA does not show, outside western Canada, is on no map."""
    assert holds("us", latitude, longitude)
    assert PROJECTIONS["us"](latitude, longitude) is None
    assert project(latitude, longitude) is None


# A place on each side of each box that its map shows, and the way out.
@pytest.mark.parametrize(
    ("name", "latitude", "longitude", "north", "east"),
    [
        ("us", 21, -157.5, -1, 0),
        ("us", 54, -115, 1, 0),
        ("us", 21.9, -160, 0, -1),
        ("us", 42, -66, 0, 1),
        *(
            (name, south, (west + east) / 2, -1, 0)
            for name, (south, _, west, east) in BOXES.items()
            if name != "us"
        ),
        *(
            (name, north, (west + east) / 2, 1, 0)
            for name, (_, north, west, east) in BOXES.items()
            if name != "us"
        ),
        *(
            (name, (south + north) / 2, west, 0, -1)
            for name, (south, north, west, _) in BOXES.items()
            if name != "us"
        ),
        *(
            (name, (south + north) / 2, east, 0, 1)
            for name, (south, north, _, east) in BOXES.items()
            if name != "us"
        ),
    ],
)
def test_the_sides_of_a_box(name: str, latitude: float, longitude: float, north: int, east: int) -> None:
    """A box holds its sides, and nothing beyond, even where the projection goes on."""
    assert project(latitude, longitude) == (name, *position(name, latitude, longitude))
    beyond = (
        math.nextafter(latitude, north * math.inf) if north else latitude,
        math.nextafter(longitude, east * math.inf) if east else longitude,
    )
    assert PROJECTIONS[name](*beyond) is not None
    assert project(*beyond) is None


@pytest.mark.parametrize("name", ["eu", "au", "jp"])
def test_the_corners_of_a_box(name: str) -> None:
    """A box holds its corners."""
    south, north, west, east = BOXES[name]
    for latitude, longitude in [(south, west), (south, east), (north, west), (north, east)]:
        assert project(latitude, longitude) == Point(name, *position(name, latitude, longitude))


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (0, 0),  # the Gulf of Guinea
        (61.2181, -149.9003),  # Anchorage: in Alaska's frame, but north of the box of the USA
        (19.7241, -155.0868),  # Hilo: in Hawaii's frame, but south of the box
        (-23.55, -46.63),
        (-36.85, 174.76),
        (1.35, 103.82),
        (90, 0),
        (-90, 0),
        (40, 200),  # no box wraps around
        (math.nan, 20),
        (52, math.nan),
        (math.inf, 20),
        (52, -math.inf),
    ],
)
def test_outside_every_box(latitude: float, longitude: float) -> None:
    """A place that no box holds is on no map, whether or not a projection has it."""
    assert project(latitude, longitude) is None


@given(places)
def test_on_the_map_whose_box_holds_it(place: tuple[float, float]) -> None:
    """Every place is drawn where the projection of the map has it whose box holds it, and nowhere else."""
    expected = None
    for name in BOXES:
        if holds(name, *place):
            pixels = PROJECTIONS[name](*place)
            expected = pixels and (name, *pixels)
    assert project(*place) == expected


@given(st.sampled_from(sorted(BOXES)), places)
def test_finite(name: str, place: tuple[float, float]) -> None:
    """Everywhere on the globe a projection gives finite pixels or none; only that of the USA gives none."""
    pixels = PROJECTIONS[name](*place)
    if pixels is None:
        assert name == "us"
    else:
        assert all(map(math.isfinite, pixels))


@pytest.mark.parametrize(
    ("name", "latitude", "x", "y"),
    [
        ("eu", 90, 479.9999999998738, -516.8894593295788),
        ("au", -90, 327.8419483732632, 1715.7919678140995),
    ],
)
def test_the_pole_at_the_apex(name: str, latitude: float, x: float, y: float) -> None:
    """A conformal cone's near pole is one point, its apex, at every longitude."""
    for longitude in range(-180, 181, 30):
        assert position(name, latitude, longitude) == pytest.approx((x, y), rel=0, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "latitude", "longitude", "x", "y"),
    [
        ("eu", -90, 0, -35965305.46334532, 129637127.13749959),
        ("au", 90, 131, -10409.407145682662, -1347735.8308986835),
    ],
)
def test_the_pole_at_infinity(name: str, latitude: float, longitude: float, x: float, y: float) -> None:
    """A conformal cone's far pole is drawn as far away as d3-geo draws it: a millionth of a radian short."""
    assert position(name, latitude, longitude) == pytest.approx((x, y), rel=1e-9)


@pytest.mark.parametrize(("name", "latitude", "longitude", "x", "y"), [*EUROPE, *AUSTRALIA, *JAPAN, *WRAPPED])
@pytest.mark.parametrize("turn", [-360, 360])
def test_longitudes_wrap(name: str, latitude: float, longitude: float, x: float, y: float, turn: int) -> None:
    """A projection takes a longitude a whole turn away for the same place."""
    assert position(name, latitude, longitude + turn) == pytest.approx((x, y), rel=0, abs=1e-8)
