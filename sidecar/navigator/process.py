"""Navigator as seen from outside: its process, its markers, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from watchfiles import Change, awatch

from sidecar.config.settings import Probe
from sidecar.errors import SidecarError

# How long watchfiles gathers changes, in milliseconds: short, because somebody waits for them.
_STEP = 10
_DEBOUNCE = 50


class NavigatorError(SidecarError):
    """Navigator could not be signalled, or does not answer as it should."""

    code = "navigator"
    status = 502


@dataclass(frozen=True, slots=True)
class Process:
    """A running Navigator: its id, and its start in clock ticks since boot, which no other process shares."""

    pid: int
    started: int


class NavigatorProcess:
    """Finds the process by its pid file, which may be stale and its number taken over, and signals it."""

    def __init__(self, pid_file: Path, names: Sequence[str]) -> None:
        self._pid_file = pid_file
        self._names = tuple(names)

    def find(self) -> Process | None:
        """The live Navigator of this machine, or None."""
        try:
            pid = int(self._pid_file.read_text())
            return Process(pid, self._started(pid)) if pid > 0 and self._is_navigator(pid) else None
        except (OSError, ValueError):
            return None

    def reload(self) -> Process:
        """Send SIGHUP; `NavigatorError` when there is no live Navigator or it may not be signalled."""
        try:
            pid = int(self._pid_file.read_text())
            # The descriptor stands for this very process: its number cannot pass to another in between.
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError) as error:
            raise NavigatorError(
                f"{self._pid_file} names no live Navigator: {error}", "start Navigator"
            ) from None
        try:
            if not self._is_navigator(pid):
                raise NavigatorError(f"process {pid} in {self._pid_file} is not Navigator", "start Navigator")
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
            return Process(pid, self._started(pid))
        except PermissionError:
            raise NavigatorError(
                f"the sidecar may not signal Navigator (process {pid})",
                "run it as Navigator's user, or with CAP_KILL",
            ) from None
        except OSError as error:
            raise NavigatorError(f"Navigator (process {pid}) cannot be signalled: {error}") from None
        finally:
            os.close(descriptor)

    def _is_navigator(self, pid: int) -> bool:
        """Whether the process is a program, or an interpreter of a script, of one of Navigator's names."""
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
        return any(Path(os.fsdecode(word)).stem in self._names for word in words if word)

    def _started(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class Markers:
    """The files that Navigator's first ready hook touches, named after the set that it has loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def touched(self, fingerprint: str) -> float | None:
        """When the marker of a set was touched last, in seconds since 1970; None when it is not there."""
        try:
            return (self._folder / fingerprint).stat().st_mtime
        except OSError:
            return None

    def clear(self, fingerprint: str) -> None:
        """Remove a set's marker, so that the next one proves a new load, and all that are long past."""
        with suppress(OSError):
            old = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-20]
            for path in (*old, self._folder / fingerprint):
                path.unlink(missing_ok=True)

    async def changes(self, pause: float) -> AsyncGenerator[None, None]:
        """Something happened to the markers, or `pause` seconds went by: in any case look again."""
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            async for _ in awatch(
                self._folder,
                watch_filter=_any_change,
                debounce=_DEBOUNCE,
                step=_STEP,
                rust_timeout=int(pause * 1000),
                yield_on_timeout=True,
                recursive=False,
            ):
                yield
                if not self._folder.exists():
                    break  # a folder that was removed and made again is not watched any more


def _any_change(change: Change, path: str) -> bool:
    return True


class Probes:
    """Requests through Navigator that tell whether what was loaded works."""

    def __init__(self, port: int, probes: Sequence[Probe]) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._probes = tuple(probes)

    async def run(self) -> None:
        """Make every probe; `NavigatorError` names the first that fails."""
        if not self._probes:
            return
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            for probe in self._probes:
                await self._one(session, probe)

    async def _one(self, session: aiohttp.ClientSession, probe: Probe) -> None:
        url = probe.url if probe.url.startswith("http") else self._base + probe.url
        login = base64.b64encode(f"{probe.user}:{probe.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"} if probe.user else None
        try:
            async with asyncio.timeout(probe.timeout):
                async with session.get(url, headers=headers, allow_redirects=False) as answer:
                    status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NavigatorError(
                f"the probe of {url} failed: {str(error) or 'no answer in time'}", code="probe"
            ) from None
        if status != probe.status:
            raise NavigatorError(
                f"the probe of {url} answered {status} instead of {probe.status}", code="probe"
            )
