"""Who this process is and what it passes on: root becomes whoever owns the files, and secrets stay here."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import struct
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from sidecar.errors import SidecarError

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 4, 8, 47, 4  # prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # capability.h
_CAP_KILL = 1 << 5


def denying(path: Path, wanted: int, user: int, groups: Set[int]) -> Iterator[Path]:
    """What keeps a user in these groups, by their numbers, from a file, as owners and modes say: root first.

    `wanted` is the permission on the file as it is for others, such as `stat.S_IROTH`. What more a list of
    permissions (an ACL) grants is not known here.
    """
    for part, needed in (*((folder, stat.S_IXOTH) for folder in reversed(path.parents)), (path, wanted)):
        there = part.stat()
        shift = 6 if there.st_uid == user else 3 if there.st_gid in groups else 0
        if not there.st_mode >> shift & needed:
            yield part


def become_owner(folder: Path) -> None:
    """As root: become the user and group that a folder belongs to, before anything is written there.

    What root made, the daemon could neither read nor replace. Of root's powers the one to signal Navigator
    stays. A folder that is not there, or root's own, changes nothing.
    """
    if os.geteuid() != 0:
        return
    try:
        there = folder.stat()
    except FileNotFoundError:
        return
    if there.st_uid == 0:
        return
    try:
        _become(there.st_uid, there.st_gid)
    except OSError as error:
        raise SidecarError(
            f"root cannot become user {there.st_uid}, who owns {folder}: {error.strerror}",
            "run the command as that user",
        ) from None


def _become(user: int, group: int) -> None:
    try:
        os.initgroups(pwd.getpwuid(user).pw_name, group)
    except KeyError:  # a number without a name has no groups
        os.setgroups([group])
    os.setregid(group, group)
    libc = ctypes.CDLL(None, use_errno=True)
    # Only on Linux root's powers can be had one by one.
    if divisible := hasattr(libc, "capset"):
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setreuid(user, user)
    if not divisible:
        return
    # Where even root has no CAP_KILL, the other one leaves nothing.
    for kept in (_CAP_KILL, 0):
        header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
        if libc.capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0)) == 0:
            return
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def guard_process() -> None:
    """Let no process of the same user read this one's environment or memory, and no child inherit its powers.

    To be called before the first thread is started.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc has its own ways
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
