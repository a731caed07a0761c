"""What is told of the ready work: its steps, how far they are, how they ended."""

from __future__ import annotations

from typing import Literal

from sidecar.model.record import Problem, Record

StepState = Literal["waiting", "running", "done", "skipped", "failed"]
WorkState = Literal["running", "done", "failed"]

STEPS = ("databases", "migrate", "orphans", "extra", "prerender")

GOOD = frozenset({"done", "skipped"})


class Step(Record, frozen=True, omit_defaults=True):
    """One step of the work.

    `state` is waiting, running, done, skipped or failed. `done` of `total` items are behind it,
    `current` names the one that was begun last. `said` is its result in a sentence, `output` the end of what
    its commands printed.
    """

    name: str
    state: StepState = "waiting"
    seconds: float = 0.0
    done: int = 0
    total: int = 0
    current: str = ""
    said: str = ""
    output: str = ""
    error: Problem | None = None


class Work(Record, frozen=True):
    """All steps for one generation, whose `fingerprint` names its content.

    `state` is running, done or failed.
    """

    generation: int
    fingerprint: str
    trigger: str
    who: str
    started: float
    seconds: float
    state: WorkState
    steps: tuple[Step, ...]

    @property
    def good(self) -> bool:
        """Whether all that was to be done is done."""
        return self.state == "done"


class PushResult(Record, frozen=True):
    """How a push went: what was said of each database, and the names of those that failed."""

    said: tuple[str, ...]
    failed: tuple[str, ...]


class AddedTenants(Record, frozen=True):
    """Tenants that a publication adds, by the stems of their databases.

    `withheld` wait for their databases already. `first`: nothing of ours was here before, so that the files
    that lie there are in use.
    """

    names: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    first: bool = False


class PreparedTenants(Record, frozen=True):
    """Sentences about what could not be done, and the tenants that must not be served yet."""

    warnings: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()


def work_text(work: Work) -> str:
    """How the work ended, for people."""
    rows = []
    for step in work.steps:
        said = step.error.message if step.error else step.said
        rows.append(f"{step.name}: {step.state} in {step.seconds:.1f} s{f', {said}' if said else ''}")
    ended = f"Ready work for generation {work.generation}: {work.state} in {work.seconds:.1f} s."
    return "\n".join([*rows, ended])


def outcome_of(steps: tuple[Step, ...]) -> WorkState:
    """The state of work whose steps have ended."""
    return "failed" if any(step.state == "failed" for step in steps) else "done"
