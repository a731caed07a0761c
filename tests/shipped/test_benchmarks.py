"""The benchmark works; what it finds is nobody's failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def bench(*words: str) -> str:
    """What the benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / "bench.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_figures_stand_beside_a_yardstick_and_can_be_compared(tmp_path: Path) -> None:
    """Each row of a part has its own yardstick; two files of figures are compared row by row."""
    file = tmp_path / "figures.json"
    printed = bench("--quick", "--only", "real", "--json", str(file))
    rows = json.loads(file.read_text())
    assert len(rows) == 7
    for row in rows:
        assert row["yardstick"] > 0
        assert f"| {row['name']} | " in printed
    compared = bench("--compare", str(file), str(file))
    assert compared.count(" | 1.00 | ") >= 5  # idle, it may have used nothing
