"""Where the commands and the daemon find their settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from sidecar.config.environment_file import variables
from sidecar.config.parse import parse
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError

DEFAULT_FILE = "/etc/sidecar/sidecar.yml"
_ENVIRONMENT = "environment"


def load_settings(
    file: str | None, read: Callable[[Any, Mapping[str, str], str], Settings] = parse
) -> Settings:
    """Settings from the file that is named, or the usual one where it exists, and the environment.

    The file `environment` beside it, which systemd gives the service, counts for what the environment does
    not say, where this user may read it.
    """
    named = file or os.environ.get("SIDECAR_CONFIG")
    path = Path(named or DEFAULT_FILE)
    with suppress(OSError):
        for name, value in variables(path.with_name(_ENVIRONMENT).read_text(errors="replace")).items():
            os.environ.setdefault(name, value)
    if not named and not path.exists():
        return read({}, os.environ, "")
    try:
        return read(yaml.load(path.read_bytes(), yaml.CSafeLoader), os.environ, str(path))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}", "check --config and SIDECAR_CONFIG"
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
