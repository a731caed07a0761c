"""What passes between systemd and the service: notifications one way, listening sockets the other.

Nothing here does anything where there is no systemd: a few variables of the environment tell.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_FIRST_DESCRIPTOR = 3


def notify(state: str) -> None:
    """Send a notification such as `READY=1` to the service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # The manager may be gone or busy: that is no reason to fail.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0.5)
        sender.connect(address)
        sender.sendall(state.encode())


def listening_sockets() -> list[socket.socket]:
    """The sockets that the service manager passed, which then belong to the caller; they are passed once.

    `LISTEN_PID` says for which process they are, `LISTEN_FDS` how many there are, from descriptor 3 on. The
    variables are removed and the descriptors closed on exec, so that no command inherits either.
    """
    meant_for, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if meant_for != str(os.getpid()) or not count.isdecimal():
        return []
    passed = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        passed.append(socket.socket(fileno=descriptor))
    return passed
