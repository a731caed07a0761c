"""`sidecar demo`: a small fleet on this computer, to play with or telling its story by itself."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sidecar.cli.output import say, say_json
from sidecar.cli.parser import define, subcommand
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError

if TYPE_CHECKING:
    from sidecar.demo.prepare import DemoFleet, DemoMachine
    from sidecar.demo.processes import Processes
    from sidecar.demo.story import StoryEvent

_LOOK_SECONDS = 0.5
_MACHINES = range(1, 9)
_CHANGES = ("password", "event", "studio", "region", "bad")
_PROMETHEUS_PORT = 9090


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command, and the one below it."""
    define(parser, _demo, "sidecar demo --machines 5")
    parser.add_argument("--folder", default="demo", help="where everything goes (default %(default)s)")
    parser.add_argument(
        "--machines",
        type=int,
        choices=_MACHINES,
        default=3,
        metavar="1-8",
        help="how many machines, each in a region of its own (default %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=9292,
        help="TCP port of the first machine's page; the other pages follow, the web servers are 100 further "
        "on, and a free one replaces one that is taken (default %(default)s)",
    )
    parser.add_argument(
        "--monitoring",
        action="store_true",
        help="also start Prometheus, where it is installed, with the rules that are shipped",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="tell the whole story by itself, in a folder of its own: status 0 when all of it came true",
    )
    change = subcommand(
        parser.add_subparsers(metavar="COMMAND"),
        "change",
        _change,
        "change something in the store of a demo: `bad` is an index that every machine refuses",
        "sidecar demo change password",
    )
    change.add_argument("what", choices=_CHANGES, help="what to change")
    # Its own default would overrule what is named before `change`.
    change.add_argument("--folder", default=argparse.SUPPRESS, help="the demo's folder (default demo)")


def _demo(options: argparse.Namespace, settings: Settings) -> int:
    if options.once:
        return _once(options)
    from sidecar.demo.prepare import prepare
    from sidecar.demo.processes import running

    folder = Path(options.folder).resolve()
    with _interrupts(), _alone(folder):
        try:
            began = time.monotonic()
            fleet = prepare(folder, options.machines, options.port)
            if not options.json:
                for note in fleet.notes:
                    say(note)
                say(f"Starting {len(fleet.machines)} machines in {folder} ...")
            with running(fleet) as processes:
                url = _start_monitoring(fleet, processes) if options.monitoring else None
                if options.json:
                    say_json([_described(one, url) for one in fleet.machines])
                else:
                    _invite(fleet, time.monotonic() - began)
                    if options.monitoring:
                        _say_monitoring(url)
                while True:
                    processes.check()
                    time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            if not options.json:
                say("Ended; no process is left.")
    return 0


def _start_monitoring(fleet: DemoFleet, processes: Processes) -> str | None:
    """Start Prometheus; its address, or None where it is not installed."""
    from sidecar.demo.monitoring import PROGRAM, command
    from sidecar.demo.prepare import free_port

    if shutil.which(PROGRAM) is None:
        return None
    port = free_port(_PROMETHEUS_PORT)
    processes.start_prometheus(command(fleet, port), fleet.folder)
    return f"http://127.0.0.1:{port}/"


def _say_monitoring(url: str | None) -> None:
    from sidecar.demo.monitoring import advice
    from sidecar.system.shipped import shipped

    say("")
    if url is None:
        say(advice())
        return
    say(f"Prometheus: {url}alerts has the alerts, {url}graph answers questions.")
    say(f"For Grafana add {url} as a data source, and import {_shown(shipped('dashboard.json'))}.")


def _once(options: argparse.Namespace) -> int:
    from sidecar.demo.prepare import prepare
    from sidecar.demo.story import tell

    told: list[StoryEvent] = []

    def listen(event: StoryEvent) -> None:
        told.append(event)
        if not options.json:
            say(f"{event.seconds:5.1f} s  {event.sentence}")

    folder = Path(tempfile.mkdtemp(prefix="sidecar-demo-"))
    keep = False
    try:
        with _interrupts():
            tell(prepare(folder, options.machines, options.port), listen)
    except SidecarError:
        keep = True
        say(f"sidecar: the machines' folders, with their logs, are kept in {folder}", file=sys.stderr)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)
    if options.json:
        say_json(told)
    else:
        say("All of it came true.")
    return 0


def _change(options: argparse.Namespace, settings: Settings) -> int:
    from sidecar.demo.changes import change
    from sidecar.demo.prepare import existing

    fleet = existing(Path(options.folder).resolve())
    done = change(fleet, options.what)
    if options.json:
        say_json(done)
        return 0
    say(done.what)
    for command, expected in done.tries:
        say(f"  {command}   # {expected}")
    say("To bring it to the machines, update the fleet:")
    _say_update(fleet)
    return 0


def _invite(fleet: DemoFleet, seconds: float) -> None:
    """What there is, and what to try."""
    from sidecar.demo.changes import password_of
    from sidecar.demo.prepare import STUDIO_USER
    from sidecar.demo.sample import DEMO_PASSWORD, DEMO_USER

    first = fleet.machines[0]
    say(f"All of them have loaded what they published, {seconds:.0f} s after the start.")
    say("")
    say(f"The operators' pages: sign in as {DEMO_USER}, with the password {DEMO_PASSWORD}.")
    for one in fleet.machines:
        say(f"  {one.name}   page {one.page_url}   web server {one.site_url}")
    say("")
    say("Sign in as a studio's user:")
    say(f"  curl --user {STUDIO_USER}:{password_of(fleet.index)} {first.site_url}")
    say("")
    say("In another terminal, change something and watch:")
    named = "" if fleet.folder == Path("demo").resolve() else f" --folder {_shown(fleet.folder)}"
    for what in _CHANGES:
        say(f"  {_command()} demo change {what}{named}")
    say("")
    say("Then update the fleet:")
    _say_update(fleet)
    say("")
    say(f"Logs: sidecar.log and navigator.log in {_shown(first.folder)} and beside it.")
    say("Ctrl-C ends everything; the folder is kept.")


def _say_update(fleet: DemoFleet) -> None:
    first = fleet.machines[0]
    say(f'  "Update the fleet" on {first.page_url}, or')
    say(f"  {_command()} --config {_shown(first.config)} fleet update")


def _described(machine: DemoMachine, prometheus: str | None) -> dict[str, str | None]:
    return {
        "prometheus": prometheus,
        "name": machine.name,
        "page": machine.page_url,
        "site": machine.site_url,
        "config": str(machine.config),
    }


def _command() -> str:
    """This command, as it can be called from this folder."""
    here = Path(sys.argv[0])
    return "sidecar" if shutil.which("sidecar") == str(here.absolute()) else _shown(here)


def _shown(path: Path) -> str:
    """A path as it is shortest to write from this folder."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


@contextmanager
def _interrupts() -> Iterator[None]:
    """A request to end, and a terminal that goes away, count as Ctrl-C does; that counts from any parent."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # A job in the background of a script is started with Ctrl-C ignored.
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.signal(number, interrupt) for number in ends}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; `SettingsError` while another demo runs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"a demo runs in {folder} already", "end it with Ctrl-C, or name another folder by --folder"
            ) from None
        yield
