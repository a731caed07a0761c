"""The sidecar in a container of its own beside Navigator's, with what docs/install.md says that both need.

Each has its own root folder, with /opt/sidecar in it, and its own mounts; shared are the folders that the
page lists, the process ids and the network. Both run as the image's user. Navigator is the stand-in.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from sidecar.cli.client import Client, NoDaemon
from sidecar.demo.sample import write_index
from tests.conftest import ROOT
from tests.support.container import ENVIRONMENT, why_not
from tests.support.machine import SMALL

_REASON = why_not()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")

USER = 10001  # as in the Dockerfile
SHARED = {
    "rails": "/rails",
    "data": "/data",
    "state": "/var/lib/sidecar",
    "run": "/run/sidecar",
    "tmp": "/tmp",
    "store": "/store",
}
SETTINGS = {
    "store": "file:///store",
    "profile": "local",
    "paths": {"application": "/rails", "databases": "/data/db"},
    "navigator": {"port": 9999},
}
# A root folder of its own, on a copy-on-write view of this host's files.
CONTAINER = f"""
set -eu
work=$1 source=$2 packages=$3
shift 3
own=$(mktemp -d -p "$work")
mount -t tmpfs tmpfs "$own"
mkdir "$own/changes" "$own/work" "$own/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$own/changes,workdir=$own/work" "$own/root"
cd "$own/root"
rm -rf opt/sidecar
mkdir -p opt src packages etc/sidecar
mount -t proc proc proc
mount --rbind /dev dev
mount --bind "$source" src
mount --bind "$packages" packages
cp "$work/sidecar.yml" etc/sidecar/
cat > environment <<'ENVIRONMENT'
{ENVIRONMENT}
ENVIRONMENT
chroot . sh -eu /environment
{"".join(f'mkdir -p .{path}; mount --bind "$work/{name}" .{path}; ' for name, path in SHARED.items())}
ip link set lo up
exec chroot --userspec={USER}:{USER} . env -i PATH=/opt/sidecar/bin:/usr/bin:/bin \\
  PYTHONDONTWRITEBYTECODE=1 "$@"
"""
NAVIGATOR = """
cd /rails
sidecar config --maintenance > config/navigator-maintenance.yml
exec /opt/sidecar/bin/python /src/tests/support/navigator.py config/navigator-maintenance.yml \\
  --pid-file /tmp/navigator.pid
"""
BOUND = 40.0


def put_index(work: Path, seed: int) -> None:
    incoming = work / "store" / "db" / "incoming"
    write_index(incoming, SMALL, seed)
    incoming.chmod(0o644)
    incoming.replace(incoming.with_name("index.sqlite3"))


def start(work: Path, inside: list[str], *command: str) -> subprocess.Popen[bytes]:
    """Start a container with the namespaces that `inside` enters or makes."""
    box = ["sh", "-c", CONTAINER, "sh", str(work), str(ROOT), sysconfig.get_path("purelib")]
    with (work / "log").open("ab") as log:
        return subprocess.Popen(
            [*inside, *box, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@pytest.fixture
def work() -> Iterator[Path]:
    """The shared folders, with both containers running on them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        for path in (*SHARED, "rails/config", "rails/public", "rails/tmp", "data/db", "store/db"):
            (work / path).mkdir(parents=True, exist_ok=True)
            os.chown(work / path, USER, USER)
        (work / "sidecar.yml").write_text(yaml.safe_dump(SETTINGS))
        put_index(work, 1)
        own = ["--mount", "--uts", "--ipc"]
        navigator = start(
            work, ["unshare", *own, "--pid", "--net", "--fork", "--kill-child"], "sh", "-euc", NAVIGATOR
        )
        stack.callback(navigator.wait)
        stack.callback(navigator.kill)  # the sidecar is one of its processes, and ends with it
        children = Path(f"/proc/{navigator.pid}/task/{navigator.pid}/children")
        until(work, lambda: (work / "tmp" / "navigator.pid").exists())
        inside = ["nsenter", f"--target={children.read_text().strip()}", "--pid", "--net", "unshare", *own]
        sidecar = start(work, inside, "sidecar", "serve")
        stack.callback(sidecar.wait)
        stack.callback(sidecar.kill)
        yield work


def until(work: Path, good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not good():
        assert time.monotonic() < deadline, (work / "log").read_text()[-3000:]
        time.sleep(0.1)


def test_both_work_together(work: Path) -> None:
    """From the maintenance page to the first generation, and to the next by SIGHUP."""
    client = Client(str(work / "run" / "sidecar.sock"), timeout=BOUND)

    def loaded() -> bool:
        with contextlib.suppress(NoDaemon):
            status = client.request("GET", "/status")[1]
            return (status["health"]["state"], status["generation"]["loaded"]) == ("healthy", 1)
        return False

    until(work, loaded)
    put_index(work, 2)
    status, outcome = client.request("POST", "/update?wait=loaded")
    assert (status, outcome["generation"]) == (200, 2), outcome
