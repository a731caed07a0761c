"""`sidecar alert`."""

from __future__ import annotations

import argparse

from sidecar.cli.output import say, say_json, say_lines
from sidecar.cli.parser import define
from sidecar.config.settings import Settings
from sidecar.errors import NotFound
from sidecar.observe.alerts import meanings


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _alert, "sidecar alert SidecarNotInSync")
    parser.add_argument("name", nargs="?", metavar="NAME", help="which alert (default: list them)")


def _alert(options: argparse.Namespace, settings: Settings) -> int:
    known = meanings()
    if options.name is None:
        if options.json:
            say_json(known)
        else:
            for name, text in known.items():
                say(f"{name}: {text.splitlines()[0]}")
        return 0
    if options.name not in known:
        raise NotFound(f"there is no alert {options.name!r}", "`sidecar alert` lists them")
    if options.json:
        say_json({options.name: known[options.name]})
    else:
        say_lines(known[options.name])
    return 0
