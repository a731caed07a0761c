"""Log lines as the journal wants them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging
from sidecar.config.settings import LoggingSettings
from sidecar.observe.logs import set_up
set_up(LoggingSettings(format="{form}"))
log = logging.getLogger("sidecar")
log.info("a")
log.warning("b")
log.error("c")
try:
    raise ValueError("why")
except ValueError:
    log.critical("d", exc_info=True)
"""


def logged(path: Path, form: str, *, journal: bool) -> list[str]:
    with path.open("wb") as stream:
        there = os.fstat(stream.fileno())
        named = f"{there.st_dev}:{there.st_ino}" if journal else f"{there.st_dev}:{there.st_ino + 1}"
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(form=form)],
            env={**os.environ, "JOURNAL_STREAM": named},
            stderr=stream,
            check=True,
        )
    return path.read_text().splitlines()


def test_the_journal_is_told_priorities(tmp_path: Path) -> None:
    """Each line begins with its priority, the rest is the JSON; a traceback is inside of that."""
    lines = logged(tmp_path / "log", "json", journal=True)
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<2>"]
    assert "ValueError: why" in json.loads(lines[3][3:])["exception"]


def test_every_line_of_a_text_has_the_priority(tmp_path: Path) -> None:
    """The journal takes each line of a traceback for an entry of its own."""
    lines = logged(tmp_path / "log", "text", journal=True)
    assert {line[:3] for line in lines[3:]} == {"<2>"}
    assert lines[-1] == "<2>ValueError: why"


@pytest.mark.parametrize("form", ["text", "json"])
def test_others_are_not(tmp_path: Path, form: str) -> None:
    """Where standard error is not the stream that systemd names, as in what systemd's services start."""
    assert not any(line.startswith("<") for line in logged(tmp_path / "log", form, journal=False))


def test_what_strangers_cause_is_seldom_there(tmp_path: Path) -> None:
    """Whatever the form: of a hundred such facts the log has one."""
    script = SCRIPT.format(form="json").partition("log =")[0] + (
        "for _ in range(100):\n"
        "    logging.getLogger('sidecar').info('refused', extra={'seldom': True})\n"
        "    logging.getLogger('asyncio').error('socket.accept() out of system resource')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [
        "refused",
        "no connection can be accepted: too many files are open",
    ]
