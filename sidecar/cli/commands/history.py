"""`sidecar history`."""

from __future__ import annotations

import argparse

from sidecar.cli.client import Client
from sidecar.cli.outcome import refused
from sidecar.cli.output import say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import entry_text, history_text
from sidecar.config.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _history, "sidecar history --limit 10")
    parser.add_argument(
        "generation", type=int, nargs="?", metavar="N", help="everything about one generation"
    )
    parser.add_argument("--limit", type=int, default=20, metavar="COUNT", help="how many runs (default 20)")


def _history(options: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings.listen.socket)
    path = (
        f"/generations/{options.generation}" if options.generation else f"/generations?limit={options.limit}"
    )
    status, body = client.request("GET", path)
    if status != 200:
        refused(body)
    if options.json:
        say_json(body)
    else:
        say_lines(entry_text(body) if options.generation else history_text(body))
    return 0
