"""What a run notes is bounded, however much there is to say."""

from __future__ import annotations

import logging

import pytest

from sidecar.model.runs import Request
from sidecar.update.run import Run


def test_of_many_warnings_the_first_and_their_number_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """300,000 unfit rows cost neither the log nor the history a line each, with every poke."""
    run = Run(Request(trigger="cgi"), lambda _: None)
    with caplog.at_level(logging.WARNING):
        run.warn(*(f"user {number}: unfit" for number in range(300_000)))
        run.warn("and something else")
    kept = run.outcome("unchanged").warnings
    assert kept[:2] == ("user 0: unfit", "user 1: unfit")
    assert kept[-2:] == ("and 299,900 more such warnings", "and something else")
    assert [record.getMessage() for record in caplog.records] == list(kept)
    assert len(kept) == 102
