"""Files of the monitoring that come with the sidecar."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import NotFound

_PACKAGE = Path(__file__).parents[1]
# In the wheel they lie in the package, in a checkout beside it.
_FOLDERS = (_PACKAGE / "monitoring", _PACKAGE.parent / "monitoring")


def shipped(name: str) -> Path:
    """Where a file is: rules.yml, dashboard.json, README.md. `NotFound` where the installation lacks it."""
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise NotFound(f"{name} of the monitoring is not in this installation", "install the package again")
