"""Text from outside that is shown: on a terminal, in an answer, in a table of machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

import sidecar.cli
from sidecar.cli.output import say, say_json, say_lines
from sidecar.errors import Rejected, SidecarError
from sidecar.fleet.progress import LineProgress, line
from sidecar.fleet.report import MachineResult
from sidecar.model.record import Problem
from sidecar.model.runs import Outcome
from sidecar.model.text import printable
from sidecar.web.answers import error_answer, outcome_text

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\n[07:00:00] forged\r\x9b8m\u202e\u2028\ud800 Алиса 🙂"
SHOWN = r"\x1b]0;pwned\x07\x1b[2J\n[07:00:00] forged\r\x9b8m\u202e\u2028\ud800 Алиса 🙂"


def test_what_is_not_printable_is_escaped() -> None:
    """Nothing rules a terminal, turns text around or begins a line; letters of any script stay."""
    assert printable(HOSTILE) == SHOWN
    assert printable("plain") == "plain"
    assert printable("a\nb\r", kept="\n") == "a\nb\\r"


def test_a_line_is_printed_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Only a text that is meant to have several lines has them."""
    say(f"user {HOSTILE}")
    say_lines("one\ntwo \x1b[2J\n")
    assert capsys.readouterr().out == f"user {SHOWN}\none\ntwo \\x1b[2J\n"


def test_json_is_printed_without_what_rules_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It still reads as what it was."""
    data = {"who": HOSTILE.replace("\ud800", "\U000e0001")}
    say_json(data)
    printed = capsys.readouterr().out
    assert json.loads(printed) == data
    assert all(one.isprintable() for one in printed.removesuffix("\n").split("\n"))


def test_the_commands_print_by_these_ways_only() -> None:
    """A line that is printed past them could hold anything."""
    for path in Path(sidecar.cli.__file__).parent.rglob("*.py"):
        if path.name != "output.py":
            for number, text in enumerate(path.read_text().splitlines(), 1):
                assert " print(" not in text, f"{path.name}:{number}"


def test_an_error_is_of_bounded_length() -> None:
    """Whatever it quotes, which may be the name of a table in an index."""
    assert len(Rejected("x" * 900_000).message) < 1100


def test_an_answer_for_people_is_shown_as_text() -> None:
    """Each line of a run's log is one line."""
    outcome = Outcome("published", "http", "", 0.0, 0.0, log=(HOSTILE,))
    assert outcome_text(outcome).split("\n")[0] == SHOWN


def test_an_error_for_people_is_shown_as_text() -> None:
    """Its sentence and its hint are a line each, whatever they quote, alone and as the end of a run."""
    problem = SidecarError(HOSTILE, HOSTILE)
    answered = error_answer(make_mocked_request("GET", "/", {"Accept": "text/plain"}), problem)
    assert answered.text == f"{SHOWN}.\nWhat to do: {SHOWN}.\n"
    failed = Outcome("failed", "http", "", 0.0, 0.0, error=Problem("x", HOSTILE, HOSTILE, 500))
    assert outcome_text(failed).split("\n")[0] == f"What to do: {SHOWN}."


def test_machines_are_shown_as_text() -> None:
    """Their ids, regions and what they say come from elsewhere."""
    written: list[str] = []
    LineProgress(written.append).say(HOSTILE)
    assert written == [f"{SHOWN}\n"]
    assert line(MachineResult(HOSTILE, "", HOSTILE, "failing", note=HOSTILE)).isprintable()
