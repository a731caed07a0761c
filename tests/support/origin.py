"""An application to render pages: counts what it is asked for, and answers what a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Origin:
    """A running application; `render` makes a page's text from its path, `broken` paths answer 500."""

    url: str
    render: Callable[[str], str]
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


@asynccontextmanager
async def origin(render: Callable[[str], str] = lambda path: f"<p>{path}</p>") -> AsyncIterator[Origin]:
    """Serve on a free port of loopback."""

    async def handle(request: web.Request) -> web.Response:
        running.asked.append(request.path)
        if request.path in running.broken:
            return web.Response(status=500, text="broken")
        return web.Response(text=running.render(request.path), content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    running = Origin(f"http://127.0.0.1:{runner.addresses[0][1]}", render)
    try:
        yield running
    finally:
        await runner.cleanup()
