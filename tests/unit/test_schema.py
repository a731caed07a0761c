"""The JSON Schema of sidecar.yml says of a single value what the parser says of it."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from sidecar.config.parse import fields, masked, parse
from sidecar.config.schema import schema, written
from sidecar.config.settings import Duration, Settings
from sidecar.errors import SettingsError

VALIDATOR = jsonschema_rs.validator_for(schema())


def at(key: str, value: Any) -> dict[str, Any]:
    """A document with one setting."""
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


@pytest.mark.parametrize("key", fields())
def test_every_setting_is_described_with_a_default_that_holds(key: str) -> None:
    """Each is there with its description, and its default, as written there, is the default."""
    found = schema()
    for step in key.split("."):
        found = found["properties"][step]
    assert found["description"]
    if "default" in found:
        assert VALIDATOR.is_valid(at(key, found["default"]))
        assert masked(parse(at(key, found["default"]), {})) == masked(parse({}, {}))


RIGHT = [
    ("update.timeout", 90),
    ("update.timeout", "1.5m"),
    ("fetch.max_bytes", "64 KiB"),
    ("listen.socket_mode", "0600"),
    ("fleet.machines", [{"id": "a", "url": "http://10.0.0.1"}]),
    ("fleet.before", [["one", "two"]]),
    ("values", {"root": "/x", "deep": [1]}),
]
WRONG = [
    ("nonsense", 1),
    ("listen.prot", 1),
    ("listen", None),
    ("listen.port", 70000),
    ("listen.tcp", "perhaps"),
    ("update.timeout", "soon"),
    ("update.timeout", -1),
    ("update.timeout", True),
    ("fetch.max_bytes", "1.5MiB"),
    ("listen.socket_mode", 640),
    ("listen.socket_mode", "0999"),
    ("update.max_lost_users", 1.5),
    ("fleet.send", "both"),
    ("fleet.machines", [{"id": "a"}]),
    ("files.extra", [{"key": "a", "path": "b", "owner": "me"}]),
    ("trigger.secret", 12345678901234567890),
]


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_what_the_parser_takes_is_valid(key: str, value: Any) -> None:
    """Values in the forms that the manual names."""
    assert parse(at(key, value), {})
    assert VALIDATOR.is_valid(at(key, value))


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_what_the_parser_refuses_is_not(key: str, value: Any) -> None:
    """Unknown keys at every level, and values that do not fit."""
    with pytest.raises(SettingsError):
        parse(at(key, value), {})
    assert not VALIDATOR.is_valid(at(key, value))


def test_units_are_told() -> None:
    """A duration, a size and a mode say how they are written; the default is in that form."""
    update = schema()["properties"]["update"]["properties"]
    assert "`5m`" in update["timeout"]["description"]
    assert update["poll"]["default"] == "10m"
    assert written(Duration(0.5)) == "0.5s"
    assert len(schema()["properties"]) == len(Settings.__struct_fields__)
