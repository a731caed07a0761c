"""The endpoints for operators, scripts and Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from sidecar.errors import BadRequest, Busy
from sidecar.events import Broker
from sidecar.metrics import TRIGGERS, Metrics
from sidecar.run import Request
from sidecar.web.access import Administrators, on_unix_socket
from sidecar.web.answers import (
    EVENTS,
    JSON,
    TEXT,
    errors,
    json_answer,
    outcome_answer,
    preferred,
    text_answer,
)
from sidecar.web.public import PublicTrigger
from sidecar.worker import Worker

_KEEPALIVE = 15.0


class Api:
    """Lists every route; each handler decodes, calls and replies."""

    def __init__(
        self,
        worker: Worker,
        status: Callable[[], dict[str, Any]],
        metrics: Metrics,
        broker: Broker,
        administrators: Administrators,
        public: PublicTrigger,
    ) -> None:
        self._worker = worker
        self._status = status
        self._broker = broker
        self._administrators = administrators
        self._metrics = make_aiohttp_handler(metrics.registry)
        self._public = public

    def application(self) -> web.Application:
        """The application, the same on every address."""
        app = web.Application(middlewares=[errors], client_max_size=64 << 10)
        app.add_routes(
            [
                web.post("/update", self.update),
                web.get("/status", self.status),
                web.get("/preview", self.preview),
                web.get("/events", self.events),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.post("/public", self._public.handle),
            ]
        )
        return app

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Run an update; the answer comes when it is published."""
        who = await self._administrators.require(request)
        trigger = request.query.get("trigger", "socket" if on_unix_socket(request) else "http")
        if trigger not in TRIGGERS:
            raise BadRequest(f"there is no trigger {trigger!r}", f"known are {', '.join(TRIGGERS)}")
        wanted = Request(
            trigger=trigger,
            who=who,
            force=request.query.get("force") in ("1", "true", "yes"),
            if_match=request.headers["If-Match"].strip().strip('"')
            if "If-Match" in request.headers
            else None,
        )
        if preferred(request, TEXT, JSON, EVENTS) == EVENTS:
            return await self._stream(request, asyncio.ensure_future(self._worker.submit(wanted)))
        return outcome_answer(request, await self._worker.submit(wanted))

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """What an update would change now."""
        who = await self._administrators.require(request)
        outcome = await self._worker.submit(Request(trigger="preview", who=who, preview=True))
        tag = {"ETag": f'"{outcome.tag}"'} if outcome.tag else None
        return outcome_answer(request, outcome, tag)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """The state of this machine, without names of users."""
        if preferred(request, JSON, TEXT) == JSON:
            return json_answer(self._status())
        return text_answer("\n".join(f"{key}: {value}" for key, value in self._status().items()))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens, as it happens."""
        await self._administrators.require(request)
        return await self._stream(request, None)

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Alive: the loop that does the work turns."""
        if not self._worker.alive:
            raise Busy("the loop that runs the updates is stuck", "restart the sidecar", code="stuck")
        return text_answer("ok")

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Ready: a generation is in place."""
        if self._status()["generation"]["current"] is None:
            raise Busy(
                "no generation is in place yet", "look at /status for the last error", code="not_ready"
            )
        return text_answer("ok")

    async def _stream(self, request: web.Request, task: asyncio.Future[Any] | None) -> web.StreamResponse:
        """Server-sent events: all there are, or until a run has ended."""
        response = web.StreamResponse(
            headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        with self._broker.listening() as queue:
            await response.prepare(request)
            if task is not None:
                task.add_done_callback(lambda _: queue.put_nowait(None) if not queue.full() else None)
            while task is None or not task.done():
                try:
                    event = await asyncio.wait_for(queue.get(), _KEEPALIVE)
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                if event is None:
                    break
                data = msgspec.json.encode(event.data)
                await response.write(
                    b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.kind.encode(), data)
                )
            if task is not None:
                outcome = await task
                await response.write(b"event: outcome\ndata: %s\n\n" % msgspec.json.encode(outcome))
        return response
