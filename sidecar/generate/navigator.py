"""The computed parts of navigator.yml: tenants, login exemptions, replay routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sidecar.generate.programmes import regions_in
from sidecar.model import Programme, Tenant
from sidecar.yamltext import Entries

REPLAY_STATUS = 307

_META = re.compile(r"[\[\]{}()|\-*.\\?+^$# ]")
_META_NO_DASH = re.compile(r"[\[\]{}()|*.\\?+^$# ]")


def _escape(text: str) -> str:
    """Text as part of an expression, escaped as the application's own generator does."""
    return _META.sub(r"\\\g<0>", text)


def _escape_route(text: str) -> str:
    """The same for routes, where that generator leaves a dash as it is."""
    return _META_NO_DASH.sub(r"\\\g<0>", text)


def tenant_entries(tenants: Sequence[Tenant], root: str) -> Entries:
    """The tenants of events, as they stand in `applications.tenants`."""
    return Entries(_tenant, [(root, tenant) for tenant in tenants], mapping=False)


def _tenant(item: tuple[str, Tenant]) -> dict[str, Any]:
    root, tenant = item
    env = {
        "RAILS_APP_OWNER": tenant.owner,
        "RAILS_APP_SCOPE": tenant.scope,
        "SHOWCASE_LOGO": tenant.logo,
    }
    if tenant.locale:
        env["RAILS_LOCALE"] = tenant.locale.replace("-", "_")
    return {"path": f"{root}/{tenant.scope}/", "var": {"database": tenant.database}, "env": env}


def auth_patterns(programmes: Sequence[Programme], root: str, *, regional: bool) -> list[dict[str, str]]:
    """What needs no login: the root, other regions' cable and demo (on Fly), index pages, public pages."""
    base = _escape(root)
    patterns = ["^/$"]
    if regional and (codes := "|".join(map(_escape, regions_in(programmes)))):
        patterns += [f"^{base}/regions/(?:{codes})/cable$", f"^{base}/regions/(?:{codes})/demo/"]
    indexes = _by_year(programmes, lambda one: [one.studio.key])
    public = _by_year(programmes, lambda one: [f"{one.studio.key}/{event.key}" for event in one.events])
    patterns += (f"^{base}/{year}/(?:{keys})/?$" for year, keys in indexes)
    patterns += (f"^{base}/{year}/(?:{keys})/public/" for year, keys in public)
    return [{"pattern": pattern, "action": "off"} for pattern in patterns]


def _by_year(programmes: Iterable[Programme], keys_of: Any) -> list[tuple[int, str]]:
    """Alternatives over a year's multi-event programmes, in the order of the years."""
    found: dict[int, list[str]] = {}
    for one in programmes:
        if not one.single:
            found.setdefault(one.year, []).extend(map(_escape, keys_of(one)))
    return [(year, "|".join(keys)) for year, keys in found.items()]


def replay_routes(programmes: Sequence[Programme], root: str, region: str) -> list[dict[str, Any]]:
    """Routes to the regions that own the other events.

    The index page of a studio with several events is prerendered and stays here; a single event
    goes away whole.
    """
    multiple: dict[str, dict[int, list[str]]] = {}
    single: dict[str, dict[int, list[str]]] = {}
    others = [one for one in programmes if one.region and one.region != region]
    for one in others:
        groups = (single if one.single else multiple).setdefault(str(one.region), {})
        groups.setdefault(one.year, []).append(_escape_route(one.studio.key))
    codes = regions_in(others)
    routes = [_route(f"^{root}/regions/{code}/.+$", code) for code in codes]
    for code in codes:
        for groups, rest in ((multiple.get(code, {}), "/.+$"), (single.get(code, {}), "(?:/.*)?$")):
            routes += (
                _route(f"^{root}/(?:{year})/(?:{'|'.join(sorted(keys))}){rest}", code)
                for year, keys in groups.items()
            )
    return routes


def _route(path: str, region: str) -> dict[str, Any]:
    return {"path": path, "region": region, "status": REPLAY_STATUS}
