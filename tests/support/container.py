"""A machine with systemd as process 1, in a container on a copy-on-write view of this host's own files.

    with Container(prepare) as container:   # a shell script that changes the files before the first boot
        container.run("systemctl", "is-active", "sidecar")
        container.reboot()

In it /src is this checkout, and /opt/sidecar an environment with the packages of the tests, unless a Debian
package is to bring that. It has no network but loopback. Nothing of it is left when it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import ROOT

_BOUND = 60.0
_PYTHON = "/usr/bin/python3"

# The files: this host's, changes in memory. What would start of the host's own services does not.
_PREPARE = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/root"
cd "$1/root"
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires
echo 0123456789abcdef0123456789abcdef > etc/machine-id  # without one all that is installed would be enabled
rm -rf opt/sidecar usr/local/bin/sidecar*
ln -sf /dev/null etc/systemd/system/systemd-networkd-wait-online.service
mkdir -p src packages opt
"""
# Instead of what install.md does with venv and pip, for the container: the packages are those of the tests.
ENVIRONMENT = """
/usr/bin/python3 -m venv --without-pip /opt/sidecar
printf '/src\\n/packages\\n' > "$(echo /opt/sidecar/lib/python3*/site-packages)/tests.pth"
cat > /opt/sidecar/bin/sidecar <<'END'
#!/opt/sidecar/bin/python
import sys
from sidecar.cli import main
sys.exit(main())
END
cp /src/sidecar/sidecar-cgi /opt/sidecar/bin/
chmod 0755 /opt/sidecar/bin/sidecar*
"""
_INSTALL = f"""
cat > environment <<'ENVIRONMENT'
{ENVIRONMENT}
ENVIRONMENT
mount --bind "$2" src
chroot . sh -eu /environment
umount src
"""
_BOOT = """
while [ ! -e "$1/done" ]; do
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 \\
  systemd-nspawn --quiet --boot --directory="$1/root" --register=no --keep-unit --private-network \\
    --capability=all --console=pipe --bind-ro="$2:/src" --bind-ro="$3:/packages" \\
    systemd.unit=multi-user.target
done
"""


def why_not() -> str | None:
    """Why no container can be booted here, in words; None when one can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    for program, package in (("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    same = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not os.path.realpath(_PYTHON).endswith(same):
        return f"Debian's python3 is another one than that of the tests, {same}, which has the packages"
    with tempfile.TemporaryDirectory() as folder:
        trial = 'mount -t tmpfs tmpfs "$0" && mkdir "$0/u" "$0/w" "$0/r" && mount -t overlay overlay -o '
        trial += '"lowerdir=/,upperdir=$0/u,workdir=$0/w" "$0/r"'
        tried = subprocess.run(
            ["unshare", "--mount", "sh", "-c", trial, folder], capture_output=True, text=True, check=False
        )
    return f"an overlay of / cannot be mounted: {tried.stderr.strip()}" if tried.returncode else None


class Container:
    """Boots at the block's begin, is gone at its end; `prepare` runs in its root folder before."""

    def __init__(self, prepare: str = "", *, installed: bool = True) -> None:
        self._prepare = f"{_INSTALL}{prepare}" if installed else prepare
        self._stack = contextlib.ExitStack()
        self.leader = 0
        """Process 1 of the container, as this host counts; 0 while there is none."""

    def __enter__(self) -> Self:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._done = Path(folder) / "done"
        self._console = self._stack.enter_context(tempfile.TemporaryFile())
        script = f'set -eu\n{_PREPARE}{self._prepare}\ntouch "$1/prepared"\n{_BOOT}'
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", folder, ROOT, sysconfig.get_path("purelib")],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._stack.callback(self._end)
        try:
            self._wait_for_boot(0)
        except BaseException as error:
            prepared = (Path(folder) / "prepared").exists()
            self._stack.close()
            if prepared and isinstance(error, AssertionError):
                pytest.skip(f"a container does not boot here: {error}")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)  # all others of its namespace end with it
        self._process.wait()

    def said(self) -> str:
        """What came to the console."""
        self._console.seek(0)
        return self._console.read().decode(errors="replace")[-3000:]

    def _wait_for_boot(self, before: int) -> None:
        """Wait until another process 1 than the one before is up and has nothing left to start."""
        deadline = time.monotonic() + _BOUND
        self.leader = 0
        while True:
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            leader = self._find_leader()
            if leader not in (0, before):
                self.leader = leader
                if self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded"):
                    return
            time.sleep(0.1)

    def _find_leader(self) -> int:
        """Process 1 of the container, as this host counts: the child of systemd-nspawn."""
        with contextlib.suppress(OSError, ValueError):
            for nspawn in _children(self._process.pid):
                for child in _children(nspawn):
                    if not Path(f"/proc/{child}/ns/pid").samefile("/proc/self/ns/pid"):
                        return child
        return 0

    def command(self, *command: str) -> list[str]:
        """A command line of this host that runs a command in the container, as root."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            "nsenter",
            "--target",
            str(self.leader),
            "--all",
            "env",
            "-i",
            path,
            "LC_ALL=C.UTF-8",
            *command,
        ]

    def run(self, *command: str, check: bool = True, seconds: float = _BOUND) -> str:
        """Run a command to its end, and give what it printed; with `check` it must succeed."""
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def shell(self, script: str) -> str:
        """Run a shell script in the folder /src; each of its commands must succeed."""
        return self.run("sh", "-eu", "-c", f"cd /src\n{script}")

    def path(self, inside: str) -> Path:
        """A file of the container, for this host."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def reboot(self) -> None:
        """Power off, and on again."""
        before = self.leader
        self.run("systemctl", "poweroff", check=False)
        self._wait_for_boot(before)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
