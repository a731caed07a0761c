"""A fleet update while it is under way: on a terminal a line a machine, elsewhere a line a fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from sidecar.fleet.report import FleetReport, MachineResult
from sidecar.fleet.verdicts import BAD, GOOD
from sidecar.model.record import Problem
from sidecar.model.text import printable

STEPS = {
    "before": "Step 0: Running the commands before it...",
    "upload": "Step 1: Syncing index database...",
    "find": "Step 2: Getting list of machines...",
    "update": "Step 3: Triggering configuration update on each machine...",
    "after": "Step 4: Running the commands after it...",
    "notify": "Step 5: Telling who is to be told...",
}
"""The steps, and the lines that tell of them. The application's progress bar looks for the words of some of
these, for `Will update N active machines`, and for `✓ Success` once a machine."""

_WORTH_A_LINE = frozenset({"retrying", "stopped", *GOOD, *BAD})
_DONE = frozenset({"stopped", *GOOD, *BAD})


class NoProgress:
    """For JSON: nothing but the end is printed."""

    def step(self, step: str) -> None:
        """Nothing."""

    def say(self, sentence: str) -> None:
        """Nothing."""

    def expect(self, results: list[MachineResult]) -> None:
        """Nothing."""

    def tell(self, result: MachineResult) -> None:
        """Nothing."""


class JsonProgress:
    """For programs: a JSON object a line, each with its `kind`.

    `step` (its name), `line` (its text), `machines` (their ids), `machine` (a `MachineResult`), and at the
    end `report` (a `FleetReport`) or `error` (a `Problem`).
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def step(self, step: str) -> None:
        """A step begins."""
        self._record("step", step=step)

    def say(self, sentence: str) -> None:
        """A sentence about the whole, or a command's line."""
        self._record("line", line=sentence)

    def expect(self, results: list[MachineResult]) -> None:
        """Who will be poked."""
        self._record("machines", machines=[one.machine for one in results])

    def tell(self, result: MachineResult) -> None:
        """Where a machine stands."""
        self._record("machine", machine=result)

    def end(self, end: FleetReport | Problem) -> None:
        """How it ended."""
        if isinstance(end, FleetReport):
            self._record("report", report=end)
        else:
            self._record("error", error=end)

    def _record(self, kind: str, **more: object) -> None:
        self._write(f"{msgspec.json.encode({'kind': kind, **more}).decode()}\n")


class LineProgress:
    """A line for everything worth one."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def step(self, step: str) -> None:
        """A step begins."""
        self.say(STEPS[step])

    def say(self, sentence: str) -> None:
        """A sentence about the whole."""
        self._write(f"{printable(sentence)}\n")

    def expect(self, results: list[MachineResult]) -> None:
        """How many there are, and who. It is a number of machines, in the plural, that is looked for."""
        names = ", ".join(one.machine for one in results)
        self._write(f"Will update {len(results)} active machines{names and f': {names}'}\n")

    def tell(self, result: MachineResult) -> None:
        """A machine's end, or why it is tried again."""
        if result.state in _WORTH_A_LINE:
            self._write(f"{line(result)}{' ✓ Success' if result.state in GOOD else ''}\n")


class LiveProgress(LineProgress):
    """Sentences as lines; the machines as a picture that whoever draws it asks for, from any thread."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(write)
        self._results: dict[str, MachineResult] = {}

    def expect(self, results: list[MachineResult]) -> None:
        """Who belongs to it."""
        self._results = {one.machine: one for one in results}

    def tell(self, result: MachineResult) -> None:
        """Where a machine stands."""
        self._results[result.machine] = result

    def picture(self, width: int, height: int) -> list[str]:
        """The machines as they stand, for a terminal of this size."""
        return picture(list(self._results.values()), width, height)


def picture(everyone: Sequence[MachineResult], width: int, height: int) -> list[str]:
    """The lines to show on a terminal of this size: everyone, or those under way and a count of the rest."""
    shown = everyone if len(everyone) < height - 1 else [one for one in everyone if one.state not in _DONE]
    room = max(1, height - 2)
    texts = [line(one)[: max(1, width - 1)] for one in shown[:room]]
    if len(everyone) > len(texts):
        tally = Counter(one.state.replace("_", " ") for one in everyone)
        counted = ", ".join(f"{number} {state}" for state, number in tally.most_common())
        texts.append(f"{len(everyone)} machines: {counted}"[: max(1, width - 1)])
    return texts


def line(result: MachineResult) -> str:
    """Where a machine stands."""
    where = f" ({result.region})" if result.region else ""
    after = f" after {result.seconds:.1f} s" if result.state in _DONE and result.attempts else ""
    tries = f", attempt {result.attempts}" if result.attempts > 1 and result.state not in GOOD else ""
    note = f": {result.note}" if result.note else ""
    return printable(f"{result.machine}{where}: {result.state.replace('_', ' ')}{after}{tries}{note}")
