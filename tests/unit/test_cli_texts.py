"""What the commands print for people."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from sidecar.cli.texts import entry_text, history_text, preview_text, status_text
from sidecar.model.changes import Changes, Delta, NamedCount
from sidecar.model.record import Problem
from sidecar.model.runs import Outcome
from sidecar.model.words import ago, brief, hide_hash, plural, span, took
from sidecar.model.work import Step

NOW = 1_795_510_800.0
CHANGES = Changes(
    users=Delta(removed=NamedCount(1, ("user0004",)), changed=NamedCount(2, ("a", "b"))),
    events=Delta(added=NamedCount(3, ("2026 boston/ball",))),
)


def status(**changed: Any) -> dict[str, Any]:
    """An answer of a machine where all is well."""
    return {
        "version": "0.1.0",
        "machine": "m1",
        "region": "iad",
        "sync": {
            "state": "synced",
            "reason": "the store's index (1a2b) is published",
            "looked": NOW - 240.5,
            "next": NOW + 361.0,
        },
        "health": {
            "state": "healthy",
            "reason": "Navigator serves generation 3",
            "since": NOW - 7300.25,
            "phase": "loaded",
        },
        "generation": {"current": 3, "loaded": 3, "source": None, "pinned": False},
        "published": NOW - 7301.123456,
        "tenants": 372,
        "users": 1,
        "last": {
            "state": "unchanged",
            "trigger": "timer",
            "started": NOW - 240.1,
            "seconds": 0.0123456,
            "error": None,
        },
        "running": None,
        "waiting": 0,
        "ready": {"state": "idle", "generation": None, "started": None, "seconds": None, "steps": []},
        "problems": [],
        "drift": [],
        "error": None,
        "started": NOW - 90_000,
        **changed,
    }


def test_a_good_status_is_short_and_says_when_it_was_looked() -> None:
    """The headline has both words and the reason; every state has its moment; no raw number is shown."""
    text = status_text(status(), NOW)
    assert text.splitlines()[0] == "Synced, healthy: Navigator serves generation 3."
    assert "          the store was looked at 4 minutes ago; next look in 6 minutes\n" in text
    assert "372 events, 1 user" in text
    assert "unchanged 4 minutes ago in 12 ms" in text
    assert "up for 1 day" in text
    assert len(text.splitlines()) <= 12
    assert not re.search(r"\d{9}|\d\.\d{3}|None|\{", text)


def test_what_is_wrong_comes_first() -> None:
    """When only the store is the trouble its reason leads, else Navigator's; the hint is the last line."""
    sync = {
        "state": "out_of_sync",
        "reason": "the index holds no users",
        "looked": None,
        "next": None,
    }
    error = {"code": "unsound", "message": "the index holds no users", "hint": "put a whole one there"}
    text = status_text(status(sync=sync, error=error, problems=["port 9292 is taken"]), NOW)
    assert text.splitlines()[0] == "Out of sync, healthy: the index holds no users."
    assert text.splitlines()[-1] == "What to do: put a whole one there"
    assert "problem   port 9292 is taken" in text
    assert "          the store has not been looked at yet; there is no regular look\n" in text
    down = {"state": "waiting", "reason": "Navigator is down", "since": NOW, "phase": "waiting"}
    assert status_text(status(sync=sync, health=down), NOW).startswith("Out of sync, waiting: Navigator is")


def test_ready_work_under_way_says_how_far_it_is() -> None:
    """Steps that have not begun yet wait, though their record leaves that out."""
    steps = msgspec.to_builtins((Step("databases", "running"), Step("migrate")))
    ready = {"state": "running", "generation": 3, "started": NOW, "seconds": None, "steps": steps}
    text = status_text(status(ready=ready), NOW)
    assert "ready     running for generation 3 (databases running, migrate waiting)" in text


def entry(outcome: Outcome, **changed: Any) -> dict[str, Any]:
    found = {
        "run": 7,
        "state": outcome.state,
        "settled": None,
        "reload_seconds": None,
        "note": None,
        "outcome": msgspec.to_builtins(outcome),
        "ready": None,
    }
    return {**found, **changed}


def test_a_line_of_the_history_says_what_changed() -> None:
    """When, which generation, how it ended, who asked, and what was other afterwards, in signs."""
    published = Outcome("published", "http", "ann", NOW, 0.1, generation=3, changes=CHANGES)
    refused = Outcome("rejected", "timer", "", NOW, 0.1, error=Problem("unsound", "it is damaged", "", 422))
    one, two = history_text([entry(published, state="loaded"), entry(refused)]).splitlines()
    assert one == (
        "2026-11-24 09:00:00 UTC         3  loaded       asked for by ann  +3 events  -1 user  ~2 users"
    )
    assert two.endswith("rejected     the regular look  it is damaged")
    assert history_text([]) == "There has been no run yet."


def test_a_run_in_full_has_no_empty_groups() -> None:
    """Changes by name, stages in words; nothing that is not there is named."""
    outcome = Outcome(
        "published",
        *("command", "root", NOW, 0.1234567),
        generation=3,
        changes=CHANGES,
        stages={"fetch": 0.0301},
        written=("htpasswd",),
        drift={"htpasswd": "-eve:$apr1$secret"},
    )
    text = entry_text(entry(outcome, state="loaded", settled=NOW + 1, reload_seconds=0.04))
    assert text.startswith("Generation 3: loaded, 2026-11-24 09:00:00 UTC, asked for by root")
    assert "users removed: user0004" in text
    assert "events added: 2026 boston/ball and 2 more" in text
    assert "took 0.12 s: fetch 30 ms" in text
    assert "studios" not in text
    assert "secret" not in text


def test_a_preview_hides_hashes() -> None:
    """A difference is copied into tickets: names are shown, what logs in is not."""
    rows = "--- htpasswd\n+++ htpasswd\n@@ -1 +1 @@\n-ann:$2y$10$old\n+ann:$2y$10$new\n bob:{SHA}x\n"
    outcome = Outcome(
        "previewed", "preview", "ann", NOW, 0.1, diffs={"htpasswd": rows, "map.yml": "+a: b"}, warnings=("w",)
    )
    text = preview_text(outcome, diffs=True)
    assert "-ann:••••\n+ann:••••\n bob:••••\n+a: b" in text
    assert "+++ htpasswd" in text
    assert "warning: w" in text
    assert "+a: b" not in preview_text(outcome, diffs=False)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7200, "2 hours"), (172_800, "2 days")],
)
def test_spans(seconds: float, words: str) -> None:
    """The largest unit that fits."""
    assert span(seconds) == words
    assert ago(seconds) == ("just now" if seconds < 5 else f"{words} ago")


def test_numbers_and_durations() -> None:
    """Singular and plural, thousands, milliseconds and seconds."""
    assert (plural(1, "event"), plural(2_000, "event")) == ("1 event", "2,000 events")
    assert (took(0.0001), took(0.012), took(1.234), took(61.2)) == ("under 1 ms", "12 ms", "1.23 s", "61 s")
    assert brief(None) == brief(Changes()) == ""
    assert hide_hash("ann") == "ann"


def test_ready_work_under_way_is_shown() -> None:
    """A step that waits for its turn has no more than its name in the answer."""
    steps = (Step("databases", "running"), Step("prerender"))
    work = {"state": "running", "generation": 3, "started": NOW, "seconds": None}
    answer = {**status(), "ready": {**work, "steps": msgspec.to_builtins(steps)}}
    assert "running for generation 3 (databases running, prerender waiting)" in status_text(answer, NOW)


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--version"], {"msgspec", "yaml", "logging"}),
        (
            ["update", "--trigger", "boot"],
            {"asyncio", "aiohttp", "aioboto3", "aiobotocore", "sidecar.generate"},
        ),
        (["status"], {"asyncio", "aiohttp", "aioboto3", "aiobotocore", "sidecar.generate"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_start_without_what_they_do_not_need(words: list[str], absent: set[str]) -> None:
    """A hook of a booting machine waits for `sidecar update`, which needs nothing of what a daemon needs."""
    code = "import sys, sidecar.cli as cli; cli.parser(sys.argv[1:]); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert not absent & set(run.stdout.split())
