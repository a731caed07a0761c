"""The fleet: how its machines were when they were looked at, and the update under way or the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidecar.fleet.report import FleetOverview, FleetState, MachineResult, MachineRow, standing
from sidecar.fleet.rollout import Rollout, is_driven
from sidecar.model.words import plural, short, span
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


def main(
    fleet: FleetState | None, at: float, map_: Content, *, base: str, token: str, by_canary: bool = False
) -> Markup:
    """The page's content; `token` proves that the form which looks at the fleet is the page's own.

    `by_canary` offers an update by canary beside the one of all at once.
    """
    return render([panel(fleet, at, base=base, token=token, by_canary=by_canary), map_])


def panel(fleet: FleetState | None, at: float, *, base: str, token: str, by_canary: bool = False) -> Markup:
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
        h.p(_rollout_link(base)) if fleet.running else _actions(base, token, by_canary=by_canary),
        _overview(fleet.overview) if fleet.overview is not None else None,
        _update(fleet, at),
        id="now",
        data_live=f"{base}page/live?of=fleet" if fleet.running else None,
    )


def state(fleet: FleetState) -> str:
    """One word: an update under way, else the worst of what was seen, else that nothing was."""
    if fleet.running:
        return "updating"
    if fleet.overview is None:
        return "unseen"
    if fleet.overview.good:
        return "in_sync"
    return "behind" if any(one.health is not None for one in _bad(fleet.overview)) else "unreachable"


def sentence(fleet: FleetState) -> str:
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


def states(fleet: FleetState | None) -> dict[str, str]:
    """The worst state of each region's machines: in the update under way, else as they were seen."""
    found: dict[str, str] = {}
    if fleet is None:
        return found
    seen: Sequence[MachineRow | MachineResult] = (
        fleet.overview.machines if fleet.overview is not None else fleet.machines
    )
    for one in fleet.machines if fleet.running else seen:
        known = found.get(one.region)
        if known is None or parts.tone(known) == "good":
            found[one.region] = one.state
    return found


def _bad(overview: FleetOverview) -> list[MachineRow]:
    return [one for one in overview.machines if one.state != "in_sync"]


def _looked(overview: FleetOverview | None, at: float) -> Content:
    if overview is None:
        return None
    age = (", stored ", parts.moment(overview.modified, at)) if overview.modified is not None else None
    return h.p(
        "Looked at ",
        parts.moment(overview.at, at),
        ". The store held ",
        h.code(short(overview.sha256)),
        age,
        ".",
        class_="quiet",
    )


def _rollout_link(base: str) -> Markup:
    return h.a("Rollout under way…", href=f"{base}page/fleet/rollout", class_="button plain")


def _actions(base: str, token: str, *, by_canary: bool) -> Markup:
    return h.form(
        h.input(type="hidden", name="token", value=token),
        h.button("Look now", type="submit", class_="button plain"),
        h.a("Update the fleet…", href=f"{base}page/fleet", class_="button plain"),
        h.a("Update by canary…", href=f"{base}page/fleet?canary=1", class_="button plain")
        if by_canary
        else None,
        _rollout_link(base),
        h.a("Undo the last index…", href=f"{base}page/fleet/rollback", class_="button plain"),
        method="post",
        action=f"{base}page/look",
        class_="action",
    )


CONTROLS = {
    "pause": ("Pause", "It rests before the next wave, with the machines as they are then."),
    "resume": ("Resume", "It goes on where it is; one that its driver left behind, from here."),
    "abort": (
        "Abort",
        "It is taken back: the store and every machine that has the new index get the one before.",
    ),
}
"""What can be done with a rollout: the button, and what that means."""

_PHASES = {
    "wave": "the machines of a wave get the index, ahead of the store",
    "soak": "the canary is watched",
    "store": "the index goes into the store",
    "rest": "all other machines fetch it",
    "back": "it is taken back",
    "frozen": "it could not be taken back wholly",
}


def rollout(known: Rollout | None, at: float, tokens: Mapping[str, str], *, back: str) -> list[Content]:
    """The rollout under way with the buttons that fit; `tokens` by what they allow, `at` the time now."""
    away = h.p(h.a("Back", href=back, class_="button plain"))
    if known is None:
        return [h.h1("Rollout"), h.p("No rollout by canary is under way.", class_="lead"), away]
    paused, driven = known.wish == "pause", is_driven(known, at)
    where = f"Wave {known.wave + 1} of {len(known.waves)}, then all others" if not known.ended else "Halted"
    pill = parts.pill("failed", "Halted")
    if not known.ended:
        pill = parts.pill("idle", "Paused") if paused else parts.pill("running" if driven else "failed")
    words = ["resume"] if known.ended else ["resume" if paused or not driven else "pause", "abort"]
    return [
        h.h1("Rollout ", pill),
        h.p(f"{where}: {_PHASES[known.phase]}{', paused' if paused else ''}.", class_="lead"),
        h.p(
            "Index ",
            h.code(short(known.target)),
            " in place of ",
            h.code(short(known.base) or NONE),
            f", by {known.driver}, ",
            parts.moment(known.started, at),
            "" if driven or known.ended else "; nobody drives it any more",
            ".",
            class_="quiet",
        ),
        h.p(capital(known.reason), ".", class_="box note") if known.reason else None,
        h.p(
            f"{len(known.proven)} of {plural(known.machines, 'machine')} serve it",
            f": {', '.join(known.proven)}" if known.proven else "",
            f"; not reached: {', '.join(known.lagging)}" if known.lagging else "",
            ".",
        ),
        [
            h.form(
                h.input(type="hidden", name="word", value=word),
                h.input(type="hidden", name="token", value=tokens[word]),
                h.p(CONTROLS[word][1]),
                h.button(f"{CONTROLS[word][0]} the rollout", type="submit", class_="button"),
                method="post",
                action="rollout",
                class_="action",
            )
            for word in words
        ],
        away,
    ]


def _overview(overview: FleetOverview) -> Content:
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


def _update(fleet: FleetState, at: float) -> Content:
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


def _seen(one: MachineRow) -> Markup:
    behind = NONE if one.behind is None else span(one.behind)
    return h.tr(*_cells(one), h.td(behind, class_="wide-only"), h.td(capital(one.note), class_="wide-only"))


def _result(one: MachineResult) -> Markup:
    return h.tr(*_cells(one), h.td(capital(one.note), class_="wide-only"))


def _cells(one: MachineRow | MachineResult) -> tuple[Markup, ...]:
    return (
        h.th(one.machine, scope="row", title=one.name or None),
        h.td(one.region or NONE),
        h.td(parts.pill(one.state)),
        h.td(str(one.generation or NONE), class_="number"),
        h.td(short(one.sha256 or NONE), class_="code wide-only"),
    )
