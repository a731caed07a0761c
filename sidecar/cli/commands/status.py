"""`sidecar status`."""

from __future__ import annotations

import argparse
import time
from typing import NoReturn

from sidecar.cli.client import Client
from sidecar.cli.outcome import refused
from sidecar.cli.output import is_terminal, say, say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import moment, status_text
from sidecar.config.settings import Settings

_WATCH_SECONDS = 1.0


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _status, "sidecar status --json")
    parser.add_argument(
        "--alive", action="store_true", help="print nothing; only tell by the exit status whether it works"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show it anew each second, until Ctrl-C; not on a terminal, a line whenever the state changes",
    )


def _watch(socket: str) -> NoReturn:
    said = ""
    while True:
        _, body = Client(socket, timeout=10).request("GET", "/status")
        text = status_text(body, time.time())
        if (headline := text.partition("\n")[0]) != said:
            said = headline
            say(f"{moment(time.time())}  {headline}")
        time.sleep(_WATCH_SECONDS)


def _watch_live(socket: str) -> NoReturn:
    from sidecar.cli.terminal import picture

    lines: list[str] = []
    with picture(lambda width, height: lines):
        while True:
            _, body = Client(socket, timeout=10).request("GET", "/status")
            lines[:] = status_text(body, time.time()).split("\n")
            time.sleep(_WATCH_SECONDS)


def _status(options: argparse.Namespace, settings: Settings) -> int:
    if options.alive:
        status, body = Client(settings.listen.socket, timeout=10).request("GET", "/healthz")
        return 0 if status == 200 else refused(body)
    if options.watch:
        (_watch_live if is_terminal() else _watch)(settings.listen.socket)
    _, body = Client(settings.listen.socket, timeout=10).request("GET", "/status")
    if options.json:
        say_json(body)
    else:
        say_lines(status_text(body, time.time()))
    good = (body["sync"]["state"], body["health"]["state"]) == ("synced", "healthy")
    return 0 if good else 1
