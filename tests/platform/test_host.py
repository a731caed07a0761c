"""A plain host: installed as docs/install.md says, with systemd as process 1, from the first boot on.

The page's own commands run, on a host that has the application's folders and user. The Debian package is the
one that `make deb` builds; it is upgraded, removed and purged here, too. Navigator is the stand-in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar.demo.sample import write_index
from tests.conftest import ROOT
from tests.support.container import ENVIRONMENT, Container, why_not
from tests.support.machine import SMALL

_REASON = why_not()
if _REASON is None and shutil.which("dpkg-deb") is None:
    _REASON = "dpkg-deb is not installed: this is not a Debian"
pytestmark = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")

PAGE = ROOT / "docs" / "install.md"
# What the container of the tests cannot do, and has from elsewhere.
DONE = ("make deb", "python3 -m venv", "/opt/sidecar/bin/pip")
NEWER = f"{sidecar.__version__}+1"
PREPARE = """
chroot . useradd --system --user-group --home-dir /rails rails
mkdir -p srv/store/db rails/public rails/db rails/log rails/storage data
chroot . install -d -o rails -g rails -m 0755 rails/tmp rails/log rails/storage rails/db
"""
NAVIGATOR = """
[Unit]
Wants=network-online.target
[Service]
WorkingDirectory=/rails
Environment=PYTHONPATH=/packages:/src
ExecStart=/usr/bin/python3 /src/tests/support/navigator.py /rails/config/navigator-maintenance.yml \
  --pid-file /tmp/navigator.pid
[Install]
WantedBy=multi-user.target
"""
POKE = (
    "env REQUEST_METHOD=POST SCRIPT_NAME=/showcase/update_config CONTENT_LENGTH=0 "
    "SIDECAR_SOCKET=/run/sidecar/sidecar.sock /opt/sidecar/bin/sidecar-cgi"
)
# Eight at a time poke, 25 times each at least, and until it is over; what each was answered comes out.
POKES = f"""
for client in 1 2 3 4 5 6 7 8; do
  (
    count=0
    until [ $count -ge 25 ] && [ -e /tmp/over ]; do
      {POKE} | head -1
      count=$((count + 1))
      sleep 0.2
    done
  ) &
done
wait
"""
BOUND = 40.0


class Host:
    """The host after its installation."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.run, self.shell = container.run, container.shell
        self._seed = 1

    def put_index(self) -> None:
        """Another index in the store."""
        self._seed += 1
        target = self.container.path("/srv/store/db/index.sqlite3")
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "index.sqlite3"
            write_index(made, SMALL, self._seed)
            incoming = target.with_name("incoming")
            incoming.write_bytes(made.read_bytes())
            incoming.replace(target)

    def status(self) -> dict[str, Any]:
        """The daemon's status; empty while it does not answer."""
        try:
            return dict(json.loads(self.run("sidecar", "status", "--json", check=False)))
        except ValueError:
            return {}

    def until(self, good: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The status, once it is as it should be."""
        deadline = time.monotonic() + BOUND
        while not ((found := self.status()) and good(found)):
            assert time.monotonic() < deadline, f"{json.dumps(found, indent=1)}\n{self.journal()}"
            time.sleep(0.1)
        return found

    def healthy(self) -> dict[str, Any]:
        return self.until(lambda found: (found["sync"]["state"], found["health"]["state"]) == GOOD)

    def journal(self, *options: str) -> str:
        return self.run("journalctl", "--unit=sidecar", "--output=cat", "--no-pager", "--lines=40", *options)

    def property(self, name: str, unit: str = "sidecar.service") -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def poke(self, user: str = "rails") -> subprocess.Popen[str]:
        """A poke through the forwarder, as Navigator's scripts run, on its way."""
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", *POKE.split()]
        return subprocess.Popen(
            self.container.command(*as_user), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )


GOOD = ("synced", "healthy")


def answer(poke: subprocess.Popen[str]) -> str:
    """The status line of a poke's answer."""
    return poke.communicate(timeout=BOUND)[0].partition("\n")[0].strip()


def blocks(section: str) -> list[tuple[str, str]]:
    """The fenced blocks of a section of the page: language and text."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## )", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def follow(host: Host, section: str) -> None:
    """Do what a section of the page says."""
    for language, block in blocks(section):
        if language == "yaml":
            # Pokes start a run every two seconds at most, as shipped: hundreds of them would take minutes.
            settings = block.replace("s3://showcase", "file:///srv/store")
            settings += "profile: local\ntrigger:\n  interval: 100ms\n"
            host.container.path("/etc/sidecar/sidecar.yml").write_text(settings)
            host.container.path("/etc/sidecar/environment").write_text("SIDECAR_MACHINE_ID=host1\n")
        else:
            lines = [line for line in block.splitlines() if not line.startswith(DONE)]
            host.shell("\n".join(lines))


@pytest.fixture(scope="module")
def package() -> Path:
    """The Debian package, as `make deb` builds it."""
    done = subprocess.run(["make", "--silent", "deb"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = (ROOT / "dist").glob("navigator-sidecar_*.deb")
    return built


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package with a higher version, in its control file and in its code."""
    root = tmp_path_factory.mktemp("newer") / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True)
    for file in (
        root / "DEBIAN" / "control",
        *root.glob("opt/sidecar/lib/*/site-packages/sidecar/__init__.py"),
    ):
        file.write_text(file.read_text().replace(sidecar.__version__, NEWER, 1))
    built = root.with_name("newer.deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", root, built], check=True)
    return built


@pytest.fixture(scope="module")
def host(package: Path) -> Iterator[Host]:
    """Installed by the page, Navigator started: the first generation is loaded."""
    with Container(PREPARE, installed=False) as container:
        host = Host(container)
        host.put_index()
        follow(host, "A plain host with systemd")
        [(_, printed), (_, last)] = blocks("Navigator's side")
        assert printed.strip() == "sidecar config --maintenance"
        host.shell(f"{printed.strip()} > /rails/config/navigator-maintenance.yml")
        container.path("/etc/systemd/system/navigator.service").write_text(NAVIGATOR)
        host.shell("systemctl daemon-reload\nsystemctl enable --now navigator.service")
        host.healthy()
        host.shell(last)
        yield host


@pytest.fixture(autouse=True)
def _healthy(host: Host) -> Iterator[None]:
    """Every test leaves the host as it found it, else it has failed."""
    yield
    host.healthy()


def test_the_service_is_what_the_page_says(host: Host) -> None:
    """It runs as its own user, is rated as security.md says, and knows the file `environment`."""
    pid = host.property("MainPID")
    facts = dict(line.split(":\t", 1) for line in host.run("cat", f"/proc/{pid}/status").splitlines())
    uid = host.run("id", "--user", "sidecar").strip()
    assert set(facts["Uid"].split()) == {uid}
    assert int(facts["CapEff"], 16) == 1 << 5, "signal-other-user.conf"
    assert int(facts["CapAmb"], 16) == 0
    assert host.status()["machine"] == "host1"
    host.run("systemd-analyze", "security", "--threshold=19", "sidecar.service")
    host.run("mv", "/etc/systemd/system/sidecar.service.d/signal-other-user.conf", "/root")
    host.run("systemctl", "daemon-reload")
    host.run("systemd-analyze", "security", "--threshold=15", "sidecar.service")
    host.run("mv", "/root/signal-other-user.conf", "/etc/systemd/system/sidecar.service.d")
    host.run("systemctl", "daemon-reload")
    assert "synced, healthy, generation" in host.property("StatusText")


def test_tenants_read_and_do_not_write(host: Host) -> None:
    """Their user reads what is published, and may not write beside navigator.yml, nor to the state."""
    tenants = "setpriv --reuid rails --regid rails --init-groups"
    for folder in ("/rails/config", "/var/lib/sidecar", "/rails/public", "/data", "/etc/sidecar"):
        assert "denied" in host.run(*tenants.split(), "touch", f"{folder}/x", check=False), folder
    for file in (
        "/rails/config/navigator.yml",
        "/data/db/htpasswd",
        "/data/db/map.yml",
        "/rails/tmp/tenants.list",
    ):
        host.run(*tenants.split(), "cat", file)
    host.shell(f"{tenants} touch /data/db/x /rails/tmp/x && rm /data/db/x /rails/tmp/x")
    secret = host.run(*tenants.split(), "cat", "/etc/sidecar/environment", check=False)
    assert "denied" in secret


def test_a_change_is_loaded_by_signal(host: Host) -> None:
    """An operator's update is in force at once: another user's Navigator gets the SIGHUP."""
    host.put_index()
    before = host.status()["generation"]["loaded"]
    host.run("sidecar", "update", "--wait", "loaded")
    assert host.status()["generation"]["loaded"] > before


def test_a_database_comes_under_the_services_walls(host: Host) -> None:
    """The filter of system calls lets it be fetched and given to the tenants' group."""
    name = host.run("sh", "-c", "grep -o '20[0-9][0-9]-[a-z-]*' /rails/tmp/tenants.list | head -1").strip()
    assert name
    host.run("cp", "/srv/store/db/index.sqlite3", f"/srv/store/db/{name}.sqlite3")
    host.run("sidecar", "ready")
    there = host.run("stat", "--format=%U:%G %a", f"/data/db/{name}.sqlite3", "/data/db/index.sqlite3")
    assert there.splitlines() == ["sidecar:rails 660"] * 2


def test_a_poke_starts_a_stopped_service(host: Host) -> None:
    """systemd holds the socket; who may not open it is told so."""
    host.run("systemctl", "stop", "sidecar.service")
    assert host.property("ActiveState") == "inactive"
    assert answer(host.poke()) == "Status: 200 OK"
    assert host.property("ActiveState") == "active"
    assert answer(host.poke("daemon")) != "Status: 200 OK"


def test_no_poke_is_lost_around_restarts_and_an_upgrade(host: Host, newer: Path) -> None:
    """Of 200 pokes and more through three restarts, a kill and an upgrade every one is answered with 200."""
    shutil.copy(newer, host.container.path("/root/newer.deb"))
    settings = host.container.path("/etc/sidecar/sidecar.yml").read_text()
    as_tenant = ("setpriv", "--reuid", "rails", "--regid", "rails", "--init-groups", "sh", "-c", POKES)
    pokes = subprocess.Popen(host.container.command(*as_tenant), stdout=subprocess.PIPE, text=True)
    for action in ("restart", "restart", "kill --signal=KILL", "restart"):
        host.run("systemctl", *action.split(), "sidecar.service")
    host.run("dpkg", "--install", "/root/newer.deb", seconds=2 * BOUND)
    assert host.status()["version"] == NEWER
    host.run("touch", "/tmp/over")
    answers = pokes.communicate(timeout=2 * BOUND)[0].splitlines()
    assert len(answers) >= 200
    assert Counter(answers) == {"Status: 200 OK": len(answers)}
    assert host.container.path("/etc/sidecar/sidecar.yml").read_text() == settings


def test_removal_keeps_the_state_and_a_purge_does_not(host: Host, newer: Path) -> None:
    """After a removal nothing runs, and what is served stays; installed again, it goes on as before."""
    before = host.healthy()["generation"]["current"]
    shutil.copy(newer, host.container.path("/root/newer.deb"))
    host.run("dpkg", "--remove", "navigator-sidecar")
    left = ("/etc/sidecar/sidecar.yml", "/etc/sidecar/environment", "/var/lib/sidecar/salt.key")
    gone = ("/opt/sidecar", "/usr/bin/sidecar", "/usr/bin/sidecar-cgi")
    assert all(host.container.path(path).exists() for path in left)
    assert not any(os.path.lexists(host.container.path(path)) for path in gone)
    for unit in ("sidecar.service", "sidecar.socket"):
        assert host.property("LoadState", unit) == "not-found"
    assert host.run("pgrep", "--full", "sidecar serve", check=False) == ""
    host.run("dpkg", "--install", "/root/newer.deb")
    assert host.property("ActiveState") == "inactive", "it starts nothing by itself"
    host.run("systemctl", "enable", "--now", "sidecar.socket", "sidecar.service")
    assert host.healthy()["generation"]["current"] == before

    host.run("dpkg", "--purge", "navigator-sidecar")
    for path in (*gone, "/etc/sidecar", "/var/lib/sidecar", "/run/sidecar"):
        assert not os.path.lexists(host.container.path(path)), path
    assert "sidecar" not in host.run("sh", "-c", "ls /etc/systemd/system/*.wants")
    for path in ("/rails/config/navigator.yml", "/data/db/index.sqlite3"):
        assert host.container.path(path).exists(), "Navigator goes on with what was published"
    follow(host, "A plain host with systemd")
    assert host.healthy()["generation"]["current"] == 1


def test_a_mistake_is_survived_as_long_as_it_lasts(host: Host) -> None:
    """After more failed starts than systemd's usual limit the poke that waits is answered all the same."""
    settings = host.container.path("/etc/sidecar/sidecar.yml")
    good = settings.read_text()
    settings.write_text(good + "nonsense: 1\n")
    host.run("systemctl", "restart", "sidecar.service", check=False)
    poke = host.poke()
    deadline = time.monotonic() + BOUND
    while int(host.property("NRestarts")) < 7:
        assert time.monotonic() < deadline, host.journal()
        time.sleep(0.2)
    assert host.property("ActiveState", "sidecar.socket") == "active"
    settings.write_text(good)
    assert answer(poke) == "Status: 200 OK"
    assert "nonsense" in host.journal("--priority=err"), "the journal knows which lines are errors"


def test_root_by_hand_breaks_nothing(host: Host) -> None:
    """`update --once` as root leaves files that the service can read and replace."""
    host.run("systemctl", "stop", "sidecar.socket", "sidecar.service")
    host.put_index()
    host.run("sidecar", "update", "--once")
    host.run("systemctl", "start", "sidecar.socket", "sidecar.service")
    host.healthy()
    folders = ["/var/lib/sidecar", "/data/db", "/rails/config/navigator.yml"]
    strangers = host.run(
        "find", *folders, "-path", "*/loaded/*", "-prune", "-o", "!", "-user", "sidecar", "-print"
    )
    assert strangers == ""
    host.put_index()
    host.run("sidecar", "update", "--wait", "loaded")


def test_a_folder_that_is_missing_is_named(host: Host) -> None:
    """What the service may not write to is in its status, though root could write there."""
    host.run("systemctl", "stop", "sidecar.service")
    host.run("mv", "/rails/tmp", "/rails/tmp.away")
    host.run("systemctl", "start", "sidecar.service")
    found = host.until(lambda status: status["problems"])
    assert any("/rails/tmp" in problem for problem in found["problems"])
    assert "/rails/tmp" in host.run("sidecar", "doctor", check=False)
    host.run("mv", "/rails/tmp.away", "/rails/tmp")
    host.run("systemctl", "restart", "sidecar.service")


def test_after_a_reboot_it_is_all_there(host: Host) -> None:
    """Power off and on: all comes back by itself, and the same generation is served."""
    before = host.healthy()["generation"]["current"]
    host.container.reboot()
    assert host.healthy()["generation"]["current"] == before


def test_without_the_package(host: Host) -> None:
    """The page's other way, after the package is gone, leads to the same."""
    host.run("dpkg", "--remove", "navigator-sidecar")
    host.shell(ENVIRONMENT)
    follow(host, "Without the package")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "sidecar.socket", "sidecar.service")
    assert host.healthy()["version"] == sidecar.__version__
    assert host.container.path("/usr/local/bin/sidecar").is_symlink()
