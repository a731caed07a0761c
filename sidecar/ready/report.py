"""How far a step is: what it tells while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

_MAX_CHARACTERS = 16_000
_TELL_SECONDS = 0.2


class StepReport:
    """One step's progress. `changed` is called now and then, `line` for each line of output."""

    def __init__(self, changed: Callable[[], None], line: Callable[[str], None]) -> None:
        self._changed = changed
        self._line = line
        self._told = 0.0
        self.done = 0
        self.total = 0
        self.current = ""
        self.output = ""
        self.failures: list[str] = []

    def expect(self, total: int) -> None:
        """Say how many items there are."""
        self.total = total
        self._changed()

    def begin(self, current: str) -> None:
        """Say which item is begun."""
        self.current = current
        self._tell()

    def advance(self, count: int = 1) -> None:
        """Say that items are done."""
        self.done += count
        self._tell()

    def say(self, text: str) -> None:
        """Keep and pass on what was printed or found; of much the end is kept."""
        for line in text.splitlines():
            self.output = f"{self.output}{line}\n"[-_MAX_CHARACTERS:]
            self._line(line)

    def fail(self, sentence: str) -> None:
        """Note the failure of one item; the others go on."""
        self.failures.append(sentence)
        self.say(sentence)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS or self.done == self.total:
            self._told = now
            self._changed()
