"""`sidecar fleet update` and `sidecar fleet status`: by themselves, without a daemon on this machine."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.cli.output import say, say_json
from sidecar.cli.parser import subcommand
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.model.record import Problem
from sidecar.system.privileges import become_owner

if TYPE_CHECKING:
    from sidecar.fleet.progress import Live, Records
    from sidecar.fleet.report import Report
    from sidecar.fleet.run import Updates, Wanted

_REFRESH = 0.1


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the commands below it."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    update = subcommand(
        commands,
        "update",
        _update,
        "bring all machines to the newest index, and see that they load it",
        "sidecar fleet update --only iad",
    )
    update.add_argument("--dry-run", action="store_true", help="only say what would be uploaded and poked")
    update.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="MACHINE|REGION",
        help="only machines with this id, name or region; may be repeated",
    )
    update.add_argument(
        "--quorum",
        type=_number,
        metavar="N",
        help="exit status 0 when at least N machines are done, not only when all are",
    )
    update.add_argument(
        "--wait",
        choices=["loaded", "ready"],
        default="loaded",
        help="until the web server has loaded it, or the background work is done too (default %(default)s)",
    )
    source = update.add_mutually_exclusive_group()
    source.add_argument(
        "--index",
        metavar="FILE",
        help="the index to upload (default: the machine's own where update.own_index is set, else none)",
    )
    source.add_argument(
        "--no-upload",
        action="store_true",
        help="poke with what the store holds, and run no commands before or after it",
    )
    update.add_argument(
        "--replace",
        action="store_true",
        help="upload even though the store holds an index that this machine has not seen",
    )
    update.add_argument(
        "--progress",
        choices=["auto", "lines", "json"],
        default="auto",
        help="how to tell of what happens: redrawn on a terminal, a line for each fact, or a JSON object a "
        "line for programs, the last of which is the report (default %(default)s)",
    )
    subcommand(
        commands,
        "status",
        _status,
        "show which machine serves which index, and how far behind it is",
        "sidecar fleet status --json",
    )


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _update(options: argparse.Namespace, settings: Settings) -> int:
    import asyncio

    from sidecar.fleet.progress import Lines, Live, Records, Silence
    from sidecar.fleet.report import lines
    from sidecar.fleet.run import Updates, Wanted

    become_owner(Path(settings.paths.state))
    wanted = Wanted(
        index=_index(options, settings),
        replace=options.replace,
        only=tuple(options.only),
        quorum=options.quorum,
        wait=options.wait,
        dry_run=options.dry_run,
        around=not options.no_upload,
    )
    updates = Updates(settings)
    if options.progress == "json":
        return _recorded(updates, wanted, Records(_write))
    on_terminal = options.progress == "auto" and sys.stdout.isatty()
    live = Live(_write, _size, time.monotonic) if on_terminal and not options.json else None
    listener = Silence() if options.json else live or Lines(_write)
    work = updates.update(wanted, listener)
    report = asyncio.run(work if live is None else _shown(work, live))
    if options.json:
        say_json(report)
    else:
        if live is not None:
            live.end()
        for line in lines(report):
            say(line)
    return 0 if report.good or report.dry_run else 1


def _recorded(updates: Updates, wanted: Wanted, records: Records) -> int:
    """Run it with a record for everything, the end included."""
    import asyncio

    try:
        report = asyncio.run(updates.update(wanted, records))
    except SidecarError as error:
        records.end(Problem(error.code, error.message, error.hint, error.status))
        raise
    records.end(report)
    return 0 if report.good or report.dry_run else 1


async def _shown(work: Coroutine[Any, Any, Report], live: Live) -> Report:
    """Keep the picture fresh while the work goes on: it may be quiet for long."""
    import asyncio

    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_REFRESH)
            live.refresh()
        return await task
    finally:
        task.cancel()


def _index(options: argparse.Namespace, settings: Settings) -> Path | None:
    if options.index:
        path = Path(options.index)
        try:
            if not path.is_file():
                raise SettingsError(f"--index: there is no {path}", "name the database file")
            return path.resolve()
        except OSError as error:
            raise SettingsError(
                f"--index: {path} cannot be read: {error.strerror}",
                "the user that runs the sidecar has to be able to read it",
            ) from None
    if settings.update.own_index and not options.no_upload:
        return Path(settings.paths.databases) / "index.sqlite3"
    return None


def _status(options: argparse.Namespace, settings: Settings) -> int:
    import asyncio

    from sidecar.fleet.progress import Silence
    from sidecar.fleet.report import overview_lines
    from sidecar.fleet.run import Updates

    become_owner(Path(settings.paths.state))
    overview = asyncio.run(Updates(settings).overview(Silence()))
    if options.json:
        say_json({**msgspec.to_builtins(overview), "good": overview.good})
    else:
        for line in overview_lines(overview):
            say(line)
    return 0 if overview.good else 1


def _size() -> tuple[int, int]:
    return shutil.get_terminal_size(os.terminal_size((80, 24)))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
