"""What the commands print: text from outside neither rules the terminal nor passes for a line of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import msgspec

from sidecar.model.text import printable


def is_terminal() -> bool:
    """Whether standard output is a terminal: that gets colours."""
    return sys.stdout.isatty()


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line; whatever is not printable in it, a line break too, is escaped."""
    if file is None:
        say_lines(printable(line))
    else:
        print(printable(line), file=file, flush=True)


def say_lines(text: str) -> None:
    """Print a text of several lines, with or without a break at its end."""
    lines = [printable(line) for line in text.removesuffix("\n").split("\n")]
    if is_terminal():
        from sidecar.cli.terminal import print_lines

        print_lines(lines)
    else:
        print("\n".join(lines), flush=True)


def say_json(data: Any) -> None:
    """Print a record or plain data as JSON, with escapes for all that is not printable."""
    text = msgspec.json.format(msgspec.json.encode(data)).decode()
    # Outside of strings there is nothing of that kind but line breaks, and none within.
    print("\n".join(_escaped(line) for line in text.split("\n")), flush=True)


def show(as_json: bool, data: Any, lines: Iterable[str]) -> None:
    """Print data as JSON, or what it says in lines."""
    if as_json:
        say_json(data)
    else:
        for line in lines:
            say(line)


def agreed(question: str) -> bool:
    """Ask whoever sits at standard input; anything but a yes is a no."""
    say(f"{question} [y/N]", file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)
