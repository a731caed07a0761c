"""The systemd units, as `make install-systemd` installs them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.cgi import BIN

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed (Debian package systemd)",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with the units in it; the commands are those of this environment."""
    root = tmp_path_factory.mktemp("root")
    run("make", "--silent", "install-systemd", f"DESTDIR={root}", f"BINDIR={BIN}", "SERVICE_GROUP=web")
    return root


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def units(root: Path) -> Path:
    return root / "etc" / "systemd" / "system"


def unit(root: Path, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(units(root) / name)
    return parser


def test_nothing_is_left_to_fill_in(installed: Path) -> None:
    """Every file that is installed names real users, commands and folders."""
    files = [path for path in (installed / "etc").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"sidecar.service", "sidecar.socket", "sidecar.conf"}
    for path in files:
        assert not re.search(r"@[A-Z]+@", path.read_text()), path


@needs_systemd
def test_the_units_verify(installed: Path) -> None:
    """`systemd-analyze verify` has nothing to say about them."""
    files = [str(units(installed) / name) for name in ("sidecar.service", "sidecar.socket")]
    assert run("systemd-analyze", "verify", *files) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("drop_in", "most"), [(None, 15), ("commands.conf", 16), ("signal-other-user.conf", 19)]
)
def test_the_service_is_exposed_little(
    installed: Path, tmp_path: Path, drop_in: str | None, most: int
) -> None:
    """At most 1.5 of 10 as shipped; each drop-in costs as much as its page says and no more."""
    shutil.copytree(installed, tmp_path, dirs_exist_ok=True)
    if drop_in is not None:
        shutil.copy(ROOT / "systemd" / drop_in, units(tmp_path) / "sidecar.service.d")
    service = str(units(tmp_path) / "sidecar.service")
    run("systemd-analyze", "security", "--offline=true", f"--threshold={most}", service)


def test_the_socket_is_for_navigators_group_only(installed: Path) -> None:
    """The socket's mode is 0660 and its group the one of the tenants' user; the daemon looks at that path."""
    socket = unit(installed, "sidecar.socket")["Socket"]
    assert (socket["SocketMode"], socket["SocketGroup"], socket["SocketUser"]) == ("0660", "web", "sidecar")
    assert socket["ListenStream"] == "/run/sidecar/sidecar.sock"


def test_the_watchdog_waits_longer_than_the_beat(installed: Path) -> None:
    """The service is notified of, and the watchdog misses several beats before it acts."""
    from sidecar.update.worker import BEAT_SECONDS

    service = unit(installed, "sidecar.service")["Service"]
    assert service["Type"] == "notify"
    assert 3 * BEAT_SECONDS <= int(service["WatchdogSec"]) <= 12 * BEAT_SECONDS


def test_no_number_of_failures_is_too_many(installed: Path) -> None:
    """However often the service dies it is started again: else the socket would be closed for good, too."""
    assert unit(installed, "sidecar.service")["Unit"]["StartLimitIntervalSec"] == "0"


def test_a_stop_leaves_the_run_its_helpers(installed: Path) -> None:
    """SIGTERM goes to the daemon alone, so the run under way ends well and its pokes get their answer."""
    assert unit(installed, "sidecar.service")["Service"]["KillMode"] == "mixed"


def test_no_capability_without_the_drop_in(installed: Path) -> None:
    """As shipped there is no capability; the drop-in gives the one to signal, and no other."""
    service = unit(installed, "sidecar.service")["Service"]
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ("", "")
    drop_in = (ROOT / "systemd" / "signal-other-user.conf").read_text()
    assert [line for line in drop_in.splitlines() if "apabilit" in line and "=" in line] == [
        "CapabilityBoundingSet=CAP_KILL",
        "AmbientCapabilities=CAP_KILL",
    ]


@needs_systemd
def test_users_and_folders_can_be_made(installed: Path) -> None:
    """`systemd-sysusers` and `systemd-tmpfiles` accept what they are given."""
    said = run("systemd-sysusers", "--dry-run", str(installed / "etc/sysusers.d/sidecar.conf"))
    assert "sidecar" in said
    for line in (installed / "etc/tmpfiles.d/sidecar.conf").read_text().splitlines():
        if not line.startswith("#"):
            assert len(line.split()) == 5, line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders for somebody else")
@needs_systemd
def test_the_folders_are_made(installed: Path) -> None:
    """The socket's folder is there before the socket, for the user who connects."""
    run("systemd-sysusers", f"--root={installed}")
    run("systemd-tmpfiles", f"--root={installed}", "--create")
    assert (installed / "run" / "sidecar").is_dir()
    assert (installed / "etc" / "sidecar").stat().st_mode & 0o777 == 0o750


def test_what_the_application_writes_to_can_be_written_to(installed: Path) -> None:
    """The application's commands run inside the service: its folders are open, log and storage too."""
    paths = unit(installed, "sidecar.service")["Service"]["ReadWritePaths"].split()
    assert {f"-/rails/{name}" for name in ("config", "db", "log", "public", "storage", "tmp")} <= set(paths)


def test_strangers_connections_leave_files_for_the_work(installed: Path) -> None:
    """The service may open far more files than the connections that it accepts on TCP."""
    assert int(unit(installed, "sidecar.service")["Service"]["LimitNOFILE"]) >= 65536
