"""One connection to a NATS server, through nats-py, for as long as it holds.

nats-py would come back by itself after a loss, but it waits without a limit for the old socket to close, a
quarter of an hour when packets are dropped, and tells no reader when it gives up. So it must not: the first
thing that goes wrong ends the connection, and whoever needs one opens another.

A machine follows its key by a plain subscription to the key's subject. That has no queue that a slow reader
could fill, and needs no consumer in the server for each machine; what was missed is asked for on connecting.
Only whoever counts the statements of all machines has a consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from sidecar.errors import SidecarError
from sidecar.system.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client

# nats-py finds a dead link after four minutes as shipped; here after three of these.
_PING_SECONDS = 5.0
_MAX_OUTSTANDING_PINGS = 2
_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
# The server's code for a stream that exists with other settings.
_NAME_IN_USE_CODE = 10058
_MARK = "=mark"  # no machine's key can be this


Value = TypeVar("Value")


class BusError(SidecarError):
    """The bus cannot be reached, or does not do what is asked for."""

    code = "bus"
    status = 502


def place(urls: str) -> str:
    """Where the bus is, for people: without user and password."""
    parts = [urlsplit(url) for url in urls.split(",")]
    return ", ".join(f"{one.hostname}:{one.port or 4222}" for one in parts)


class NatsLink:
    """A connection that is open."""

    def __init__(self, client: Client, where: str, ended: asyncio.Future[str]) -> None:
        self._client = client
        self._stream = client.jetstream(timeout=_REQUEST_SECONDS)
        self._where = where
        self._ended = ended

    async def make(self, bucket: str, ttl_seconds: float | None = None) -> None:
        """Make a bucket, unless it is there; an entry lasts for `ttl_seconds`, None: until it is replaced."""
        with _translated(self._where):
            from nats.js.errors import BadRequestError

            try:
                await self.held(self._stream.create_key_value(bucket=bucket, ttl=ttl_seconds, history=1))
            except BadRequestError as error:
                if error.err_code != _NAME_IN_USE_CODE:
                    raise
                # Somebody made it otherwise, with replicas for instance: theirs is the better one.

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        """Store a value, and give its revision; `BusError` `bus_no_bucket` where there is no such bucket."""
        from nats.js.errors import NoStreamResponseError

        with _translated(self._where):
            try:
                return (await self.held(self._stream.publish(_subject(bucket, key), value))).seq
            except NoStreamResponseError:
                raise BusError(
                    f"the bus at {self._where} has no bucket {bucket}", "`sidecar fleet update` makes it",
                    code="bus_no_bucket",
                ) from None  # fmt: skip

    async def get(self, bucket: str, key: str) -> bytes | None:
        """The newest value; None when there is none."""
        from nats.js.errors import NotFoundError

        with _translated(self._where), suppress(NotFoundError):
            # Not directly: to that question a server without the bucket gives no answer at all.
            found = await self.held(self._stream.get_last_msg(f"KV_{bucket}", _subject(bucket, key)))
            return found.data or None  # the mark of a key that was deleted is empty
        return None

    async def listen(self, bucket: str, key: str, hear: Callable[[bytes], None]) -> None:
        """Call `hear` with each value that is stored from now on. It must not wait."""

        async def pass_on(message: Any) -> None:
            hear(message.data)

        with _translated(self._where):
            await self.held(self._client.subscribe(_subject(bucket, key), cb=pass_on))
            await self.held(self._client.flush(timeout=int(_REQUEST_SECONDS)))

    async def all(self, bucket: str, prefix: str) -> AsyncIterator[tuple[str, bytes] | None]:
        """Key and value of all keys below `prefix`, then None, then each that is stored from then on.

        The end of what was stored before is known by a mark of our own, which is stored last: the one that
        nats-py gives can come before the data. What is replaced meanwhile comes after the mark, so what is
        pending then belongs to it too. All share one mark: whoever finds a later one is past their own.
        """
        mark = f"{prefix}.{_MARK}"
        revision = await self.put(bucket, mark, b"")
        with _translated(self._where):
            stored = await self.held(self._stream.key_value(bucket))
            watcher: Any = await self.held(stored.watch(f"{prefix}.*"))
        is_whole, seen = False, False
        while True:
            entry = await watcher.updates(None)  # without end: whoever iterates does so in `held`
            if entry is None:
                continue
            yield entry.key, entry.value or b""
            seen = seen or (entry.key == mark and entry.revision >= revision)
            if seen and not is_whole and entry.delta == 0:
                is_whole = True
                yield None

    async def held(self, *work: Coroutine[Any, Any, Value]) -> Value:
        """What comes of the first that ends, be it an error, for as long as the connection holds.

        In tasks of their own: up to Python 3.11 `asyncio.wait_for`, which nats-py uses throughout, swallows a
        cancellation that meets a result.
        """
        tasks: list[asyncio.Future[Any]] = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.wait([*tasks, self._ended], return_when=asyncio.FIRST_COMPLETED)
            first = next((task for task in tasks if task.done()), None)
            if first is None:
                raise BusError(f"the connection to the bus at {self._where} ended: {self._ended.result()}")
            found: Value = first.result()
            return found
        finally:
            await end(*tasks)

    def end(self, reason: str) -> None:
        """End it: nothing that was open before is to be trusted."""
        _settle(self._ended, reason)


@asynccontextmanager
async def connected(urls: str, name: str, ping_seconds: float = _PING_SECONDS) -> AsyncIterator[NatsLink]:
    """A connection to one of these servers, called `name` there; `BusError` where none answers in time."""
    try:
        from nats.aio.client import Client
        from nats.errors import Error, NoServersError
    except ImportError:
        raise BusError(
            "fleet.bus is set, but nats-py is not installed", "pip install 'navigator-sidecar[nats]'",
            code="bus_missing",
        ) from None  # fmt: skip

    class Careful(Client):
        def _connect_command(self) -> bytes:
            # Asked for tls://, nats-py goes on without it where the server, or who says so, offers none.
            server = self._current_server
            if (
                server is not None
                and server.uri.scheme == "tls"
                and not self._server_info.get("tls_required")
            ):
                raise Error("the server offers no TLS")
            return super()._connect_command()

    where, ended = place(urls), asyncio.get_running_loop().create_future()
    last: list[Exception] = []

    async def wrong(error: Exception) -> None:
        last.append(error)
        if client.is_connected:
            _settle(ended, _said(error))

    async def closed() -> None:
        _settle(ended, _said(last[-1]) if last else "the server closed it")

    client = Careful()
    connecting = asyncio.create_task(
        client.connect(
            urls.split(","),
            name=name,
            error_cb=wrong,
            closed_cb=closed,
            disconnected_cb=closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(_CONNECT_SECONDS),
            ping_interval=ping_seconds,  # type: ignore[arg-type]  # it only sleeps for so long
            max_outstanding_pings=_MAX_OUTSTANDING_PINGS,
        )
    )
    try:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.wait({connecting})
            connecting.result()
        except (Error, OSError, TimeoutError, ValueError) as error:
            first = last[-1] if last and isinstance(error, NoServersError) else error
            raise BusError(
                f"the bus at {where} does not take the connection: {_said(first)}",
                "check fleet.bus and the server; pokes and the regular look go on without it",
            ) from None
        yield NatsLink(client, where, ended)
    finally:
        _settle(ended, "it was closed")
        await end(connecting)
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await client.close()


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """What nats-py raises becomes a `BusError`."""
    from nats.errors import Error

    try:
        yield
    except (Error, TimeoutError, OSError) as error:
        raise BusError(
            f"the bus at {where} does not do what is asked for: {_said(error)}",
            "is JetStream on, and may this user use it?",
        ) from None


def _settle(future: asyncio.Future[str], reason: str) -> None:
    if not future.done():
        future.set_result(reason)


def _said(error: BaseException) -> str:
    text = str(error).removeprefix("nats: ").strip("'\"")
    return text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
