"""The stand-in for Navigator with what only tests need, and a helper that starts it or the real one.

    python tests/support/navigator.py CONFIG --pid-file FILE [OPTION...]

Its options make it slow, or deaf to reloads; --help names them. What it does is in sidecar/demo/navigator.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import yaml

from sidecar.demo import navigator
from sidecar.demo.navigator import die_with_parent, load_config, log


class KeptUsers(navigator.Users):
    """Users who stay as they were read last while a file exists: then htpasswd cannot be read."""

    def __init__(self, path: Path, keep: Path) -> None:
        self.keep = keep
        super().__init__(str(path))

    def read(self) -> None:
        if self.keep.exists():
            raise PermissionError(f"{self.keep} is there")
        super().read()


class Obstructed(navigator.StandIn):
    """A Navigator whose reloads and applications take as long as the options say."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options.config, options.pid_file)
        self.options = options

    async def reload(self, path: str) -> None:
        if self.options.ignore_reloads and self.options.ignore_reloads.exists():
            log("WARN", "Reload ignored")
            return
        if (refused := self.options.refuse) and refused in await asyncio.to_thread(Path(path).read_text):
            log("ERROR", "Failed to reload configuration", error=f"{refused!r} is refused")
            return
        await super().reload(path)

    def load_users(self) -> navigator.Users | None:
        users, keep = super().load_users(), self.options.keep_users
        return users and (KeptUsers(users.path, keep) if keep else users)

    async def take(self, config: Any) -> None:
        if hasattr(self, "config"):  # a reload, not the start
            await asyncio.sleep(self.options.reload_delay)
            await self.hold("reload")
        await super().take(config)

    async def start_application(self, prefix: str) -> None:
        await asyncio.sleep(self.options.tenant_boot)
        await self.hold("tenant")
        await super().start_application(prefix)

    async def hold(self, what: str) -> None:
        folder = self.options.hold
        for pause in polls(lambda: not (folder and (folder / what).exists()), 600):
            await asyncio.sleep(pause)


def main() -> None:
    parser = navigator.arguments()
    parser.add_argument("--ignore-reloads", type=Path, help="while this file exists, reloads are not done")
    parser.add_argument("--refuse", metavar="TEXT", help="a reload of a configuration with this is not done")
    parser.add_argument("--keep-users", type=Path, help="while this file exists, htpasswd cannot be read")
    parser.add_argument("--reload-delay", type=float, default=0, help="seconds from reading to the load time")
    parser.add_argument("--tenant-boot", type=float, default=0, help="seconds until an application is up")
    parser.add_argument(
        "--hold", type=Path, metavar="FOLDER", help="while FOLDER/reload exists, a reload stops between "
        "reading and the load time; while FOLDER/tenant exists, no application gets up",
    )  # fmt: skip
    options = parser.parse_args()
    navigator.run(lambda: Obstructed(options))


PORTS = itertools.cycle(22000 + os.getpid() % 500 * 20 + i for i in range(20))


def free_port() -> int:
    """A free port of this process's own twenty: not another test run's, nor one that clients are given."""
    return next(port for port in PORTS if not listens(port))


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def polls(condition: Callable[[], object], limit: float) -> Iterator[float]:
    """Pauses to make until a condition holds; TimeoutError when that takes longer than the limit."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} does not hold after {limit} s")
        yield 0.01


def wait_until(condition: Callable[[], object], limit: float = 10) -> None:
    for pause in polls(condition, limit):
        time.sleep(pause)


class NavigatorProcess:
    """A Navigator for a test: the stand-in, or the program that NAVIGATOR_BIN in the environment names.

    `with NavigatorProcess().start(config, folder) as navigator: ...`, or `start_async` and `stop_async`.
    """

    process: subprocess.Popen[bytes]
    port = 3000

    def __init__(self, *options: str, program: str | None = os.environ.get("NAVIGATOR_BIN")) -> None:
        assert not (options and program), "the real Navigator has no options for tests"
        self.options, self.program = options, program
        self.lock: int | None = None

    def start(self, config: str | Path, cwd: Path, **env: str) -> Self:
        """Start it in a folder and wait until it listens; env is added to this process's environment.

        RuntimeError when it ends instead; its exit status is in `status`.
        """
        for pause in self._starting(config, cwd, env):
            time.sleep(pause)
        return self

    async def start_async(self, config: str | Path, cwd: Path, **env: str) -> Self:
        for pause in self._starting(config, cwd, env):
            await asyncio.sleep(pause)
        return self

    def launch(self, config: str | Path, cwd: Path, **env: str) -> Self:
        """Start it and do not wait until it listens: it may never, or not for long."""
        for pause in self._launching(config, cwd, env):
            time.sleep(pause)
        return self

    def stop(self) -> int:
        """End it in order, by force when that takes too long; its exit status."""
        for pause in self._stopping():
            time.sleep(pause)
        return self.process.returncode

    async def stop_async(self) -> int:
        for pause in self._stopping():
            await asyncio.sleep(pause)
        return self.process.returncode

    def signal(self, number: int = signal.SIGHUP) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, -9 and the like after a signal; None while it lives."""
        return self.process.poll()

    @property
    def lines(self) -> list[str]:
        """What it has logged, its hooks' output included."""
        return self.log_file.read_text(errors="replace").splitlines()

    def logged(self, text: str) -> int:
        """In how many of its log lines a text occurs."""
        return sum(text in line for line in self.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _starting(self, config: str | Path, cwd: Path, env: dict[str, str]) -> Iterator[float]:
        yield from self._launching(config, cwd, env)
        yield from polls(self._listens, 20)

    def _launching(self, config: str | Path, cwd: Path, env: dict[str, str]) -> Iterator[float]:
        with contextlib.suppress(OSError, yaml.YAMLError):  # it is Navigator that has to die of such a file
            self.port = int(load_config(cwd / config).server.listen or 3000)
        self.url, self.log_file = f"http://127.0.0.1:{self.port}", cwd / f"navigator-{self.port}.log"
        self.pid_file = Path("/tmp/navigator.pid") if self.program else cwd / f"navigator-{self.port}.pid"
        command = [sys.executable, __file__, str(config), "--pid-file", str(self.pid_file), *self.options]
        if self.program:
            command = [self.program, str(config)]
        if self.program and self.lock is None:
            # All real ones share one pid file, so there is one at a time.
            self.lock = os.open(f"{self.pid_file}.lock", os.O_RDWR | os.O_CREAT)
            yield from polls(self._locked, 120)
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=os.environ | env, stdin=DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
            )  # fmt: skip

    def _stopping(self) -> Iterator[float]:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            yield from polls(lambda: self.process.poll() is not None, 35)
        finally:
            self.kill()

    def _locked(self) -> bool:
        assert self.lock is not None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            self.kill()
            raise RuntimeError(f"ended with {self.process.returncode}:\n" + "\n".join(self.lines[-20:]))
        return listens(self.port)


if __name__ == "__main__":
    main()
