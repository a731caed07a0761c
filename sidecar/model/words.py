"""How moments, durations, numbers and askers are written for people, on the page and in a terminal."""

from __future__ import annotations

from sidecar.model.artifacts import HTPASSWD
from sidecar.model.changes import Changes
from sidecar.model.runs import TRIGGERS

HIDDEN = "••••"
"""Stands for the hash of a password."""

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_SIGNS = {"added": "+", "removed": "-", "moved": "→", "changed": "~"}


def span(seconds: float) -> str:
    """A rough length of time, in the largest unit that fits."""
    for size, unit in _UNITS:
        if seconds >= size:
            return plural(int(seconds // size), unit)
    return "0 seconds"


def short(digest: str) -> str:
    """As much of a digest as people read and type: its first twelve digits."""
    return digest[:12]


def ago(seconds: float) -> str:
    """A rough age."""
    return "just now" if seconds < 5 else f"{span(seconds)} ago"


def took(seconds: float) -> str:
    """A duration, as exact as it is of interest."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.00095 else "under 1 ms"
    return f"{seconds:.2f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def spoken(state: str) -> str:
    """A state as it is said: `out of sync`."""
    return state.replace("_", " ")


def plural(count: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def asked(trigger: str, who: str) -> str:
    """Who or what asked for a run."""
    known = TRIGGERS.get(trigger)
    if known is None:
        return f"{trigger}: {who}" if who else trigger
    return known.words.format(who=who or "somebody")


def brief(changes: Changes | None) -> str:
    """What changed, in signs and numbers: `+1 event  -2 users`; empty for nothing."""
    if changes is None:
        return ""
    return "  ".join(
        f"{_SIGNS[what]}{plural(names.count, kind[:-1])}" for kind, what, names in changes.each()
    )


def hide_hash(line: str) -> str:
    """A line of htpasswd, or of a difference between two, without what follows the name."""
    name, colon, _ = line.partition(":")
    return f"{name}{colon}{HIDDEN}" if colon else line


def hide_hashes(name: str, difference: str) -> str:
    """A unified diff of an artifact; that of htpasswd without the hashes of passwords."""
    if name != HTPASSWD:
        return difference
    lines = difference.splitlines(keepends=True)
    return "".join(_without_hash(line) if line[:3] not in ("+++", "---") else line for line in lines)


def _without_hash(line: str) -> str:
    return hide_hash(line.rstrip("\n")) + "\n" if line[:1] in "+- " else line
