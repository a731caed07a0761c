"""This machine as the generation sees it: profile, values of its placeholders, and deployment files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sidecar import __version__
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError
from sidecar.generate import Deployment, maintenance, yaml_writer
from sidecar.inputs.index import Deployed, read_deployed
from sidecar.model.artifacts import HTPASSWD
from sidecar.system.files import replace

_KEY_BYTES = 32

SHIPPED = ("fly", "kamal", "local")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything besides the index that a generation is made of; `digest` tells when any of it changed."""

    deployment: Deployment
    deployed: Deployed
    digest: str


class Machine:
    """Reads the inputs anew for each run; what did not change is not parsed again."""

    def __init__(self, settings: Settings, markers: Path) -> None:
        self._settings = settings
        self._key = _salt_key(Path(settings.paths.state))
        self._values = placeholder_values(settings, markers)
        self._text = b""
        self._profile: Mapping[str, Any] = {}

    def inputs(self) -> Inputs:
        """The inputs as they are now; `SettingsError` for an unusable profile."""
        paths = self._settings.paths
        text = profile_text(self._settings.profile)
        if text != self._text:
            self._profile, self._text = parse_profile(text, self._settings.profile), text
        deployed = read_deployed(Path(paths.deployed), Path(paths.regions))
        update = self._settings.update
        verdict = (update.max_lost_tenants, update.max_lost_users, update.check_command)
        digest = hashlib.sha256(text + repr((__version__, self._values, deployed, verdict)).encode())
        return Inputs(
            deployment=Deployment(
                profile=self._profile,
                values=self._values,
                region=self._settings.machine.region or None,
                databases=paths.databases,
                key=self._key,
            ),
            deployed=deployed,
            digest=digest.hexdigest()[:16],
        )


def machine_id(settings: Settings) -> str:
    """The id that signed pokes name."""
    return settings.machine.id or socket.gethostname()


def placeholder_values(settings: Settings, markers: Path) -> dict[str, Any]:
    """The values that a profile's placeholders can name, the operator's own included."""
    paths, navigator = settings.paths, settings.navigator
    return {
        "app": settings.machine.app or None,
        "region": settings.machine.region or None,
        "port": navigator.port,
        "page_target": _page_target(settings),
        "pool_size": settings.machine.pool_size or 6 + _memory_gib(),
        "application": paths.application,
        "databases": paths.databases,
        "storage": paths.storage,
        "public": paths.public,
        "htpasswd": f"{paths.databases}/{HTPASSWD}",
        "reload_config": navigator.reload_config,
        "socket": settings.listen.socket,
        "markers": str(markers),
        "cgi": paths.cgi or _installed("sidecar-cgi"),
        "cgi_user": navigator.cgi_user or None,
        "cgi_group": navigator.cgi_group or None,
        "command": paths.command or _installed("sidecar"),
        **settings.values,
    }


def profile_text(profile: str) -> bytes:
    """The text of a shipped profile by its name, or of a file."""
    if profile in SHIPPED:
        return resources.files("sidecar").joinpath("config", "profiles", f"{profile}.yml").read_bytes()
    try:
        return Path(profile).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"profile: {profile} cannot be read: {error.strerror}",
            f"shipped are {', '.join(SHIPPED)}; anything else is the path of a file",
        ) from None


def maintenance_text(settings: Settings) -> str:
    """navigator-maintenance.yml for a machine that has no index yet."""
    profile = parse_profile(profile_text(settings.profile), settings.profile)
    values = placeholder_values(settings, Path(settings.paths.state) / "loaded")
    # No salt is needed, and none is made: this may run where an image is built.
    deployment = Deployment(profile, values, settings.machine.region or None, settings.paths.databases, b"")
    return maintenance(deployment).decode()


def parse_profile(text: bytes, name: str) -> Mapping[str, Any]:
    """A profile as data; `SettingsError` when it lacks its parts."""
    try:
        data = yaml_writer.load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"profile {name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not {"navigator", "maintenance"} <= data.keys() <= {
        "values",
        "navigator",
        "maintenance",
    }:
        raise SettingsError(
            f"profile {name}: it must have the keys navigator and maintenance, and may have values",
            "start from a shipped one",
        )
    return data


def _page_target(settings: Settings) -> str | None:
    """Where Navigator on this machine reaches the operators' page, when it shall pass it on."""
    if not settings.page.through_navigator:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.listen.host, settings.listen.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.listen.port}"


def _installed(command: str) -> str:
    """The full path of a command installed with this package."""
    beside = Path(sys.executable).with_name(command)
    return str(beside) if beside.exists() else shutil.which(command) or f"/usr/local/bin/{command}"


def _memory_gib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


def _salt_key(state: Path) -> bytes:
    """This machine's secret for the salts of plain-text passwords, made once."""
    path = state / "salt.key"
    with suppress(FileNotFoundError):
        if len(key := path.read_bytes()) == _KEY_BYTES:
            return key
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(path, key, synced=True)
    except OSError as error:
        raise SettingsError(
            f"paths.state: {path} cannot be written: {error.strerror}",
            "name a folder that the daemon may write to, and see that its disk has room",
        ) from error
    return key
