"""The file of variables that systemd gives the service, for commands that an operator runs. Pure."""

from __future__ import annotations

import re

_LINE = re.compile(
    r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)=\s*"
    r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>.*?))\s*\Z"""
)


def variables(text: str) -> dict[str, str]:
    """Variables by name, from lines `NAME=value`; quotes around a value are taken off, as systemd does.

    Comments and lines that set nothing are passed over.
    """
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            if (quoted := match["double"]) is not None:
                value = re.sub(r'\\(["\\`$])', r"\1", quoted)
            else:
                value = match["single"] if match["single"] is not None else match["bare"]
            found[match["name"]] = value
    return found
