"""`sidecar preview`."""

from __future__ import annotations

import argparse
import getpass

import msgspec

from sidecar.cli.client import Client
from sidecar.cli.outcome import finish, refused
from sidecar.cli.output import say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.texts import preview_text
from sidecar.config.settings import Settings
from sidecar.model.runs import PREVIEW, Outcome, Request


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _preview, "sidecar preview --diff")
    parser.add_argument("--diff", action="store_true", help="with unified diffs of the files")
    parser.add_argument("--once", action="store_true", help="run here, without a daemon")


def _preview(options: argparse.Namespace, settings: Settings) -> int:
    if options.once:
        from sidecar.cli.without_daemon import run_once

        request = Request(trigger=PREVIEW, who=getpass.getuser(), preview=True)
        outcome = run_once(settings, request)
    else:
        status, body = Client(settings.listen.socket).request("GET", "/preview")
        if status != 200 and "error" in body and "state" not in body:
            refused(body)
        outcome = msgspec.convert(body, Outcome)
    if options.json:
        say_json(outcome)
        return 0 if outcome.good else 1
    if outcome.good:
        say_lines(preview_text(outcome, diffs=options.diff))
    return finish(options, outcome, log=not outcome.good)
