"""The application: every route in one list, the same on every address."""

from __future__ import annotations

from aiohttp import web

from sidecar.web import openapi
from sidecar.web.answers import errors
from sidecar.web.operations import Operations
from sidecar.web.public import PublicTrigger
from sidecar.web.views import Views

_LONGEST_BODY = 64 << 10


def application(operations: Operations, views: Views, public: PublicTrigger) -> web.Application:
    """Who may do what is decided by each handler: see `access`."""
    app = web.Application(middlewares=[errors], client_max_size=_LONGEST_BODY)
    app.add_routes(
        [
            web.post("/update", operations.update),
            web.get("/preview", operations.preview),
            web.post("/rollback", operations.rollback),
            web.post("/webhook", operations.webhook),
            web.post("/public", public.handle),
            web.get("/status", views.status),
            web.get("/generations", views.generations),
            web.get("/generations/{number}", views.generation),
            web.get("/events", views.events),
            web.get("/metrics", views.metrics),
            web.get("/healthz", views.healthz),
            web.get("/readyz", views.readyz),
            web.get("/openapi.json", openapi.handle),
        ]
    )
    return app
