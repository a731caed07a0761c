"""`sidecar ready`."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar.cli.output import say, say_json, say_lines
from sidecar.cli.parser import define
from sidecar.cli.ready_work import ready
from sidecar.config.settings import Settings
from sidecar.model.work import work_text


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _ready, "sidecar ready --everything")
    parser.add_argument(
        "--everything", action="store_true", help="render also the pages that cannot have changed"
    )


def _ready(options: argparse.Namespace, settings: Settings) -> int:
    def tell(kind: str, data: dict[str, Any]) -> None:
        if kind == "ready_log" and not options.json:
            say(f"{data['step']}: {data['line']}")

    work = ready(settings, everything=options.everything, tell=tell)
    if options.json:
        say_json(work)
    else:
        say_lines(work_text(work))
    return 0 if work.good else 1
