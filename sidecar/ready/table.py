"""The databases as a table: local, store, owner, age, what would happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sidecar.model.record import Record
from sidecar.model.words import plural
from sidecar.ready.databases import DatabaseRow


class DatabaseLine(Record, frozen=True):
    """A database in figures and words: times in seconds since 1970, sizes in bytes, None where it is not.

    `stored` is the object's true age where that is known, else the time of its upload. `action` is fetch,
    create, keep, push (by command only) or conflict (a person must settle it).
    """

    name: str
    owner: str | None
    ours: bool
    served: bool
    local: float | None
    local_size: int | None
    stored: float | None
    stored_size: int | None
    action: str
    reason: str


def lines(rows: Iterable[DatabaseRow]) -> list[DatabaseLine]:
    """The rows of a survey for people and JSON."""
    return [_line(row) for row in rows]


def _line(row: DatabaseRow) -> DatabaseLine:
    here, stored = row.here, row.stored
    age = row.age if row.age is not None else stored.modified if stored else None
    return DatabaseLine(
        name=row.wanted.name,
        owner=row.wanted.owner,
        ours=row.wanted.ours,
        served=row.wanted.served,
        local=here.modified if here else None,
        local_size=here.size if here else None,
        stored=age,
        stored_size=stored.size if stored else None,
        action=row.verdict.action,
        reason=row.verdict.reason,
    )


_HEADER = ("NAME", "OWNER", "HERE", "IN THE STORE", "ACTION", "WHY")


def differing(rows: Sequence[DatabaseLine]) -> str:
    """The lines that anything will happen to, and how many there are of each kind."""
    shown = [row for row in rows if row.action != "keep"]
    tally = Counter(row.action for row in rows)
    counts = ", ".join(f"{number:,} to {action}" for action, number in sorted(tally.items()))
    total = f"{plural(len(rows), 'database')}{f': {counts}' if counts else ''}."
    return f"{table(shown)}\n{total}" if shown else total


def table(rows: Sequence[DatabaseLine]) -> str:
    """The lines as text in columns."""
    cells = [
        _HEADER,
        *(
            (
                row.name,
                f"{row.owner or '-'}{' (here)' if row.ours else ''}",
                _moment(row.local),
                _moment(row.stored),
                row.action,
                row.reason,
            )
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
