"""Data to YAML text that is proven while it is written.

Three readers must agree on the text: Ruby's Psych (YAML 1.1), Go's yaml.v3 (1.2 with some of 1.1)
and PyYAML. So only the plainest forms are written: block style, plain scalars where no reader could
take them for anything else, double quotes otherwise.

A document is a tree of dictionaries, lists and scalars in which long runs of similar entries are
`Entries`: a function and the items that it turns into data. The text of an entry is proven when it is
first seen, and remembered afterwards (`ResultCache`), so that a changed index costs the changed entries only.

What is proven is parsed back and compared, in parts that make up the whole:
- each scalar, on a line of its own, as the value or the key that it is. It never has a line break, and a
  block collection leaves the rest of its line to it: it is read the same wherever it stands;
- one entry of each shape (how collections nest, how many are in each), which proves the indentation. Between
  entries of one shape only the scalars differ;
- the document around the entries, with the first one standing for each run. Entries stand side by side in
  a block collection, without touching each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import yaml

from sidecar.errors import Rejected
from sidecar.generate.cache import ResultCache

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*(?: [A-Za-z0-9_/.-]+)*\Z")
_SYMBOL = re.compile(r":[a-z_]+\Z")
# Words that one of the readers takes for a boolean, null or a number, in any case.
_WORDS = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf"})
# What YAML calls unprintable, and the line separators that readers treat differently.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_ESCAPED = re.compile(r'["\\]')

_Writer = Callable[["Entries", int, list[str]], None]


class Entries:
    """A run of similar entries of a mapping or a list, each built from one item.

    `build` must be a plain function that depends on nothing but its item, which must be hashable. It gives
    a part of the mapping or of the list.
    """

    __slots__ = ("build", "items", "mapping")

    def __init__(self, build: Callable[[Any], Any], items: Sequence[Any], *, mapping: bool) -> None:
        self.build = build
        self.items = items
        self.mapping = mapping

    def plain(self, limit: int | None = None) -> Any:
        """The plain data that the run, or its first `limit` entries, stands for."""
        built = [self.build(item) for item in self.items[:limit]]
        if self.mapping:
            return {key: value for entry in built for key, value in entry.items()}
        return [element for entry in built for element in entry]


def load(text: str | bytes) -> Any:
    """Parse YAML from outside (profiles, configuration); raises `yaml.YAMLError` when it is unsound."""
    return yaml.load(text, yaml.CSafeLoader)


def plain(node: Any, limit: int | None = None) -> Any:
    """The document as plain data; `limit` keeps that many entries of each run."""
    if isinstance(node, Entries):
        return node.plain(limit)
    if isinstance(node, dict):
        return {key: plain(value, limit) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        data: list[Any] = []
        for item in node:
            data += item.plain(limit) if isinstance(item, Entries) else [plain(item, limit)]
        return data
    return node


def dump(document: dict[Any, Any], memo: ResultCache) -> bytes:
    """The document as UTF-8 text, proven to parse back to the same data; `Rejected` when it does not."""

    proof = _Proof()
    fresh: dict[Hashable, str] = {}

    def proven(run: Entries, depth: int, out: list[str]) -> None:
        build = run.build
        for item in run.items:
            key = (build, depth, item)
            if key in memo:
                out.append(memo.get(key, str))
            else:
                if key not in fresh:
                    entry = build(item)
                    fresh[key] = text = _entry(run, entry, depth)
                    proof.add_entry(run, depth, entry, text)
                out.append(fresh[key])

    def first(run: Entries, depth: int, out: list[str]) -> None:
        out += (_entry(run, run.build(item), depth) for item in run.items[:1])

    if not document:
        return b"--- {}\n"
    lines: list[str] = []
    _mapping(document, 0, lines, first)
    frame, data = "".join(lines), plain(document, 1)
    memo.get((frame, repr(data)), lambda: _prove(frame, data))
    out = ["---\n"]
    _mapping(document, 0, out, proven)
    proof.give()
    for key, text in fresh.items():
        memo.get(key, lambda text=text: text)  # type: ignore[misc]
    try:
        return "".join(out).encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"the index holds text that is no Unicode: {error}") from error


def scalar(value: object) -> str:
    """A scalar as YAML text."""
    if isinstance(value, str):
        return _string(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        # YAML 1.1 wants a dot before an exponent, or it reads a string.
        return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
    raise Rejected(f"{value!r} has no place in a YAML document")


def _string(value: str) -> str:
    if _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    value = _ESCAPED.sub(r"\\\g<0>", value)
    value = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return f'"{value}"'


def _key(value: object) -> str:
    return _name(value) if isinstance(value, str) else scalar(value)


@lru_cache(maxsize=1024)  # nearly all keys are names of settings
def _name(value: str) -> str:
    # A Ruby symbol is written bare: in quotes it would be a string.
    return value if _SYMBOL.match(value) else _string(value)


def _mapping(mapping: dict[Any, Any], depth: int, out: list[str], write: _Writer) -> None:
    indent = "  " * depth
    for key, value in mapping.items():
        out.append(f"{indent}{_key(key)}:")
        # A list stands at its key's own indentation, a mapping one step further in.
        _value(value, depth, depth + 1, out, write)


def _list(items: Sequence[Any], depth: int, out: list[str], write: _Writer) -> None:
    indent = "  " * depth
    for item in items:
        if isinstance(item, Entries):
            write(item, depth, out)
        elif isinstance(item, dict) and item:
            lines: list[str] = []
            _mapping(item, depth + 1, lines, write)
            out.append(f"{indent}- {lines[0].lstrip(' ')}")
            out += lines[1:]
        else:
            out.append(f"{indent}-")
            _value(item, depth + 1, depth + 1, out, write)


def _value(value: Any, list_depth: int, mapping_depth: int, out: list[str], write: _Writer) -> None:
    """What follows `key:` or `-`: a scalar on the same line, or a block below it."""
    if isinstance(value, str):  # most are
        out.append(f" {_string(value)}\n")
    elif isinstance(value, Entries):
        if not value.items:
            out.append(" {}\n" if value.mapping else " []\n")
            return
        out.append("\n")
        write(value, mapping_depth if value.mapping else list_depth, out)
    elif isinstance(value, dict):
        out.append("\n" if value else " {}\n")
        _mapping(value, mapping_depth, out, write)
    elif isinstance(value, (list, tuple)):
        empty = not any(not isinstance(item, Entries) or item.items for item in value)
        out.append(" []\n" if empty else "\n")
        _list(value, list_depth, out, write)
    else:
        out.append(f" {scalar(value)}\n")


def _entry(run: Entries, entry: Any, depth: int) -> str:
    lines: list[str] = []
    if run.mapping:
        _mapping(entry, depth, lines, _no_runs)
    else:
        _list(entry, depth, lines, _no_runs)
    return "".join(lines)


def _no_runs(run: Entries, depth: int, out: list[str]) -> None:
    raise TypeError("entries inside an entry are not supported")


class _Proof:
    """What is to be parsed back of new entries: one of each shape, and each scalar once."""

    def __init__(self) -> None:
        self._shapes: dict[Hashable, tuple[str, Any]] = {}
        self._strings: set[str] = set()
        self._others: dict[tuple[type, str], Any] = {}
        self._keys: dict[tuple[type, str], Any] = {}

    def add_entry(self, run: Entries, depth: int, entry: Any, text: str) -> None:
        """Take note of an entry and of how it was written."""
        self._shapes.setdefault((run.mapping, depth, self._shape(entry)), (text, entry))

    def _shape(self, value: Any) -> Hashable:
        if isinstance(value, str):
            self._strings.add(value)
            return None
        if isinstance(value, dict):
            for key in value:
                self._keys[type(key), key if isinstance(key, str) else repr(key)] = key
            return (dict, *map(self._shape, value.values()))
        if isinstance(value, (list, tuple)):
            return (list, *map(self._shape, value))
        self._others[type(value), repr(value)] = value
        return None

    def give(self) -> None:
        """Parse all of it back; `Rejected` for what does not come back as it was."""
        for text, entry in self._shapes.values():
            _prove(text, entry)
        values, keys = [*self._strings, *self._others.values()], list(self._keys.values())
        _prove_each(values, lambda value: f"- {scalar(value)}\n", list)
        _prove_each(keys, lambda key: f"{_key(key)}: 0\n", lambda keys: dict.fromkeys(keys, 0))


def _prove_each(items: list[Any], write: Callable[[Any], str], collect: Callable[[list[Any]], Any]) -> None:
    """Parse items back in one go; in the error stands the first of them that fails."""
    if not items:
        return
    try:
        _prove("".join(map(write, items)), collect(items))
    except Rejected:
        for item in items:
            _prove(write(item), collect([item]))
        raise


def _prove(text: str, data: Any) -> None:
    try:
        found = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise Rejected(f"the index holds text that cannot be written as YAML: {error}") from error
    if not _same(found, data):
        raise Rejected(f"the index holds text that YAML reads back differently, near {text[:200]!r}")


def _same(one: Any, other: Any) -> bool:
    """Equality that tells 1 from True and 1.0, and minds the order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            _same(a, b) and _same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
