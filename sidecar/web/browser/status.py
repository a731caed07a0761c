"""Status as a page: what is now, moving while something is under way; and help."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.observe.alerts import meanings
from sidecar.observe.events import Broker
from sidecar.observe.logs import whereabouts
from sidecar.web.answers import EVENTS
from sidecar.web.browser.common import Common
from sidecar.web.browser.fleet import FleetPages
from sidecar.web.browser.look import Look
from sidecar.web.html import base_of, html_answer
from sidecar.web.page import fleet
from sidecar.web.page import help as help_page
from sidecar.web.page import status as status_page
from sidecar.web.page.layout import page
from sidecar.web.page.markup import Markup

# How often to look while something is under way, whether or not an event came; and how long to gather events.
_RECHECK_SECONDS = 1.0
_GATHER_SECONDS = 0.05


class StatusPages:
    """The first page, the open one, what moves on them, and help."""

    def __init__(
        self, common: Common, look: Look, fleet_pages: FleetPages, broker: Broker, settings: Settings
    ) -> None:
        self._common = common
        self._look = look
        self._fleet_pages = fleet_pages
        self._broker = broker
        self._settings = settings

    async def home(self, request: web.Request) -> web.StreamResponse:
        """What is."""
        who = await self._common.require(request, linked=True)
        seen = self._look.data()
        content = status_page.main(seen, base=base_of(request))
        return self._common.answer(request, who, "Status", content, section="", refresh=seen.active)

    async def state(self, request: web.Request) -> web.StreamResponse:
        """What everyone may see."""
        frame = self._common.frame(request, "")
        content = status_page.status_page(self._look.data(), base=frame.base)
        return html_answer(page(msgspec.structs.replace(frame, section=None), "Status", *content))

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The changing part of a page, whenever it changes, for as long as something is under way.

        Each event holds all of it: a browser that was away gets what it missed with the next one. The end
        of what is under way is the end of the stream, which would keep an idle machine awake.
        """
        who = await self._common.require(request)
        of_fleet = request.query.get("of") == "fleet"
        response = web.StreamResponse(
            headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        with self._broker.listening() as queue:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            sent: Markup | None = None
            going = True
            while going:
                seen = self._look.data()
                shown = (
                    fleet.panel(seen.fleet, seen.at, base="./", token="")
                    if of_fleet
                    else status_page.panel(seen, base="./")
                )
                if not seen.active:
                    # A rollback may be about to follow.
                    await asyncio.sleep(_GATHER_SECONDS)
                    seen = self._look.data()
                if not seen.active:
                    whole = (
                        await self._fleet_pages.main(seen, who, "./")
                        if of_fleet
                        else status_page.main(seen, base="./")
                    )
                    await _write(response, "end", whole)
                    break
                if shown != sent:
                    await _write(response, "panel", shown)
                else:
                    await response.write(b": still here\n\n")
                sent = shown
                going = await _something(queue)
        return response

    async def help(self, request: web.Request) -> web.StreamResponse:
        """Ten questions, where the logs are, what the alerts mean."""
        who = await self._common.require(request, linked=True)
        alerts = await asyncio.to_thread(meanings)
        content = help_page.main(whereabouts(self._settings), alerts, base=base_of(request))
        return self._common.answer(request, who, "Help", content, section="help")


async def _something(queue: asyncio.Queue[Any]) -> bool:
    """Wait until something happens or it is time to look, gather what follows; False at the daemon's end."""
    try:
        async with asyncio.timeout(_RECHECK_SECONDS):
            event = await queue.get()
        await asyncio.sleep(_GATHER_SECONDS)
    except TimeoutError:
        return True
    while event is not None and not queue.empty():
        event = queue.get_nowait()
    return event is not None


async def _write(response: web.StreamResponse, kind: str, html: str) -> None:
    # JSON, so that no line of it can be taken for the stream's own.
    await response.write(b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(str(html))))
