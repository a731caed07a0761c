"""The demo's folder: a small fleet's configurations, the office's own index, and a folder as store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import yaml

from sidecar.config.parse import parse
from sidecar.config.settings import Settings
from sidecar.demo.sample import (
    DEMO_PASSWORD,
    DEMO_USER,
    htpasswd_line,
    set_password,
    write_events,
    write_index,
)
from sidecar.errors import SettingsError
from sidecar.model.record import Record

REGIONS = ("iad", "lhr", "syd", "nrt", "fra", "ord", "dfw", "lax")
"""Where the machines stand, in the order in which they are taken."""

STUDIO_USER = "user0007"
PASSWORDS = ("waltz", "tango")
"""The password of the studio's user at first, and after a change; then the first again."""

# Known to everyone, on this computer's loopback only. The salt is fixed: the same file is written each time.
_SECRET = "a-secret-for-the-demo-only"  # noqa: S105
_SALT = b"$2b$04$" + b"sidecardemo".ljust(22, b".")
_WEB_PORT_OFFSET = 100  # how far a machine's web port is from its page's
_MAX_SOCKET_BYTES = 107
_HEAD = "# Written by `sidecar demo`, which leaves it alone once you have edited it.\n"


class DemoMachine(Record, frozen=True):
    """A machine of the demo: its region, which is its name too, its folder, and its ports on loopback."""

    name: str
    folder: Path
    page: int
    web: int

    @property
    def config(self) -> Path:
        """Its sidecar.yml."""
        return self.folder / "sidecar.yml"

    @property
    def page_url(self) -> str:
        """The operators' page."""
        return f"http://127.0.0.1:{self.page}/"

    @property
    def site_url(self) -> str:
        """What its web server serves."""
        return f"http://127.0.0.1:{self.web}/showcase/"


class DemoFleet(Record, frozen=True):
    """The demo: its folder, its machines, and what is worth saying of both, in sentences."""

    folder: Path
    machines: tuple[DemoMachine, ...]
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> Path:
        """The office's own index, which the changes go into first."""
        return self.folder / "index.sqlite3"

    @property
    def stored(self) -> Path:
        """The index in the store."""
        return self.folder / "store" / "db" / "index.sqlite3"

    def store(self, index: Path) -> str:
        """Put an index into the store, in one step; its SHA-256 in hexadecimal."""
        incoming = self.stored.with_name("incoming")
        shutil.copyfile(index, incoming)
        incoming.replace(self.stored)
        return self.digest()

    def digest(self) -> str:
        """The SHA-256 of the index in the store, in hexadecimal."""
        return hashlib.sha256(self.stored.read_bytes()).hexdigest()


class _Remembered(Record, frozen=True):
    """The machines of the last run, and the SHA-256 of each configuration as it was written."""

    machines: tuple[DemoMachine, ...] = ()
    written: dict[str, str] = msgspec.field(default_factory=dict)


def prepare(folder: Path, count: int, port: int) -> DemoFleet:
    """Make or complete the folder for so many machines; what is there is kept, edited configurations too.

    `port` is the first machine's page; the others follow, and the web servers 100 further on. A port that is
    taken is replaced by a free one.
    """
    remembered = _remembered(folder)
    notes: list[str] = []
    edited: dict[str, Settings] = {}
    for name in REGIONS[:count]:
        file = folder / name / "sidecar.yml"
        if len(os.fsencode(file.with_name("sidecar.sock"))) > _MAX_SOCKET_BYTES:
            raise SettingsError(
                f"{folder} is too long a path for sockets",
                "name a shorter one by --folder, or with --once by TMPDIR",
            )
        if file.exists() and remembered.written.get(name) != _digest(file):
            edited[name] = _read(file)
            notes.append(f"{file} was edited, and stays as it is.")
    taken = {number for one in edited.values() for number in (one.listen.port, one.navigator.port)}
    machines = []
    for place, name in enumerate(REGIONS[:count]):
        if own := edited.get(name):
            page, web = own.listen.port, own.navigator.port
            for key, number in (("listen.port", page), ("navigator.port", web)):
                if not _free(number):
                    raise SettingsError(
                        f"port {number} is taken, and {folder / name / 'sidecar.yml'} asks for it",
                        f"end what listens there, or change {key} in that file, or remove the file",
                    )
        else:
            page = _port(port + place, f"the page of {name}", taken, notes)
            web = _port(port + place + _WEB_PORT_OFFSET, f"the web server of {name}", taken, notes)
        machines.append(DemoMachine(name, folder / name, page, web))
    fleet = DemoFleet(folder, tuple(machines), tuple(notes))
    _write_data(fleet)
    written = {
        one.name: _write_configuration(fleet, one)
        if one.name not in edited
        else remembered.written.get(one.name, "")
        for one in machines
    }
    (folder / "fleet.json").write_bytes(
        msgspec.json.encode(_Remembered(fleet.machines, written), enc_hook=str)
    )
    return fleet


def free_port(usual: int) -> int:
    """This port of loopback, or a free one where it is taken."""
    return _port(usual, "", set(), [])


def existing(folder: Path) -> DemoFleet:
    """The demo that was started in the folder; `SettingsError` where there is none."""
    fleet = DemoFleet(folder, _remembered(folder).machines)
    if not fleet.machines or not fleet.index.exists():
        raise SettingsError(
            f"there is no demo in {folder}", "start it with `sidecar demo`, or name its folder by --folder"
        )
    return fleet


def _remembered(folder: Path) -> _Remembered:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(
            (folder / "fleet.json").read_bytes(), type=_Remembered, dec_hook=lambda kind, text: kind(text)
        )
    return _Remembered()


def _read(file: Path) -> Settings:
    try:
        return parse(yaml.safe_load(file.read_bytes()), {}, str(file))
    except (OSError, yaml.YAMLError) as error:
        sentence = " ".join(str(error).split())
        raise SettingsError(
            f"{file}: {sentence}", "correct it, or remove it and it is written anew"
        ) from None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _port(usual: int, what: str, taken: set[int], notes: list[str]) -> int:
    """The usual port, or a free one, and a note of that; it counts as taken from now on."""
    port = usual
    while port in taken or not _free(port):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    if port != usual:
        notes.append(f"Port {usual} is taken, so {what} is on {port}.")
    taken.add(port)
    return port


def _write_data(fleet: DemoFleet) -> None:
    """The indexes, the event databases, and what each machine knows of the deployment."""
    fleet.stored.parent.mkdir(parents=True, exist_ok=True)
    if not fleet.index.exists():
        incoming = fleet.index.with_name("incoming")
        incoming.unlink(missing_ok=True)
        write_index(incoming)
        set_password(incoming, STUDIO_USER, htpasswd_line(STUDIO_USER, PASSWORDS[0]))
        incoming.replace(fleet.index)
    if not fleet.stored.exists():
        fleet.store(fleet.index)
    write_events(fleet.index, fleet.stored.parent)
    regions = [one.name for one in fleet.machines]
    deployed = json.dumps({"ProcessGroupRegions": [{"Name": "app", "Regions": regions}]})
    for one in fleet.machines:
        for part in ("db", "config", "tmp", "storage", "public"):
            (one.folder / "application" / part).mkdir(parents=True, exist_ok=True)
        (one.folder / "application" / "tmp" / "deployed.json").write_text(deployed)


def _write_configuration(fleet: DemoFleet, machine: DemoMachine) -> str:
    """Write a machine's sidecar.yml; its SHA-256 in hexadecimal."""
    folder = machine.folder
    settings: dict[str, Any] = {
        "store": f"file://{fleet.folder}/store",
        "profile": "local",
        "administrators": {DEMO_USER: bcrypt.hashpw(DEMO_PASSWORD.encode(), _SALT).decode()},
        "machine": {"id": machine.name, "region": machine.name},
        "paths": {"application": f"{folder}/application", "state": f"{folder}/state"},
        "listen": {"socket": f"{folder}/sidecar.sock", "port": machine.page},
        "navigator": {"port": machine.web, "pid_file": f"{folder}/navigator.pid"},
        "trigger": {"secret": _SECRET},
        # The URLs lead to the web servers, not to the daemons: a poke comes in as everybody's request does.
        "fleet": {
            "machines": [
                {"id": one.name, "url": f"http://127.0.0.1:{one.web}", "region": one.name}
                for one in fleet.machines
            ]
        },
        "logging": {"format": "text"},
    }
    machine.config.write_text(_HEAD + yaml.safe_dump(settings, sort_keys=False))
    return _digest(machine.config)
