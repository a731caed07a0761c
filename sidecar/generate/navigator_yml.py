"""The computed parts of navigator.yml: tenants, login exemptions, replay routes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import groupby
from operator import itemgetter
from typing import Any

from sidecar.generate.ownership import regions_in, tenants
from sidecar.generate.yaml_writer import Entries
from sidecar.model.index import Programme, Tenant

REPLAY_STATUS = 307
_NONE: frozenset[str] = frozenset()

# The application's own generator escapes a dash in expressions, and leaves it as it is in routes.
_ESCAPE = str.maketrans({character: f"\\{character}" for character in "[]{}()|-*.\\?+^$# "})
_ESCAPE_ROUTE = {number: text for number, text in _ESCAPE.items() if number != ord("-")}


def tenant_entries(programmes: Sequence[Programme], root: str, withheld: Set[str]) -> Entries:
    """The tenants of events, but for those withheld, as they stand in `applications.tenants`."""
    items = []
    for programme in programmes:
        names = frozenset(one.database for one in tenants(programme)) if withheld else _NONE
        if not names or names - withheld:
            items.append((root, programme, names & withheld))
    return Entries(_tenants, items, mapping=False)


def _tenants(item: tuple[str, Programme, frozenset[str]]) -> list[dict[str, Any]]:
    root, programme, without = item
    return [_tenant(root, tenant) for tenant in tenants(programme) if tenant.database not in without]


def _tenant(root: str, tenant: Tenant) -> dict[str, Any]:
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
    base = root.translate(_ESCAPE)
    patterns = ["^/$"]
    if regional and (codes := "|".join(code.translate(_ESCAPE) for code in regions_in(programmes))):
        patterns += [f"^{base}/regions/(?:{codes})/cable$", f"^{base}/regions/(?:{codes})/demo/"]
    several = [one for one in programmes if not one.single]
    indexes = _by_year((one.year, one.studio.key) for one in several)
    public = _by_year((one.year, f"{one.studio.key}/{event.key}") for one in several for event in one.events)
    patterns += (f"^{base}/{year}/(?:{keys})/?$" for year, keys in indexes)
    patterns += (f"^{base}/{year}/(?:{keys})/public/" for year, keys in public)
    return [{"pattern": pattern, "action": "off"} for pattern in patterns]


def page_routes(root: str, target: str | None) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The reverse proxy to the operators' page at `target`, and the redirect to its address; or nothing."""
    if not target:
        return [], []
    base = root.translate(_ESCAPE)
    proxy = {
        "path": f"^{base}/sidecar/(.*)$",
        "target": target,
        "strip_path": True,
        "headers": {"X-Forwarded-Prefix": f"{root}/sidecar"},
    }
    return [proxy], [{"from": f"^{base}/sidecar$", "to": f"{root}/sidecar/"}]


def _by_year(keys: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """For each year, in order, its keys as the alternatives of an expression."""
    return [
        # No key holds a line break, so all of a year's can be escaped at once.
        (year, "\n".join(key for _, key in group).translate(_ESCAPE).replace("\n", "|"))
        for year, group in groupby(keys, key=itemgetter(0))
    ]


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
        groups.setdefault(one.year, []).append(one.studio.key.translate(_ESCAPE_ROUTE))
    codes = regions_in(others)
    root = root.translate(_ESCAPE_ROUTE)
    routes = [_route(f"^{root}/regions/{code.translate(_ESCAPE_ROUTE)}/.+$", code) for code in codes]
    for code in codes:
        for groups, rest in ((multiple.get(code, {}), "/.+$"), (single.get(code, {}), "(?:/.*)?$")):
            routes += (
                _route(f"^{root}/(?:{year})/(?:{'|'.join(sorted(keys))}){rest}", code)
                for year, keys in groups.items()
            )
    return routes


def _route(path: str, region: str) -> dict[str, Any]:
    return {"path": path, "region": region, "status": REPLAY_STATUS}
