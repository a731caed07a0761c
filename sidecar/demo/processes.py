"""The processes of the demo: a daemon and a web server a machine, started, watched, and ended for sure."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sidecar.demo.prepare import DemoFleet, DemoMachine
from sidecar.demo.visits import loaded, published
from sidecar.errors import SidecarError
from sidecar.model.record import Record

_LOOK_SECONDS = 0.05
_START_SECONDS = 60.0
_END_SECONDS = 8.0
_PR_SET_PDEATHSIG = 1
# What configures another sidecar, or tells a service manager of this process, is not for the demo's.
_NOT_PASSED = (
    *("SIDECAR_", "AWS_", "FLY_", "KAMAL_", "RAILS_", "NAVIGATOR_", "BUCKET_NAME", "STATE_DIRECTORY"),
    *("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"),
)
_STAND_IN = Path(__file__).with_name("navigator.py")


class DemoError(SidecarError):
    """The demo does not run, or something in it did not come true."""

    code = "demo"


class _Program(Record, frozen=True):
    what: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """All of them, each in a process group of its own, which end with this process, however it ends."""

    def __init__(self) -> None:
        self._programs: list[_Program] = []
        self._libc = ctypes.CDLL(None)  # loaded here: after a fork there is little that may be done

    def start_daemon(self, machine: DemoMachine) -> None:
        """`sidecar serve`; its log is in the machine's folder."""
        command = ["-m", "sidecar", "--config", str(machine.config), "serve"]
        self._start(f"the daemon of {machine.name}", command, machine.folder, "sidecar.log")

    def start_navigator(self, machine: DemoMachine) -> None:
        """The stand-in for Navigator; likewise."""
        # By its path: a process is known as Navigator by its program's name.
        command = [
            str(_STAND_IN),
            "config/navigator.yml",
            "--pid-file",
            str(machine.folder / "navigator.pid"),
        ]
        self._start(
            f"the web server of {machine.name}", command, machine.folder / "application", "../navigator.log"
        )

    def start_prometheus(self, command: Sequence[str], folder: Path) -> None:
        """Prometheus; its log is in the demo's folder."""
        self._start("Prometheus", command[1:], folder, "prometheus.log", command[0])

    def _start(
        self, what: str, arguments: Sequence[str], folder: Path, log: str, program: str = sys.executable
    ) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED)}
        path = (folder / log).resolve()
        with path.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                [program, *arguments],
                cwd=folder,
                env={**environ, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for this process alone, which ends them in order
                preexec_fn=self._end_with_parent,
            )
        self._programs.append(_Program(what, process, path))

    def _end_with_parent(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def check(self) -> None:
        """`DemoError` when one has ended by itself."""
        for one in self._programs:
            if (status := one.process.poll()) is not None:
                lines = one.log.read_text(errors="replace").splitlines()
                raise DemoError(
                    f"{one.what} has ended with status {status}: {lines[-1] if lines else 'it said nothing'}",
                    f"its log is {one.log}",
                )

    def wait(self, condition: Callable[[], object], what: str, seconds: float = _START_SECONDS) -> None:
        """Return once the condition holds; `DemoError` when it does not in time, or a process ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: that did not come true in {seconds:g} s", "look at the logs")
            time.sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """Ask all of them to end, and see that none is left, nor what they started."""
        for one in self._programs:
            _signal(one, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        for one in self._programs:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, deadline - time.monotonic()))
        for one in self._programs:
            _signal(one, signal.SIGKILL)
            one.process.wait()


def _signal(one: _Program, number: signal.Signals) -> None:
    """To the whole group: the process, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, number)


@contextmanager
def running(fleet: DemoFleet) -> Iterator[Processes]:
    """The fleet's daemons and web servers, each machine on what it published; all ended on leaving."""
    processes = Processes()
    try:
        for machine in fleet.machines:
            processes.start_daemon(machine)
        for machine in fleet.machines:
            processes.wait(partial(published, machine), f"{machine.name} publishes what it serves")
            processes.start_navigator(machine)
        for machine in fleet.machines:
            processes.wait(partial(loaded, machine), f"{machine.name} loads what was published")
        yield processes
    finally:
        kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        processes.end()
        for number, handler in kept.items():
            signal.signal(number, handler)
