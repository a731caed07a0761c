"""The application: the routes of the table, the same on every address."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from sidecar.web.access import known_as
from sidecar.web.answers import Handler, errors, note_begun
from sidecar.web.browser.common import either
from sidecar.web.route import Route
from sidecar.web.routes import PAGE_ROUTES, ROUTES, Handlers

_MAX_BODY_BYTES = 64 << 10
# Anything else is 404 before anybody is asked for a password: Navigator's login lets some endings through.
_NUMBER = "{number:[0-9]+}"
_LOCKED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def application(parts: Handlers, names: Collection[str]) -> web.Application:
    """Who may do what is decided by each handler: see `access`. `names` are those it is known by on TCP."""
    app = web.Application(middlewares=[errors, known_as(names)], client_max_size=_MAX_BODY_BYTES)
    for route in (*ROUTES, *PAGE_ROUTES):
        add = app.router.add_get if route.method == "GET" else app.router.add_post
        add(route.path.replace("{number}", _NUMBER), _handler(route, parts))
    app.on_response_prepare.append(_protect)
    app.on_response_prepare.append(note_begun)
    return app


def _handler(route: Route[Handlers], parts: Handlers) -> Handler:
    plain = route.handler(parts)
    return plain if route.page is None else either(route.page(parts), plain)


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """Browsers guess at no answer and embed none; caches know that it depends on what was asked for."""
    for name, value in _LOCKED.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Vary", "Accept")
