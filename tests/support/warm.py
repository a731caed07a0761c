"""The installed command in a process of its own, forked from one that has imported the package already.

    process = start(["status", "--json"], environ, stdin=0, stdout=1, stderr=2)
    status = await process.wait()

A command's interpreter spends most of its time on imports, which such a process need not do again. All else
is its own, but the command line in /proc and the seed of hashes. A test of what is before `main`, or of the
imports, starts the command itself.

    python -m tests.support.warm DESCRIPTOR

is the one that forks: each message on that socket is a command to start, and comes with its standard streams
and a socket on which its process id is told, and how it has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import sidecar
from sidecar.cli import main
from sidecar.demo.navigator import die_with_parent

_MOST_BYTES = 1 << 17
_START_S = 60


class Process:
    """A started command. It is used as `subprocess.Popen`, but is waited for in an event loop."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._status: int | None = None
        told.settimeout(_START_S)
        self.pid = int(told.recv(_MOST_BYTES))
        told.setblocking(False)

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative after a signal; None while it runs."""
        if self._status is None:
            with contextlib.suppress(BlockingIOError):
                self._end(self._told.recv(_MOST_BYTES))
        return self._status

    async def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        while (status := self.returncode) is None:
            self._end(await asyncio.get_running_loop().sock_recv(self._told, _MOST_BYTES))
        return status

    def wait_blocking(self, seconds: float) -> int:
        """The same without an event loop; TimeoutError when it takes longer."""
        deadline = time.monotonic() + seconds
        while (status := self.returncode) is None:
            if not select.select([self._told], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"process {self.pid} has not ended after {seconds:g} s")
        return status

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self, told: bytes) -> None:
        # Without a word the one that forks is gone, and with it all that it has started.
        self._status = int(told or -signal.SIGKILL)
        self._told.close()


def start(
    arguments: Sequence[str], environ: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
) -> Process:
    """Start `sidecar` with these arguments, environment and descriptors, in the current folder."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    job = json.dumps([list(arguments), dict(environ), str(Path.cwd())]).encode()
    with its:
        socket.send_fds(_server(), [job], [its.fileno(), stdin, stdout, stderr])
    return Process(mine)


@functools.cache
def _server() -> socket.socket:
    """The connection to the one that forks, which is started with the first command."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        # -P: a package that is installed comes before the sources in this folder.
        command = [sys.executable, "-P", "-m", __name__, str(its.fileno())]
        server = subprocess.Popen(command, pass_fds=[its.fileno()])

    @atexit.register
    def stop() -> None:
        mine.close()
        server.wait(_START_S)

    return mine


def _serve(jobs: socket.socket) -> None:
    """Start what is asked for, and tell how it ends, until nobody can ask any more."""
    running: dict[int, tuple[int, int]] = {}  # by pidfd: process id, socket
    with select.epoll() as waiting:
        waiting.register(jobs, select.EPOLLIN)
        while True:
            for ready, _ in waiting.poll():
                if ready in running:
                    pid, told = running.pop(ready)
                    _, status = os.waitpid(pid, 0)
                    _tell(told, os.waitstatus_to_exitcode(status))
                    os.close(told)
                    os.close(ready)
                    continue
                job, descriptors, _, _ = socket.recv_fds(jobs, _MOST_BYTES, 4)
                if not job:
                    return
                told, *streams = descriptors
                if (pid := os.fork()) == 0:
                    for number, descriptor in enumerate(streams):
                        os.dup2(descriptor, number)
                    os.closerange(3, max(*streams, told, *running) + 1)
                    _run(*json.loads(job))
                for descriptor in streams:
                    os.close(descriptor)
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid, told
                waiting.register(pidfd, select.EPOLLIN)
                _tell(told, pid)


def _tell(told: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(told, str(number).encode())


def _run(arguments: list[str], environ: dict[str, str], folder: str) -> NoReturn:
    """In the new process: be the command, and end without taking apart what was imported."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["sidecar", *arguments]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    status: object = 1
    try:
        status = main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the connection
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if module.name != "sidecar.__main__":
            importlib.import_module(module.name)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
