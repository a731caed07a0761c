"""`sidecar rollback`."""

from __future__ import annotations

import argparse

import msgspec

from sidecar.cli.client import Client
from sidecar.cli.outcome import follow
from sidecar.cli.parser import add_wait, define
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _rollback, "sidecar rollback 12")
    parser.add_argument(
        "generation", type=int, nargs="?", metavar="N", help="which one (default: the one loaded before)"
    )
    parser.add_argument("--keep-index", action="store_true", help="restore the files but not the index")
    add_wait(parser)


def _rollback(options: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings.listen.socket)
    number = options.generation
    if number is None:
        _, status = client.request("GET", "/status")
        current = status["generation"]["current"] or 0
        _, entries = client.request("GET", "/generations?limit=500")
        loaded = (entry["outcome"]["generation"] for entry in entries if entry["state"] == "loaded")
        number = next((older for older in loaded if older < current), None)
        if number is None:
            raise SidecarError(
                "no older generation was ever loaded", "name one: `sidecar history` lists them"
            )
    body = msgspec.json.encode({"generation": number, "index": not options.keep_index})
    return follow(options, client, f"/rollback?wait={options.wait}", body)
