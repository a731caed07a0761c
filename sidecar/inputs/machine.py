"""This machine as the generation sees it: profile, values of its placeholders, and deployment files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar import __version__
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError
from sidecar.generate import Deployment, maintenance
from sidecar.generate.login import own_login
from sidecar.inputs.index import DeploymentFiles, read_deployed
from sidecar.inputs.profiles import Profile, load_profile
from sidecar.model.artifacts import HTPASSWD
from sidecar.system.files import replace

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything besides the index that a generation is made of; `digest` tells when any of it changed."""

    deployment: Deployment
    deployed: DeploymentFiles
    digest: str


class Machine:
    """Reads the inputs anew for each run; what did not change is not parsed again."""

    def __init__(self, settings: Settings, markers: Path) -> None:
        self._settings = settings
        self._key = _salt_key(Path(settings.paths.state))
        self._values = placeholder_values(settings, markers)
        self._profile: Profile | None = None

    def inputs(self) -> Inputs:
        """The inputs as they are now; `SettingsError` for an unusable profile."""
        paths = self._settings.paths
        self._profile = profile = load_profile(self._settings.profile, self._profile)
        deployed = read_deployed(Path(paths.deployed), Path(paths.regions))
        update = self._settings.update
        verdict = (update.max_lost_tenants, update.max_lost_users, update.check_command)
        probed = self._settings.navigator.login_probe
        known = (__version__, self._values, deployed, verdict, probed)
        digest = hashlib.sha256(profile.text + repr(known).encode())
        return Inputs(
            deployment=Deployment(
                profile=profile.data,
                values=self._values,
                region=self._settings.machine.region or None,
                databases=paths.databases,
                key=self._key,
                login_probe=probed,
            ),
            deployed=deployed,
            digest=digest.hexdigest()[:16],
        )

    def own_login(self) -> tuple[str, str] | None:
        """Name and password of the sidecar's own account, as it stands in the published htpasswd; it blocks.

        None where there is none, and where somebody has changed that file.
        """
        try:
            return own_login((Path(self._settings.paths.databases) / HTPASSWD).read_bytes(), self._key)
        except OSError:
            return None


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


def maintenance_text(settings: Settings) -> str:
    """navigator-maintenance.yml for a machine that has no index yet."""
    profile = load_profile(settings.profile).data
    values = placeholder_values(settings, Path(settings.paths.state) / "loaded")
    # No salt is needed, and none is made: this may run where an image is built.
    deployment = Deployment(profile, values, settings.machine.region or None, settings.paths.databases, b"")
    return maintenance(deployment).decode()


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
