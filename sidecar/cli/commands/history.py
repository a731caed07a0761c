"""`sidecar history`."""

from __future__ import annotations

import argparse
from urllib.parse import urlencode

from sidecar.cli.client import Client
from sidecar.cli.outcome import refused
from sidecar.cli.output import say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import entry_text, history_text
from sidecar.config.settings import Settings
from sidecar.model.runs import ENDINGS, TRIGGERS


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _history, "sidecar history --limit 10")
    parser.add_argument(
        "generation", type=int, nargs="?", metavar="N", help="everything about one generation"
    )
    parser.add_argument("--run", type=int, metavar="N", help="everything about one run, also a refused one")
    parser.add_argument("--limit", type=int, default=20, metavar="COUNT", help="how many runs (default 20)")
    ways = [*TRIGGERS, "fleet"]
    parser.add_argument(
        "--trigger", choices=ways, metavar="WAY", help=f"only runs that this asked for: {', '.join(ways)}"
    )
    parser.add_argument("--who", metavar="NAME", help="only runs asked for by somebody in whose name this is")
    parser.add_argument(
        "--state", choices=ENDINGS, metavar="STATE", help=f"only runs that ended so: {', '.join(ENDINGS)}"
    )


def _history(options: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings.listen.socket)
    wanted = {name: getattr(options, name) for name in ("limit", "trigger", "who", "state")}
    path = f"/generations?{urlencode({name: value for name, value in wanted.items() if value is not None})}"
    whole = options.generation is not None or options.run is not None
    if whole:
        path = f"/runs/{options.run}" if options.run is not None else f"/generations/{options.generation}"
    status, body = client.request("GET", path)
    if status != 200:
        refused(body)
    if options.json:
        say_json(body)
    else:
        say_lines(entry_text(body) if whole else history_text(body))
    return 0
