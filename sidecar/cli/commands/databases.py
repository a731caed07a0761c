"""`sidecar databases`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from sidecar.cli.output import agreed, say, say_json, say_lines
from sidecar.cli.parser import subcommand
from sidecar.cli.ready_work import databases, push
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError
from sidecar.model.work import PushResult
from sidecar.ready.plan import SUFFIX
from sidecar.ready.table import DatabaseLine, differing, table


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the commands below it."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = subcommand(
        commands,
        "status",
        _status,
        "list the databases that anything would happen to: here, in the store, whose, and what",
        "sidecar databases status --all",
    )
    status.add_argument("--all", action="store_true", help="also those that are as they should be")
    upload = subcommand(
        commands, "push", _push, "upload databases that are written here", "sidecar databases push"
    )
    upload.add_argument(
        "names", nargs="*", metavar="NAME", help="which ones (default: all with something new)"
    )
    upload.add_argument(
        "--overwrite", action="store_true", help="replace what the store holds of them, whatever it is"
    )
    upload.add_argument("--yes", action="store_true", help="do not ask first")


def _status(options: argparse.Namespace, settings: Settings) -> int:
    rows = databases(settings)
    _print(rows if options.json else table(rows) if options.all else differing(rows))
    return 0


def _push(options: argparse.Namespace, settings: Settings) -> int:
    if options.overwrite and not options.names:
        raise SidecarError("--overwrite needs names", "name the databases whose objects are to be replaced")
    nothing = "Nothing has changed here since it was stored."
    names = options.names
    if not options.yes:
        names = _chosen(databases(settings), names)
        if not names:
            _print(PushResult((), ()) if options.json else nothing)
            return 0
        _confirm(names)
    pushed = push(settings, names, overwrite=options.overwrite)
    _print(pushed if options.json else "\n".join(pushed.said) or nothing)
    return 1 if pushed.failed else 0


def _chosen(rows: Sequence[DatabaseLine], names: Sequence[str]) -> list[str]:
    """Show on standard error what a push would do, and give the names of the databases."""
    wanted = {name.removesuffix(SUFFIX) for name in names}
    chosen = [row for row in rows if (row.name in wanted if names else row.action == "push")]
    if chosen:
        for line in table(chosen).splitlines():
            say(line, file=sys.stderr)
    # What this machine does not know is for the daemon to refuse.
    return [row.name for row in chosen] if not names else list(names)


def _confirm(names: Sequence[str]) -> None:
    if not agreed(f"Push {len(names)} to the store?"):
        raise SidecarError("nothing was pushed: nobody said yes", "--yes pushes without asking")


def _print(data: Any) -> None:
    """Text as it is, anything else as JSON."""
    if isinstance(data, str):
        say_lines(data)
    else:
        say_json(data)
