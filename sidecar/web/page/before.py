"""The past: the history with charts of its timings, and one generation with all that is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from sidecar.model.words import plural
from sidecar.observe.history import Entry
from sidecar.web.page import parts, work
from sidecar.web.page.change import summary
from sidecar.web.page.layout import capital
from sidecar.web.page.markup import NONE, Content, Markup, h

STAGES = ("fetch", "read", "generate", "check", "check_command", "databases", "publish")

_CHARTED = 40
_BAR, _GAP, _HEIGHT = 8, 3, 72


def history(
    entries: Sequence[Entry], kept: set[int], current: int | None, now: float, *, base: str, more: int | None
) -> list[Content]:
    """The list of runs, newest first."""
    if not entries:
        return [h.h1("Before"), h.p("Nothing has happened yet.", class_="lead")]
    return [
        h.h1("Before"),
        charts(entries),
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
            h.tbody([_row(entry, kept, current, now, base) for entry in entries]),
            class_="history",
        ),
        h.p(h.a("Older runs", href=f"{base}generations?before={more}", class_="button plain"))
        if more
        else None,
    ]


def _row(entry: Entry, kept: set[int], current: int | None, now: float, base: str) -> Markup:
    outcome = entry.outcome
    number = outcome.generation if outcome.state == "published" else None
    note = outcome.error.message if outcome.error else entry.note
    return h.tr(
        h.td(parts.moment(outcome.started, now, brief=True)),
        h.td(parts.pill(entry.state), h.span(capital(note), class_="said-why") if note else None),
        h.td(
            (
                h.a(str(number), href=f"{base}generations/{number}", aria_label=f"Generation {number}"),
                h.span("in place", class_="badge") if number == current else None,
            )
            if number
            else NONE,
            class_="number",
        ),
        h.td(parts.asked(outcome.trigger, outcome.who), class_="wide-only quiet"),
        h.td(parts.took(outcome.seconds), class_="number wide-only"),
        h.td(parts.took(entry.reload_seconds), class_="number wide-only"),
    )


# Charts


def charts(entries: Sequence[Entry]) -> Content:
    """Timings of the last publications, oldest on the left."""
    published = [entry for entry in reversed(entries) if entry.outcome.state == "published"][-_CHARTED:]
    if len(published) < 2:
        return None
    ready = [(_number(entry), entry.ready.seconds if entry.ready else None) for entry in published]
    drawn = [
        _stacked(published),
        _bars("Published to loaded", [(_number(entry), entry.reload_seconds) for entry in published], "load"),
        _bars("Ready work", ready, "ready"),
    ]
    return h.div([chart for chart in drawn if chart is not None], class_="charts")


def _number(entry: Entry) -> int:
    return entry.outcome.generation or 0


def _bars(title: str, values: Sequence[tuple[int, float | None]], kind: str) -> Markup | None:
    known = [value for _, value in values if value is not None]
    if not known:
        return None
    top = max(known) or 1.0
    bars = [
        h.rect(
            h.title(f"generation {number}: {parts.took(value)}"),
            x=place * (_BAR + _GAP),
            y=round(_HEIGHT - max(1.0, value / top * _HEIGHT), 1),
            width=_BAR,
            height=round(max(1.0, value / top * _HEIGHT), 1),
            class_=kind,
        )
        for place, (number, value) in enumerate(values)
        if value is not None
    ]
    return _figure(title, known, len(values), bars)


def _stacked(entries: Sequence[Entry]) -> Markup:
    totals = [sum(entry.outcome.stages.get(stage, 0.0) for stage in STAGES) for entry in entries]
    top = max(totals) or 1.0
    bars: list[Content] = []
    for place, (entry, total) in enumerate(zip(entries, totals, strict=True)):
        y = float(_HEIGHT)
        pieces: list[Content] = [h.title(f"generation {_number(entry)}: {parts.took(total)}")]
        for stage in STAGES:
            height = entry.outcome.stages.get(stage, 0.0) / top * _HEIGHT
            if height < 0.3:
                continue
            y -= height
            pieces.append(
                h.rect(
                    x=place * (_BAR + _GAP),
                    y=round(y, 1),
                    width=_BAR,
                    height=round(height, 1),
                    class_=f"s-{stage}",
                )
            )
        bars.append(h.g(pieces))
    used = [stage for stage in STAGES if any(stage in entry.outcome.stages for entry in entries)]
    return _figure("Stages of the update", totals, len(entries), bars, _legend(used))


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
    width = _CHARTED * (_BAR + _GAP)
    offset = (_CHARTED - count) * (_BAR + _GAP)
    middle, last = parts.took(median(values)), parts.took(values[-1])
    return h.figure(
        h.figcaption(h.b(title), h.span(f"median {middle}, last {last}")),
        h.svg(
            h.g(bars, transform=f"translate({offset} 0)"),
            h.line(x1=0, x2=width, y1=_HEIGHT + 0.5, y2=_HEIGHT + 0.5, class_="axis"),
            viewBox=f"0 0 {width} {_HEIGHT + 1}",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"{title}, the last {count} publications: median {middle}, last {last}, "
            f"longest {parts.took(max(values))}",
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


# One generation


def generation(
    entry: Entry,
    number: int,
    diffs: Mapping[str, str] | None,
    before: int | None,
    now: float,
    *,
    kept: bool,
    current: bool,
    base: str,
) -> list[Content]:
    """The page of one generation; `diffs` are those to the generation `before`, None when it is not kept."""
    outcome = entry.outcome
    restored = next((line for line in outcome.log if "restored generation" in line), None)
    rollback = h.div(
        h.a("Roll back to this…", href=f"{base}page/rollback/{number}", class_="button plain"),
        class_="action",
    )
    return [
        h.p(h.a("← Before", href=f"{base}generations"), class_="crumb"),
        h.h1(
            f"Generation {number} ",
            parts.pill(entry.state),
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
        h.p("Its files are no longer kept, so it cannot be restored.", class_="quiet") if not kept else None,
        parts.facts(
            [
                ("Took", parts.took(outcome.seconds)),
                (
                    "Loaded after",
                    parts.took(entry.reload_seconds) if entry.reload_seconds is not None else None,
                ),
                ("Settled", parts.moment(entry.settled, now) if entry.settled else None),
                ("Index", h.code((outcome.sha256 or NONE)[:12], title=outcome.sha256)),
                ("Files written", plural(len(outcome.written), "file")),
                ("Run", str(entry.run)),
            ]
        ),
        _timeline(entry),
        work.section(entry.ready.state, None, entry.ready.steps) if entry.ready else None,
        *(work.outputs(entry.ready.steps) if entry.ready else ()),
        parts.trouble(outcome.error) if outcome.error else None,
        h.section(h.h2("What changed"), summary(outcome.changes))
        if outcome.changes is not None
        else h.p(
            "A copy of an older generation." if restored else "The first one, or not compared.",
            class_="quiet",
        ),
        parts.diffs(diffs, f"Files, compared with generation {before}")
        if diffs
        else h.p(
            "The generation before is no longer kept, so the files cannot be compared."
            if diffs is None
            else "No file differs from the generation before: only the index does.",
            class_="quiet",
        )
        if number > 1
        else None,
        parts.diffs(outcome.drift, "Had been changed by somebody else"),
        parts.warnings(outcome.warnings),
        h.section(h.h2("Log"), parts.log(outcome.log, folded=False)) if outcome.log else None,
    ]
