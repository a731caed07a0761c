"""How a command is described to argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

Command = Callable[[argparse.Namespace, "Settings"], int]
"""Carries a command out and gives its exit status."""


def define(parser: argparse.ArgumentParser, run: Command, example: str) -> None:
    """Give a parser its command, its example and `--json`."""
    parser.epilog = f"example: {example}"
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_parser(below: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """A parser of its own below others, with its summary."""
    added: argparse.ArgumentParser = below.add_parser(
        name,
        help=summary,
        description=f"{summary[:1].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return added


def subcommand(below: Any, name: str, run: Command, summary: str, example: str) -> argparse.ArgumentParser:
    """A command below another."""
    added = add_parser(below, name, summary)
    define(added, run, example)
    return added


def add_wait(parser: argparse.ArgumentParser) -> None:
    """The option that says how far a publication is followed."""
    parser.add_argument(
        "--wait",
        choices=["published", "loaded", "ready"],
        default="published",
        help="return when the files are in place, when Navigator has loaded them, or when the ready work"
        " is done too (default %(default)s)",
    )
