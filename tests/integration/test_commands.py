"""What the daemon's commands get of its environment and powers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sidecar.errors import CommandError
from sidecar.system.commands import run_command
from tests.support.machine import until


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


async def test_what_keeps_a_command_from_starting_is_named(tmp_path: Path) -> None:
    """The folder, or whatever else is at fault, and not the command that is there."""
    with pytest.raises(CommandError) as raised:
        await run_command(["true"], tmp_path / "gone", 20)
    assert raised.value.message == f"true cannot be started: {tmp_path}/gone: No such file or directory"
    assert f"{tmp_path}/gone" in raised.value.hint
    with pytest.raises(CommandError) as raised:
        await run_command(["no-such-command"], tmp_path, 20)
    assert raised.value.message == "no-such-command cannot be started: No such file or directory"


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_that_is_left_behind_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It holds the command's output, as a background job of a script does: it ends with the command."""
    script = "sleep 300 & echo $! > child; echo done"
    done = await run_command(["sh", "-c", script], tmp_path, 20)
    assert (done.status, done.output) == (0, "done\n")
    await until(lambda: not lives(int((tmp_path / "child").read_text())))


async def test_a_command_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    """Its end counts, not that of its output."""
    script = "exec >&- 2>&-; sleep 0.3; touch ended; exit 3"
    assert (await run_command(["sh", "-c", script], tmp_path, 20)).status == 3
    assert (tmp_path / "ended").exists()
