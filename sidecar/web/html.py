"""HTML answers: their headers, the files that belong to every page, and errors for browsers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources

from aiohttp import web

from sidecar.errors import NotFound, SidecarError
from sidecar.web.page.layout import HEADERS, PageFrame, problem
from sidecar.web.page.markup import Content, h

HTML = "text/html"

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def _assets() -> dict[str, bytes]:
    folder = resources.files("sidecar").joinpath("web", "page", "assets")
    return {name: folder.joinpath(name).read_bytes() for name in ("page.css", "page.js", "icon.svg")}


ASSETS = _assets()
# The digest in the address: a browser may keep a file for ever, and takes a new one at once.
ADDRESSES = {
    name: f"page/assets/{hashlib.sha256(content).hexdigest()[:10]}/{name}" for name, content in ASSETS.items()
}


def base_of(request: web.Request) -> str:
    """The way from the request's address to the sidecar's root, whatever prefix a proxy put before it."""
    depth = request.path.count("/") - 1
    return "../" * depth or "./"


def error_page(request: web.Request, error: SidecarError, headers: Mapping[str, str]) -> web.Response:
    """An error for a browser."""
    frame = PageFrame(base_of(request), ADDRESSES)
    more: Content = None
    if error.status in (401, 403) and "X-Forwarded-Prefix" in request.headers:
        more = h.p(
            "Behind Navigator its own login comes first, and a browser sends one name and password only: an "
            "administrator needs the same ones in both."
        )
    text = problem(frame, error.status, error.message, error.hint, more)
    return html_answer(text, error.status, headers)


def html_answer(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A page, with everything that keeps it to itself."""
    return web.Response(
        text=text,
        status=status,
        content_type=HTML,
        charset="utf-8",
        headers={**HEADERS, **(headers or {})},
    )


async def asset(request: web.Request) -> web.StreamResponse:
    """The style sheet, the script, the icon: open, because they tell nothing."""
    name = request.match_info["name"]
    if name not in ASSETS:
        raise NotFound(f"there is no file {name}")
    current = request.path.endswith(ADDRESSES[name])
    return web.Response(
        body=ASSETS[name],
        content_type=_TYPES[name.rpartition(".")[2]],
        charset="utf-8",
        headers={
            "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
        },
    )
