"""Everything that is generated from the index: pure functions from records to bytes.

`generate` is the whole of it; the modules below each make one kind of artifact.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.errors import SettingsError
from sidecar.generate import documents, login, navigator_yml, yaml_writer
from sidecar.generate.cache import ResultCache
from sidecar.generate.htpasswd import htpasswd
from sidecar.generate.ownership import owners, programmes, tenants
from sidecar.generate.profile import expand
from sidecar.model.artifacts import (
    HTPASSWD,
    MAINTENANCE,
    MAP,
    NAMES,
    NAVIGATOR,
    PRERENDER,
    SHOWCASES,
    TENANTS,
    Artifact,
)
from sidecar.model.index import Index, Page, Tenant

# Stands for the fingerprint in the contents that the fingerprint is made of.
_UNKNOWN = "fingerprint-" + "0" * 32


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is known of this machine besides the index.

    `profile` is a parsed profile; `values` are the values of its placeholders; `region` is this
    machine's on Fly and None elsewhere; `databases` is the folder of the event databases; `key` is
    the secret for the salts of plain-text passwords, and for the password of the sidecar's own account, which
    htpasswd has with `login_probe`.
    """

    profile: Mapping[str, Any]
    values: Mapping[str, Any]
    region: str | None
    databases: str
    key: bytes
    login_probe: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """A complete set of artifacts, in the order of `NAMES`, and what it was made of.

    `tenants` are the events served here, `databases` and `paths` those of every tenant, `expressions` the
    regular expressions in navigator.yml, `skipped` the warnings about rows left out of htpasswd,
    `waiting` how many users are left out until a later update has hashed their plain-text passwords.
    `fingerprint` tells this set from every other; navigator.yml carries it in its ready hook, so that
    the marker which the hook leaves proves which set the web server has loaded.
    """

    artifacts: tuple[Artifact, ...]
    fingerprint: str
    tenants: tuple[Tenant, ...]
    owners: Mapping[str, str | None]
    databases: tuple[str, ...]
    paths: tuple[str, ...]
    expressions: tuple[str, ...]
    pages: tuple[Page, ...]
    skipped: tuple[str, ...]
    waiting: int

    def __getitem__(self, name: str) -> bytes:
        return next(artifact.content for artifact in self.artifacts if artifact.name == name)


@dataclass(frozen=True, slots=True)
class _Site:
    """All but the users: the other contents, `around` a fingerprint where there is one; what they hold."""

    contents: Mapping[str, bytes]
    around: Mapping[str, Sequence[bytes]]
    tenants: tuple[Tenant, ...]
    owners: Mapping[str, str | None]
    databases: tuple[str, ...]
    paths: tuple[str, ...]
    expressions: tuple[str, ...]
    pages: tuple[Page, ...]


def generate(
    index: Index,
    deployment: Deployment,
    memo: ResultCache,
    previous_htpasswd: bytes = b"",
    withheld: frozenset[str] = frozenset(),
) -> Generated:
    """All artifacts of one machine, from the index and the machine's own settings.

    `previous_htpasswd` keeps the lines of unchanged plain-text passwords. `withheld` are tenants that are not
    to be served, by the stems of their databases. Raises `Rejected` for an
    index that cannot be represented and `SettingsError` for an unusable profile.
    """
    users, skipped, waiting = htpasswd(index.users, deployment.key, previous_htpasswd)
    if deployment.login_probe:
        users = login.with_own_user(users, deployment.key)
    machine = repr(
        (
            deployment.profile,
            deployment.values,
            deployment.region,
            deployment.databases,
            deployment.login_probe,
        )
    )
    # Most changes concern users only, and then all of this is as it was.
    site = memo.get(
        (_site, machine, withheld, deployment.key, index.regions, index.studios, index.events, index.partial),
        lambda: _site(index, deployment, memo, withheld),
    )
    contents = {HTPASSWD: users, **site.contents}
    unknown = {name: _UNKNOWN.encode().join(parts) for name, parts in site.around.items()}
    fingerprint = _fingerprint(contents | unknown)
    contents |= {name: fingerprint.encode().join(parts) for name, parts in site.around.items()}
    return Generated(
        artifacts=tuple(Artifact(name, contents[name]) for name in NAMES),
        fingerprint=fingerprint,
        tenants=site.tenants,
        owners=site.owners,
        databases=site.databases,
        paths=site.paths,
        expressions=site.expressions,
        pages=site.pages,
        skipped=tuple(skipped),
        waiting=waiting,
    )


def _site(index: Index, deployment: Deployment, memo: ResultCache, withheld: frozenset[str]) -> _Site:
    owned = owners(index, memo)
    everywhere = programmes(index, owned, memo)
    here = deployment.region
    local = [one for one in everywhere if not (here and one.region and one.region != here)]
    served = tuple(
        tenant
        for one in local
        for tenant in memo.get((tenants, one), lambda one=one: tenants(one))  # type: ignore[misc]
        if tenant.database not in withheld
    )
    pages = documents.prerender_pages(index, everywhere)

    placeholder = _placeholder(deployment.key)
    values = _values(deployment)
    root = str(values.get("root", ""))
    page_proxy, page_redirect = navigator_yml.page_routes(root, values.get("page_target"))
    values |= {
        "page_proxy": page_proxy,
        "page_redirect": page_redirect,
        "tenants": [navigator_yml.tenant_entries(local, root, withheld)],
        "auth_patterns": navigator_yml.auth_patterns(everywhere, root, regional=here is not None),
        "replay": navigator_yml.replay_routes(everywhere, root, here) if here else [],
        "fingerprint": placeholder,
    }
    configuration = expand(_part(deployment.profile, "navigator"), values, "navigator")
    maintenance = expand(_part(deployment.profile, "maintenance"), values, "maintenance")
    listed = _tenants(configuration, root, served)
    if deployment.login_probe:
        login.require(configuration, [path for path, _ in listed], deployment.databases)
    databases = tuple(database for _, database in listed if database)
    contents = {
        MAP: yaml_writer.dump(documents.map_document(index, owned), memo),
        SHOWCASES: yaml_writer.dump(documents.showcases_document(everywhere), memo),
        TENANTS: documents.tenants_list(databases, deployment.databases),
        PRERENDER: documents.prerender_list(pages),
    }
    around = {
        name: yaml_writer.dump(document, memo).split(placeholder.encode())
        for name, document in ((MAINTENANCE, maintenance), (NAVIGATOR, configuration))
    }
    return _Site(
        contents=contents,
        around=around,
        tenants=served,
        owners=owned,
        databases=databases,
        paths=tuple(path for path, _ in listed),
        expressions=tuple(_expressions(configuration)),
        pages=tuple(pages),
    )


def _placeholder(key: bytes) -> str:
    """Stands for the fingerprint while files are written: of its form, and nothing that an index can know."""
    return "fingerprint-" + hmac.digest(key, b"fingerprint", hashlib.sha256).hex()[:32]


def maintenance(deployment: Deployment) -> bytes:
    """navigator-maintenance.yml of a machine that has no index yet: what it boots with the first time."""
    nothing = {"tenants": [], "auth_patterns": [], "replay": [], "fingerprint": "none"}
    part = _part(deployment.profile, "maintenance")
    return yaml_writer.dump(expand(part, _values(deployment) | nothing, "maintenance"), ResultCache())


def places(deployment: Deployment) -> dict[str, str]:
    """The databases that the profile puts elsewhere, such as the demonstration's: files by their stems."""
    values = _values(deployment) | {"tenants": []}
    named = _part(deployment.profile, "navigator").get("applications", {}).get("tenants", [])
    found = {}
    for tenant in expand(named, values, "navigator.applications.tenants"):
        scheme, _, path = str(tenant.get("env", {}).get("DATABASE_URL", "")).partition("://")
        database = str(tenant.get("var", {}).get("database", ""))
        if scheme == "sqlite3" and database:
            found[database] = path
    return found


def _part(profile: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One of a profile's parts, which must be a mapping."""
    part = profile.get(name, {})
    if not isinstance(part, dict):
        raise SettingsError(f"the profile's {name} is not a mapping", "compare it with a shipped profile")
    return part


def _values(deployment: Deployment) -> dict[str, Any]:
    """The machine's values and then the profile's own, which may build on them; the machine's win."""
    values = dict(deployment.values)
    for name, value in _part(deployment.profile, "values").items():
        if name not in deployment.values:
            values[name] = expand(value, values, f"values.{name}")
    return values


def _tenants(configuration: Any, root: str, served: Sequence[Tenant]) -> list[tuple[str, str]]:
    """Path and database of every tenant in the configuration, those that the profile names included."""
    try:
        listed = configuration["applications"]["tenants"]
        found: list[tuple[str, str]] = []
        for tenant in listed:
            if isinstance(tenant, yaml_writer.Entries):
                found += ((f"{root}/{one.scope}/", one.database) for one in served)
            else:
                found.append((str(tenant["path"]), str(tenant.get("var", {}).get("database", ""))))
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"the profile's applications.tenants is not a list of tenants with a path: {error!r}",
            'compare it with a shipped profile; the events belong where "{{tenants}}" stands',
        ) from None
    return found


# Where navigator.yml holds regular expressions: path to a list, and the key in each of its elements.
_EXPRESSIONS = (
    (("auth", "auth_patterns"), "pattern"),
    (("routes", "redirects"), "from"),
    (("routes", "rewrites"), "from"),
    (("routes", "reverse_proxies"), "path"),
    (("routes", "fly", "replay"), "path"),
)


def _expressions(configuration: Any) -> Iterator[str]:
    for path, key in _EXPRESSIONS:
        node = configuration
        try:
            for step in path:
                node = node.get(step) or {}
            found = [str(entry[key]) for entry in node if entry.get(key)]
        except (AttributeError, TypeError):
            raise SettingsError(
                f"the profile's {'.'.join(path)} is not a list of mappings",
                "compare it with a shipped profile",
            ) from None
        yield from found


def _fingerprint(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update(f"{name} {len(contents[name])}\n".encode())
        digest.update(contents[name])
    return "fingerprint-" + digest.hexdigest()[:32]
