"""The `sidecar` command for tests in which another user than this one runs it."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT
from tests.support.cgi import SIDECAR

_DEBIANS = Path("/usr/bin/python3")


def _open_to_all(path: Path) -> bool:
    """Whether every user may get at a file: by its own path and by that of what it leads to."""
    paths = {path.absolute(), path.resolve()}
    return all(one.stat().st_mode & stat.S_IXOTH for found in paths for one in found.parents)


def command_for_all() -> tuple[list[str], Mapping[str, str]] | None:
    """Command and variables with which any user can run this environment's sidecar; None where none can.

    Where this interpreter lies in somebody's home, Debian's takes its place if it is of the same version.
    """
    packages = sysconfig.get_path("purelib")
    if not _open_to_all(Path(packages)) or not _open_to_all(ROOT / "sidecar"):
        return None
    if _open_to_all(Path(sys.executable)):
        return [str(SIDECAR)], {}
    same = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if _DEBIANS.exists() and os.path.realpath(_DEBIANS).endswith(same):
        return [str(_DEBIANS), "-m", "sidecar"], {"PYTHONPATH": f"{ROOT}:{packages}"}
    return None
