"""Remembers the results of pure functions from one generation to the next.

Two successive indexes differ in a handful of rows, so nearly all of the generated text is the same
as last time. A run that made something new ends with `rotate()`, which forgets what neither it nor the
run before asked for. That bounds the memory to what two indexes need.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Result = TypeVar("Result")


class ResultCache:
    """Results by key, two generations deep. Used by one run at a time."""

    def __init__(self) -> None:
        self._now: dict[Hashable, Any] = {}
        self._before: dict[Hashable, Any] = {}
        self._made = False

    def __len__(self) -> int:
        return len(self._now.keys() | self._before.keys())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._now or key in self._before

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result remembered for `key`, else `make()`; the key tells all that the result depends on."""
        now = self._now
        if key in now:
            return now[key]  # type: ignore[no-any-return]
        before = self._before
        if key not in before:
            before[key] = make()
            self._made = True
        now[key] = before[key]
        return now[key]  # type: ignore[no-any-return]

    def rotate(self) -> None:
        """End a run: if it made something new, what it did not use is on its way out."""
        if self._made:
            self._before, self._now, self._made = self._now, {}, False
