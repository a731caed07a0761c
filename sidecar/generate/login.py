"""The sidecar's own account in htpasswd: who signs in with it has proof that Navigator read this very file.

The password is a keyed digest of all other lines: another file has another password, and the same file
always the same, so nothing is remembered, and a set that is made again is the same set.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import re2

from sidecar.errors import SettingsError
from sidecar.model.artifacts import HTPASSWD, OWN_USER, without_own_user

PATH = "/sidecar-probe"
"""What is asked for: outside of every tenant, so that none is started, and nothing that needs no login."""


def with_own_user(users: bytes, key: bytes) -> bytes:
    """htpasswd with the account as its last line; `key` is this machine's secret."""
    # A random password of 256 bits needs no slow hash.
    digest = hashlib.sha1(_password(users, key).encode(), usedforsecurity=False).digest()
    return users + f"{OWN_USER}:{{SHA}}{base64.b64encode(digest).decode()}\n".encode()


def own_login(content: bytes, key: bytes) -> tuple[str, str] | None:
    """Name and password of the account in a htpasswd; None where that is not as it was made, or has none."""
    users = without_own_user(content)
    return (OWN_USER, _password(users, key)) if with_own_user(users, key) == content else None


def _password(users: bytes, key: bytes) -> str:
    return hmac.digest(key, b"login probe\0" + users, hashlib.sha256).hex()


def require(configuration: Any, tenants: Iterable[str], databases: str) -> None:
    """`SettingsError` where this configuration would not ask for a login at `PATH`, or start a tenant."""
    if problem := next(_problems(configuration, tenants, f"{databases}/{HTPASSWD}"), None):
        raise SettingsError(
            f"navigator.login_probe cannot tell anything with this profile: {problem}",
            "turn it off, and name a request with a user's login under navigator.probes instead",
        )


def _problems(configuration: Any, tenants: Iterable[str], htpasswd: str) -> Iterator[str]:
    auth = _at(configuration, "auth")
    if not auth.get("enabled") or str(auth.get("htpasswd")) != htpasswd:
        yield f"its auth does not ask for the logins in {htpasswd}"
    for path in tenants:
        if PATH.startswith(path):
            yield f"the tenant at {path} would be started"
    for path in map(str, auth.get("public_paths") or ()):
        # Of a pattern with a star further on the part before it is enough to be in doubt.
        start, star, _ = path[1:].partition("*")
        prefix = path.endswith("/") or star
        fits = PATH.startswith(path[:1] + start) if prefix else path == PATH
        if PATH.endswith(start) if path.startswith("*") else fits:
            yield f"its public path {path} needs no login"
    routes = _at(configuration, "routes")
    for entries, key in (
        (auth.get("auth_patterns"), "pattern"),
        (routes.get("redirects"), "from"),
        (routes.get("rewrites"), "from"),
        (routes.get("reverse_proxies"), "path"),
        (_at(routes, "fly").get("replay"), "path"),
    ):
        for expression in (str(entry.get(key)) for entry in entries or ()):
            if _fits(expression):
                yield f"its expression {expression} leads {PATH} elsewhere"


def _at(node: Any, name: str) -> Mapping[str, Any]:
    found = node.get(name)
    return found if isinstance(found, Mapping) else {}


def _fits(expression: str) -> bool:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.search(expression, PATH, options) is not None
    except re2.error:
        return False  # Navigator leaves it out
