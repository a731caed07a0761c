"""Profiles: the fixed part of the web server's configuration, as YAML with placeholders.

`{{name}}` stands for a value. A string that is nothing but one placeholder becomes the value itself,
with its type; as an element of a list, a list takes the element's place. A mapping's entry whose value
is nothing but a placeholder without a value (null) is left out. What a placeholder brings in is data:
it is never searched for placeholders again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sidecar.errors import SettingsError
from sidecar.generate.yaml_writer import Entries

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


def expand(node: Any, values: Mapping[str, Any], place: str = "") -> Any:
    """The node of a profile with its placeholders replaced; `SettingsError` names an unknown one."""
    if isinstance(node, str):
        if whole := _PLACEHOLDER.fullmatch(node):
            return _value(whole[1], values, place)
        return _PLACEHOLDER.sub(lambda match: _text(match[1], values, place), node)
    if isinstance(node, dict):
        expanded: dict[Any, Any] = {}
        for raw, below in node.items():
            key = (
                _PLACEHOLDER.sub(lambda match: _text(match[1], values, place), raw)
                if isinstance(raw, str)
                else raw
            )
            value = expand(below, values, f"{place}.{raw}" if place else str(raw))
            if key in expanded:
                raise SettingsError(f"profile, at {place or 'the top'}: the key {key!r} occurs twice")
            if value is not None or below is None:
                expanded[key] = value
        return expanded
    if isinstance(node, list):
        items: list[Any] = []
        for number, item in enumerate(node):
            value = expand(item, values, f"{place}[{number}]")
            if isinstance(item, str) and isinstance(value, (list, tuple)):
                items += value
            elif value is not None or item is None:
                items.append(value)
        return items
    return node


def _value(name: str, values: Mapping[str, Any], place: str) -> Any:
    if name not in values:
        raise SettingsError(
            f"profile, at {place or 'the top'}: there is no value named {name!r}",
            "known are: " + ", ".join(sorted(values)),
        )
    return values[name]


def _text(name: str, values: Mapping[str, Any], place: str) -> str:
    value = _value(name, values, place)
    if value is None or isinstance(value, (dict, list, tuple, Entries)):
        kind = "nothing" if value is None else "a list or mapping"
        raise SettingsError(f"profile, at {place}: {name!r} is {kind} and cannot be part of a text")
    return str(value)
