"""What a machine's answer means for the update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.fleet.verdicts import MachineAnswer, Verdict, of_poke, of_status, pause, seconds_of
from sidecar.model.machine_report import LoadedIndex, MachineReport, served
from sidecar.model.states import Health
from sidecar.model.status import Status
from tests.support.status import status as known_status

OLD, NEW = "a" * 64, "b" * 64


def poked(status: int = 200, machine: str | None = "m1", **told: Any) -> Verdict:
    body = {"state": "published", "sha256": NEW, **told}
    return of_poke(MachineAnswer(status, machine, json.dumps(body).encode()), "m1", NEW)


def refusal(status: int, code: str) -> Verdict:
    body = {"error": {"code": code, "message": "a sentence.\x1b[2J"}}
    return of_poke(MachineAnswer(status, "m1", json.dumps(body).encode(), 3.0), "m1", NEW)


def told(*, ready: bool = False, status: int = 200, machine: str = "m1", **fields: Any) -> Verdict | None:
    known = {
        "machine": machine,
        "region": "iad",
        "sync": "synced",
        "health": "healthy",
        "generation": 2,
        "published": NEW,
        **fields,
    }
    return of_status(MachineAnswer(status, "m1", json.dumps(known).encode()), "m1", NEW, ready=ready)


@pytest.mark.parametrize("state", ["published", "unchanged"])
def test_a_poke_that_was_taken_is_followed(state: str) -> None:
    """That it is published is not the end: the load is what counts."""
    verdict = poked(state=state)
    assert (verdict.accepted, verdict.final) == (True, False)


def test_an_answer_of_another_machine_never_counts() -> None:
    """Whatever it says: success of another one, or its refusal of a signature that was not for it."""
    for status in (200, 401, 500):
        verdict = poked(status, "m2")
        assert (verdict.state, verdict.accepted) == ("wrong_machine", False)
        assert "m2 answered instead of m1" in verdict.reason


def test_success_without_a_name_does_not_count() -> None:
    """It could be anybody's."""
    assert poked(200, None).state == "wrong_machine"
    assert poked(503, None).state == "failing"


def test_a_machine_without_the_sidecar_is_not_tried_again() -> None:
    """Its script says what it did, and would do all of it at each try. A page may be gone at the next one."""
    script = of_poke(MachineAnswer(200, None, b"Fetching index database\n"), "m1", NEW)
    assert (script.state, script.final) == ("wrong_machine", True)
    assert "not the sidecar" in script.reason
    for body in (b"<html>starting", b"\n<!doctype html>", json.dumps({"state": "published"}).encode()):
        assert not of_poke(MachineAnswer(200, None, body), "m1", NEW).final


def test_success_with_another_index_does_not_count() -> None:
    """A machine that was told the digest and looked at another index has not done what was asked."""
    assert poked(sha256=OLD).state == "superseded"
    assert poked(sha256=None).state == "superseded"


def test_what_is_no_outcome_does_not_count() -> None:
    """A page of somebody else under that path."""
    assert of_poke(MachineAnswer(200, "m1", b"<html>"), "m1", NEW).state == "failing"


@pytest.mark.parametrize(
    ("status", "code", "state", "final"),
    [
        (422, "loss", "refused", True),
        (401, "signature", "denied", True),
        (502, "store_stale", "stale", False),
        (502, "store_failed", "failing", False),
        (500, "publish_failed", "failing", False),
        (503, "busy", "failing", False),
        (413, "too_large", "failing", True),
        (429, "", "failing", False),
        (404, "", "failing", False),
    ],
)
def test_refusals_and_failures_are_told_apart(status: int, code: str, state: str, final: bool) -> None:
    """Only what may pass is tried again."""
    verdict = refusal(status, code)
    assert (verdict.state, verdict.final) == (state, final)


def test_reasons_are_fit_for_a_terminal() -> None:
    """A machine's sentence is shown without anything that moves the cursor; a proxy's page is not shown."""
    assert refusal(500, "x").reason == "it answers 500: a sentence.[2J"
    assert of_poke(MachineAnswer(500, None, b"<html>x</html>"), "m1", NEW).reason == "it answers 500"
    assert of_poke(MachineAnswer(503, None, b"The sidecar is not there.\nx"), "m1", NEW).reason.endswith(
        "not there"
    )


def test_loaded_is_what_is_loaded() -> None:
    """A published index counts when the web server has it, and not before: nor before the probes passed."""
    assert told(health="progressing", loaded=1, sha256=OLD) is None
    assert told(health="progressing", loaded=2, sha256=NEW) is None
    assert told(health="waiting", loaded=None, sha256=None) is None
    verdict = told(loaded=2, sha256=NEW)
    assert verdict is not None
    assert (verdict.state, verdict.final) == ("loaded", True)


def test_served_without_health_is_no_success() -> None:
    """It may pass: the poke is tried again."""
    verdict = told(health="degraded", loaded=2, sha256=NEW)
    assert verdict is not None
    assert (verdict.state, verdict.final) == ("degraded", False)


def test_ready_is_waited_for_where_it_is_asked_for() -> None:
    """The background work of the loaded generation, not of an older one."""
    assert told(ready=True, loaded=2, sha256=NEW) is None
    assert told(ready=True, loaded=2, sha256=NEW, ready_=1) is None
    known = MachineReport(
        "m1", "iad", "synced", "healthy", generation=2, published=NEW, loaded=2, sha256=NEW, ready=2
    )
    from msgspec.json import encode

    verdict = of_status(MachineAnswer(200, "m1", encode(known)), "m1", NEW, ready=True)
    assert verdict is not None
    assert verdict.state == "ready"


def test_ready_work_that_failed_is_not_waited_for() -> None:
    """That of the loaded generation, not of an older one; whoever waits for the load only does not mind."""
    failed = told(ready=True, loaded=2, sha256=NEW, unready=2)
    assert failed is not None
    assert (failed.state, failed.final) == ("failing", True)
    assert "ready work failed" in failed.reason
    assert told(ready=True, loaded=2, sha256=NEW, unready=1) is None
    loaded = told(loaded=2, sha256=NEW, unready=2)
    assert loaded is not None
    assert loaded.state == "loaded"


def test_a_rollback_is_a_refusal() -> None:
    """The machine says which index it refused; with the generation that it went back to."""
    verdict = told(published=OLD, loaded=3, sha256=OLD, refused=NEW, reason="not_loaded")
    assert verdict is not None
    assert (verdict.state, verdict.final) == ("refused", True)
    assert "Navigator did not load it" in verdict.reason
    assert "went back: generation 3" in verdict.reason


@pytest.mark.parametrize("state", ["loading", "updating"])
def test_what_is_being_loaded_is_not_refused(state: str) -> None:
    """An index that was refused, and is in place since the profile was corrected, is waited for."""
    assert told(state=state, loaded=1, sha256=OLD, refused=NEW, reason="not_loaded") is None
    loaded = told(loaded=2, sha256=NEW, refused=NEW, reason="not_loaded")
    assert loaded is not None
    assert loaded.state == "loaded"


def test_without_anything_to_go_back_to_it_is_a_refusal_too() -> None:
    """The first generation of a machine cannot be rolled back; while a run is under way it is waited for."""
    verdict = told(health="degraded")
    assert verdict is not None
    assert verdict.state == "refused"
    assert told(health="degraded", busy=True) is None


def test_another_index_that_rests_there_is_said() -> None:
    """Somebody else's update came later; while a run or a load is under way it is waited for."""
    verdict = told(published=OLD, loaded=2, sha256=OLD)
    assert verdict is not None
    assert (verdict.state, verdict.final) == ("superseded", False)
    assert told(busy=True, published=OLD, loaded=2, sha256=OLD) is None
    assert told(health="progressing", published=OLD, loaded=1, sha256=OLD) is None


def test_the_state_of_another_machine_never_counts() -> None:
    """Not even when all it says is what one hopes to hear."""
    verdict = told(machine="m2", loaded=2, sha256=NEW)
    assert verdict is not None
    assert verdict.state == "wrong_machine"


def test_an_error_instead_of_a_state_is_one() -> None:
    """The poke is tried again then."""
    verdict = told(status=503)
    assert verdict is not None
    assert verdict.state == "failing"


def test_pauses_double_within_bounds() -> None:
    """At least what Retry-After asks for, never more than half a minute."""
    assert [pause(number, 1.0, None) for number in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 30.0]
    assert pause(1, 1.0, 7.0) == 7.0
    assert pause(1, 1.0, 900.0) == 30.0
    assert seconds_of({"Retry-After": "5"}) == 5.0
    assert seconds_of({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}) is None
    assert seconds_of({}) is None


def status(*, work: Any = None, running: Any = None, **generation: Any) -> Status:
    """That of a machine that has published generation 2, while Navigator serves 1."""
    numbers = {"current": 2, "loaded": 1, "pending": 2, **generation}
    return known_status(
        region=None,
        health=Health("progressing", "a sentence", "loading", 15.0),
        generation=numbers,
        index={"sha256": NEW},
        published=20.0,
        ready=work or {},
        running=running,
    )


def test_the_public_word_tells_state_and_digests_only() -> None:
    """No sentences, no names, no counts: what is published, what is loaded, since when."""
    assert served(status(), LoadedIndex(OLD, 5.0, 10.0), ("c" * 64, "loss")) == MachineReport(
        machine="m1",
        region=None,
        sync="synced",
        health="progressing",
        generation=2,
        published=NEW,
        loaded=1,
        sha256=OLD,
        since=10.0,
        modified=5.0,
        refused="c" * 64,
        reason="loss",
    )
    running = {"trigger": "timer", "since": 1.0}
    assert served(
        status(loaded=2, ready=2, running=running), LoadedIndex(NEW, 6.0, 19.0), None
    ) == MachineReport(
        machine="m1",
        region=None,
        sync="synced",
        health="progressing",
        busy=True,
        generation=2,
        published=NEW,
        loaded=2,
        sha256=NEW,
        since=20.0,
        modified=6.0,
        ready=2,
    )


def test_failed_work_is_told_by_its_generation() -> None:
    """Work that runs or is done is not unready."""
    for state, unready in (("failed", 2), ("running", None), ("done", None)):
        work = {"state": state, "generation": 2}
        assert served(status(work=work), LoadedIndex(NEW, 6.0, 19.0), None).unready == unready


def test_without_a_load_nothing_is_said_to_be_loaded() -> None:
    """Not even when a manifest is there."""
    found = served(status(loaded=None), None, None)
    assert (found.loaded, found.sha256, found.since) == (None, None, None)
