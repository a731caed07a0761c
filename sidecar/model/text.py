"""Text from outside, made fit to be shown."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    """The text on one line, harmless to a terminal: all that is not printable, but for `kept`, is escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )
