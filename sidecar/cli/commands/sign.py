"""`sidecar sign`."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from sidecar.cli.output import say, say_json
from sidecar.cli.parser import define
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.model import signing

_EXAMPLE = (
    "sidecar sign --machine 148e --path /showcase/update_config --body index.gz > headers &&\n"
    "  curl --header @headers --data-binary @index.gz https://example.com/showcase/update_config"
)


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _sign, _EXAMPLE)
    parser.add_argument(
        "--machine", required=True, help="id of the machine that is meant, as its status tells"
    )
    parser.add_argument(
        "--path", default="/showcase/update_config", help="the request's path (default %(default)s)"
    )
    parser.add_argument("--body", metavar="FILE", help="the index to send, as it is or gzipped")
    parser.add_argument(
        "--expect",
        metavar="SHA256",
        help="digest of the index that the store must serve; it becomes part of the path",
    )


def _sign(options: argparse.Namespace, settings: Settings) -> int:
    secret = settings.trigger.secret
    if not secret:
        raise SettingsError(
            "trigger.secret is not set", "set it, or SIDECAR_TRIGGER_SECRET, to the fleet's secret"
        )
    body = b""
    if options.body:
        try:
            body = Path(options.body).read_bytes()
        except OSError as error:
            raise SidecarError(f"{options.body} cannot be read: {error.strerror}") from None
    path = f"{options.path}?sha256={options.expect}" if options.expect else options.path
    poke = signing.Poke("POST", path, f"{time.time():.6f}", options.machine, hashlib.sha256(body).hexdigest())
    headers = signing.headers(poke, secret)
    if body[:2] == b"\x1f\x8b":
        headers["Content-Encoding"] = "gzip"
    if options.json:
        say_json({"path": path, "headers": headers})
    else:
        for name, value in headers.items():
            say(f"{name}: {value}")
    return 0
