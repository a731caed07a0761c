"""`sidecar status`."""

from __future__ import annotations

import argparse
import time

from sidecar.cli.client import Client
from sidecar.cli.outcome import refused
from sidecar.cli.output import say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import status_text
from sidecar.config.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _status, "sidecar status --json")
    parser.add_argument(
        "--alive", action="store_true", help="print nothing; only tell by the exit status whether it works"
    )


def _status(options: argparse.Namespace, settings: Settings) -> int:
    if options.alive:
        status, body = Client(settings.listen.socket, timeout=10).request("GET", "/healthz")
        return 0 if status == 200 else refused(body)
    _, body = Client(settings.listen.socket, timeout=10).request("GET", "/status")
    if options.json:
        say_json(body)
    else:
        say_lines(status_text(body, time.time()))
    good = (body["sync"]["state"], body["health"]["state"]) == ("synced", "healthy")
    return 0 if good else 1
