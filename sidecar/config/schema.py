"""The JSON Schema of sidecar.yml, for editors: made from the settings, so that it says what they say.

It asks for the form in which people write a value. `parse` is more lenient in one thing: it takes a number or
a truth value in quotes, as a variable has it.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta

from sidecar.config.parse import DURATION, MODE, SIZE
from sidecar.config.settings import Bytes, Duration, Mode, Secret, Section, Settings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
    Duration: {"type": ["number", "string"], "minimum": 0, "pattern": f"^{DURATION}$"},
    Bytes: {"type": ["integer", "string"], "minimum": 0, "pattern": f"^{SIZE}$"},
    Secret: {"type": "string"},
    Mode: {"type": "string", "pattern": f"^{MODE}$"},
}
_LIMITS = {"ge": "minimum", "le": "maximum", "pattern": "pattern", "description": "description"}


def schema() -> dict[str, Any]:
    """What a document has to be to become `Settings`, key by key: what several say together is not in it."""
    return {"$schema": _DIALECT, "title": "sidecar.yml", **_of(Settings)}


def written(value: Any) -> Any:
    """A value as people write it in the file: what JSON has."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_written))


def _written(value: Any) -> str:
    if isinstance(value, Mode):
        return f"{value:04o}"
    if isinstance(value, Bytes):
        return f"{value >> 20}MiB" if value % (1 << 20) == 0 else f"{value:d}B"
    if isinstance(value, Duration):
        for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
            if value >= 2 * size and value % size == 0:
                return f"{value / size:g}{unit}"
        return f"{value:g}s"
    return str(value)


def _of(kind: Any) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _narrowed(inner[0], inner[1:])
    if origin in (list, tuple):
        return {"type": "array", "items": _of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(inner[1])}
    return _section(kind) if kind not in _PLAIN else dict(_PLAIN[kind])


def _narrowed(kind: Any, metas: tuple[Meta, ...]) -> dict[str, Any]:
    found = _of(kind)
    for meta in metas:
        limits = {name: getattr(meta, ours) for ours, name in _LIMITS.items()}
        found |= {name: limit for name, limit in limits.items() if limit is not None}
    if kind in (Duration, Bytes, Mode):
        how = str(kind.__doc__).rstrip(".")
        found["description"] += f" ({how[:1].lower()}{how[1:]})"
    return found


def _section(kind: type[Section]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    found: dict[str, Any] = {"type": "object", "additionalProperties": False}
    if required := [field.name for field in fields if field.required]:
        found["required"] = required
    found["properties"] = {field.name: _property(field) for field in fields}
    return found


def _property(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    found = _of(field.type)
    # What is empty follows from something else, as the description says; a section's keys have their own.
    if field.default is not NODEFAULT and not isinstance(field.default, Section) and field.default != "":
        found["default"] = written(field.default)
    return found
