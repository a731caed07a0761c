"""One run of the update as it happens: its stages, its log, its outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sidecar.errors import SidecarError
from sidecar.model.record import Problem
from sidecar.model.runs import Outcome, Request, RunState
from sidecar.model.stream import Emit, LogLine, StageEnded

logger = logging.getLogger(__name__)

# An index with a warning for every row would fill log and history with each poke.
_MAX_WARNINGS = 100


class Run:
    """What a run notes down while it is under way. Stages follow each other; any thread may note."""

    def __init__(self, request: Request, emit: Emit) -> None:
        self.request = request
        self.started = time.time()
        self.stages: dict[str, float] = {}
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.found: dict[str, Any] = {}
        self.problem: SidecarError | None = None
        """What went wrong, though the run went on and did something."""
        self._emit = emit
        self._clock = time.perf_counter()

    def say(self, sentence: str) -> None:
        """Log a fact of this run. It may be shown to the public, so it names no user."""
        moment = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        self.lines.append(f"[{moment}] {sentence}")
        logger.info(
            sentence, extra={"generation": self.found.get("generation"), "trigger": self.request.trigger}
        )
        self._emit(LogLine(self.lines[-1]))

    def warn(self, *sentences: str) -> None:
        """Note something for administrators; it may name users. Of many only the first and their number."""
        kept = sentences[:_MAX_WARNINGS]
        if left_out := len(sentences) - len(kept):
            kept += (f"and {left_out:,} more such warnings",)
        for sentence in kept:
            self.warnings.append(sentence)
            logger.warning(sentence, extra={"generation": self.found.get("generation")})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a stage that is entered again adds up."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started
            self._emit(StageEnded(name, self.stages[name]))

    def note(self, **facts: Any) -> None:
        """Remember facts for the outcome."""
        self.found |= facts

    def outcome(self, state: RunState, error: SidecarError | None = None) -> Outcome:
        """The run's end."""
        return Outcome(
            state=state,
            trigger=self.request.trigger,
            who=self.request.who,
            started=self.started,
            seconds=time.perf_counter() - self._clock,
            stages=dict(self.stages),
            warnings=tuple(self.warnings),
            log=tuple(self.lines),
            error=None if error is None else Problem(error.code, error.message, error.hint, error.status),
            public=self.request.public,
            **self.found,
        )
