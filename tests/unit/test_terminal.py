"""Colours on a terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from sidecar.cli.terminal import coloured


def styles(line: str) -> list[tuple[str, str]]:
    """The coloured pieces of a line."""
    return [(line[span.start : span.end], str(span.style)) for span in coloured(line).spans]


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("Synced, healthy: Navigator serves it.", [("Synced", "green"), ("healthy", "green")]),
        ("health    degraded: it serves generation 3", [("degraded", "bold red")]),
        ("2026-11-24 10:00:00 UTC        12  rolled back  poll", [("rolled back", "bold red")]),
        ("m1 (iad): poking", [("poking", "cyan")]),
        ("the work is done and nothing failed today", []),
    ],
)
def test_states_have_their_colour(line: str, pieces: list[tuple[str, str]]) -> None:
    """A state by itself, as the page colours it; a word of a sentence is a word."""
    assert styles(line) == pieces


@pytest.mark.parametrize(("line", "style"), [("+added", "green"), ("-removed", "red"), ("plain", "")])
def test_a_difference_is_coloured_wholly(line: str, style: str) -> None:
    """What comes and what goes, as in every other program."""
    assert coloured(line).style == style


def test_text_passes_as_it_is() -> None:
    """No markup of rich's own is read out of it: a studio's name may have brackets and colons."""
    line = "[bold]Salsa[/bold] :smile: https://example.com"
    console = Console(markup=True, width=20, soft_wrap=True, force_terminal=True, no_color=True)
    with console.capture() as captured:
        console.print(coloured(line))
    assert captured.get() == f"{line}\n"
