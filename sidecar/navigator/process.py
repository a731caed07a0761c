"""Navigator's process: found by its pid file, and signalled."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path

from sidecar.errors import SidecarError
from sidecar.model.navigator import Process
from sidecar.system.privileges import denying

_MAX_PID_BYTES = 32
_DOCUMENTS = (".yml", ".yaml")
_READS_ALL = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, capabilities(7)
_ACL = "system.posix_acl_access"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class NavigatorError(SidecarError):
    """Navigator could not be signalled, or does not answer as it should."""

    code = "navigator"
    status = 502


def may_read(path: Path, user: int, groups: Set[int]) -> bool:
    """Whether a user in these groups, by their numbers, may read a file, as owners and modes say.

    Where there is a list of more (an ACL), that is not known, and taken for granted.
    """
    return all(_ACL in _attributes(node) for node in denying(path, stat.S_IROTH, user, groups))


def _attributes(path: Path) -> list[str]:
    if sys.platform != "linux":
        return []
    try:
        return os.listxattr(path)
    except OSError:
        return []  # this kind of file system has none


def _user(pid: int) -> int | None:
    """The user that a process acts as; None where that cannot be seen."""
    try:
        return int(_status(pid)["Uid"][1])
    except (OSError, ValueError, LookupError):
        return None


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.split() for name, _, text in (line.partition(":") for line in lines)}


class NavigatorProcess:
    """Finds the process by its pid file, and signals it.

    The file may be stale and its number taken over, and it may lie where anyone may write: one of a user who
    is neither root nor this process's counts for that user's own processes.
    """

    def __init__(self, pid_file: Path, names: Sequence[str]) -> None:
        self._pid_file = pid_file
        self._names = tuple(names)
        self._boot = ""
        with suppress(OSError):
            self._boot = _BOOT.read_text().strip()

    def find(self) -> Process | None:
        """The live Navigator of this machine, or None."""
        try:
            return self._examine(self._pid())
        except (OSError, ValueError):
            return None

    def hidden(self) -> str | None:
        """In a sentence: that the process lives, but that this one may not see it; None when it is not so."""
        try:
            pid = self._pid()
        except (OSError, ValueError):
            return None
        try:
            os.kill(pid, 0)
        except PermissionError:
            if not Path(f"/proc/{pid}").exists():
                return (
                    f"process {pid} in {self._pid_file} lives, but is hidden from the sidecar: if it is "
                    "Navigator, the sidecar needs ProtectProc=default, as in signal-other-user.conf"
                )
        except OSError:
            pass
        return None

    def unreadable(self, path: Path) -> str | None:
        """In a sentence: that the live Navigator may not read a file, by owners and modes; None else."""
        process = self.find()
        if process is None:
            return None
        try:
            known = _status(process.pid)
            user, groups = int(known["Uid"][-1]), {int(one) for one in (known["Gid"][-1], *known["Groups"])}
            if int(known["CapEff"][0], 16) & _READS_ALL or may_read(path, user, groups):
                return None
        except (OSError, ValueError, LookupError):
            return None  # whether it may is not known
        return (
            f"Navigator (process {process.pid}, user {user}) may not read {path}: it keeps the users that it "
            "had; see files.htpasswd_mode, files.owner and files.group"
        )

    def stamp(self) -> tuple[int, int] | None:
        """Time (ns since 1970) and inode of the pid file: every start of Navigator moves them."""
        try:
            found = self._pid_file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def reload(self) -> Process:
        """Send SIGHUP; `NavigatorError` when there is no live Navigator or it may not be signalled."""
        try:
            pid = self._pid()
            # The descriptor stands for this very process: its number cannot pass to another in between.
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError) as error:
            raise NavigatorError(
                f"{self._pid_file} names no live Navigator: {error}", "start Navigator"
            ) from None
        try:
            process = self._examine(pid)
            if process is None:
                raise NavigatorError(f"process {pid} in {self._pid_file} is not Navigator", "start Navigator")
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
            return process
        except PermissionError:
            raise NavigatorError(
                f"the sidecar may not signal Navigator (process {pid})",
                "run it as Navigator's user, or with CAP_KILL",
            ) from None
        except OSError as error:
            raise NavigatorError(f"Navigator (process {pid}) cannot be signalled: {error}") from None
        finally:
            os.close(descriptor)

    def _pid(self) -> int:
        """The number in the pid file, which lies where anyone may write: a pipe there must not block us."""
        descriptor = os.open(self._pid_file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode):
                raise ValueError("it is not a file")
            pid = int(os.read(descriptor, _MAX_PID_BYTES))
        finally:
            os.close(descriptor)
        if not 0 < pid < 1 << 31:
            raise ValueError(f"{pid} is no process id")
        if there.st_uid not in (0, os.geteuid()) and _user(pid) not in (None, there.st_uid):
            raise ValueError(f"user {there.st_uid} has written it, and process {pid} is another user's")
        return pid

    def _examine(self, pid: int) -> Process | None:
        """The process, when it is a program, or an interpreter of a script, of one of Navigator's names."""
        words = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        # An editor's first argument may be navigator.yml.
        if not any(Path(word).stem in self._names for word in words[:2] if not word.endswith(_DOCUMENTS)):
            return None
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        configuration = next((word for word in words[1:] if word.endswith(_DOCUMENTS)), "")
        return Process(pid, started, self._boot, configuration)
