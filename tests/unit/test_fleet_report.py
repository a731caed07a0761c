"""The fleet's tables, and what counts as done."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from sidecar.fleet.debounce import due
from sidecar.fleet.machines import Skipped
from sidecar.fleet.progress import JsonProgress, LineProgress, LiveProgress, picture
from sidecar.fleet.report import (
    FleetOverview,
    FleetReport,
    MachineResult,
    MachineRow,
    enough,
    lines,
    overview_lines,
    row,
    standing,
)
from sidecar.fleet.verdicts import BAD
from sidecar.model.machine_report import MachineReport
from sidecar.model.record import Problem

OLD, NEW = "a" * 64, "b" * 64


def result(machine: str, state: str, note: str = "") -> MachineResult:
    return MachineResult(machine, "", "iad", state, 7, NEW, 1, 1.25, note)


def report(*results: MachineResult, dry_run: bool = False) -> FleetReport:
    skipped = (Skipped("z", "", "syd", "suspended"),)
    return FleetReport(
        0.0, 2.0, NEW, "uploaded", "loaded", None, dry_run, results, skipped, enough(results, None)
    )


def test_all_are_needed_or_as_many_as_are_asked_for() -> None:
    """A machine that stopped is no failure, and no success that a quorum could count."""
    loaded, stopped = result("a", "loaded"), result("b", "stopped")
    assert enough([loaded, stopped], None)
    assert not enough([loaded, stopped], 2)
    assert enough([], None)
    assert enough([loaded, result("c", "ready"), result("d", "refused")], 2)


@pytest.mark.parametrize("state", BAD)
def test_every_failure_counts(state: str) -> None:
    """One machine that has not loaded it, for whatever reason, and the update is not done."""
    assert not enough([result("a", "loaded"), result("b", state)], None)


def test_the_table_names_everyone() -> None:
    """A line a machine with its state and reason, who was left out, and the sum."""
    found = lines(
        report(result("m1", "loaded"), result("m22", "wrong_machine", "m1 answered instead of m22"))
    )
    assert found == [
        "MACHINE  REGION  STATE          GENERATION  INDEX         AFTER",
        f"m1       iad     loaded         7           {NEW[:12]}  1.2 s",
        f"m22      iad     wrong machine  7           {NEW[:12]}  1.2 s  m1 answered instead of m22",
        "left out: z (syd): suspended",
        "2 machines: 1 loaded, 1 wrong machine, in 2.0 s.",
    ]


def test_nobody_active_and_a_dry_run_say_so() -> None:
    """Neither pretends that something was loaded."""
    assert lines(report())[-1] == "No machine is active; each fetches when it wakes."
    assert lines(report(result("a", "waiting"), dry_run=True))[-1].startswith("A dry run: 1 machine would")


def test_how_far_behind_is_the_difference_of_ages() -> None:
    """Between the store's index and the machine's, where both are known; none when they are the same."""
    target = MachineResult("m1", "", "", "")
    served = MachineReport(
        "m1",
        "iad",
        "synced",
        "healthy",
        generation=2,
        published=OLD,
        loaded=2,
        sha256=OLD,
        since=50.0,
        modified=100.0,
    )
    behind = row(target, served, NEW, 400.0)
    assert (behind.state, behind.behind, behind.region) == ("behind", 300.0, "iad")
    same = row(target, served, OLD, 400.0)
    assert (same.state, same.behind) == ("in_sync", None)
    refused = msgspec.structs.replace(served, refused=NEW, reason="loss")
    assert row(target, refused, NEW, None).note == "refused it (loss)"
    taken = msgspec.structs.replace(served, generation=3, published=NEW, refused=NEW, reason="loss")
    assert row(target, taken, NEW, None).note == ""
    overview = FleetOverview(1000.0, NEW, 400.0, (behind,), ())
    assert not overview.good
    assert overview_lines(overview)[1].split() == ["m1", "iad", "behind", "2", OLD[:12], "16m", "ago", "5m"]
    assert (
        overview_lines(overview)[-1]
        == f"The store holds {NEW[:12]}, of 10m ago; 0 of 1 machine serve it, 1 do not."
    )
    silent = MachineRow("m2", "", "", "unreachable", note="connection refused")
    three = FleetOverview(
        1000.0, NEW, 400.0, (behind, silent, msgspec.structs.replace(silent, state="in_sync")), ()
    )
    assert standing(three) == "1 of 3 machines serve it, 1 do not, 1 gave no answer that tells"
    assert standing(FleetOverview(1000.0, NEW, 400.0, (), ())) == "all active machines serve it"


@pytest.mark.parametrize(
    ("sync", "health", "digest", "state", "note"),
    [
        ("synced", "healthy", NEW, "in_sync", ""),
        ("synced", "progressing", NEW, "progressing", "progressing"),
        ("synced", "degraded", NEW, "degraded", "degraded"),
        ("out_of_sync", "healthy", OLD, "behind", "out of sync"),
        ("pinned", "healthy", OLD, "behind", "pinned"),
        ("unknown", "degraded", OLD, "behind", "unknown, degraded"),
    ],
)
def test_in_sync_is_served_in_good_health(sync: str, health: str, digest: str, state: str, note: str) -> None:
    """The store's index and a healthy web server; what is not good is noted in the machine's own words."""
    served = MachineReport("m1", "iad", sync, health, generation=2, published=digest, loaded=2, sha256=digest)
    found = row(MachineResult("m1", "", "", ""), served, NEW, None)
    assert (found.state, found.note) == (state, note)


def test_a_terminal_shows_a_line_a_machine() -> None:
    """As wide as the terminal; where there are more machines than lines, those under way, and a count."""
    few = [result("m1", "poking"), result("m2", "loaded")]
    assert picture(few, 40, 24) == ["m1 (iad): poking", "m2 (iad): loaded after 1.2 s"]
    many = [result(f"m{number}", "loaded" if number else "poking") for number in range(50)]
    assert picture(many, 60, 10) == ["m0 (iad): poking", "50 machines: 49 loaded, 1 poking"]
    assert max(map(len, picture(many, 20, 10))) < 20


def test_what_is_told_is_in_the_next_picture() -> None:
    """Nothing is written for a step of a machine; whoever draws sees where each stands by then."""
    written: list[str] = []
    live = LiveProgress(written.append)
    live.expect([result("m1", "waiting"), result("m2", "waiting")])
    live.tell(result("m1", "loaded"))
    assert live.picture(80, 24) == ["m1 (iad): loaded after 1.2 s", "m2 (iad): waiting"]
    live.say("the upload is done")
    assert written == ["the upload is done\n"]


def test_elsewhere_a_line_for_what_matters() -> None:
    """The end of each, and why it is tried again; not every step."""
    written: list[str] = []
    plain = LineProgress(written.append)
    plain.expect([result("m1", "waiting")])
    for state in ("poking", "published", "retrying", "loaded"):
        plain.tell(result("m1", state, "it answers 500" if state == "retrying" else ""))
    assert written == [
        "Will update 1 active machines: m1\n",
        "m1 (iad): retrying: it answers 500\n",
        "m1 (iad): loaded after 1.2 s ✓ Success\n",
    ]


def test_the_lines_move_the_applications_progress_bar() -> None:
    """Its four expressions each find what they look for, in this order, the last one once a machine."""
    written: list[str] = []
    plain = LineProgress(written.append)
    for step in ("before", "upload", "find"):
        plain.step(step)
    plain.expect([result("m1", "waiting"), result("m2", "waiting")])
    plain.step("update")
    for machine in ("m1", "m2"):
        plain.tell(result(machine, "poking"))
        plain.tell(result(machine, "loaded"))
    for step in ("after", "notify"):
        plain.step(step)
    looked_for = (
        "Step 1: Syncing index database",
        r"Will update (\d+) active machines",
        "Step 3: Triggering configuration update",
        "✓ Success",
    )
    found = [word for line in written for word in looked_for if re.search(word, line)]
    assert found == [*looked_for, "✓ Success"]


def test_programs_get_a_record_for_everything() -> None:
    """One JSON object a line, each with its kind, the end included."""
    written: list[str] = []
    records = JsonProgress(written.append)
    records.step("upload")
    records.say("two\nlines")
    records.expect([result("m1", "waiting")])
    records.tell(result("m1", "loaded"))
    records.end(report(result("m1", "loaded")))
    records.end(Problem("fleet", "it failed", "mend it", 502))
    assert all(line.count("\n") == 1 for line in written)
    read = [json.loads(line) for line in written]
    assert [one["kind"] for one in read] == ["step", "line", "machines", "machine", "report", "error"]
    assert (read[3]["machine"]["state"], read[4]["report"]["good"]) == ("loaded", True)


def test_quiet_has_an_upper_bound() -> None:
    """It starts some time after the last change, but no later than a longer time after the first."""
    assert due(first=0.0, last=5.0, quiet=30.0, longest=300.0) == 35.0
    assert due(first=0.0, last=290.0, quiet=30.0, longest=300.0) == 300.0
