"""What the daemon tells the service manager, and that its watchdog depends on real work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.machine import Machine


def notifications(listener: socket.socket, until: str) -> list[str]:
    """The lines received, up to one that begins with `until`, which comes within half a minute."""
    lines: list[str] = []
    deadline = time.monotonic() + 30
    while not any(line.startswith(until) for line in lines):
        assert time.monotonic() < deadline, lines
        lines += listener.recv(4096).decode().splitlines()
    return lines


def test_ready_status_watchdog_and_stopping(machine: Machine) -> None:
    """READY comes when the sockets listen, STATUS says what is in place, WATCHDOG beats, STOPPING ends it."""
    machine.put_index()
    address = machine.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(20)
        command = [
            str(Path(sys.executable).with_name("sidecar")),
            "--config",
            str(machine.write_settings()),
            "serve",
        ]
        daemon = subprocess.Popen(
            command, env={**os.environ, "NOTIFY_SOCKET": str(address)}, stderr=subprocess.DEVNULL
        )
        try:
            notifications(listener, "READY=1")
            assert machine.socket.is_socket()
            notifications(listener, "STATUS=synced, waiting, generation 1")
            notifications(listener, "WATCHDOG=1")
            daemon.send_signal(signal.SIGTERM)
            notifications(listener, "STOPPING=1")
            assert daemon.wait(10) == 0
        finally:
            daemon.kill()
            daemon.wait()
