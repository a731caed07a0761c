"""Logging: readable on a terminal, JSON lines elsewhere, one line a fact."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

from sidecar.config.settings import LoggingSettings, Settings
from sidecar.model.text import printable

JOURNAL_ERROR = "<3>"
"""Before a line to the journal: its priority, as syslog counts."""
_PRIORITIES = ((logging.CRITICAL, "<2>"), (logging.ERROR, JOURNAL_ERROR), (logging.WARNING, "<4>"))

_EXTRAS = ("generation", "trigger")
# Facts that strangers can cause at will: one in so many seconds.
_PAUSE_SECONDS = 10.0
_NO_FILE = "socket.accept() out of system resource"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the generation where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _EXTRAS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message; the generation in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        number = getattr(record, "generation", None)
        # A line is a fact: text from outside does not get to start another one, or to rule the terminal.
        message = printable(record.getMessage())
        text = f"{moment} {record.levelname.lower():7} {f'[{number}] ' if number else ''}{message}"
        if not record.exc_info:
            return text
        traceback = printable(self.formatException(record.exc_info), kept="\n")
        return f"{text}\n{traceback}"


class RateLimitFilter(logging.Filter):
    """Lets facts that strangers can cause at will pass once in a while only, and counts the others.

    They are the records with the attribute `seldom`, and asyncio's that no file is left for a connection.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is logged; the traceback of such a fact never is."""
        no_file = record.name == "asyncio" and str(record.msg).startswith(_NO_FILE)
        if not no_file and not getattr(record, "seldom", False):
            return True
        kind, now = _NO_FILE if no_file else str(record.msg), self._clock()
        if now - self._last.get(kind, float("-inf")) < _PAUSE_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._last[kind] = now
        count = self._left_out.pop(kind, 0)
        more = f"; {count} more like it before" if count else ""
        said = "no connection can be accepted: too many files are open" if no_file else record.getMessage()
        record.msg, record.args, record.exc_info = f"{said}{more}", (), None
        return True


class JournalFormatter(logging.Formatter):
    """Another format's lines, each with its priority, which the journal takes off again."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = next((text for level, text in _PRIORITIES if record.levelno >= level), "<6>")
        return prefix + self._inner.format(record).replace("\n", f"\n{prefix}")


def whereabouts(settings: Settings) -> str:
    """Where this machine's log is read, as a sentence."""
    if settings.machine.app:
        return f"The log is read by `fly logs --app {settings.machine.app} --machine ID`."
    if settings.profile == "kamal":
        return "The log is read by `docker logs` with the container's name, or `kamal app logs`."
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return "The log is read by `journalctl --unit sidecar`."
    return "The log goes to the daemon's standard error; whatever started the daemon has it."


def is_journal(stream: TextIO) -> bool:
    """Whether a stream goes to systemd's journal; `JOURNAL_STREAM` names the one that does."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def set_up(settings: LoggingSettings) -> None:
    """Send everything to standard error in the form that fits."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    formatter = JsonFormatter() if as_json else TextFormatter()
    handler.setFormatter(JournalFormatter(formatter) if is_journal(sys.stderr) else formatter)
    handler.addFilter(RateLimitFilter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("aiobotocore", "aioboto3", "boto3", "botocore", "aiohttp.access", "asyncio", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
