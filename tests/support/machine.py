"""One machine in a temporary folder: its configuration, its files, and a daemon in this process."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from sidecar.config.parse import parse
from sidecar.config.settings import Settings
from sidecar.daemon import Daemon
from sidecar.demo.sample import Size, write_index

SMALL = Size(events=40, studios=20, users=12)
SECRET = "a-secret-for-tests-only"
QUIET_START: dict[str, Any] = {"at_start": False}
"""`update` of a machine whose test counts runs or generations: they begin with the test's own."""


@dataclass
class Machine:
    """Folders and settings of one machine. The store is a folder unless `settings` say otherwise."""

    folder: Path
    extra: dict[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    _living: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for part in ("db", "config", "tmp"):
            (self.application / part).mkdir(parents=True, exist_ok=True)
        self.store_index.parent.mkdir(parents=True, exist_ok=True)

    @property
    def application(self) -> Path:
        return self.folder / "app"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        return self.folder / "s.sock"

    @property
    def store_index(self) -> Path:
        """The index in the store, when that is the folder."""
        return self.folder / "store" / "db" / "index.sqlite3"

    def target(self, name: str) -> Path:
        """Where an artifact, or index.sqlite3, is published."""
        folder = {"tenants.list": "tmp", "prerender.txt": "tmp"}.get(
            name, "config" if name.startswith("navigator") else "db"
        )
        return self.application / folder / name

    def targets(self) -> dict[str, bytes]:
        """Every published artifact that is there, by name."""
        return {
            path.name: path.read_bytes()
            for part in ("db", "config", "tmp")
            for path in sorted((self.application / part).iterdir())
            if path.is_file() and not path.name.startswith(("index.sqlite3", "."))
        }

    def document(self) -> dict[str, Any]:
        """The content of sidecar.yml."""
        document: dict[str, Any] = {
            "store": f"file://{self.folder}/store",
            "profile": "local",
            "paths": {"application": str(self.application), "state": str(self.state)},
            "listen": {"socket": str(self.socket), "port": 0},
            "machine": {"id": "test-machine", "pool_size": 8},
            "navigator": {"pid_file": str(self.folder / "navigator.pid")},
            "trigger": {"secret": SECRET},
            "ready": {"lock": str(self.folder / "ready.lock")},
        }
        for key, value in self.extra.items():
            below = document.get(key)
            document[key] = {**below, **value} if isinstance(below, dict) else value
        return document

    def settings(self) -> Settings:
        return parse(self.document(), self.environ)

    def write_settings(self) -> Path:
        """sidecar.yml, for the installed command; one that is being started reads the old or the new one."""
        path = self.folder / "sidecar.yml"
        incoming = path.with_name(f"{path.name}.new")
        incoming.write_text(yaml.safe_dump(self.document()))
        incoming.replace(path)
        return path

    def put_index(self, size: Size = SMALL, seed: int = 1) -> Path:
        """A sample index in the folder store, in place of the one there."""
        incoming = self.store_index.with_name("incoming")
        incoming.unlink(missing_ok=True)
        write_index(incoming, size, seed)
        incoming.replace(self.store_index)
        return self.store_index

    def live(self) -> None:
        """Start a process that is named as Navigator is and does nothing; it ends with the daemon.

        What needs a web server takes `tests.support.navigator`.
        """
        if self._living is None:
            program = self.folder / "navigator"
            if not program.is_symlink():
                program.symlink_to("/bin/sleep")
            self._living = subprocess.Popen(["env", "--ignore-signal=HUP", str(program), "600"])
            (self.folder / "navigator.pid").write_text(str(self._living.pid))

    def load(self) -> None:
        """Do what Navigator does when it loads: it lives, and its first ready hook touches the marker."""
        self.live()
        configuration = yaml.safe_load(self.target("navigator.yml").read_bytes())
        (marker,) = configuration["hooks"]["server"]["ready"][0]["args"]
        Path(marker).touch()

    def die(self) -> None:
        """End what `live` started."""
        if self._living is not None:
            self._living.kill()
            self._living.wait()
            self._living = None

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Daemon]:
        """A running daemon in this process: real sockets, real files."""
        daemon = Daemon(self.settings())
        async with AsyncExitStack() as stack:
            stack.callback(self.die)
            await daemon.startup(stack)
            yield daemon

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """An HTTP client on the Unix socket; URLs begin with http://sidecar/."""
        connector = aiohttp.UnixConnector(str(self.socket))
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession("http://sidecar/", connector=connector, timeout=timeout) as session:
            yield session


async def started(daemon: Daemon) -> None:
    """Wait until the run of the daemon's start has ended: what a test does then comes after it."""
    await until(lambda: daemon.status.last is not None)


async def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait until a condition holds; fail the test when it does not within the time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are not events
            await asyncio.sleep(0.01)
