"""Runs `sidecar` as on a system that is not Linux: without Linux's own calls, constants and /proc.

python -m tests.support.elsewhere ARGUMENTS
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

LINUX_ONLY = {
    "os": (
        *(
            "pidfd_open",
            "memfd_create",
            "eventfd",
            "copy_file_range",
            "splice",
            "getrandom",
            "setns",
            "unshare",
        ),
        *("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "posix_fadvise", "posix_fallocate"),
        *("O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME", "getxattr", "setxattr", "listxattr", "setresuid"),
        *("sync_file_range", "getresuid", "getresgid", "setresgid", "P_PIDFD", "fdatasync"),
    ),
    "signal": ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX", "SIGPWR"),
    "time": ("CLOCK_BOOTTIME", "CLOCK_TAI"),
    "socket": ("SO_PEERCRED", "SCM_CREDENTIALS", "AF_NETLINK", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_VSOCK"),
    "fcntl": ("F_OFD_SETLK", "F_ADD_SEALS", "F_SETPIPE_SZ"),
    "resource": ("prlimit", "RLIMIT_OFILE"),
}


def _no_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.listdir", "os.scandir", "ctypes.dlopen") or not arguments:
        return
    name = arguments[0]
    if event == "ctypes.dlopen":
        if name and str(name).startswith("libc.so"):
            raise OSError(f"there is no {name}")
    elif isinstance(name, (str, bytes)) and _is_of_linux(os.fsdecode(name)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _is_of_linux(path: str) -> bool:
    """Whether no other system has it; the tests' own folders may lie in memory, too."""
    return path.startswith(("/proc/", "/sys/", "/dev/shm")) and "/pytest-of-" not in path


def main() -> int:
    """Run the command line."""
    for module, names in LINUX_ONLY.items():
        # The C modules too: the standard library asks those as well.
        for place in (module, {"os": "posix", "signal": "_signal", "socket": "_socket"}.get(module, module)):
            loaded = importlib.import_module(place)
            for name in names:
                if hasattr(loaded, name):
                    delattr(loaded, name)
    sys.addaudithook(_no_proc)
    command = importlib.import_module("sidecar.cli").main
    status: int = command()
    return status


if __name__ == "__main__":
    sys.exit(main())
