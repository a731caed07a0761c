"""A faulty network between the sidecar and an S3 server: an HTTP proxy that does what its script says.

    async with Proxy(endpoint) as proxy:
        proxy.then(unavailable, cut)    # the next two requests; after that all is well
        proxy.always(hang)              # every request, until told otherwise
        proxy.every(3, reset)           # the third, the sixth, ...
        await proxy.refuse()            # no connections at all, until `accept`

A fault is a coroutine that gets the server's answer and delivers it in its own way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import aiohttp

_PER_CONNECTION = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}
)
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Between two bytes that trickle: the whole body would take minutes.
_DRIP = 0.02

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; its length is told by `length`, which need not be true (None: not at all)."""

    status: int
    headers: Headers
    body: bytes
    length: int | str | None

    def head(self) -> bytes:
        """Status line and headers."""
        lines = [f"HTTP/1.1 {self.status} As-Scripted", *(f"{name}: {value}" for name, value in self.headers)]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def header(self, name: str, value: str | None) -> Answer:
        """The same with another value of a header, or without it."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))


Fault = Callable[[Answer, asyncio.StreamWriter], Awaitable[None]]


async def well(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """No fault: the answer as it is."""
    writer.write(answer.head() + answer.body)
    await writer.drain()


async def hang(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def stall(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Sends half of the body and then nothing more."""
    writer.write(answer.head() + answer.body[: len(answer.body) // 2])
    await writer.drain()
    await asyncio.Event().wait()


async def trickle(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Sends a byte at a time: every read succeeds, and the whole would take for ever."""
    writer.write(answer.head())
    for byte in answer.body:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(_DRIP)


async def cut(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Promises the whole body, sends half of it, and ends the connection."""
    writer.write(answer.head() + answer.body[: len(answer.body) // 2])
    await writer.drain()
    writer.close()


async def reset(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Breaks the connection instead of answering."""
    writer.transport.abort()


async def rubbish(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Answers something that is not HTTP."""
    writer.write(b"\x16\x03\x01 what?\r\n\r\n")
    await writer.drain()
    writer.close()


async def chunked(answer: Answer, writer: asyncio.StreamWriter) -> None:
    """Sends the right body, in chunks and so without its length. Not wrong, only unusual."""
    unmeasured = replace(answer, length=None).header("Transfer-Encoding", "chunked")
    writer.write(unmeasured.head())
    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
    await writer.drain()


def altered(change: Callable[[Answer], Answer]) -> Fault:
    """A fault that delivers the answer properly, but another one."""

    async def fault(answer: Answer, writer: asyncio.StreamWriter) -> None:
        await well(change(answer), writer)

    return fault


def answering(status: int, code: str) -> Fault:
    """The store's own way to say no."""
    xml = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>As scripted</Message></Error>'.encode()
    return altered(lambda _: Answer(status, (("Content-Type", "application/xml"),), xml, len(xml)))


def held(until: asyncio.Event) -> Fault:
    """Delivers the answer as it was when the request came, but only after the event."""

    async def fault(answer: Answer, writer: asyncio.StreamWriter) -> None:
        await until.wait()
        await well(answer, writer)

    return fault


def _flip(answer: Answer) -> Answer:
    body = bytearray(answer.body)
    for place in range(len(body) // 2, len(body), 1000):
        body[place] ^= 0x55
    return replace(answer, body=bytes(body))


def _shorten(answer: Answer) -> Answer:
    half = answer.body[: len(answer.body) // 2]
    return replace(answer, body=half, length=len(half))


internal_error = answering(500, "InternalError")
unavailable = answering(503, "SlowDown")
denied = answering(403, "AccessDenied")
no_key = answering(404, "NoSuchKey")
no_bucket = answering(404, "NoSuchBucket")
moved = answering(301, "PermanentRedirect")
not_modified = altered(lambda _: Answer(304, (), b"", None))
wrong_etag = altered(lambda answer: answer.header("ETag", '"0123456789abcdef0123456789abcdef"'))
no_etag = altered(lambda answer: answer.header("ETag", None))
no_date = altered(lambda answer: answer.header("Last-Modified", None))
wrong_date = altered(lambda answer: answer.header("Last-Modified", "the day before yesterday"))
wrong_length = altered(lambda answer: replace(answer, length="a lot"))
flipped = altered(_flip)
shortened = altered(_shorten)
login_page = altered(
    lambda _: Answer(200, (("Content-Type", "text/html"),), b"<html>Welcome to our hotel</html>", 33)
)


class Proxy:
    """An HTTP/1.1 proxy in front of one server, on a loopback port of its own."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._next: deque[Fault] = deque()
        self._standing: Fault = well
        self._every: tuple[int, Fault] | None = None
        self._port = self._number = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession | None = None
        self.connections = 0
        self.requests: list[str] = []
        self.heads: list[dict[str, str]] = []
        """What the server has answered; whether the client got the answer is another question."""

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=_NOT_ADDED)
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        if self._client is not None:
            await self._client.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    # The script

    def then(self, *faults: Fault) -> None:
        """What happens to the next requests, one after the other."""
        self._next.extend(faults)

    def always(self, fault: Fault) -> None:
        """What happens to every request that nothing else is said about."""
        self._standing = fault

    def every(self, number: int, fault: Fault) -> None:
        """What happens to each request whose number can be divided by this one."""
        self._every = number, fault

    async def refuse(self) -> None:
        """Break every connection and take no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def accept(self) -> None:
        """Take connections, on the same port as ever."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    # The work

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        ahead = b""
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not writer.is_closing():
                    ahead = await self._exchange(ahead, reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort() if self._server is None else writer.close()

    async def _exchange(
        self, ahead: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """One request and its answer; gives what was read of the next request while answering."""
        head = (ahead + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        if any(name.lower() == "expect" for name, _ in headers):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(length)
        self._number += 1
        # The library asks by HEAD where a bucket lies; that is answered truthfully.
        fault = well if method == "HEAD" else self._fault(self._number)
        answer = await self._ask(method, path, headers, body)
        self.requests.append(f"{method} {path}")
        self.heads.append({name.lower(): value for name, value in headers})
        answering = asyncio.ensure_future(fault(answer, writer))
        listening = asyncio.ensure_future(reader.read(1))
        try:
            # A client that goes away ends even a fault that would last for ever.
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not listening.result():
                raise ConnectionResetError
            await answering
            return listening.result() if listening.done() else b""
        finally:
            answering.cancel()
            listening.cancel()
            await asyncio.gather(answering, listening, return_exceptions=True)

    def _fault(self, number: int) -> Fault:
        if self._next:
            return self._next.popleft()
        if self._every is not None and number % self._every[0] == 0:
            return self._every[1]
        return self._standing

    async def _ask(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
        assert self._client is not None
        passed = [(name, value) for name, value in headers if name.lower() not in _PER_CONNECTION]
        async with self._client.request(
            method, self._upstream + path, headers=passed, data=body or None, allow_redirects=False
        ) as response:
            content = await response.read()
            told = tuple(
                (name, value)
                for name, value in response.headers.items()
                if name.lower() not in _PER_CONNECTION
            )
            length = None if response.status == 304 else len(content)
            return Answer(response.status, told, content, length)
