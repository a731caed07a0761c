"""Server-sent events: what the broker tells, until the client or the daemon has enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec
from aiohttp import web

from sidecar.errors import SidecarError
from sidecar.model.record import ErrorAnswer, Problem, Record
from sidecar.observe.events import Broker, StreamedEvent
from sidecar.web.answers import EVENTS

_KEEPALIVE_SECONDS = 15.0


async def stream(
    request: web.Request, broker: Broker, ending: Awaitable[Record] | None = None
) -> web.StreamResponse:
    """All events from now on; with `ending`, until it ends, and what it gives (or its error) last."""
    response = web.StreamResponse(
        headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    with broker.listening() as queue:
        await response.prepare(request)
        task = None if ending is None else asyncio.ensure_future(ending)
        if task is not None:
            task.add_done_callback(lambda _: _end(queue))
        while True:
            try:
                async with asyncio.timeout(_KEEPALIVE_SECONDS):
                    event = await queue.get()
            except TimeoutError:
                await response.write(b": still here\n\n")
                continue
            if event is None:
                break
            await _write(response, event.data.kind, msgspec.json.encode(event.data), event.number)
        if task is not None:
            try:
                await _write(response, "outcome", msgspec.json.encode(await task))
            except SidecarError as error:
                problem = Problem(error.code, error.message, error.hint, error.status)
                await _write(response, "error", msgspec.json.encode(ErrorAnswer(problem)))
    return response


def _end(queue: asyncio.Queue[StreamedEvent | None]) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)


async def _write(response: web.StreamResponse, kind: str, data: bytes, number: int | None = None) -> None:
    prefix = b"" if number is None else b"id: %d\n" % number
    await response.write(b"%sevent: %s\ndata: %s\n\n" % (prefix, kind.encode(), data))
