"""What is shipped for Fly: the configuration fits together, and the first process does what it promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.client import Client, NoDaemon
from sidecar.config.parse import parse
from sidecar.inputs.profiles import load_profile
from tests.conftest import ROOT
from tests.support import navigator
from tests.support.cgi import BIN, environment
from tests.support.machine import Machine

FLY = ROOT / "fly"
ENVIRON = {
    "FLY_APP_NAME": "showcase",
    "FLY_REGION": "iad",
    "FLY_MACHINE_ID": "148e21",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


def fly_toml() -> dict[str, Any]:
    return tomllib.loads((FLY / "fly.toml").read_text())


def test_the_two_files_agree() -> None:
    """fly.toml's ports, folders and variables are those of the sidecar's settings; Navigator's check fits."""
    toml = fly_toml()
    document = yaml.safe_load((FLY / "sidecar.yml").read_text())
    settings = parse(document, {**ENVIRON, **toml["env"]}, "fly/sidecar.yml")
    assert settings.profile == "fly"
    assert settings.store == f"s3://{toml['env']['BUCKET_NAME']}"
    assert toml["metrics"] == {"port": settings.listen.port, "path": "/metrics", "processes": ["app"]}
    assert settings.listen.host == "fly-local-6pn"
    [mount] = toml["mounts"]
    for path in (settings.paths.databases, settings.paths.storage, settings.paths.state):
        assert path.startswith(mount["destination"] + "/")
    assert toml["env"]["RAILS_DB_VOLUME"] == settings.paths.databases
    assert toml["env"]["RAILS_STORAGE"] == settings.paths.storage
    assert toml["http_service"]["internal_port"] == settings.navigator.port
    profile = load_profile("fly").data
    [check] = toml["http_service"]["checks"]
    for part in ("navigator", "maintenance"):
        assert check["path"] == profile[part]["server"]["health_check"]["path"]
    assert set(settings.administrators) == set(), "secrets and names are not in the file"


def test_the_same_settings_serve_kamal() -> None:
    """Without a key to a store index and databases are the machine's own, and its id is the host's."""
    document = yaml.safe_load((FLY / "sidecar.yml").read_text())
    environ = {"KAMAL_CONTAINER_NAME": "showcase-web-1f2e", "KAMAL_HOST": "192.0.2.1"}
    settings = parse(document, environ, "fly/sidecar.yml")
    assert (settings.profile, settings.machine.id, settings.update.own_index) == ("kamal", "192.0.2.1", True)
    assert settings.databases.owns == "all"
    bucket = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings = parse(document, {**environ, **bucket}, "fly/sidecar.yml")
    assert (settings.update.own_index, settings.databases.owns) == (False, "region")


def test_hooks_go_through_the_sidecar() -> None:
    """Booting and waking up run the sidecar, which waits for a daemon that is starting, and only fetches."""
    profile = load_profile("fly").data
    [boot] = profile["maintenance"]["hooks"]["server"]["ready"]
    [resume] = profile["navigator"]["hooks"]["server"]["resume"]
    for hook, trigger in ((boot, "boot"), (resume, "resume")):
        assert hook["command"] == "{{command}}"
        assert hook["args"][:5] == ["update", "--wait", "published", "--trigger", trigger]
        assert "--patience" in hook["args"]
        assert hook["reload_config"] == "{{reload_config}}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="setpriv is not installed (Debian package util-linux)"
)
def test_the_sidecar_gets_one_power_of_root() -> None:
    """The options of setpriv in the script are understood: another user, CAP_KILL, and nothing else ever."""
    text = (FLY / "start.sh").read_text().replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.lstrip().startswith("setpriv")]
    options = (
        line.replace("setpriv", "")
        .replace('"$user"', "daemon")
        .replace('"$group"', "daemon")
        .replace('"$@"', "")
        .split()
    )
    done = subprocess.run(
        ["setpriv", *options, "cat", "/proc/self/status"], capture_output=True, text=True, check=True
    )
    facts = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"] == "1"
    assert set(facts["Uid"].split()) == {"1"}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[name], 16) == 1 << 5, name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_the_tenants_cannot_write_what_tells_root_what_to_run(tmp_path: Path) -> None:
    """Neither navigator.yml's folder, nor the state's, nor one above; also where all was theirs before."""
    application, data, demo = (tmp_path / name for name in ("rails", "data", "demo"))
    tenants = pwd.getpwnam("daemon")
    for folder in (application / "config", data / "sidecar", data / "db", demo, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (data / "storage").symlink_to(application / "config")
    for name in ("navigator", "sidecar"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    for path in (application / "config", *data.rglob("*"), data):
        os.lchown(path, tenants.pw_uid, tenants.pw_gid)
    environ = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "APPLICATION": str(application),
        "DATA": str(data),
        "DEMO": str(demo),
        "RUN": str(tmp_path / "run"),
        "RUN_AS": "bin",
        "TENANTS": "daemon",
    }
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(
            [FLY / "start.sh"], env=environ, stdout=log, stderr=log, start_new_session=True
        )
        status = first.wait(30)
        os.killpg(first.pid, signal.SIGKILL)  # what starts the sidecar again and again
    assert status == 0, (tmp_path / "log").read_text()

    def may_write(path: Path) -> bool:
        there = path.stat()
        shift = 6 if there.st_uid == tenants.pw_uid else 3 if there.st_gid == tenants.pw_gid else 0
        return bool(there.st_mode >> shift & stat.S_IWOTH)

    closed = (
        application,
        application / "config",
        application / "public",
        data,
        data / "sidecar",
        tmp_path / "run",
    )
    assert [path for path in closed if may_write(path)] == []
    opened = (data / "db", data / "storage", data / "log", application / "log", application / "tmp")
    assert [path for path in opened if not may_write(path)] == []
    assert stat.S_IMODE((data / "sidecar").stat().st_mode) == 0o700


@asynccontextmanager
async def booted(machine: Machine, port: int) -> AsyncIterator[Process]:
    """The machine's first process, with the stand-in where Navigator would be."""
    programs = machine.folder / "bin"
    programs.mkdir()
    pid_file = machine.folder / "navigator.pid"
    script = programs / "navigator"
    script.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{navigator.__file__}" "$1" --pid-file "{pid_file}"\n'
    )
    script.chmod(0o755)
    (programs / "sidecar").symlink_to(BIN / "sidecar")
    config = machine.write_settings()
    maintenance = subprocess.run(  # noqa: ASYNC221 - before anything else runs
        [BIN / "sidecar", "--config", config, "config", "--maintenance"], capture_output=True, check=True
    ).stdout
    machine.target("navigator-maintenance.yml").write_bytes(maintenance)
    environ = environment(
        PATH=f"{programs}:{os.environ['PATH']}",
        SIDECAR_CONFIG=str(config),
        CONFIG=str(config),
        APPLICATION=str(machine.application),
        DATA=str(machine.folder / "data"),
        DEMO=str(machine.folder / "demo"),
        RUN=str(machine.folder / "run"),
        RUN_AS="",
    )
    with (machine.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            FLY / "start.sh", env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        # Fly ends every process with the first one; here they are a group of their own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def status(machine: Machine, good: Any) -> dict[str, Any]:
    """The daemon's status, once it is as it should be."""
    client = Client(str(machine.socket), timeout=10)
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(NoDaemon):
                _, found = await asyncio.to_thread(client.request, "GET", "/status")
                if good(found):
                    return dict(found)
            await asyncio.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_fresh_machine_comes_up(tmp_path: Path) -> None:
    """From the maintenance page to the first generation by itself; a killed sidecar comes back."""
    port = navigator.free_port()
    machine = Machine(tmp_path, {"navigator": {"port": port, "pid_file": str(tmp_path / "navigator.pid")}})
    machine.put_index()
    async with booted(machine, port) as first:
        up = await status(machine, lambda found: found["generation"]["loaded"] == 1)
        assert up["navigator"]["state"] == "up"
        assert int((tmp_path / "navigator.pid").read_text()) == first.pid, "Navigator is the first process"
        [daemon] = [below for child in children(first.pid) for below in children(child)]
        os.kill(daemon, signal.SIGKILL)
        again = await status(machine, lambda found: found["started"] > up["started"])
        assert again["generation"]["current"] == 1
        assert first.returncode is None
