"""What an object's metadata says of its age."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from sidecar.inputs.store.transfer import format_age, parse_age


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "yesterday", "²", "2026-13-01", "0001-01-01 00:00:00+23:59", "9999-12-31 23:59:59-23:59"),
        *("0001-01-01", "1970-01-01 00:00:00 UTC", "1979-12-31 23:59:59 UTC", "9999-12-31 23:59:59 UTC"),
    ],
)
def test_what_cannot_be_an_age_is_none(text: str | None) -> None:
    """Whoever writes to the store may write anything there, and pages show it."""
    assert parse_age(text) is None


def test_an_age_is_what_was_written() -> None:
    """Between 1980 and tomorrow, a fraction of a second included, in UTC where nothing else is said."""
    for age in (datetime(1980, 1, 1, tzinfo=UTC).timestamp(), 1_777_636_800.25, time.time() + 3600):
        assert parse_age(format_age(age)) == pytest.approx(age, abs=1e-6)
    assert parse_age("2026-05-01 12:00:00") == parse_age("2026-05-01T14:00:00+02:00")
