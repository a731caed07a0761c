"""The sidecar's own account in htpasswd: one file, one password, and nobody else counts or sees it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.compare import compared
from sidecar.config.parse import parse
from sidecar.errors import SettingsError
from sidecar.generate import Deployment, generate
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import counts
from sidecar.generate.htpasswd import htpasswd
from sidecar.generate.login import PATH, own_login, require, with_own_user
from sidecar.inputs.machine import placeholder_values
from sidecar.inputs.profiles import load_profile
from sidecar.model.artifacts import HTPASSWD, OWN_USER, without_own_user
from sidecar.model.changes import unified
from sidecar.model.index import Index, User

KEY = b"a key for tests"
USERS = b"anna:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\n"
INDEX = Index((User("anna", USERS.decode().strip()),), (), (), ())
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "fly": {"FLY_APP_NAME": "smooth", "FLY_REGION": "iad"},
    "kamal": {"KAMAL_CONTAINER_NAME": "showcase"},
    "local": {},
}


def deployment(kind: str) -> Deployment:
    """A machine with a shipped profile, whose htpasswd has the account."""
    settings = parse({"paths": {"databases": "/data/db"}}, ENVIRONMENTS[kind])
    values = placeholder_values(settings, Path("/state/markers"))
    return Deployment(load_profile(kind).data, values, settings.machine.region or None, "/data/db", KEY, True)


def test_another_file_has_another_password_and_the_same_one_the_same() -> None:
    """So a login proves that this very file was read, and a set that is made again is the same set."""
    content = with_own_user(USERS, KEY)
    login = own_login(content, KEY)
    assert login is not None
    name, password = login
    digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    assert content == USERS + f"{name}:{{SHA}}{digest}\n".encode()
    assert with_own_user(USERS, KEY) == content
    others = {
        own_login(with_own_user(USERS + b"x:y\n", KEY), KEY),
        own_login(with_own_user(USERS, b"k"), b"k"),
    }
    assert login not in others
    assert None not in others


def test_a_file_that_was_changed_proves_nothing() -> None:
    """By hand, by another tool, or with another machine's key: that is drift, and no fault of Navigator's."""
    content = with_own_user(USERS, KEY)
    for changed in (USERS, b"", content.replace(b"anna", b"hanna"), content + b"x:y\n"):
        assert own_login(changed, KEY) is None
    assert own_login(content, b"another") is None


def test_nobody_of_the_index_has_its_name() -> None:
    """Such a row is left out, with a warning, also where there is no such account."""
    content, warnings, _ = htpasswd([User("1", f"{OWN_USER}:{USERS.decode().strip()[5:]}")], KEY)
    assert (content, len(warnings)) == (b"", 1)
    assert "the sidecar's own account" in warnings[0]


@pytest.mark.parametrize("kind", ["fly", "local"])
def test_it_is_no_user(kind: str) -> None:
    """It is not counted, shows in no difference between two sets, and is meant where files are compared."""
    there, memo = deployment(kind), ResultCache()
    made = generate(INDEX, there, memo)
    assert own_login(made[HTPASSWD], KEY) is not None
    assert counts(made).users == 1
    plain = generate(INDEX, replace(there, login_probe=False), memo)
    assert plain[HTPASSWD] == USERS == without_own_user(made[HTPASSWD])
    assert unified(HTPASSWD, plain[HTPASSWD], made[HTPASSWD]) == ""
    (difference,) = compared(HTPASSWD, made[HTPASSWD], USERS)
    assert (difference.place, difference.meant) == (OWN_USER, True)


def test_where_it_would_start_a_tenant_it_is_refused() -> None:
    """Under Kamal the index's application is at the root, and would answer for whatever is asked for."""
    with pytest.raises(SettingsError, match="the tenant at / would be started"):
        generate(INDEX, deployment("kamal"), ResultCache())


@pytest.mark.parametrize(
    ("auth", "routes"),
    [
        ({"enabled": False}, {}),
        ({"htpasswd": "/etc/htpasswd"}, {}),
        ({"public_paths": [PATH]}, {}),
        ({"public_paths": ["/"]}, {}),
        ({"public_paths": ["*-probe"]}, {}),
        ({"public_paths": ["/side*"]}, {}),
        ({"auth_patterns": [{"pattern": "^/s", "action": "off"}]}, {}),
        ({}, {"redirects": [{"from": "^/(.*)$", "to": "/x"}]}),
        ({}, {"rewrites": [{"from": "probe", "to": "/x"}]}),
        ({}, {"reverse_proxies": [{"path": "^/", "target": "http://x"}]}),
        ({}, {"fly": {"replay": [{"path": "^/.+$", "region": "iad"}]}}),
    ],
)
def test_where_it_would_prove_nothing_it_is_refused(auth: dict[str, Any], routes: dict[str, Any]) -> None:
    """Nothing asks for a login there, or something else answers."""
    sound = {
        "enabled": True,
        "htpasswd": "/db/htpasswd",
        "public_paths": ["/up", "/showcase/", "*.css", "/a*"],
    }
    require({"auth": sound, "routes": {"rewrites": [{"from": "(", "to": "/"}]}}, ["/showcase/"], "/db")
    with pytest.raises(SettingsError):
        require({"auth": {**sound, **auth}, "routes": routes}, ["/showcase/"], "/db")
