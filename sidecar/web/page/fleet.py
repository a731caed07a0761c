"""The fleet: how its machines were when they were looked at, and the update under way or the last one."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.fleet.report import Overview, Result, Row, State, standing
from sidecar.model.words import plural, span
from sidecar.web.page import parts
from sidecar.web.page.layout import capital
from sidecar.web.page.markup import NONE, Content, Markup, h, render

_HEADS = (
    ("Machine", None),
    ("Region", None),
    ("State", None),
    ("Generation", "number"),
    ("Index", "wide-only"),
    ("Behind", "wide-only"),
    ("Last word", "wide-only"),
)
_RESULT_HEADS = (*_HEADS[:5], ("Last word", "wide-only"))
_EXAMPLE = """fleet:
  machines:
    - {id: m1, url: "https://m1.example.com", region: iad}
    - {id: m2, url: "https://m2.example.com", region: lhr}"""


def main(fleet: State | None, at: float, map_: Content, *, base: str, token: str) -> Markup:
    """The page's content; `token` proves that the form which looks at the fleet is the page's own."""
    return render([panel(fleet, at, base=base, token=token), map_])


def panel(fleet: State | None, at: float, *, base: str, token: str) -> Markup:
    """The part that changes while an update is under way; `at` is the time of the answer."""
    if fleet is None:
        return h.div(
            h.h1("Fleet"),
            h.p("This machine knows no other.", class_="lead"),
            h.p("To see and update several from here, give each of them the same ", h.code("trigger.secret")),
            h.p("and list them in sidecar.yml; the URLs lead to their web servers:"),
            h.pre(_EXAMPLE, class_="sample", tabindex="0"),
            id="now",
        )
    return h.div(
        h.h1("Fleet ", parts.pill(state(fleet))),
        h.p(sentence(fleet), class_="lead", data_say=True),
        _looked(fleet.overview, at),
        None if fleet.running else _actions(base, token),
        _overview(fleet.overview) if fleet.overview is not None else None,
        _update(fleet, at),
        id="now",
        data_live=f"{base}page/live?of=fleet" if fleet.running else None,
    )


def state(fleet: State) -> str:
    """One word: an update under way, else the worst of what was seen, else that nothing was."""
    if fleet.running:
        return "updating"
    if fleet.overview is None:
        return "unseen"
    if fleet.overview.good:
        return "in_sync"
    return "behind" if any(one.health is not None for one in _bad(fleet.overview)) else "unreachable"


def sentence(fleet: State) -> str:
    """How the fleet is."""
    if fleet.running:
        done = sum(parts.tone(one.state) == "good" for one in fleet.machines)
        return (
            f"An update of the fleet is under way: {done} of {plural(len(fleet.machines), 'machine')} done."
        )
    if fleet.overview is None:
        return "It has not been looked at since the daemon's start."
    if fleet.overview.good:
        return f"{plural(len(fleet.overview.machines), 'machine')}, all with the store's newest index."
    return f"{capital(standing(fleet.overview, 'the newest index'))}."


def states(fleet: State | None) -> dict[str, str]:
    """The worst state of each region's machines: in the update under way, else as they were seen."""
    found: dict[str, str] = {}
    if fleet is None:
        return found
    seen: Sequence[Row | Result] = fleet.overview.machines if fleet.overview is not None else fleet.machines
    for one in fleet.machines if fleet.running else seen:
        known = found.get(one.region)
        if known is None or parts.tone(known) == "good":
            found[one.region] = one.state
    return found


def _bad(overview: Overview) -> list[Row]:
    return [one for one in overview.machines if one.state != "in_sync"]


def _looked(overview: Overview | None, at: float) -> Content:
    if overview is None:
        return None
    age = (", stored ", parts.moment(overview.modified, at)) if overview.modified is not None else None
    return h.p(
        "Looked at ",
        parts.moment(overview.at, at),
        ". The store held ",
        h.code(overview.sha256[:12]),
        age,
        ".",
        class_="quiet",
    )


def _actions(base: str, token: str) -> Markup:
    return h.form(
        h.input(type="hidden", name="token", value=token),
        h.button("Look now", type="submit", class_="button plain"),
        h.a("Update the fleet…", href=f"{base}page/fleet", class_="button plain"),
        h.a("Undo the last index…", href=f"{base}page/fleet/rollback", class_="button plain"),
        method="post",
        action=f"{base}page/look",
        class_="action",
    )


def _overview(overview: Overview) -> Content:
    return [
        _table("Machines", _HEADS, [_seen(one) for one in overview.machines]),
        h.p(
            "Left out: ",
            ", ".join(f"{one.id} ({one.reason})" for one in overview.skipped),
            ".",
            class_="quiet",
        )
        if overview.skipped
        else None,
    ]


def _update(fleet: State, at: float) -> Content:
    """The update under way, or the last one."""
    if fleet.started is None:
        return None
    took = f", took {parts.took(fleet.seconds)}" if fleet.seconds is not None else ""
    asked = parts.asked("fleet", fleet.who or "")
    word = "running" if fleet.running else "fleet_updated" if fleet.state == "done" else "failed"
    return h.section(
        h.h2("Update under way" if fleet.running else "Last update", " ", parts.pill(word)),
        h.p(asked, ", ", parts.moment(fleet.started, at), took, class_="quiet"),
        parts.trouble(fleet.error) if fleet.error is not None else None,
        _table("Machines of the update", _RESULT_HEADS, [_result(one) for one in fleet.machines])
        if fleet.machines
        else None,
        class_="fleet",
    )


def _table(caption: str, heads: Sequence[tuple[str, str | None]], rows: Sequence[Markup]) -> Markup:
    return h.table(
        h.caption(caption, class_="unseen"),
        h.thead(h.tr([h.th(name, scope="col", class_=kind) for name, kind in heads])),
        h.tbody(rows),
        class_="machines",
    )


def _seen(one: Row) -> Markup:
    behind = NONE if one.behind is None else span(one.behind)
    return h.tr(*_cells(one), h.td(behind, class_="wide-only"), h.td(capital(one.note), class_="wide-only"))


def _result(one: Result) -> Markup:
    return h.tr(*_cells(one), h.td(capital(one.note), class_="wide-only"))


def _cells(one: Row | Result) -> tuple[Markup, ...]:
    return (
        h.th(one.machine, scope="row", title=one.name or None),
        h.td(one.region or NONE),
        h.td(parts.pill(one.state)),
        h.td(str(one.generation or NONE), class_="number"),
        h.td((one.sha256 or NONE)[:12], class_="code wide-only"),
    )
