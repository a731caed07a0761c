"""The past: the history with charts of its timings, and one generation with all that is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from urllib.parse import urlencode

from sidecar.model.runs import ENDINGS, TRIGGERS
from sidecar.model.words import brief, plural, short, spoken
from sidecar.observe.history import Entry, Search
from sidecar.web.page import parts, work
from sidecar.web.page.layout import capital
from sidecar.web.page.markup import NONE, Content, Markup, h
from sidecar.web.page.preview import summary

STAGES = ("fetch", "read", "generate", "check", "check_command", "databases", "publish")

MAX_CHARTED = 100
_BAR, _GAP, _HEIGHT = 8, 3, 72
_PERCENTILE = 95
_MIN_BARS = 20  # a few bars are not drawn as wide as the page


def history(
    entries: Sequence[Entry],
    charted: Sequence[Entry],
    current: int | None,
    now: float,
    *,
    search: Search,
    base: str,
    more: int | None,
) -> list[Content]:
    """The list of runs that were searched for, newest first; `charted` are the newest publications."""
    found = {name: getattr(search, name) for name in ("trigger", "who", "state") if getattr(search, name)}
    if not entries:
        said = "No run is like that." if found else "Nothing has happened yet."
        return [h.h1("History"), _search(search, base) if found else None, h.p(said, class_="lead")]
    older = f"{base}generations?{urlencode({**found, 'before': more})}"
    return [
        h.h1("History"),
        charts(charted),
        _search(search, base),
        h.table(
            h.caption("Runs, newest first", class_="unseen"),
            h.thead(
                h.tr(
                    h.th("When", scope="col"),
                    h.th("How it ended", scope="col"),
                    h.th("Generation", scope="col", class_="number"),
                    h.th("Why", scope="col", class_="wide-only"),
                    h.th("Took", scope="col", class_="number wide-only"),
                    h.th("Loaded after", scope="col", class_="number wide-only"),
                )
            ),
            h.tbody([_row(entry, current, now, base) for entry in entries]),
            class_="history",
        ),
        h.p(h.a("Older runs", href=older, class_="button plain")) if more else None,
    ]


def _search(search: Search, base: str) -> Markup:
    """The form that narrows the list; without scripts too."""

    def choice(name: str, words: str, values: Sequence[tuple[str, str]]) -> Markup:
        chosen = getattr(search, name)
        options = [h.option(text, value=value, selected=value == chosen) for value, text in values]
        return h.label(words, h.select(h.option("any", value=""), options, name=name))

    triggers = [(name, spoken(name)) for name in sorted([*TRIGGERS, "fleet"])]
    return h.form(
        choice("trigger", "Asked for by way of", triggers),
        h.label("Asked for by", h.input(name="who", value=search.who, type="search")),
        choice("state", "How it ended", [(state, parts.words(state)) for state in ENDINGS]),
        h.button("Search", type="submit", class_="button plain"),
        h.a("All runs", href=f"{base}generations") if search != Search() else None,
        action=f"{base}generations",
        class_="search",
        role="search",
    )


def _pill(entry: Entry, current: int | None) -> Markup:
    """How a run ended; a generation that another replaced before a load never was loaded."""
    replaced = entry.state == "published" and entry.outcome.generation != current
    return parts.pill("never_loaded" if replaced else entry.state)


def _row(entry: Entry, current: int | None, now: float, base: str) -> Markup:
    outcome = entry.outcome
    number = outcome.generation if outcome.state == "published" else None
    note = outcome.error.message if outcome.error else entry.note or brief(outcome.changes)
    return h.tr(
        h.td(parts.moment(outcome.started, now, brief=True)),
        h.td(_pill(entry, current), h.span(capital(note), class_="said-why") if note else None),
        h.td(
            (
                h.a(str(number), href=f"{base}generations/{number}", aria_label=f"Generation {number}"),
                h.span("in place", class_="badge") if number == current else None,
            )
            if number
            else h.a(f"run {entry.run}", href=f"{base}runs/{entry.run}", class_="quiet"),
            class_="number",
        ),
        h.td(parts.asked(outcome.trigger, outcome.who), class_="wide-only quiet"),
        h.td(parts.took(outcome.seconds), class_="number wide-only"),
        h.td(parts.took(entry.reload_seconds), class_="number wide-only"),
    )


# Charts


def charts(entries: Sequence[Entry]) -> Content:
    """Timings of the last publications, oldest on the left."""
    published = [entry for entry in reversed(entries) if entry.outcome.state == "published"][-MAX_CHARTED:]
    if len(published) < 2:
        return None
    drawn = [
        _stacked(published),
        _bars("Published to loaded", [entry.reload_seconds for entry in published], "load"),
        _bars("Ready work", [entry.ready.seconds if entry.ready else None for entry in published], "ready"),
    ]
    return h.div([chart for chart in drawn if chart is not None], class_="charts")


def percentile(values: Sequence[float], share: int) -> float:
    """The smallest of the values that `share` of a hundred do not exceed."""
    return sorted(values)[max(0, ceil(len(values) * share / 100) - 1)]


def _bars(title: str, values: Sequence[float | None], kind: str) -> Markup | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    top = max(known) or 1.0
    # One path for all: a hundred elements of their own would be most of the page.
    path = "".join(_bar(place, 0.0, value / top) for place, value in enumerate(values) if value is not None)
    return _figure(title, known, len(values), [h.path(d=path, class_=kind)])


def _bar(place: int, low: float, high: float) -> str:
    """A bar from `low` to `high`, shares of the height."""
    height = max(1.0, (high - low) * _HEIGHT)
    return f"M{place * (_BAR + _GAP)} {_HEIGHT * (1 - low):.1f}v{-height:.1f}h{_BAR}v{height:.1f}z"


def _stacked(entries: Sequence[Entry]) -> Markup:
    totals = [sum(entry.outcome.stages.get(stage, 0.0) for stage in STAGES) for entry in entries]
    top = max(totals) or 1.0
    paths = dict.fromkeys(STAGES, "")
    for place, entry in enumerate(entries):
        low = 0.0
        for stage in STAGES:
            high = low + entry.outcome.stages.get(stage, 0.0) / top
            if (high - low) * _HEIGHT >= 0.3:
                paths[stage] += _bar(place, low, high)
            low = high
    drawn = [h.path(d=path, class_=f"s-{stage}") for stage, path in paths.items() if path]
    used = [stage for stage in STAGES if any(stage in entry.outcome.stages for entry in entries)]
    return _figure("Stages of the update", totals, len(entries), drawn, _legend(used))


def _legend(stages: Sequence[str], seconds: Mapping[str, float] | None = None) -> Markup:
    return h.ul(
        [
            h.li(
                h.svg(
                    h.rect(width=9, height=9, rx=2),
                    class_=f"s-{stage}",
                    viewBox="0 0 9 9",
                    aria_hidden="true",
                ),
                stage.replace("_", " "),
                h.b(parts.took(seconds[stage])) if seconds else None,
            )
            for stage in stages
        ],
        class_="legend",
    )


def _figure(
    title: str, values: Sequence[float], count: int, bars: Sequence[Content], legend: Content = None
) -> Markup:
    width = max(count, _MIN_BARS) * (_BAR + _GAP)
    middle, many, last = map(parts.took, (median(values), percentile(values, _PERCENTILE), values[-1]))
    return h.figure(
        h.figcaption(h.b(title), h.span(f"median {middle}, {_PERCENTILE} of 100 within {many}, last {last}")),
        h.svg(
            bars,
            h.line(x1=0, x2=width, y1=_HEIGHT + 0.5, y2=_HEIGHT + 0.5, class_="axis"),
            viewBox=f"0 0 {width} {_HEIGHT + 1}",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"{title}, the last {count} publications: median {middle}, {_PERCENTILE} of 100 "
            f"within {many}, last {last}, longest {parts.took(max(values))}",
        ),
        legend,
    )


def _timeline(entry: Entry) -> Markup | None:
    stages = {stage: entry.outcome.stages[stage] for stage in STAGES if stage in entry.outcome.stages}
    total = sum(stages.values())
    if not total:
        return None
    pieces, x = [], 0.0
    for stage, seconds in stages.items():
        width = seconds / total * 600
        pieces.append(h.rect(x=round(x, 1), y=0, width=round(width, 1), height=14, class_=f"s-{stage}"))
        x += width
    return h.figure(
        h.svg(
            pieces,
            viewBox="0 0 600 14",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"Stages, {parts.took(total)} in all",
        ),
        _legend(list(stages), stages),
        class_="timeline",
    )


# One generation, or a run that made none


def generation(
    entry: Entry,
    number: int | None,
    diffs: Mapping[str, str] | None,
    before: int | None,
    now: float,
    *,
    kept: bool,
    current: bool,
    base: str,
) -> list[Content]:
    """The page of one generation, or of a run that made none.

    `diffs` are those to the generation `before`, None when it is not kept.
    """
    outcome = entry.outcome
    restored = next((line for line in outcome.log if "restored generation" in line), None)
    rollback = h.div(
        h.a("Roll back to this…", href=f"{base}page/rollback/{number}", class_="button plain"),
        class_="action",
    )
    return [
        h.p(h.a("← History", href=f"{base}generations"), class_="crumb"),
        h.h1(
            f"Generation {number} " if number is not None else f"Run {entry.run} ",
            _pill(entry, number if current else None),
            h.span("in place", class_="badge") if current else None,
        ),
        h.p(
            parts.asked(outcome.trigger, outcome.who),
            ", ",
            parts.moment(outcome.started, now),
            class_="lead",
        ),
        h.div(h.p(capital(entry.note)), class_="box bad") if entry.note else None,
        rollback if kept and not current else None,
        h.p("Its files are no longer kept, so it cannot be restored.", class_="quiet")
        if number is not None and not kept
        else None,
        parts.trouble(outcome.error) if outcome.error else None,
        parts.facts(
            [
                ("Took", parts.took(outcome.seconds)),
                (
                    "Loaded after",
                    parts.took(entry.reload_seconds) if entry.reload_seconds is not None else None,
                ),
                ("Settled", parts.moment(entry.settled, now) if entry.settled else None),
                ("Index", h.code(short(outcome.sha256 or NONE), title=outcome.sha256)),
                ("Files written", plural(len(outcome.written), "file")),
                ("Run", str(entry.run)),
            ]
        ),
        _timeline(entry),
        h.section(
            h.h2("What changed"),
            summary(outcome.changes)
            if outcome.changes is not None
            else h.p(
                "A copy of an older generation."
                if restored
                else "It was not compared: there was nothing in place, or it ended before that.",
                class_="quiet",
            ),
        ),
        parts.diffs(diffs, f"Files, compared with generation {before}")
        if diffs
        else h.p(
            "The generation before is no longer kept, so the files cannot be compared."
            if diffs is None
            else "No file differs from the generation before: only the index does.",
            class_="quiet",
        )
        if number is not None and number > 1
        else None,
        parts.diffs(outcome.drift, "Had been changed by somebody else"),
        work.section(entry.ready.state, None, entry.ready.steps) if entry.ready else None,
        *(work.outputs(entry.ready.steps) if entry.ready else ()),
        parts.warnings(outcome.warnings),
        h.section(h.h2("Log"), parts.log(outcome.log, folded=False)) if outcome.log else None,
    ]
