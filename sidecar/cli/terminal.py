"""What a terminal gets beyond the text, by rich: colour for the words of states, pictures redrawn in place.

Imported only where standard output is a terminal: hooks and programs do not wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sidecar.model.states import STATES, Tone
from sidecar.model.text import printable

_STYLES: dict[Tone, str] = {
    "good": "green",
    "busy": "cyan",
    "note": "yellow",
    "bad": "bold red",
    "quiet": "dim",
}
_WORDS: dict[str, Tone] = {
    written: tone for state, (tone, _) in STATES.items() for written in {state, state.replace("_", " ")}
}
# A state at the beginning of a line, in a column of its own, or after a label: not each "done" of a sentence.
_STATE = re.compile(
    rf"(?:^|(?<=  )|(?<=: )|(?<=, ))({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?=$|  |[:,.;])",
    re.IGNORECASE,
)
_DIFFERENCES: dict[str, str] = {"+": "green", "-": "red", "@": "cyan"}
_FRAMES_PER_SECOND = 10


def console() -> Console:
    """Standard output. NO_COLOR and TERM=dumb are heeded; lines are broken by the terminal alone."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def coloured(line: str) -> Text:
    """A line with its states in colour, or wholly so where it is one of a difference."""
    text = Text(line, style=_DIFFERENCES.get(line[:1], ""))
    for found in _STATE.finditer(line):
        text.stylize(_STYLES[_WORDS[found[1].lower()]], *found.span(1))
    return text


def print_lines(lines: list[str]) -> None:
    """Print lines that are printable as they are."""
    console().print(Text("\n").join(coloured(line) for line in lines))


@contextmanager
def picture(lines: Callable[[int, int], list[str]]) -> Iterator[Live]:
    """Show what `lines` gives for a width and height, anew ten times a second; gone at the end.

    What is printed with the `Live`'s console meanwhile stands above it.
    """
    screen = console()

    def drawn() -> Text:
        return Text("\n").join(coloured(printable(line)) for line in lines(screen.width, screen.height))

    with Live(
        console=screen,
        get_renderable=drawn,
        refresh_per_second=_FRAMES_PER_SECOND,
        transient=True,
        vertical_overflow="crop",
    ) as live:
        yield live
