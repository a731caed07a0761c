"""Remembers the results of pure functions from one generation to the next.

Two successive indexes differ in a handful of rows, so nearly all of the generated text is the same
as last time. Results are kept for exactly as long as they are used: `rotate()` ends a run and
forgets what neither it nor the run before asked for. That bounds the memory to what one index needs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Memo:
    """Results by key, two generations deep. Used by one run at a time."""

    def __init__(self) -> None:
        self._now: dict[Hashable, Any] = {}
        self._before: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._now.keys() | self._before.keys())

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result remembered for `key`, else `make()`; the key tells all that the result depends on."""
        now = self._now
        if key in now:
            return now[key]  # type: ignore[no-any-return]
        before = self._before
        result = now[key] = before[key] if key in before else make()
        return result

    def rotate(self) -> None:
        """End a run: what it used is kept for the next one, the rest is forgotten."""
        self._before, self._now = self._now, {}
