"""The base of all records, and an error as data."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True):
    """Base of the records: immutable, compared by value."""


class Problem(Record, frozen=True):
    """An error as data: a stable code, what happened, what to do, the fitting HTTP status."""

    code: str
    message: str
    hint: str
    status: int


class ErrorAnswer(Record, frozen=True):
    """The answer where there is nothing else to tell."""

    error: Problem
