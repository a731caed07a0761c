"""Changes of the demo's index that are worth watching. They reach the machines by an update of the fleet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sidecar.demo.prepare import PASSWORDS, STUDIO_USER, DemoFleet
from sidecar.demo.sample import (
    add_event,
    htpasswd_line,
    keep_users,
    move_studio,
    rename_studio,
    set_password,
    write_events,
)
from sidecar.errors import SettingsError
from sidecar.model.record import Record

_YEAR = 2026
_SUFFIX = " Ballroom"
_KEPT_USERS = 20


class Change(Record, frozen=True):
    """What was changed, in a sentence; commands to try before and after an update, and what to expect."""

    what: str
    tries: tuple[tuple[str, str], ...] = ()


def change(fleet: DemoFleet, kind: str) -> Change:
    """Make one of `KINDS` in the index of the office and in the store, and say what was done."""
    return KINDS[kind](fleet)


def password_of(index: Path) -> str:
    """The password that the studio's user has in an index now."""
    [[line]] = _rows(index, "select password from users where userid = ?", STUDIO_USER)
    return next(one for one in PASSWORDS if htpasswd_line(STUDIO_USER, one) == line)


def _password(fleet: DemoFleet) -> Change:
    old = password_of(fleet.index)
    new = next(one for one in PASSWORDS if one != old)
    set_password(fleet.index, STUDIO_USER, htpasswd_line(STUDIO_USER, new))
    fleet.store(fleet.index)
    url = fleet.machines[0].site_url
    return Change(
        f"In the store {STUDIO_USER} has the password {new} instead of {old}.",
        (
            (f"curl --user {STUDIO_USER}:{old} {url}", "answers until then, 401 afterwards"),
            (f"curl --user {STUDIO_USER}:{new} {url}", "401 until then, answers afterwards"),
        ),
    )


def _event(fleet: DemoFleet) -> Change:
    machine = fleet.machines[0]
    studio, name = _studio(fleet)
    [[count]] = _rows(fleet.index, "select count(*) from showcases where key like 'gala-%'")
    key = f"gala-{count + 1}"
    add_event(fleet.index, studio, _YEAR, key, f"Gala {count + 1}")
    write_events(fleet.index, fleet.stored.parent)
    fleet.store(fleet.index)
    url = f"{machine.site_url}{_YEAR}/{studio}/{key}/"
    login = f"{STUDIO_USER}:{password_of(fleet.index)}"
    return Change(
        f"In the store the studio {name} has a new event, Gala {count + 1}, which {machine.name} serves.",
        (
            (
                f"curl --user {login} {url}",
                "404 until then, answers afterwards",
            ),
        ),
    )


def _renamed(fleet: DemoFleet) -> Change:
    studio, name = _studio(fleet)
    new = name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else name + _SUFFIX
    rename_studio(fleet.index, studio, new)
    fleet.store(fleet.index)
    return Change(f"In the store the studio {name} is called {new}.")


def _region(fleet: DemoFleet) -> Change:
    """Move the studio that moves, from the first machine to the last or back."""
    first, last = fleet.machines[0], fleet.machines[-1]
    if first is last:
        raise SettingsError("one machine has nowhere to move a studio to", "start the demo with two or more")
    query = "select key, name, region from locations where region in (?, ?) order by id desc limit 1"
    [[key, name, old]] = _rows(fleet.index, query, first.name, last.name)
    new = last.name if old == first.name else first.name
    move_studio(fleet.index, key, new)
    fleet.store(fleet.index)
    return Change(f"In the store {new} serves the studio {name} instead of {old}.")


def _bad(fleet: DemoFleet) -> Change:
    bad = fleet.folder / "bad.sqlite3"
    bad.write_bytes(fleet.index.read_bytes())
    keep_users(bad, _KEPT_USERS)
    fleet.store(bad)
    bad.unlink()
    return Change(
        f"The store holds an index with {_KEPT_USERS} users only. Every machine refuses it, and nothing "
        "moves; any other change puts a sound one in its place."
    )


def _studio(fleet: DemoFleet) -> tuple[str, str]:
    """Key and name of a studio that belongs to the first machine."""
    found = _rows(
        fleet.index, "select key, name from locations where region = ? order by id", fleet.machines[0].name
    )
    return found[0][0], found[0][1]


def _rows(index: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(index)) as connection:
        return connection.execute(query, values).fetchall()


KINDS: dict[str, Callable[[DemoFleet], Change]] = {
    "password": _password,
    "event": _event,
    "studio": _renamed,
    "region": _region,
    "bad": _bad,
}
