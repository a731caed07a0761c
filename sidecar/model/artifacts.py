"""The generated files: their names, and one as data."""

from __future__ import annotations

from sidecar.model.record import Record

HTPASSWD = "htpasswd"
MAP = "map.yml"
SHOWCASES = "showcases.yml"
TENANTS = "tenants.list"
PRERENDER = "prerender.txt"
MAINTENANCE = "navigator-maintenance.yml"
NAVIGATOR = "navigator.yml"

OWN_USER = "sidecar-probe"
"""The name of the sidecar's own account in htpasswd, which nobody else can have."""

NAMES = (HTPASSWD, MAP, SHOWCASES, TENANTS, PRERENDER, MAINTENANCE, NAVIGATOR)
"""The artifacts in the order of their installation: navigator.yml, which the web server watches, last."""


class Artifact(Record, frozen=True, gc=False):
    """One generated file: its name in the set and its bytes."""

    name: str
    content: bytes


def without_own_user(htpasswd: bytes) -> bytes:
    """Its lines but for that of the sidecar's own account: those of the index's users."""
    own = f"{OWN_USER}:".encode()
    return b"".join(line for line in htpasswd.splitlines(keepends=True) if not line.startswith(own))
