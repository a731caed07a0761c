"""A real NATS server on loopback, for as long as a test wants it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import free_port

COMMAND = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")


class NatsServer:
    """With JetStream, its files below `folder`."""

    def __init__(self, folder: Path, user: str = "", password: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._login = f"{user}:{password}@" if user else ""
        self._options = ["--user", user, "--pass", password] if user else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self._login}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and come back when it answers."""
        assert COMMAND is not None
        self.folder.mkdir(exist_ok=True)
        where = ["--addr", "127.0.0.1", "--port", str(self.port), "--log", str(self.folder / "nats.log")]
        command = [COMMAND, *where, "--jetstream", "--store_dir", str(self.folder), *self._options]
        self._process = subprocess.Popen(command)  # noqa: ASYNC220 - a server, which is not waited for
        async with asyncio.timeout(20):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def freeze(self) -> None:
        """Let it fall silent, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def nats_server(folder: Path) -> Iterator[NatsServer]:
    """A server that is not started yet, and is stopped at the end."""
    if COMMAND is None:
        pytest.skip("nats-server is not installed (Debian's package nats-server)")
    server = NatsServer(folder)
    yield server
    server.stop()
