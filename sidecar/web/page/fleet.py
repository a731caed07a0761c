"""The fleet: the update of all machines that is under way, or the last one, a line a machine."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.fleet.report import Result, State
from sidecar.model.words import plural
from sidecar.web.page import parts
from sidecar.web.page.markup import NONE, Content, Markup, h

_HEADS = (
    ("Machine", None),
    ("Region", None),
    ("State", None),
    ("Generation", "number"),
    ("Index", None),
    ("Last word", "wide-only"),
)


def section(fleet: State, at: float, *, base: str) -> Markup:
    """How the fleet's update stands, and the button for another; `at` is the time of the answer."""
    button = h.p(
        h.a("Update the fleet…", href=f"{base}page/fleet", class_="button plain"),
        " ",
        h.a("Undo the last index…", href=f"{base}page/fleet/rollback", class_="button plain"),
    )
    return h.section(
        h.h2("The fleet", (" ", parts.pill(_state(fleet))) if fleet.started is not None else None),
        _by(fleet, at),
        _counts(fleet.machines),
        parts.trouble(fleet.error) if fleet.error is not None else None,
        _table(fleet.machines) if fleet.machines else None,
        h.p("Left out: ", ", ".join(f"{one.id} ({one.reason})" for one in fleet.skipped), ".", class_="quiet")
        if fleet.skipped
        else None,
        None if fleet.running else button,
        class_="fleet",
    )


def behind(machines: Sequence[Result]) -> int:
    """How many do not have what they are to have. One that stopped on the way fetches when it wakes."""
    fine = ("stopped", "untouched")
    return sum(parts.tone(one.state) != "good" and one.state not in fine for one in machines)


def _state(fleet: State) -> str:
    if fleet.running:
        return "running"
    return "failed" if fleet.error is not None else "behind" if behind(fleet.machines) else "in_sync"


def _by(fleet: State, at: float) -> Content:
    if fleet.started is None:
        return None
    took = f", took {parts.took(fleet.seconds)}" if fleet.seconds is not None else ""
    asked = parts.asked("fleet", fleet.who or "")
    return h.p(asked, ", ", parts.moment(fleet.started, at), took, class_="quiet")


def _counts(machines: Sequence[Result]) -> Content:
    if not machines:
        return None
    late = behind(machines)
    count = plural(len(machines), "machine")
    return h.p(f"{count}, {late} not in sync." if late else f"{count}, all in sync.", class_="quiet")


def _table(machines: Sequence[Result]) -> Markup:
    return h.table(
        h.thead(h.tr([h.th(name, scope="col", class_=kind) for name, kind in _HEADS])),
        h.tbody([_row(one) for one in machines]),
    )


def _row(one: Result) -> Markup:
    return h.tr(
        h.th(one.machine, scope="row", title=one.name or None),
        h.td(one.region or NONE),
        h.td(parts.pill(one.state)),
        h.td(str(one.generation or NONE), class_="number"),
        h.td((one.sha256 or NONE)[:12], class_="code"),
        h.td(one.note, class_="wide-only"),
    )
