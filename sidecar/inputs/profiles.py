"""Profiles: a shipped one by its name, or a file, which may extend a shipped one and say what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sidecar.errors import SettingsError
from sidecar.generate import yaml_writer

SHIPPED = ("fly", "kamal", "local")
_BASE = "base"
_PARTS = {"navigator", "maintenance"}


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile with what it extends. `text` is all that it was read from, its own file first."""

    data: Mapping[str, Any]
    text: bytes
    own: bytes


def load_profile(name: str, known: Profile | None = None) -> Profile:
    """The profile, or `known` where its file is still the same; `SettingsError` when it is unusable."""
    own = _read(name)
    if known is not None and known.own == own:
        return known
    data, text = _parse(own, name), own
    while extended := data.pop("extends", None):
        below = _read(extended)
        data, text = _merged(_parse(below, extended), data), text + below
    if not data.keys() >= _PARTS:
        raise SettingsError(
            f"profile {name}: it must have the keys navigator and maintenance, or extend one that has them",
            f"begin it with `extends: {SHIPPED[0]}`, or another of {', '.join(SHIPPED)}",
        )
    return Profile(data, text, own)


def _read(name: str) -> bytes:
    if name in (*SHIPPED, _BASE):
        return resources.files("sidecar").joinpath("config", "profiles", f"{name}.yml").read_bytes()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"profile: {name} cannot be read: {error.strerror}",
            f"shipped are {', '.join(SHIPPED)}; anything else is the path of a file",
        ) from None


def _parse(text: bytes, name: str) -> dict[str, Any]:
    try:
        data = yaml_writer.load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"profile {name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not data.keys() <= {"extends", "values", *_PARTS}:
        raise SettingsError(
            f"profile {name}: it may have the keys extends, values, navigator and maintenance, and no others",
            "start from a shipped one: `sidecar config --profile` prints it",
        )
    # Only shipped ones can be extended, and these not in a circle.
    if (extended := data.get("extends")) is not None and extended not in (*SHIPPED, _BASE):
        raise SettingsError(f"profile {name}: extends {extended!r}", f"extend one of {', '.join(SHIPPED)}")
    return data


def _merged(below: Any, above: Any) -> Any:
    """Mappings are merged, anything else replaces what is below it."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}
