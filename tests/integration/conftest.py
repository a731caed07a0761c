"""What holds for every part that runs in the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from blockbuster import BlockBuster

from tests.conftest import ROOT

# Files are left out: what the loop reads and writes there is small, local and bounded.
_SLOW = ("time.", "socket.", "ssl.", "sqlite3.")
_TESTS = str(ROOT / "tests")


@pytest.fixture(scope="session")
def guard() -> BlockBuster:
    """Finds calls of the sidecar's that hold the event loop, those apart that a test makes itself."""
    guard = BlockBuster("sidecar")
    guard.functions = {name: one for name, one in guard.functions.items() if name.startswith(_SLOW)}
    for function in guard.functions.values():
        function.can_block_predicate = _unless_by_a_test(function.can_block_predicate)
    return guard


@pytest.fixture(autouse=True)
def nothing_holds_the_loop(guard: BlockBuster) -> Iterator[None]:
    """Whoever sleeps, waits for the network or asks SQLite does it in a thread: the loop serves everybody."""
    guard.activate()
    yield
    guard.deactivate()


def _unless_by_a_test(can_block: Callable[..., bool]) -> Callable[..., bool]:
    def predicate(*args: Any, **options: Any) -> bool:
        if can_block(*args, **options):
            return True
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(_TESTS):
            frame = frame.f_back
        return frame is not None

    return predicate
