"""`sidecar diff`."""

from __future__ import annotations

import argparse

import msgspec

from sidecar.cli.client import Client
from sidecar.cli.outcome import refused
from sidecar.cli.output import say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import differences_text
from sidecar.config.settings import Settings
from sidecar.model.changes import Differences


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _diff, "sidecar diff 1 2 --files")
    parser.add_argument("before", type=int, metavar="A", help="a generation that is kept")
    parser.add_argument(
        "after", type=int, nargs="?", metavar="B", help="another one (default the one in place)"
    )
    parser.add_argument("--files", action="store_true", help="with unified diffs of the files")


def _diff(options: argparse.Namespace, settings: Settings) -> int:
    to = "" if options.after is None else f"?to={options.after}"
    status, body = Client(settings.listen.socket).request("GET", f"/generations/{options.before}/diff{to}")
    if status != 200:
        refused(body)
    if options.json:
        say_json(body)
    else:
        say_lines(differences_text(msgspec.convert(body, Differences), files=options.files))
    return 0
