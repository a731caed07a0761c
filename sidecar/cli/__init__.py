"""The command line. Exit status: 0 done, 1 failed or refused, 2 wrong usage or configuration.

Only the modules of the command that is called are loaded: Navigator's hooks wait for `sidecar update`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Container, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.cli.parser import add_parser
from sidecar.errors import SettingsError, SidecarError
from sidecar.system.init import leave_first_process

if TYPE_CHECKING:
    from sidecar.cli.parser import Command

COMMANDS = {
    "serve": "run the daemon",
    "update": "fetch the index and publish what follows from it",
    "preview": "show what an update would change now",
    "compare": "compare what this machine generates with files that something else made, as data",
    "status": "show the state of the running daemon",
    "history": "list what ran and how it ended",
    "diff": "show what differs between two generations that are kept",
    "rollback": "restore an older generation and keep it",
    "ready": "run the ready work: event databases and prerendered pages",
    "databases": "the databases of the events: look at them, push them to the store",
    "config": "show the configuration in force, secrets masked",
    "doctor": "examine everything that the sidecar depends on",
    "alert": "say what an alert means, and what to do",
    "hash-password": "make a bcrypt hash for `administrators`",
    "sign": "print the headers of a signed poke",
    "fleet": "all machines at once",
    "demo": "run a small fleet on this computer, with web servers and a folder as object store",
}
"""What each command does; the module of its name in `sidecar.cli.commands` describes the rest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Whoever started this may ignore its children's ends; then no command's exit status could be known.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    leave_first_process()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(parser(words).parse_args(words))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    from sidecar.cli.configuration import load_settings

    try:
        try:
            settings = load_settings(options.config)
            command: Command = options.command
            return command(options, settings)
        except SidecarError as error:
            if getattr(options, "trigger", None) == "boot":
                from sidecar.cli.boot import goes_on

                if goes_on(options, error):
                    return 0
            raise
    except SettingsError as error:
        _complain(options, error)
        return 2
    except SidecarError as error:
        _complain(options, error)
        return 1
    except PermissionError as error:
        what = error.filename or "what it needs"
        _complain(
            options,
            SidecarError(
                f"this user may not use {what}: {error.strerror}",
                "run the command as root, or as the user that runs the sidecar",
            ),
        )
        return 1


def _complain(options: argparse.Namespace, error: SidecarError) -> None:
    from sidecar.cli.output import say, say_json
    from sidecar.observe.logs import JOURNAL_ERROR, is_journal

    if getattr(options, "json", False):
        say_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    prefix = JOURNAL_ERROR if is_journal(sys.stderr) else ""
    say(f"{prefix}sidecar: {error}", file=sys.stderr)


def parser(words: Container[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of every command line; only commands that are among `words` are described in full."""
    parser = argparse.ArgumentParser(
        prog="sidecar", description="Keeps this machine's web server configuration in step."
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default /etc/sidecar/sidecar.yml, where it exists)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        added = add_parser(commands, name, summary)
        if name in words:
            import_module(f"sidecar.cli.commands.{name.replace('-', '_')}").add(added)
    return parser
