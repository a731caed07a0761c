"""What the daemon's commands get of its environment and powers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sidecar.system.commands import run_command


async def test_commands_know_no_secret_of_the_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its settings nor the token over all machines; the rest of the environment is there."""
    for name in ("SIDECAR_TRIGGER_SECRET", "SIDECAR_CONFIG", "FLY_API_TOKEN", "FLY_ACCESS_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("RAILS_MASTER_KEY", "shown")
    for more in (None, {"EXTRA": "given"}):
        printed = (await run_command(["env"], tmp_path, 20, more)).output
        assert "hidden" not in printed
        assert "RAILS_MASTER_KEY=shown" in printed
        assert ("EXTRA=given" in printed) == (more is not None)


async def test_a_command_is_given_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller passes on by name arrives, secret or not."""
    monkeypatch.setenv("FLY_API_TOKEN", "other")
    script = "import os; print(os.environ['FLY_API_TOKEN'])"
    done = await run_command([sys.executable, "-c", script], tmp_path, 20, {"FLY_API_TOKEN": "named"})
    assert done.output == "named\n"
