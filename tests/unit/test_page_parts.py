"""States, durations, diffs and changes, as the page words them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.fleet.machines import Skipped
from sidecar.fleet.report import FleetOverview, FleetState, MachineResult, MachineRow
from sidecar.fleet.rollout import Rollout
from sidecar.generate.projections import project
from sidecar.model.changes import Changes, Delta, NamedCount
from sidecar.model.record import Problem
from sidecar.model.runs import TRIGGERS, Outcome
from sidecar.model.states import HEALTH, STATES, SYNC, Health, Sync
from sidecar.model.words import ago
from sidecar.model.work import Step
from sidecar.observe.history import Entry
from sidecar.web.page import atlas, fleet, parts, work
from sidecar.web.page import history as history_page
from sidecar.web.page import preview as preview_page
from sidecar.web.page import status as status_page
from sidecar.web.page.layout import POLICY, PageFrame, page, problem
from sidecar.web.page.markup import render
from tests.support.status import status


def names(*found: str) -> NamedCount:
    return NamedCount(len(found), found)


def outcome(**given: Any) -> Outcome:
    facts: dict[str, Any] = {
        "state": "previewed",
        "trigger": "http",
        "who": "a",
        "started": 0,
        "seconds": 0.1,
    }
    return Outcome(**facts | given)


def plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def spaced(html: str) -> str:
    """The words of a page, with a space between its elements."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split()).replace(" ;", ";").replace(" .", ".")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0, "under 1 ms"), (0.0424, "42 ms"), (0.4, "0.40 s"), (9.94, "9.94 s"), (31.2, "31 s")],  # noqa: RUF001
)
def test_durations(seconds: float | None, text: str) -> None:
    """Durations are in the unit that a person would say."""
    assert parts.took(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "just now"), (4, "just now"), (5, "5 seconds ago"), (60, "1 minute ago"), (7300, "2 hours ago")],
)
def test_ages(seconds: float, text: str) -> None:
    """Ages are rough; a clock that is behind makes no negative ones."""
    assert ago(seconds) == text


def test_every_state_has_colour_and_word() -> None:
    """A state is never told by colour alone, an unknown one included."""
    for state in (*STATES, "something_new", ""):
        shown = parts.pill(state)
        assert re.search(r'class="state \w+"', shown)
        assert plain(shown).strip()


def test_a_diff_of_htpasswd_shows_names_only() -> None:
    """No hash of a password gets onto the page."""
    text = (
        "--- a/htpasswd\n+++ b/htpasswd\n@@ -1,2 +1,2 @@\n kept:$2a$secret\n-old:{SHA}secret\n+new:secret:x\n"
    )
    shown = parts.diff("htpasswd", text)
    assert "secret" not in shown
    assert [name in shown for name in ("kept", "old", "new")] == [True] * 3
    assert "secret" in parts.diff("navigator.yml", text)


def test_a_long_diff_is_cut_and_says_so() -> None:
    """However much changes, the differences of a page stay small, and it says how much is not shown."""
    text = "".join(f"+line {number} {'x' * 1000}\n" for number in range(5000))
    assert len(parts.diff("map.yml", text)) < 40_000
    assert re.search(r"4,9\d\d more lines", parts.diff("map.yml", text))
    assert "+5000" in parts.diff("map.yml", text)
    short = "".join(f"+{number}\n" for number in range(5000))
    assert "4,700 more lines" in parts.diff("map.yml", short)


def test_everything_changing_fits_a_page() -> None:
    """A preview in which every name there is changes stays well below 100 KB."""
    many = NamedCount(5000, tuple(f"2026/{'studio' * 4}{number}/{'event' * 3}" for number in range(200)))
    delta = Delta(added=many, removed=many, changed=many, moved=many)
    text = "".join(f"+line {number} {'<' * 60}\n-old {number}\n" for number in range(5000))
    found = outcome(
        tag="t",
        written=("map.yml",),
        changes=Changes(users=delta, studios=delta, events=delta, regions=Delta()),
        diffs=dict.fromkeys(("htpasswd", "map.yml", "showcases.yml", "navigator.yml"), text),
    )
    assert len(render(preview_page.preview(found, [], pinned=False, base="./")).encode()) < 80_000


def test_what_is_destructive_is_named() -> None:
    """Events and users that go, passwords that change, studios that move and edits by hand, each by name."""
    changes = Changes(
        users=Delta(removed=names("user5"), changed=names("user6"), added=names("user7")),
        studios=Delta(moved=names("oakford: iad to fra"), removed=names("elmton")),
        events=Delta(removed=names("2026/oakford/gala"), added=names("2026/oakford/new")),
    )
    said = plain(render(preview_page.consequences(changes, {"htpasswd": "diff"})))
    for name in ("user5", "user6", "oakford: iad to fra", "elmton", "2026/oakford/gala", "htpasswd"):
        assert name in said
    assert "user7" not in said
    assert "2026/oakford/new" not in said
    assert preview_page.consequences(Changes()) == []
    assert preview_page.consequences(None) == []


def test_many_names_are_counted() -> None:
    """Of many names some are shown, and how many more there are."""
    removed = NamedCount(1234, tuple(f"user{number}" for number in range(200)))
    said = plain(render(preview_page.consequences(Changes(users=Delta(removed=removed)))))
    assert "1,234 users" in said
    assert "1,228 more" in said


def test_events_are_by_year_and_studio() -> None:
    """The newest year first; in it each studio with what is added, removed and changed."""
    events = Delta(
        added=names("2025/elmton/b", "2026/oakford/a"),
        removed=names("2026/oakford/c"),
        changed=names("2026/ash/d"),
    )
    said = plain(preview_page.summary(Changes(events=events)))
    order = [said.index(text) for text in ("2026", "ash", "oakford", "2025", "elmton")]
    assert order == sorted(order)


def test_a_preview_without_changes_has_no_button() -> None:
    """There is nothing to press when there is nothing to do, or when it would be refused."""
    nothing = render(preview_page.preview(outcome(tag="t"), [], pinned=False, base="./"))
    assert "page/update" not in nothing
    error = Problem("veto", "the check command refused", "correct `it`", 422)
    refused = render(preview_page.refused(outcome(tag="t", error=error), None, base="./"))
    assert "page/update" not in refused
    assert "<code>it</code>" in refused
    something = render(
        preview_page.preview(outcome(tag="t", written=("map.yml",)), [], pinned=False, base="./")
    )
    assert 'href="./page/update?tag=t"' in something


def test_a_required_deployment_takes_the_buttons_place() -> None:
    """With the reasons, and without the button."""
    shown = render(
        preview_page.preview(
            outcome(tag="t", written=("map.yml",)), ["1 region added: ams."], pinned=False, base="./"
        )
    )
    assert "Full deployment required" in shown
    assert "ams" in shown
    assert "page/update" not in shown


def test_work_in_the_background_shows_when_there_is_some() -> None:
    """Ready work with its progress, the fleet in a line; no trace of either where it is not told."""
    bare = status_page.panel(status_page.StatusData(100.0, status(), False, None, None), base="./")
    assert "Ready work" not in bare
    assert "fleet" not in bare.lower()
    steps = [Step("databases", "running", done=3, total=12, current="2026-<i>"), Step("migrate")]
    ready = {"state": "running", "steps": steps}
    full = status_page.panel(
        status_page.StatusData(100.0, status(ready=ready), True, None, None, FleetState()), base="./"
    )
    assert '<progress value="3" max="12"' in full
    assert "2026-&lt;i&gt;" in full
    assert "not been looked at since the daemon's start" in spaced(full)


def seen(*machines: MachineRow) -> FleetOverview:
    return FleetOverview(90.0, "ab" * 32, 50.0, machines, (Skipped("m9", "", "fra", "suspended"),))


HERE = MachineRow("m1", "", "iad", "in_sync", 3, 3, "ab" * 32, 10.0, None, "", "healthy")
LATE = MachineRow("m2", "", "lhr", "behind", 2, 2, "cd" * 32, 10.0, 3600.0, "out of sync", "healthy")
SILENT = MachineRow("<b>m3</b>", "", "lhr", "unreachable", note="connection refused")


@pytest.mark.parametrize(
    ("known", "word", "said"),
    [
        (FleetState(), "Not looked at", "It has not been looked at since the daemon's start."),
        (FleetState(overview=seen(HERE)), "In sync", "1 machine, all with the store's newest index."),
        (
            FleetState(overview=seen(HERE, LATE)),
            "Behind",
            "1 of 2 machines serve the newest index, 1 do not.",
        ),
        (
            FleetState(overview=seen(HERE, SILENT)),
            "No answer",
            "1 of 2 machines serve the newest index, 1 gave no",
        ),
        (
            FleetState(
                "running", running=True, started=1.0, machines=(MachineResult("m1", "", "iad", "loaded"),)
            ),
            "Updating",
            "An update of the fleet is under way: 1 of 1 machine done.",
        ),
    ],
)
def test_the_fleets_page_says_what_was_seen(known: FleetState, word: str, said: str) -> None:
    """A word and a sentence: nothing is said of what nobody looked at, and a silent machine is not behind."""
    shown = spaced(fleet.main(known, 100.0, None, base="./", token="t"))
    assert shown.startswith(f"Fleet {word} {said}")
    assert ("Look now" in shown) == (not known.running)


def test_the_fleets_page_names_who_is_behind() -> None:
    """A row a machine, with its words as text; who was left out; and the last update's result below."""
    state = FleetState(
        "failed",
        started=1.0,
        machines=(MachineResult("m2", "", "lhr", "refused"),),
        overview=seen(LATE, SILENT),
    )
    shown = fleet.main(state, 100.0, None, base="./", token="t")
    assert "&lt;b&gt;m3&lt;/b&gt;" in shown
    assert "m2 lhr Behind 2 cdcdcdcdcdcd 1 hour Out of sync" in spaced(shown)
    assert "Connection refused" in shown
    assert "Left out: m9 (suspended)." in spaced(shown)
    assert "Last update Failed" in spaced(shown)
    assert fleet.states(state) == {"lhr": "behind"}
    unknown = fleet.main(None, 100.0, None, base="./", token="t")
    assert "fleet:" in unknown
    assert "<form" not in unknown


def test_a_page_is_as_old_as_it_says() -> None:
    """When the store was looked at, when that is due again, of when the page is, and a way to a newer one."""
    looked = Sync("synced", "the store's index (abab) is published", "ab" * 32, 40.0, 640.0)
    shown = spaced(
        status_page.panel(status_page.StatusData(100.0, status(sync=looked), False, None, None), base="./")
    )
    assert (
        "The store was looked at 1 minute ago; next look in 9 minutes. This page is of 00:01:40 UTC." in shown
    )
    pinned = status_page.panel(
        status_page.StatusData(1.0, status(sync=HELD, generation={"pinned": True}), False, None, None),
        base="./",
    )
    assert "Resume updates…" in pinned


def test_a_run_under_way_says_what_it_does() -> None:
    """One line, which moves on with the stages."""
    for stages, said in (({}, "fetching the index"), ({"fetch": 0.1, "read": 0.1}, "generating the files")):
        run = status_page.ActiveRun("http", "ann", 1.0, stages, ())
        assert (
            status_page.sentence(status_page.StatusData(2.0, status(), True, run, None))
            == f"An update is under way: {said}."
        )


def test_a_failed_step_says_why_and_what_to_do() -> None:
    """The error in words, and what the commands printed on the generation's page, as text."""
    problem = Problem("x", "the application answers <500>", "look at its log", 500)
    failed = Step("prerender", "failed", seconds=2.0, error=problem, output="<script>\n")
    shown = str(work.section("failed", 3, [failed]))
    assert "the application answers &lt;500&gt;. Look at its log" in shown
    assert "<script>" not in str(work.outputs([failed]))
    assert "&lt;script&gt;" in str(work.outputs([failed]))


AWAY = Sync("unknown", "the last look at the store failed: the store is away")
BACK = Health("degraded", "Navigator serves generation 4, a copy of 2", "rolled_back", 10.0)
LOADING = Health("progressing", "Navigator is loading generation 3", "loading", 10.0)
DOWN = Health("waiting", "Navigator is down", "waiting", 10.0)
HELD = Sync("pinned", "generation 2 was restored by hand, and stays")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Navigator serves generation 3, made of the store's index."),
        ({"waiting": 2}, "An update is under way."),
        ({"health": LOADING}, "The store's index (abab) is published. Navigator is loading generation 3."),
        ({"sync": AWAY}, "The last look at the store failed: the store is away. Navigator serves"),
        ({"health": BACK}, "Navigator serves generation 4, a copy of 2."),
    ],
)
def test_the_state_is_a_sentence(given: dict[str, Any], said: str) -> None:
    """Whoever reads one line knows how things are: with the store, and with the web server."""
    assert said in status_page.sentence(status_page.StatusData(1.0, status(**given), False, None, None))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "healthy"),
        ({"waiting": 1}, "updating"),
        ({"sync": AWAY}, "unknown"),
        ({"sync": HELD}, "pinned"),
        ({"health": LOADING}, "progressing"),
        ({"sync": HELD, "health": LOADING}, "pinned"),
        ({"sync": AWAY, "health": BACK}, "degraded"),
        ({"sync": HELD, "health": DOWN}, "waiting"),
    ],
)
def test_the_worse_of_two_words_counts(given: dict[str, Any], word: str) -> None:
    """Where there is room for one word only: an update under way, then what serves badly, then the store."""
    assert status_page.state(status_page.StatusData(1.0, status(**given), False, None, None)) == word


def test_the_headline_has_both_words() -> None:
    """Each with its colour; while an update is under way it says so before them."""
    shown = status_page.panel(
        status_page.StatusData(1.0, status(sync=HELD, health=BACK), False, None, None), base="./"
    )
    headline = re.search(r"<h1>.*?</h1>", shown)
    assert headline is not None
    assert plain(headline[0]).split() == ["Pinned", "Degraded"]
    waiting = status_page.panel(status_page.StatusData(1.0, status(waiting=1), False, None, None), base="./")
    assert "Updating Synced Healthy" in plain(waiting)


def test_every_word_of_a_machine_has_its_own_pill() -> None:
    """None falls back to its raw name."""
    assert set(SYNC) | set(HEALTH) <= set(STATES)


@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
def test_every_trigger_has_words(trigger: str) -> None:
    """Whoever asked, the page says it in a sentence of its own, without a bare name of the code's."""
    said = parts.asked(trigger, "ann")
    assert said[0].isupper()
    assert "{" not in said
    assert parts.asked("unheard_of", "ann") == "Unheard_of: ann"


def test_the_map_draws_what_it_can_place() -> None:
    """Every map that shows something; studios tied to their region; what has no place only in the list."""
    document = {
        "regions": {
            "iad": {"name": "Ashburn", "map": "us", "x": 700.0, "y": 250.0},
            "gru": {"name": "São Paulo"},
        },
        "studios": {
            "a": {"name": '<script>"', "region": "iad", "map": "us", "x": 600.0, "y": 200.0},
            "b": {"name": "B", "region": "iad", "map": "eu", "x": 480.0, "y": 250.0},
            "c": {"name": "C", "region": None},
        },
    }
    drawn = atlas.atlas(document, {"iad": "in_sync"}, "iad")
    assert drawn is not None
    assert drawn.count("<svg") == 2
    assert "M700 250L600 200" in drawn
    assert "<script>" not in drawn
    assert "São Paulo" in drawn
    assert "this machine" in drawn
    assert atlas.atlas({}, {}, None) is None
    assert atlas.atlas({"regions": [1], "studios": {"a": None}}, {}, None) is None


def inside(path: str, x: float, y: float) -> bool:
    """Whether a place lies on the land of a path, by the even-odd rule."""
    crossings = 0
    for ring in re.findall(r"M([^Mz]+)z", path):
        (start, steps) = ring.split("l")
        numbers = [int(one) for one in re.findall(r"-?\d+", steps)]
        at = tuple(map(int, start.split()))
        places = [at]
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            places.append((places[-1][0] + dx, places[-1][1] + dy))
        for (ax, ay), (bx, by) in zip(places, [*places[1:], places[0]], strict=True):
            if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
                crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize(
    ("latitude", "longitude", "dry"),
    [
        *((39.7, -105.0, True), (30.0, -72.0, False), (21.45, -158.0, True), (21.9, -158.9, False)),
        *((48.9, 2.4, True), (57.0, 3.0, False), (59.3, 16.0, True), (40.0, 6.0, False)),
        *((-23.7, 133.9, True), (-34.0, 130.0, False), (36.3, 138.0, True), (38.0, 135.0, False)),
    ],
)
def test_the_coastlines_lie_where_the_points_do(latitude: float, longitude: float, dry: bool) -> None:
    """Land is drawn by the projection that places regions and studios: towns are on it, the sea is not."""
    place = project(latitude, longitude)
    assert place is not None
    # An inset lies over the map.
    shown = next(one for one in reversed(atlas.COASTLINES[place.map]) if one.holds(place.x, place.y))
    assert inside(shown.land, place.x, place.y) == dry


def test_an_inset_is_drawn_for_what_lies_in_it() -> None:
    """Hawaii covers a part of the map, so that it is left out where it shows nothing."""
    for longitude, latitude, insets in ((-105.0, 39.7, 0), (-157.9, 21.3, 1)):
        place = project(latitude, longitude)
        assert place is not None
        studio = {"name": "A", "region": None, "map": place.map, "x": place.x, "y": place.y}
        drawn = atlas.atlas({"studios": {"a": studio}}, {}, None)
        assert drawn is not None
        assert drawn.count('class="inset"') == insets


def test_charts_need_two_publications() -> None:
    """One bar is no chart; entries without a load are gaps."""

    def entry(number: int, seconds: float | None) -> Entry:
        done = outcome(state="published", generation=number, stages={"fetch": 0.1, "publish": 0.2})
        return Entry(number, "loaded", 1.0, seconds, None, done)

    assert history_page.charts([entry(1, 0.1)]) is None
    drawn = render(history_page.charts([entry(3, None), entry(2, 0.2), entry(1, 0.1)]))
    assert drawn.count("<figure>") == 2
    assert "the last 3 publications" in drawn
    assert "median 0.15 s, 95 of 100 within 0.20 s, last 0.20 s" in drawn


def test_a_percentile_is_one_of_the_values() -> None:
    """The smallest that so many of a hundred do not exceed."""
    values = [float(number) for number in range(100, 0, -1)]
    assert [history_page.percentile(values, share) for share in (1, 50, 95, 100)] == [1.0, 50.0, 95.0, 100.0]
    assert history_page.percentile([3.0], 95) == 3.0


def test_a_hundred_runs_are_drawn_in_few_bytes() -> None:
    """The charts of a hundred publications with all stages leave the page far below its limit."""
    stages = dict.fromkeys(history_page.STAGES, 0.123)
    done = outcome(state="published", generation=1, stages=stages)
    entries = [Entry(number, "loaded", 1.0, 0.2, None, done) for number in range(120)]
    drawn = render(history_page.charts(entries))
    assert "the last 100 publications" in drawn
    assert len(drawn) < 25_000


def test_pages_hold_nothing_inline() -> None:
    """No inline script, style or handler, and no address elsewhere: the policy would block them."""
    frame = PageFrame(
        "../", {name: name for name in ("page.css", "page.js", "icon.svg")}, machine='"><script>'
    )
    for text in (page(frame, "T", "<script>"), problem(frame, 404, "there is nothing", "look `elsewhere`")):
        assert re.findall(r"<script[^>]*>", text) == ['<script type="module" src="../page.js">']
        assert not re.search(r"<[^>]+\s(on\w+|style)=", text)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY


@pytest.mark.parametrize("when", [-62135683140.0, 1e12, 1e300, float("inf"), float("nan")])
def test_a_time_that_is_none_is_said_to_be_none(when: float) -> None:
    """What a record from elsewhere holds must not cost the page."""
    for brief in (False, True):
        assert "at no known time" in str(parts.moment(when, 1_777_636_800.0, brief=brief))


ROLLOUT = Rollout(
    *("token", "ann at m1", 130.0, 90.0, "cd" * 32, "ab" * 32, "etag", 1.0, 2.0),
    waves=(("m1",), ("m2",)),
    machines=4,
)


@pytest.mark.parametrize(
    ("known", "words", "said"),
    [
        (ROLLOUT, ["pause", "abort"], "Rollout Running Wave 1 of 2, then all others: the machines of a wave"),
        (replace(ROLLOUT, wish="pause"), ["resume", "abort"], "Rollout Paused"),
        (replace(ROLLOUT, lease=0.0), ["resume", "abort"], "nobody drives it any more"),
        (replace(ROLLOUT, phase="frozen", reason="at rest: m2 <b>"), ["resume"], "At rest: m2 &lt;b&gt;."),
        (None, [], "No rollout by canary is under way."),
    ],
)
def test_a_rollout_has_the_buttons_that_fit(known: Rollout | None, words: list[str], said: str) -> None:
    """Whoever drives it is told; where nobody does, this machine goes on with it, or takes it back."""
    shown = render(fleet.rollout(known, 100.0, dict.fromkeys(fleet.CONTROLS, "t"), back="../../fleet"))
    assert re.findall(r'name="word" value="(\w+)"', shown) == words
    assert said in shown or said in spaced(shown)
