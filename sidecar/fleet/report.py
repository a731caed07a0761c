"""How a fleet update went, or how the fleet is: records, and the tables made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sidecar.fleet.machines import Skipped, Target
from sidecar.fleet.table import rough_span, table
from sidecar.fleet.verdicts import BAD, GOOD
from sidecar.model.machine_report import MachineReport
from sidecar.model.record import Problem, Record
from sidecar.model.states import FleetWord
from sidecar.model.stream import FleetEvent
from sidecar.model.words import short

_ENDS = {
    "taken_back": "Taken back, {}. ",
    "frozen": "Not taken back wholly, {}. `sidecar fleet resume` tries again. ",
}


class MachineResult(FleetEvent, frozen=True):
    """What became of one machine in a fleet update, or where it stands.

    `state` is one of `verdicts`, or a step on the way. `generation` is the one that is loaded, `sha256` its
    index's, `seconds` since the first poke.
    """

    machine: str
    name: str
    region: str
    state: str
    generation: int | None = None
    sha256: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    note: str = ""


class FleetReport(Record, frozen=True):
    """A whole fleet update.

    `sha256` is the index that it was about, `upload` what was done with the local one: uploaded, unchanged,
    planned (a dry run would upload it) or none. `quorum` machines are enough, None: all are needed.
    `failures` are the commands that failed after it; without any, and with enough machines, it is `good`.
    Of a rollout by canary `rollout` is the phase in which it ended (done, taken_back, frozen), `reason` why.
    """

    started: float
    seconds: float
    sha256: str
    upload: str
    wait: str
    quorum: int | None
    dry_run: bool
    machines: tuple[MachineResult, ...]
    skipped: tuple[Skipped, ...]
    good: bool
    failures: tuple[str, ...] = ()
    rollout: str | None = None
    reason: str = ""


class MachineRow(Record, frozen=True):
    """How one machine is.

    `state` is in_sync (it serves the store's index), behind, its health when that is not good, or why it gave
    no answer; `behind` how many seconds its index is older than the store's, where that is known. `health`
    is what it says of its web server, None where it gave no answer that tells.
    """

    machine: str
    name: str
    region: str
    state: str
    generation: int | None = None
    ready: int | None = None
    sha256: str | None = None
    since: float | None = None
    behind: float | None = None
    note: str = ""
    health: str | None = None


class FleetOverview(Record, frozen=True):
    """How the fleet is: the store's index, its age in seconds since 1970, and the machines."""

    at: float
    sha256: str
    modified: float | None
    machines: tuple[MachineRow, ...]
    skipped: tuple[Skipped, ...]

    @property
    def good(self) -> bool:
        """Whether all that are active serve what the store holds."""
        return all(row.state == "in_sync" for row in self.machines)


class FleetState(Record, frozen=True):
    """How the fleet update under way stands, or how the last one ended.

    `state` is idle, running, done or failed; `started` in seconds since 1970. `overview` is how the fleet was
    when this daemon looked at it last; None: it has not looked.
    """

    state: FleetWord = "idle"
    running: bool = False
    who: str | None = None
    started: float | None = None
    seconds: float | None = None
    sha256: str | None = None
    machines: tuple[MachineResult, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    error: Problem | None = None
    overview: FleetOverview | None = None


def waiting(targets: Iterable[Target]) -> list[MachineResult]:
    """All of them, before anything was done."""
    return [MachineResult(one.id, one.name, one.region, "waiting") for one in targets]


def enough(results: Iterable[MachineResult], quorum: int | None) -> bool:
    """Whether the update counts as done: all who are active have loaded it, or as many as are asked for."""
    tally = Counter(one.state for one in results)
    if quorum is not None:
        return sum(tally[state] for state in GOOD) >= quorum
    return not any(tally[state] for state in BAD)


def row(target: MachineResult, served: MachineReport, digest: str, modified: float | None) -> MachineRow:
    """One machine's line of the overview, from what it says."""
    is_served = served.sha256 == digest
    older = None
    if modified is not None and served.modified is not None and not is_served:
        older = max(0.0, modified - served.modified)
    words = [
        word.replace("_", " ") for word in (served.sync, served.health) if word not in ("synced", "healthy")
    ]
    note = ", ".join(words)
    if served.refused == digest and digest not in (served.sha256, served.published):
        note = f"refused it ({served.reason})"
    return MachineRow(
        target.machine,
        target.name,
        target.region or served.region or "",
        "in_sync" if is_served and served.health == "healthy" else served.health if is_served else "behind",
        served.loaded,
        served.ready,
        served.sha256,
        served.since,
        older,
        note,
        served.health,
    )


def summary(report: FleetReport) -> str:
    """The end in a sentence."""
    if report.dry_run:
        return f"A dry run: {_count(len(report.machines), 'machine')} would be poked; nothing was done."
    if not report.machines:
        return "No machine is active; each fetches when it wakes."
    tally = Counter(one.state for one in report.machines)
    parts = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in tally.most_common())
    needed = "" if report.quorum is None else f" ({report.quorum} needed)"
    end = _ENDS.get(report.rollout or "", "").format(report.reason)
    return f"{end}{_count(len(report.machines), 'machine')}: {parts}{needed}, in {report.seconds:.1f} s."


def lines(report: FleetReport) -> list[str]:
    """The table, who was left out, and the summary."""
    rows = [
        (
            one.machine,
            one.region or "-",
            one.state.replace("_", " "),
            str(one.generation or "-"),
            short(one.sha256 or "-"),
            "-" if report.dry_run else f"{one.seconds:.1f} s",
            one.note,
        )
        for one in report.machines
    ]
    head = ("MACHINE", "REGION", "STATE", "GENERATION", "INDEX", "AFTER", "")
    return [
        *(table(head, rows) if rows else ()),
        *left_out(report.skipped),
        *report.failures,
        summary(report),
    ]


def overview_lines(overview: FleetOverview) -> list[str]:
    """The same for how the fleet is."""
    rows = [
        (
            one.machine,
            one.region or "-",
            one.state.replace("_", " "),
            str(one.generation or "-"),
            short(one.sha256 or "-"),
            "-" if one.since is None else f"{rough_span(overview.at - one.since)} ago",
            "-" if one.behind is None else rough_span(one.behind),
            one.note,
        )
        for one in overview.machines
    ]
    head = ("MACHINE", "REGION", "STATE", "GENERATION", "INDEX", "SINCE", "BEHIND", "")
    age = "" if overview.modified is None else f", of {rough_span(overview.at - overview.modified)} ago"
    return [
        *(table(head, rows) if rows else ()),
        *left_out(overview.skipped),
        f"The store holds {short(overview.sha256)}{age}; {standing(overview)}.",
    ]


def standing(overview: FleetOverview, what: str = "it") -> str:
    """How many serve `what` the store holds, how many do not, and of how many that is not known."""
    tally = Counter(
        "served" if one.state == "in_sync" else "unknown" if one.health is None else "behind"
        for one in overview.machines
    )
    if tally["served"] == len(overview.machines):
        return f"all active machines serve {what}"
    parts = [f"{tally['served']} of {_count(len(overview.machines), 'machine')} serve {what}"]
    parts += [f"{tally['behind']} do not"] if tally["behind"] else []
    parts += [f"{tally['unknown']} gave no answer that tells"] if tally["unknown"] else []
    return ", ".join(parts)


def left_out(skipped: Iterable[Skipped]) -> list[str]:
    """A line for each machine that was not poked."""
    return [f"left out: {one.id}{f' ({one.region})' if one.region else ''}: {one.reason}" for one in skipped]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
