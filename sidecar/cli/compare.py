"""Compares a generated set with files that something else made, as data: values in, differences out.

The order of a mapping's keys, the order of lines and all formatting count for nothing. What differs
on purpose is told apart from what differs otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

import bcrypt
import msgspec
import yaml

from sidecar.generate.htpasswd import htpasswd
from sidecar.model.artifacts import HTPASSWD, MAP, NAVIGATOR, OWN_USER, PRERENDER, SHOWCASES, TENANTS
from sidecar.model.index import User
from sidecar.model.record import Record

COMPARED = (HTPASSWD, MAP, SHOWCASES, TENANTS, NAVIGATOR, PRERENDER)

_OWN = {
    ("server", "cgi_scripts"): "the sidecar's own CGI",
    ("hooks",): "the sidecar's own hooks",
    ("managed_processes",): "the sidecar's own processes",
    ("applications", "pools", "max_size"): "it depends on the memory",
}
_GROWS = {("routes", "reverse_proxies"), ("auth", "public_paths")}
_MAX_VALUE_CHARACTERS = 160

Place = tuple[Any, ...]


class Difference(Record, frozen=True):
    """One difference: its path into the data, and what is there. `meant`: the sidecar writes it so."""

    place: str
    what: str
    meant: bool = False


class Compared(Record, frozen=True):
    """One file against the other, whose path is `other`."""

    name: str
    other: str
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what is meant to."""
        return all(one.meant for one in self.differences)


def compared(name: str, ours: bytes, theirs: bytes) -> tuple[Difference, ...]:
    """How `theirs` differs from `ours`, both the content of the file `name`."""
    if name == HTPASSWD:
        return tuple(_users(_lines(ours), _lines(theirs)))
    if name in (TENANTS, PRERENDER):
        return tuple(_listed(set(_lines(ours)), set(_lines(theirs))))
    try:
        other = yaml.load(theirs, _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return (Difference("", f"it cannot be read as YAML: {_short(str(error))}"),)
    return tuple(_data(name, yaml.load(ours, _Loader), other, ()))  # noqa: S506


class _Loader(yaml.CSafeLoader):
    """Leaves dates as text: whether they are in quotes is formatting."""


_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _lines(content: bytes) -> list[str]:
    return [line for line in content.decode("utf-8", "replace").splitlines() if line.strip()]


def _listed(ours: set[str], theirs: set[str]) -> Iterator[Difference]:
    yield from (Difference(line, "only here") for line in sorted(ours - theirs))
    yield from (Difference(line, "only there") for line in sorted(theirs - ours))


def _users(ours: list[str], theirs: list[str]) -> Iterator[Difference]:
    """Users by name; no password and no hash is ever shown."""
    here = dict(reversed([_parted(line) for line in ours]))
    there = dict(reversed([_parted(line) for line in theirs]))
    for name in sorted(here.keys() | there.keys()):
        if name not in there:
            own = name == OWN_USER
            yield Difference(name, "the sidecar's own account" if own else "only here", own)
        elif name not in here:
            unfit = bool(htpasswd([User(name, f"{name}:{there[name]}")], b"")[1])
            reason = "the sidecar leaves lines out that Navigator cannot use" if unfit else ""
            yield Difference(name, f"only there{reason and f': {reason}'}", unfit)
        elif here[name] != there[name]:
            hashed = _is_hash_of(here[name], there[name])
            what = "a hash here, the same password as text there" if hashed else "another password"
            yield Difference(name, what, hashed)


def _parted(line: str) -> tuple[str, str]:
    name, _, secret = line.partition(":")
    return name, secret


def _is_hash_of(hashed: str, secret: str) -> bool:
    plain = secret.removeprefix("{PLAIN}").encode()
    try:
        return len(plain) <= 72 and bcrypt.checkpw(plain, hashed.encode())
    except ValueError:
        return False


def _data(name: str, ours: Any, theirs: Any, at: Place) -> Iterator[Difference]:
    if name == NAVIGATOR and at in _OWN:
        if ours != theirs:
            yield Difference(_place(at), _OWN[at], meant=True)
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        yield from _mappings(name, ours, theirs, at)
    elif isinstance(ours, list) and isinstance(theirs, list):
        yield from _sequences(name, ours, theirs, at)
    elif type(ours) is not type(theirs) or ours != theirs:
        yield Difference(_place(at), f"{_value(ours)} here, {_value(theirs)} there")


def _mappings(
    name: str, ours: Mapping[Any, Any], theirs: Mapping[Any, Any], at: Place
) -> Iterator[Difference]:
    for key, value in ours.items():
        below = (*at, key)
        if key in theirs:
            yield from _data(name, value, theirs[key], below)
        elif name == NAVIGATOR and below in _OWN:
            yield Difference(_place(below), _OWN[below], meant=True)
        elif name == MAP and len(at) == 2 and key in ("map", "x", "y"):
            yield Difference(_place(below), "its place on the drawn maps", meant=True)
        else:
            yield Difference(_place(below), f"only here: {_value(value)}")
    for key in theirs.keys() - ours.keys():
        below = (*at, key)
        own = _OWN.get(below) if name == NAVIGATOR else None
        yield Difference(_place(below), own or f"only there: {_value(theirs[key])}", own is not None)


def _sequences(name: str, ours: list[Any], theirs: list[Any], at: Place) -> Iterator[Difference]:
    """Entry by entry, aligned: one that is missing does not make all that follow differ."""
    here, there = [_frozen(one) for one in ours], [_frozen(one) for one in theirs]
    grows = name == NAVIGATOR and at in _GROWS
    for kind, a, b, c, d in SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        if kind == "replace" and b - a == d - c:
            for number in range(b - a):
                yield from _data(name, ours[a + number], theirs[c + number], (*at, a + number))
        elif kind != "equal":
            for number in range(a, b):
                what = "the sidecar's own entry" if grows else f"only here: {_value(ours[number])}"
                yield Difference(_place((*at, number)), what, grows)
            for number in range(c, d):
                yield Difference(_place(at), f"only there: {_value(theirs[number])}")


def _frozen(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic", enc_hook=str)


def _place(at: Place) -> str:
    return ".".join(map(str, at)) or "the whole"


def _value(value: Any) -> str:
    return _short(msgspec.json.encode(value, enc_hook=str).decode())


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 3]}..."
