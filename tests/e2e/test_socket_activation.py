"""Sockets that the service manager passes: used in place of the own ones, and left for the next daemon."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.client import Client
from sidecar.system import systemd
from tests.support.cgi import SIDECAR, environment, run_cgi, signed
from tests.support.machine import Machine, until

# Does what systemd does between fork and exec: descriptors from 3 on, and variables that name this process.
LAUNCHER = """
import os, sys
count, program = int(sys.argv[1]), sys.argv[2:]
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "sidecar.socket"}
os.execv(program[0], program)
"""
DEAD = 1 << 22


@contextmanager
def held(machine: Machine, *, tcp: bool = False) -> Iterator[list[socket.socket]]:
    """The sockets of sidecar.socket, as systemd holds them: listening before any daemon is there."""
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as other:
        unix.bind(str(machine.socket))
        unix.listen(1024)
        if tcp:
            other.bind(("127.0.0.1", 0))
            other.listen()
        yield [unix, other] if tcp else [unix]


@asynccontextmanager
async def activated(machine: Machine, sockets: list[socket.socket]) -> AsyncIterator[Process]:
    """The installed daemon, started with these sockets, from when it answers."""
    passed = range(3, 3 + len(sockets))
    # Copies out of the way of the numbers that they shall have in the child.
    copies = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) for one in sockets]

    def place() -> None:
        for descriptor, copy in zip(passed, copies, strict=True):
            os.dup2(copy, descriptor)

    command = [SIDECAR, "--config", str(machine.write_settings()), "serve"]
    with (machine.folder / "serve.log").open("ab") as log:
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCHER, str(len(sockets)), *map(str, command)),
            env=environment(),
            stderr=log,
            close_fds=False,
            preexec_fn=place,
        )
    for copy in copies:
        os.close(copy)
    try:
        client = Client(str(machine.socket), timeout=20)
        await asyncio.to_thread(client.wait_for_daemon, 20)
        yield daemon
    finally:
        await end(daemon)


async def stop(daemon: Process) -> None:
    daemon.terminate()
    async with asyncio.timeout(20):
        assert await daemon.wait() == 0


async def end(daemon: Process) -> None:
    if daemon.returncode is None:
        daemon.kill()
        await daemon.wait()


def status(machine: Machine) -> dict[str, Any]:
    answer: dict[str, Any] = Client(str(machine.socket), timeout=20).request("GET", "/status")[1]
    return answer


async def test_passed_sockets_replace_the_own_ones(machine: Machine) -> None:
    """The daemon answers on the Unix and the TCP socket that were passed, and no other."""
    machine.put_index()
    with held(machine, tcp=True) as sockets:
        async with activated(machine, sockets) as daemon:
            assert (await run_cgi(machine.socket)).status == 200
            port = sockets[1].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            log = (machine.folder / "serve.log").read_text()
            assert f"{machine.socket} and http://127.0.0.1:{port}" in log
            await stop(daemon)
        assert machine.socket.is_socket(), "the socket belongs to systemd and stays"


async def test_pokes_during_a_restart_wait_and_are_answered(machine: Machine) -> None:
    """A poke that comes while no daemon runs waits in the socket, and the next daemon publishes for it."""
    machine.put_index()
    with held(machine) as sockets:
        async with activated(machine, sockets) as daemon:
            assert (await run_cgi(machine.socket)).status == 200
            await stop(daemon)
        pokes = [asyncio.create_task(run_cgi(machine.socket)) for _ in range(5)]
        machine.put_index(seed=2)
        async with activated(machine, sockets):
            for answer in await asyncio.gather(*pokes):
                assert (answer.status, answer.code) == (200, 0), answer.body
            assert status(machine)["generation"]["current"] == 2


async def test_no_poke_is_turned_away_around_a_stop(machine: Machine) -> None:
    """Through a stop and a start every poke without a body is answered: by this daemon or the next one."""
    machine.put_index()
    with held(machine) as sockets:
        async with activated(machine, sockets) as daemon:
            pokes = [asyncio.create_task(run_cgi(machine.socket)) for _ in range(4)]
            await stop(daemon)
            pokes += [asyncio.create_task(run_cgi(machine.socket)) for _ in range(4)]
        async with activated(machine, sockets):
            answers = await asyncio.gather(*pokes)
    assert [answer.status for answer in answers] == [200] * 8, [answer.body for answer in answers]


async def test_a_signed_poke_is_not_sent_twice(machine: Machine) -> None:
    """Its signature counts once, so the forwarder passes on that the daemon is stopping."""
    requests: list[bytes] = []

    async def stopping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        text = b"The sidecar is stopping.\n"
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        writer.close()

    async with await asyncio.start_unix_server(stopping, machine.socket):
        answer = await run_cgi(machine.socket, headers=signed())
        assert (answer.status, len(requests)) == (503, 1)
        answer = await run_cgi(machine.socket, b"body")
        assert (answer.status, len(requests)) == (503, 2)
        answer = await run_cgi(machine.socket)
        assert answer.status == 503
        assert 4 < len(requests) < 12, "asked a few times more, and no more than that"


async def test_a_poke_outlives_several_daemons(machine: Machine) -> None:
    """Daemon after daemon stops, or dies without an answer: a poke without a body meets the next one."""
    stopping = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 25\r\n\r\nThe sidecar is stopping.\n"
    answers = [b"", stopping, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n"]

    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    async with await asyncio.start_unix_server(dying, machine.socket):
        answer = await run_cgi(machine.socket, length="")
    assert (answer.status, answer.body) == (200, "done\n")


async def test_systemds_own_tool_passes_the_same(machine: Machine) -> None:
    """`systemd-socket-activate` starts the daemon at the first poke, which is answered."""
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("systemd-socket-activate is not installed (Debian package systemd)")
    machine.put_index()
    command = [tool, "--listen", str(machine.socket), str(SIDECAR), "--config", str(machine.write_settings())]
    daemon = await asyncio.create_subprocess_exec(*command, "serve", env=environment(), stderr=DEVNULL)
    try:
        await until(machine.socket.is_socket)
        assert (await run_cgi(machine.socket)).status == 200
        await stop(daemon)
        assert machine.socket.is_socket()
    finally:
        await end(daemon)


@pytest.mark.parametrize(("meant_for", "count"), [("", ""), (str(DEAD), "1"), ("me", ""), ("me", "x")])
def test_variables_for_somebody_else_are_ignored(
    meant_for: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a count, or with another process's id, nothing was passed; the variables go all the same."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if meant_for == "me" else meant_for)
    monkeypatch.setenv("LISTEN_FDS", count)
    assert systemd.listening_sockets() == []
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & os.environ.keys()


def test_commands_inherit_neither_variables_nor_descriptors(tmp_path: Path) -> None:
    """What the daemon starts finds no trace of the sockets."""
    script = """
import os, socket, subprocess, sys
from sidecar.system import systemd
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
[passed] = systemd.listening_sockets()
assert passed.fileno() == 3 and passed.family == socket.AF_UNIX
look = "import os; print([n for n in os.environ if n[:6] == 'LISTEN'], os.path.exists('/proc/self/fd/3'))"
subprocess.run([sys.executable, "-c", look], check=True, close_fds=False)
passed.close()
"""
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "s"))
        bound.listen()
        copy = os.dup2(bound.fileno(), 100)
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            close_fds=False,
            preexec_fn=lambda: os.dup2(100, 3),
            check=False,
        )
        os.close(copy)
    assert (done.stdout, done.stderr) == ("[] False\n", "")
