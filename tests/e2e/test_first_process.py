"""The installed command as process 1 of a container that has no other one, in a PID namespace of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.cli.client import Client, NoDaemon
from tests.support.cgi import SIDECAR, environment
from tests.support.machine import Machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace everywhere"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is missing"),
]
_BOUND_SECONDS = 30.0
# One that ends with the command, and one that leaves its group and ends a little later.
ORPHANS = ["sh", "-c", "sleep 60 & setsid sleep 0.2 & true"]


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_ended(pid: int) -> bool:
    """Whether it has ended, and nobody has taken that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False


@contextmanager
def first_process(machine: Machine, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command as process 1, with its number out here; `unshare` ends as it does."""
    command = [SIDECAR, "--config", machine.write_settings(), *words]
    started = subprocess.Popen(
        ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", *map(str, command)],
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: children(started.pid))
        yield started, children(started.pid)[0]
    finally:
        started.kill()
        started.wait()


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + _BOUND_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_orphans_are_taken(machine: Machine) -> None:
    """Whatever a command leaves behind ends without a trace, and an end by a signal is an orderly one."""
    machine.extra["update"] = {"check_command": ORPHANS}
    machine.put_index()
    client = Client(str(machine.socket), timeout=_BOUND_SECONDS)

    def published() -> bool:
        try:
            return bool(client.request("GET", "/status")[1]["generation"]["current"] == 1)
        except NoDaemon:
            return False

    with first_process(machine, "serve") as (started, first):
        wait_for(published)
        wait_for(lambda: len(children(first)) == 1)  # the daemon; its checker is that one's child
        (daemon,) = children(first)
        assert not any(is_ended(pid) for pid in children(daemon))
        os.kill(first, signal.SIGTERM)
        assert started.wait(_BOUND_SECONDS) == 0


def test_a_signal_before_the_daemon_listens_counts(machine: Machine) -> None:
    """Whoever stops a container that is just starting need not wait for its time limit."""
    with first_process(machine, "serve") as (started, first):
        wait_for(lambda: children(first))
        os.kill(first, signal.SIGTERM)
        assert started.wait(_BOUND_SECONDS) in (0, 128 + signal.SIGTERM)


@pytest.mark.parametrize(("words", "status"), [(("config",), 0), (("status",), 1), (("no-such-command",), 2)])
def test_the_exit_status_is_the_commands(machine: Machine, words: tuple[str, ...], status: int) -> None:
    """A container that runs one command ends as that does."""
    with first_process(machine, *words) as (started, _):
        assert started.wait(_BOUND_SECONDS) == status
