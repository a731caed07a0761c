"""The application: every route in one list, the same on every address."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from sidecar.web import openapi
from sidecar.web.access import known_as
from sidecar.web.answers import errors, note_begun
from sidecar.web.background import Background
from sidecar.web.fleet import FleetViews
from sidecar.web.html import asset
from sidecar.web.operations import Operations
from sidecar.web.pages import Pages, either
from sidecar.web.public import PublicTrigger
from sidecar.web.views import Views

_LONGEST_BODY = 64 << 10
# Anything else is 404 before anybody is asked for a password: Navigator's login lets some endings through.
_NUMBER = "{number:[0-9]+}"
_LOCKED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def application(
    operations: Operations,
    background: Background,
    views: Views,
    public: PublicTrigger,
    pages: Pages,
    fleet: FleetViews,
    names: Collection[str],
) -> web.Application:
    """Who may do what is decided by each handler: see `access`. `names` are those it is known by on TCP."""
    app = web.Application(middlewares=[errors, known_as(names)], client_max_size=_LONGEST_BODY)
    app.add_routes(
        [
            web.post("/update", operations.update),
            web.get("/preview", either(pages.preview, operations.preview)),
            web.post("/rollback", operations.rollback),
            web.post("/webhook", operations.webhook),
            web.post("/ready", background.ready),
            web.get("/databases", background.databases),
            web.post("/databases/push", background.push),
            web.post("/public", public.handle),
            web.get("/fleet", fleet.state),
            web.post("/fleet/update", fleet.update),
            web.get("/status", either(pages.state, views.status)),
            web.get("/generations", either(pages.past, views.generations)),
            web.get(f"/generations/{_NUMBER}", either(pages.generation, views.generation)),
            web.get("/events", views.events),
            web.get("/metrics", views.metrics),
            web.get("/healthz", views.healthz),
            web.get("/readyz", views.readyz),
            web.get("/openapi.json", openapi.handle),
            web.get("/", either(pages.home, views.status)),
            # What the page needs for itself; nothing else should rely on it.
            web.get("/page/live", pages.live),
            web.get("/page/update", pages.confirm),
            web.post("/page/update", pages.apply),
            web.get("/page/fleet", pages.confirm_fleet),
            web.post("/page/fleet", pages.apply_fleet),
            web.get(f"/page/rollback/{_NUMBER}", pages.confirm_rollback),
            web.post(f"/page/rollback/{_NUMBER}", pages.roll_back),
            web.get("/page/assets/{digest}/{name}", asset),
        ]
    )
    app.on_response_prepare.append(_protect)
    app.on_response_prepare.append(note_begun)
    return app


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """Browsers guess at no answer and embed none; caches know that it depends on what was asked for."""
    for name, value in _LOCKED.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Vary", "Accept")
