"""Rows of figures beside a yardstick of the same minute: a table, a file, and the comparison of two files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
_HEAD = "| what | median | min to max | in Y | Y | target |\n| --- | --- | --- | --- | --- | --- |"


@dataclass
class Row:
    """What was measured: figures in a unit, and what to reach, in Y or in that unit.

    `yardstick` is Y at that time in seconds; only seconds are given in Y.
    """

    name: str
    figures: list[float]
    target: str = ""
    unit: str = "s"
    yardstick: float = 0.0

    @property
    def median(self) -> float:
        """The middle of the figures."""
        return statistics.median(self.figures)

    @property
    def ratio(self) -> float | None:
        """The median in Y."""
        return self.median / self.yardstick if self.unit == "s" and self.yardstick else None

    def line(self) -> str:
        """Its line of the table."""
        low, high = (_text(found(self.figures), self.unit) for found in (min, max))
        spread = f"{low} to {high}" if len(self.figures) > 1 else ""
        ratio = "" if self.ratio is None else f"{self.ratio:.1f}"
        middle = _text(self.median, self.unit)
        return (
            f"| {self.name} | {middle} | {spread} | {ratio} | {_text(self.yardstick, 's')} | {self.target} |"
        )


def _text(figure: float, unit: str) -> str:
    if unit != "s":
        return f"{figure:.2f} {unit}"
    return f"{figure * 1000:.1f} ms" if figure < 1 else f"{figure:.2f} s"


class Yardstick:
    """Y: the median time of an empty, isolated Python, run between what is measured."""

    def __init__(self) -> None:
        self._runs: list[float] = []

    def run(self, times: int = 1) -> None:
        """Once more, and again."""
        for _ in range(times):
            started = time.perf_counter()
            subprocess.run([PYTHON, "-ISs", "-c", "pass"], check=True)
            self._runs.append(time.perf_counter() - started)

    def beside(self, rows: Iterable[Row | tuple[Row, ...]]) -> Iterator[Row]:
        """Each row, or those that were measured together, with the yardstick of that time, in seconds."""
        self.run(5)
        for found in rows:
            self.run(5)
            group = found if isinstance(found, tuple) else (found,)
            for row in group:
                row.yardstick = statistics.median(self._runs)
                yield row
            self._runs = self._runs[-5:]


def write(rows: Iterable[Row], file: Path | None) -> None:
    """Print the table, a line as soon as it is there; with a file write the rows to it as JSON."""
    print(f"load {os.getloadavg()[0]:.1f}\n\n{_HEAD}", flush=True)
    found = []
    for row in rows:
        print(row.line(), flush=True)
        found.append(row)
    print(f"\nload {os.getloadavg()[0]:.1f}")
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


def compare(first: Path, second: Path) -> None:
    """Print what two files tell of the same rows, and the second as a part of the first: of times in Y."""
    before, after = (
        {one["name"]: Row(**one) for one in json.loads(file.read_text())} for file in (first, second)
    )
    print(f"| what | {first.stem} | {second.stem} | of that | target |\n| --- | --- | --- | --- | --- |")
    for name in before:
        if name not in after:
            continue
        rows = before[name], after[name]
        told = [
            _text(one.median, one.unit) + (f" ({one.ratio:.1f} Y)" if one.ratio is not None else "")
            for one in rows
        ]
        a, b = (one.median if one.ratio is None else one.ratio for one in rows)
        part = f"{b / a:.2f}" if a else ""
        print(f"| {name} | {told[0]} | {told[1]} | {part} | {after[name].target} |")
    for name in before.keys() ^ after.keys():
        print(f"\nonly in {(first if name in before else second).stem}: {name}")
