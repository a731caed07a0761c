"""What a line of the log looks like, whatever text from outside is in it."""

from __future__ import annotations

import json
import logging

import pytest

from sidecar.observe.logs import JsonFormatter, RateLimitFilter, TextFormatter

HOSTILE = "a\x1b[2Jb\rc\nd\x9be\u202ef\ud800g\x7fh"


def record(message: str, *arguments: object, name: str = "sidecar", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


def test_text_from_outside_stays_in_its_line() -> None:
    """In text nothing moves the cursor, changes a colour or starts a line; letters of any script stay."""
    line = TextFormatter().format(record("asked for by %s", HOSTILE + " Алиса"))
    assert line.isprintable()
    assert line.endswith(r"a\x1b[2Jb\rc\nd\x9be\u202ef\ud800g\x7fh Алиса")


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    """The message of an exception is text from outside too."""
    made = record("it failed")
    try:
        int(HOSTILE)
    except ValueError as error:
        made.exc_info = (ValueError, ValueError(HOSTILE), error.__traceback__)
    lines = TextFormatter().format(made).split("\n")
    assert len(lines) > 3
    assert all(line.isprintable() for line in lines)


def test_a_json_line_is_one_line() -> None:
    """In JSON everything is as it came, escaped as JSON does."""
    line = JsonFormatter().format(record("asked for by %s", "a\x1bb\nc"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == "asked for by a\x1bb\nc"


@pytest.mark.parametrize(
    ("name", "message", "extra", "said"),
    [
        ("sidecar.web", "a malformed request from %s", {"seldom": True}, "a malformed request from x"),
        ("asyncio", "socket.accept() out of system resource\nsocket: 1", {}, "too many files are open"),
    ],
)
def test_what_strangers_cause_is_logged_seldom(
    name: str, message: str, extra: dict[str, bool], said: str
) -> None:
    """One line in ten seconds, without a traceback, and how many were left out."""
    now = 1000.0
    seldom = RateLimitFilter(lambda: now)
    arguments = ("x",) if "%s" in message else ()

    def passes() -> logging.LogRecord | None:
        made = record(message, *arguments, name=name, **extra)
        made.exc_info = (OSError, OSError(24, "Too many open files"), None)
        return made if seldom.filter(made) else None

    first = passes()
    assert first is not None
    assert said in first.getMessage()
    assert first.exc_info is None
    assert [passes() for _ in range(1000)] == [None] * 1000
    now += 11
    next_one = passes()
    assert next_one is not None
    assert next_one.getMessage().endswith("; 1000 more like it before")


def test_everything_else_is_always_logged() -> None:
    """Facts of the daemon's own pass as they are, asyncio's other complaints too."""
    seldom = RateLimitFilter()
    for _ in range(5):
        assert seldom.filter(record("published generation 3"))
        assert seldom.filter(record("Task exception was never retrieved", name="asyncio"))
