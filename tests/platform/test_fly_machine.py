"""A Fly machine with its real users: `fly/start.sh` as root, `fly/sidecar.yml` and the profile as shipped.

The lines of `fly/Dockerfile.part` that make the user run on the image's folders. The volume is one from
before: it belongs to the tenants' user, the state folder too. Navigator is the stand-in, and runs as root.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.sample import write_index
from tests.conftest import ROOT
from tests.support.container import Container, why_not
from tests.support.machine import SMALL

_REASON = why_not()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")

PART = (ROOT / "fly" / "Dockerfile.part").read_text().replace("\\\n", " ")
[MADE] = re.findall(r"^RUN (useradd .*)$", PART, re.MULTILINE)
[MAINTENANCE] = re.findall(r"^RUN (FLY_APP_NAME.*)$", PART.replace(" > ", "  > "), re.MULTILINE)
PREPARE = f"""
chroot . useradd --system --user-group --home-dir /rails rails
mkdir -p etc/sidecar srv/store/db srv/store/views/event rails/config rails/bin rails/script rails/public
mkdir -p rails/app/views/event rails/db
echo "the image's" | tee rails/app/views/event/_usmap.html.erb > rails/app/views/event/_map.html.erb
echo drawn | tee srv/store/views/event/_usmap.html.erb > srv/store/views/event/_map.html.erb
echo "the image's" > rails/db/showcases.yml
chroot . chown -R rails:rails /rails/db
cp "$2/fly/sidecar.yml" etc/sidecar/
program() {{ printf '%s\\n' '#!/bin/sh' "$2" > "$1" && chmod 0755 "$1"; }}
program usr/local/bin/navigator \\
  'exec /opt/sidecar/bin/python /src/tests/support/navigator.py "$1" --pid-file /tmp/navigator.pid'
program usr/local/bin/ruby 'shift; for one; do [ -s "$one" ] || echo made > "$one"; done'
program rails/bin/rails true
program rails/bin/bundle \\
  'date > db/showcases.yml && mkdir -p public/studios && id -un > public/studios/index.html &&
    env > /data/db/env'
for hook in navigator_start navigator_idle app_idle; do program rails/script/hook_$hook.sh true; done
echo image > rails/public/index.html
cat > made <<'END'
cd /rails
PATH=/opt/sidecar/bin:$PATH
{MADE}
{MAINTENANCE}
END
mount --bind "$2" src
mount --bind "$3" packages
chroot . sh -eu /made
umount src packages
mkdir -p data/db data/sidecar/generations
touch data/db/2020-old.sqlite3 data/sidecar/history.db
python3 -c 'import sqlite3; sqlite3.connect("data/db/index.sqlite3").execute("create table users (password)")'
chmod 0644 data/db/index.sqlite3
ln -s /rails/config data/storage
chroot . chown -R rails:rails /data
"""
ENVIRON = {
    "PATH": "/opt/sidecar/bin:/usr/local/bin:/usr/bin:/bin",
    "FLY_APP_NAME": "showcase",
    "FLY_REGION": "iad",
    "FLY_MACHINE_ID": "148e21",
    "FLY_API_TOKEN": "a-token-of-the-machine",
    "SIDECAR_TRIGGER_SECRET": "a-secret-of-the-fleet",
    # There is no bucket, and no private network.
    "SIDECAR_STORE": "file:///srv/store",
    "SIDECAR_LISTEN_HOST": "127.0.0.1",
}
AS_TENANT = ("setpriv", "--reuid", "rails", "--regid", "rails", "--init-groups")
OWNED = ("/data", "/data/sidecar", "/data/db", "/rails/config")
WRITE = """
import sqlite3
sqlite3.connect("/data/db/index.sqlite3").executescript("create table t (x); drop table t")
"""
BOUND = 40.0


class Fly:
    """The machine while it is on."""

    def __init__(self, container: Container) -> None:
        self.run, self.shell, self.path = container.run, container.shell, container.path

    def put_index(self, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "index.sqlite3"
            write_index(made, SMALL, seed)
            incoming = self.path("/srv/store/db/incoming")
            incoming.write_bytes(made.read_bytes())
            incoming.rename(incoming.with_name("index.sqlite3"))

    def boot(self) -> None:
        variables = [f"--setenv={name}={value}" for name, value in ENVIRON.items()]
        self.run("systemd-run", "--quiet", "--unit=machine", *variables, "/src/fly/start.sh")

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.run("/opt/sidecar/bin/sidecar", "status", "--json", check=False)))
        except ValueError:
            return {}

    def healthy(self, number: int) -> dict[str, Any]:
        """The status, once this generation is served and its ready work has ended."""
        deadline = time.monotonic() + BOUND
        while True:
            found = self.status()
            ready = found and found["ready"]
            if (
                found
                and (found["health"]["state"], found["generation"]["loaded"]) == ("healthy", number)
                and ready["generation"] == number
                and ready["state"] not in ("running", "waiting")
            ):
                return found
            said = self.run("journalctl", "--unit=machine", "--output=cat", "--lines=30")
            assert time.monotonic() < deadline, f"{json.dumps(found, indent=1)}\n{said}"
            time.sleep(0.1)

    def may(self, script: str) -> bool:
        """Whether the tenants' user can do something."""
        done = self.run(*AS_TENANT, "sh", "-c", f"{script} && echo done", check=False)
        return done.strip().endswith("done")


@pytest.fixture(scope="module")
def fly() -> Iterator[Fly]:
    """The machine after its first boot, with generation 1 loaded."""
    with Container(PREPARE) as container:
        fly = Fly(container)
        fly.put_index(1)
        fly.boot()
        yield fly


def test_it_comes_up_as_a_user_of_its_own(fly: Fly) -> None:
    """Navigator is root, the sidecar is not; the volume is put right; the ready work is done by it."""
    found = fly.healthy(1)
    assert (found["problems"], found["sync"]["state"]) == ([], "synced")
    pids = fly.run("pgrep", "--full", "sidecar .*serve").split()
    assert {fly.run("stat", "--format=%U", f"/proc/{pid}/task").strip() for pid in pids} <= {
        "sidecar",
        "root",
    }
    assert "sidecar" in fly.run("ps", "-o", "user=", "-p", ",".join(pids))
    owners = fly.run("stat", "--format=%U:%G %a %n", *OWNED)
    assert owners.splitlines() == [
        "root:root 755 /data",
        "sidecar:rails 700 /data/sidecar",
        "sidecar:rails 2775 /data/db",
        "sidecar:rails 755 /rails/config",
    ]
    assert fly.run("find", "/data/sidecar", "!", "-user", "sidecar", "!", "-path", "*/loaded/*") == ""
    assert fly.run("cat", "/rails/public/studios/index.html") == "sidecar\n"
    steps = {step["name"]: step["state"] for step in found["ready"]["steps"]}
    assert "failed" not in steps.values(), found["ready"]


def test_the_tenants_write_only_what_is_theirs(fly: Fly) -> None:
    """Nothing that tells what root runs: neither the file, nor the folder, nor one above it."""
    fly.healthy(1)
    for script in (
        "touch /rails/config/x",
        "echo >> /rails/config/navigator.yml",
        "mv /rails/config /rails/other",
        "mv /data/sidecar /data/other",
        "mkdir /data/x",
        "cat /data/sidecar/salt.key",
        "touch /rails/public/x",
        "touch /run/sidecar/x",
        "/opt/sidecar/bin/sidecar status",
    ):
        assert not fly.may(script), script
    for script in (
        "touch /data/db/x && rm /data/db/x",
        "touch /demo/db/x /demo/storage/demo/x /data/storage/x /data/log/x /rails/log/x /rails/tmp/x",
        "cat /data/db/htpasswd /data/db/map.yml /rails/tmp/tenants.list",
        f"/opt/sidecar/bin/python -c '{WRITE}'",
        "test -w /data/db/2020-old.sqlite3",
    ):
        assert fly.may(script), script


def test_the_demonstration_has_its_database(fly: Fly) -> None:
    """It is made where its tenant looks for it, for the tenants' user; the first publication misses none."""
    fly.healthy(1)
    there = fly.run("stat", "--format=%U:%G %a", "/demo/db/demo.sqlite3")
    assert there.strip() == "sidecar:rails 660"
    assert fly.may("test -w /demo/db/demo.sqlite3")
    assert not fly.path("/data/db/demo.sqlite3").exists()
    assert "no database yet" not in fly.run("journalctl", "--unit=machine", "--output=cat")


def test_what_the_ready_work_writes_in_the_image_it_may_write(fly: Fly) -> None:
    """The drawn maps among the application's views, and what rake leaves in its db; no other view changes."""
    fly.healthy(1)
    assert fly.run("cat", "/rails/app/views/event/_usmap.html.erb") == "drawn\n"
    assert fly.run("cat", "/rails/app/views/event/_map.html.erb") == "the image's\n"
    assert fly.run("cat", "/rails/db/showcases.yml") != "the image's\n"
    assert not fly.may("touch /rails/app/views/event/x")


def test_commands_get_no_secret(fly: Fly) -> None:
    """What the application's own commands see of the machine's environment."""
    fly.healthy(1)
    seen = fly.run("cat", "/data/db/env")
    assert "FLY_REGION=iad" in seen
    for name in ("SIDECAR_TRIGGER_SECRET", "FLY_API_TOKEN"):
        assert name not in seen
        assert ENVIRON[name] not in seen


def test_an_update_and_the_next_boot(fly: Fly) -> None:
    """A poke through Navigator's CGI is loaded; after a power cut the same set is served again."""
    fly.healthy(1)
    fly.put_index(2)
    fly.run("curl", "--fail", "--silent", "-X", "POST", "http://127.0.0.1:9999/showcase/update_config")
    fly.healthy(2)
    fly.run("systemctl", "kill", "--signal=KILL", "machine.service", check=False)
    fly.run("systemctl", "stop", "machine.service", check=False)
    fly.run("systemctl", "reset-failed", "machine.service", check=False)
    fly.path("/rails/config/navigator.yml").unlink()  # the image's files again
    fly.boot()
    fly.healthy(2)
