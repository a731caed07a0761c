"""Connections within bounds: what strangers hold open, and what a malformed request gets to see."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.config.settings import ListenSettings
from sidecar.web.connections import ConnectionLimits
from sidecar.web.server import Server

HEAD = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n"
SECRETS = [
    b"Authorization: Bearer my-webhook-token-123\x7f\r\n",
    b"Authorization: Basic YWRtaW46U3VwZXJTZWNyZXQ=\x01\r\n",
    b"my-webhook-token-123\r\n",
    b"Authorization: " + b"my-webhook-token-123" * 1000 + b"\r\n",
]


async def _quick(request: web.Request) -> web.Response:
    return web.Response(text="quick")


async def _read(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _stream(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"begun")
    await asyncio.sleep(60)
    return answer


@asynccontextmanager
async def served(folder: Path, bounds: ConnectionLimits) -> AsyncIterator[Server]:
    """A small application on both kinds of address."""
    app = web.Application()
    app.add_routes([web.get("/quick", _quick), web.post("/read", _read), web.get("/stream", _stream)])
    server = Server(app, ListenSettings(socket=str(folder / "s.sock"), port=0), bounds)
    await server.startup()
    try:
        yield server
    finally:
        await server.shutdown()


class Peer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def tcp(cls, server: Server) -> Peer:
        assert server.url is not None
        return cls(*await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2])))

    @classmethod
    async def unix(cls, folder: Path) -> Peer:
        return cls(*await asyncio.open_unix_connection(folder / "s.sock"))

    async def ask(self, data: bytes = HEAD + b"\r\n", until: bytes = b"quick") -> bytes:
        """Send something; what comes back, up to some bytes."""
        self._writer.write(data)
        async with asyncio.timeout(10):
            return await self._reader.readuntil(until)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def leave(self) -> None:
        """Send nothing more."""
        self._writer.write_eof()

    async def rest(self) -> bytes:
        """All that comes until the other end closes, which it must."""
        data = b""
        with suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while chunk := await self._reader.read(1000):
                    data += chunk
        self._writer.close()
        return data

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def test_who_only_holds_a_connection_makes_room(tmp_path: Path) -> None:
    """Beyond the bound the oldest connections that wait for nothing are closed; a stream goes on."""
    # A small number, so that the test needs few connections.
    async with served(tmp_path, ConnectionLimits(connections=4, arrival=60)) as server:
        streaming = await Peer.tcp(server)
        await streaming.ask(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n", b"begun")
        held = [await Peer.tcp(server) for _ in range(8)]
        for one in held:
            one.send(HEAD)
        for one in held[:5]:
            assert await one.rest() == b""
        assert b"200 OK" in await held[-1].ask(b"\r\n")
        unix = [await Peer.unix(tmp_path) for _ in range(8)]
        for one in unix:
            assert b"200 OK" in await one.ask()
        newest = await Peer.tcp(server)
        assert b"200 OK" in await newest.ask()
        for one in (streaming, newest, *held[5:], *unix):
            await one.close()


async def test_when_all_are_busy_the_oldest_makes_room(tmp_path: Path) -> None:
    """Who follows streams without end cannot keep everybody else out."""
    async with served(tmp_path, ConnectionLimits(connections=2, arrival=60)) as server:
        streams = [await Peer.tcp(server) for _ in range(2)]
        for one in streams:
            await one.ask(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n", b"begun")
        newest = await Peer.tcp(server)
        assert b"200 OK" in await newest.ask()
        await streams[0].rest()
        for one in (streams[1], newest):
            await one.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /quick HT",
        HEAD,
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf",
    ],
)
async def test_a_request_has_to_arrive_in_time(tmp_path: Path, sent: bytes) -> None:
    """Who sends nothing, half a head or half a body is cut off, also on a connection that was used before."""
    # A short time, so that the test need not wait for the one that is shipped.
    async with served(tmp_path, ConnectionLimits(arrival=0.2)) as server:
        fresh, used = await Peer.tcp(server), await Peer.tcp(server)
        await used.ask()
        for one in (fresh, used):
            one.send(sent)
            assert await one.rest() == b""


async def test_a_whole_request_takes_as_long_as_it_takes(tmp_path: Path) -> None:
    """Once a request is there, no time limit ends its answer."""
    async with served(tmp_path, ConnectionLimits(arrival=0.1)) as server:
        one = await Peer.tcp(server)
        await one.ask(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n", b"begun")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await one.ask(b"", b"never")
        await one.close()


@pytest.mark.parametrize("line", SECRETS, ids=["bearer", "basic", "no header", "long"])
async def test_what_a_malformed_request_holds_is_not_repeated(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets a short 400, and the log one line, neither of which holds anything of it."""
    caplog.set_level(logging.DEBUG)
    async with served(tmp_path, ConnectionLimits()) as server:
        one = await Peer.tcp(server)
        one.send(HEAD + line + b"\r\n")
        answer = await one.rest()
    assert b" 400 Bad Request\r\n" in answer
    assert answer.endswith(b"\r\n\r\nThe request is malformed.\n")
    (record,) = [one for one in caplog.records if one.name.startswith(("aiohttp", "sidecar"))]
    assert record.exc_info is None
    assert len(record.getMessage()) < 100
    for text in (answer.decode(), caplog.text):
        assert "my-webhook-token" not in text
        assert "YWRtaW4" not in text


@pytest.mark.parametrize("expected", [b"\xff\xfe", "²".encode(), b"200-ok"])
@pytest.mark.parametrize("path", [b"/quick", b"/nowhere"])
async def test_a_strange_expectation_is_refused(
    tmp_path: Path, expected: bytes, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a client expects that HTTP does not know, it gets 417, and the log stays quiet."""
    async with served(tmp_path, ConnectionLimits()) as server:
        one = await Peer.tcp(server)
        one.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nExpect: " + expected + b"\r\n\r\n")
        assert (await one.rest()).startswith(b"HTTP/1.1 417 ")
    assert not [one for one in caplog.records if one.levelno >= logging.INFO]


async def test_whoever_leaves_before_the_body_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger who announces a body and ends the connection leaves nothing in the log."""
    async with served(tmp_path, ConnectionLimits()) as server:
        for _ in range(20):
            peer = await Peer.tcp(server)
            announced = b"Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            peer.send(b"POST /read HTTP/1.1\r\n" + announced)
            peer.leave()
            await peer.rest()
        other = await Peer.tcp(server)
        assert await other.ask()
        await other.close()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_body_may_be_announced(tmp_path: Path) -> None:
    """Who asks whether to go on is told to."""
    async with served(tmp_path, ConnectionLimits()) as server:
        one = await Peer.tcp(server)
        await one.ask(
            b"POST /read HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n",
            b"100 Continue\r\n\r\n",
        )
        assert b"200 OK" in await one.ask(b"quick")
        await one.close()
