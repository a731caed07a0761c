"""`sidecar update`."""

from __future__ import annotations

import argparse
import getpass

from sidecar.cli.client import Client
from sidecar.cli.outcome import finish, follow
from sidecar.cli.parser import add_wait, define
from sidecar.config.settings import Settings
from sidecar.model.runs import Request


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _update, "sidecar update --wait published")
    parser.add_argument("--once", action="store_true", help="run here, without a daemon (refused beside one)")
    add_wait(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="accept a large loss of users or tenants, and retry what was refused",
    )
    parser.add_argument(
        "--trigger",
        choices=["boot", "resume"],
        help="what asks, for the records (used by hooks); "
        "boot makes do with what is in place, whatever fails",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to wait for a daemon that is starting",
    )


def _update(options: argparse.Namespace, settings: Settings) -> int:
    if options.once:
        from sidecar.cli.without_daemon import run_once

        request = Request(trigger="once", who=getpass.getuser(), force=options.force)
        return finish(options, run_once(settings, request))
    client = Client(settings.listen.socket)
    client.wait_for_daemon(options.patience)
    trigger = options.trigger or "command"
    force = "&force=1" if options.force else ""
    return follow(options, client, f"/update?trigger={trigger}&wait={options.wait}{force}")
