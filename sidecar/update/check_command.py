"""The operator's own look at a set before it is published: a command with a veto, in a folder of its own.

The folder holds copies of all artifacts and of the index, which CHECK_INDEX names. Whatever the command does
to them or leaves beside them goes with the folder: nothing of it gets into the generation.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sidecar.config.settings import UpdateSettings
from sidecar.errors import Rejected
from sidecar.generations import INDEX
from sidecar.model.artifacts import Artifact
from sidecar.system.commands import run_command
from sidecar.system.files import explained

_PREFIX = "check-"


class CheckCommand:
    """One look at a time: `lay_out`, `ask`, `clear`; all but `ask` block."""

    def __init__(self, settings: UpdateSettings, state: Path) -> None:
        self._settings = settings
        self._state = state
        self._folder = state

    def lay_out(self, artifacts: Iterable[Artifact], index: Path) -> None:
        """Put the set and a copy of the index into a new private folder below the state folder."""
        self.clear()
        with explained("the set for the check command"):
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._state))
            for artifact in artifacts:
                (self._folder / artifact.name).write_bytes(artifact.content)
            shutil.copyfile(index, self._folder / INDEX)

    async def ask(self) -> None:
        """Run the command; `Rejected` when it ends with another status than 0."""
        settings, index = self._settings, self._folder / INDEX
        finished = await run_command(
            settings.check_command, self._folder, settings.check_timeout, {"CHECK_INDEX": str(index)}
        )
        if finished.status != 0:
            raise Rejected(
                f"the check command refused the set with exit status {finished.status}",
                "its output is among the warnings; correct the index, or the command",
                code="veto",
                detail=f"the check command: {finished.output.strip()[-2000:]}",
            )

    def clear(self) -> None:
        """Remove the folder, and any that a crash has left."""
        with suppress(FileNotFoundError):
            for folder in self._state.glob(f"{_PREFIX}*"):
                shutil.rmtree(folder, ignore_errors=True)
