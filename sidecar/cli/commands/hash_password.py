"""`sidecar hash-password`."""

from __future__ import annotations

import argparse
import getpass
import sys

import bcrypt

from sidecar.cli.output import say, say_json
from sidecar.cli.parser import define
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _hash_password, "sidecar hash-password < password.txt")
    parser.add_argument(
        "--cost",
        type=int,
        choices=range(8, 16),
        default=12,
        metavar="8-15",
        help="bcrypt's cost (default 12)",
    )


def _hash_password(options: argparse.Namespace, settings: Settings) -> int:
    if sys.stdin.isatty():
        password = getpass.getpass()
        if getpass.getpass("Again: ") != password:
            raise SidecarError("the two passwords differ", "try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not 8 <= len(password.encode()) <= 72:
        raise SidecarError("a password has 8 to 72 bytes", "choose another")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(options.cost)).decode()
    if options.json:
        say_json({"hash": hashed})
    else:
        say(hashed)
    return 0
