"""What the daemon asks of the system before it starts."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import resource
from sidecar.cli.commands.serve import _raise_limit_of_files

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
_raise_limit_of_files()
soft, same = resource.getrlimit(resource.RLIMIT_NOFILE)
assert same == hard
assert soft == (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)), soft
"""


def test_the_daemon_may_open_as_many_files_as_the_system_allows() -> None:
    """A shell's soft limit is raised, so that connections cannot use up the files that the work needs."""
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
