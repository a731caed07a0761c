"""Finds in a text what is not for people."""

from __future__ import annotations

import re

# A moment as a number, a Python name or representation, a stack.
RAW = (
    re.compile(r"\b1[5-9]\d{8}(\.\d+)?\b"),
    re.compile(r"\b(None|True|False|NoneType|dict|tuple)\b|<[\w.]+ object at|\b[A-Z]\w+(Error|Exception)\b"),
    re.compile(r"Traceback|File \"|__\w+__"),
    re.compile(r"\b\w+\(\w+=|datetime\."),
)


def raw(text: str) -> list[str]:
    """What is not for people in a text."""
    return [found[0] for pattern in RAW if (found := pattern.search(text))]
