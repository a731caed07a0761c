"""Connections within bounds, so that strangers hold neither the process's files nor half a request for long.

Only TCP is bounded: who may open the Unix socket is trusted, and bounds what it passes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientConnectionResetError, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

logger = logging.getLogger(__name__)

_CONTINUE = "100-continue"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many TCP connections may be open at once, and how many seconds a request may take to arrive."""

    connections: int = 200
    arrival: float = 10.0


class BoundedRunner(web.AppRunner):
    """Runs an application on bounded connections; `options` are those of `web.AppRunner`."""

    def __init__(self, application: web.Application, bounds: ConnectionLimits, **options: Any) -> None:
        # The library's own limit for a head that does not come, or not to its end.
        super().__init__(application, keepalive_timeout=bounds.arrival, **options)
        self._bounds = bounds

    async def _make_server(self) -> web.Server:
        return _Connections(await super()._make_server(), self._bounds, self._kwargs)


class _Connections(web.Server):
    """Makes, counts and ends the connections of one application."""

    def __init__(self, made: web.Server, bounds: ConnectionLimits, options: dict[str, Any]) -> None:
        super().__init__(self._handle, request_factory=self._arriving, **options)
        self._application = made.request_handler
        self._request = made.request_factory
        self._bounds = bounds
        # The oldest first.
        self._tcp: dict[web.RequestHandler, None] = {}
        self._busy: set[web.RequestHandler] = set()

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            return
        if len(self._tcp) >= self._bounds.connections:
            # Who waits for an answer, or follows a stream, is spared while others only hold a connection.
            oldest = next((one for one in self._tcp if one not in self._busy), next(iter(self._tcp)))
            del self._tcp[oldest]
            oldest.force_close()
        self._tcp[handler] = None

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._tcp.pop(handler, None)
        super().connection_lost(handler, exc)

    def _arriving(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """A request whose head is here; its body has to follow in time."""
        if protocol in self._tcp and not payload.is_eof():
            self._loop.call_later(self._bounds.arrival, _end_unless_whole, payload, protocol)
        return self._request(message, payload, protocol, writer, task)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", _CONTINUE).lower() != _CONTINUE:
            return _refusal(417, "Nothing but 100-continue can be expected.\n")
        self._busy.add(request.protocol)
        try:
            return await self._application(request)
        except ClientConnectionResetError:
            # Whoever asked has gone, before a body that was announced, say: no fault, and nobody to answer.
            return _refusal(400, "")
        finally:
            self._busy.discard(request.protocol)


def _end_unless_whole(payload: StreamReader, protocol: web.RequestHandler) -> None:
    if not payload.is_eof():
        protocol.force_close()


class _Connection(web.RequestHandler):
    """A connection that says of a malformed request no more than that it is one.

    What such a request holds may be a password, so it is neither answered nor logged.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        logger.info(
            "a malformed request from %s was refused (%s)",
            request.remote or "the Unix socket",
            type(exc).__name__,
            extra={"seldom": True},
        )
        return _refusal(400, "The request is malformed.\n")


def _refusal(status: int, text: str) -> web.Response:
    answer = web.Response(status=status, text=text)
    answer.force_close()
    return answer
