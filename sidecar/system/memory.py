"""Python's own collector of garbage, where its rhythm does not fit."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Python's own number is 700. With ten thousand tasks alive half of the time went into looking at them again.
_OBJECTS_BETWEEN = 50_000


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cycles more seldom: there are very many objects, and all are still needed."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _OBJECTS_BETWEEN), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
