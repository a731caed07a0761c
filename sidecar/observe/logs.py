"""Logging: readable on a terminal, JSON lines elsewhere, one line a fact."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from sidecar.config.settings import Logging

JOURNAL_ERROR = "<3>"
"""Before a line to the journal: its priority, as syslog counts."""
_PRIORITIES = ((logging.CRITICAL, "<2>"), (logging.ERROR, JOURNAL_ERROR), (logging.WARNING, "<4>"))

_EXTRAS = ("generation", "trigger")


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
        # A line is a fact: text from outside does not get to start another one.
        message = record.getMessage().replace("\n", "\\n")
        text = f"{moment} {record.levelname.lower():7} {f'[{number}] ' if number else ''}{message}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JournalFormatter(logging.Formatter):
    """Another format's lines, each with its priority, which the journal takes off again."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = next((text for level, text in _PRIORITIES if record.levelno >= level), "<6>")
        return prefix + self._inner.format(record).replace("\n", f"\n{prefix}")


def is_journal(stream: TextIO) -> bool:
    """Whether a stream goes to systemd's journal; `JOURNAL_STREAM` names the one that does."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def set_up(settings: Logging) -> None:
    """Send everything to standard error in the form that fits."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    formatter = JsonFormatter() if as_json else TextFormatter()
    handler.setFormatter(JournalFormatter(formatter) if is_journal(sys.stderr) else formatter)
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("aiobotocore", "aioboto3", "boto3", "botocore", "aiohttp.access", "asyncio", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
