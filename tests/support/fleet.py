"""A fleet on one computer: machines with a daemon and a Navigator each, and what stands between them.

`Router` is the platform's proxy, which sends a request to the machine that Fly-Force-Instance-Id names.
`MachinesApi` answers as Fly's Machines API does. Both do what a test tells them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from sidecar.daemon import Daemon
from sidecar.demo.sample import set_password, write_index
from sidecar.generate.cache import ResultCache
from sidecar.generate.ownership import owners
from sidecar.inputs.index import read_deployed, read_index
from sidecar.model.runs import Request
from tests.conftest import Bucket
from tests.support.machine import SMALL, Machine, until
from tests.support.navigator import NavigatorProcess, free_port

KEY = "db/index.sqlite3"
APP = "showcase-test"
TOKEN = "FlyV1 a-token-for-tests"
_NOT_PASSED = frozenset({"host", "connection", "transfer-encoding", "content-length", "keep-alive"})

Fault = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]


async def hang(request: web.BaseRequest) -> web.StreamResponse | None:
    """Never answers."""
    await asyncio.Event().wait()
    return None


def answers(status: int, times: int = 1 << 30, text: str = "<html>sorry</html>") -> Fault:
    """Answers with a status so many times, then as it should."""
    left = [times]

    async def fault(request: web.BaseRequest) -> web.StreamResponse | None:
        left[0] -= 1
        return web.Response(status=status, text=text) if left[0] >= 0 else None

    return fault


@asynccontextmanager
async def serve(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """An HTTP server on loopback; its URL."""
    runner = web.ServerRunner(
        web.Server(handler, access_log=None, handler_cancellation=True, auto_decompress=False),
        shutdown_timeout=0.1,
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Router:
    """The platform's proxy."""

    def __init__(self) -> None:
        self.url = ""
        self.machines: dict[str, str] = {}
        self.faults: dict[str, Fault] = {}
        self.seen: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Router]:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as self._session,
            serve(self._handle) as self.url,
        ):
            yield self

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Fly-Force-Instance-Id", "")
        self.seen[wanted, request.method] += 1
        if wanted in self.faults and (answer := await self.faults[wanted](request)) is not None:
            return answer
        if wanted not in self.machines:
            return web.Response(status=404, text="no such instance")
        url = self.machines[wanted] + request.raw_path
        kept = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED}
        body = await request.read()
        try:
            async with self._session.request(
                request.method, url, headers=kept, data=body or None, allow_redirects=False
            ) as found:
                passed = {n: v for n, v in found.headers.items() if n.lower() not in _NOT_PASSED}
                return web.Response(status=found.status, headers=passed, body=await found.read())
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))


def document(machine: str, region: str = "iad", state: str = "started", **more: Any) -> dict[str, Any]:
    """A machine as the Machines API describes it."""
    group = more.pop("group", "app")
    return {
        "id": machine,
        "name": f"quiet-{machine}",
        "state": state,
        "region": region,
        "instance_id": f"01{machine}",
        "private_ip": "fdaa:0:1:a7b:1::2",
        "config": {
            "env": {"PRIMARY_REGION": "iad"},
            "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 2048},
            "metadata": {"fly_platform_version": "v2", "fly_process_group": group},
            "image": "registry.example/showcase:1",
        },
        "incomplete_config": None,
        "host_status": "ok",
        "checks": [],
        "events": [{"type": "start", "status": "started", "timestamp": 1}],
        **more,
    }


def unreachable_host(machine: str, region: str = "syd", group: str = "app") -> dict[str, Any]:
    """One whose host does not answer the platform."""
    incomplete = {"metadata": {"fly_process_group": group}}
    return document(
        machine, region, config=None, incomplete_config=incomplete, host_status="unreachable", checks=None
    )


class MachinesApi:
    """Fly's Machines API: `then` are the next answers, after them `documents`."""

    def __init__(self, documents: Iterable[dict[str, Any]] = ()) -> None:
        self.url = ""
        self.documents = list(documents)
        self.then: deque[tuple[int, Any, dict[str, str]]] = deque()
        self.asked = 0

    def state(self, machine: str, state: str) -> None:
        """Change a machine's state."""
        for one in self.documents:
            if one["id"] == machine:
                one["state"] = state

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MachinesApi]:
        async with serve(self._handle) as self.url:
            yield self

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, text='{"error":"unauthenticated"}')
        if request.path != f"/v1/apps/{APP}/machines":
            return web.Response(status=404, text='{"error":"not found"}')
        status, data, headers = self.then.popleft() if self.then else (200, self.documents, {})
        return web.Response(
            status=status, body=json.dumps(data), headers=headers, content_type="application/json"
        )


def index(path: Path, password: str = "first") -> str:
    """A sample index in which one user has this password; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f"{path.name}.incoming")
    incoming.unlink(missing_ok=True)
    write_index(incoming, SMALL, 1)
    hashed = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    set_password(incoming, "user0003", f"user0003:{{SHA}}{hashed}")
    incoming.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lose(path: Path, region: str, count: int) -> str:
    """Take so many events of one region out of an index; how that is told."""
    read = read_index(path, read_deployed(Path("none"), Path("none")))
    owned = owners(read, ResultCache())
    events = [event for event in read.events if owned[event.studio] == region]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for event in events[:count]:
            connection.execute(
                "delete from showcases where year = ? and key = ? and location_id = "
                "(select id from locations where key = ?)",
                (event.year, event.key, event.studio),
            )
    return f"{count} of the {len(events)} events of region {region}"


class Fleet:
    """The whole: machines by id, router, API, and an admin machine that owns the index."""

    def __init__(self, folder: Path, bucket: Bucket, store: str) -> None:
        self.folder = folder
        self.bucket = bucket
        self.store = store
        self.router = Router()
        self.api = MachinesApi()
        self.machines: dict[str, Machine] = {}
        self.daemons: dict[str, Daemon] = {}
        self.navigators: dict[str, NavigatorProcess] = {}

    def admin(self, name: str = "admin", **fleet: Any) -> Machine:
        """A machine that owns the index and updates the fleet."""
        settings = {
            **self.bucket.settings,
            "machine": {"id": name},
            "update": {"own_index": True},
            "fleet": {
                "app": APP,
                "url": self.router.url,
                "api": self.api.url,
                "token": TOKEN,
                "pause": "100ms",
                **fleet,
            },
        }
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        machine = Machine(folder, settings)
        machine.state.mkdir(exist_ok=True)
        return machine

    async def start(self, stack: AsyncExitStack, machine: str, **extra: Any) -> None:
        """Start a machine with a loaded generation; `extra` are settings, and `options` of its Navigator."""
        port = free_port()
        folder = self.folder / machine
        folder.mkdir()
        navigator = NavigatorProcess(*extra.pop("options", ()), program=None)
        settings = {
            **self.bucket.settings,
            "s3": {**self._s3(), "endpoint": self.store},
            "machine": {"id": machine, "pool_size": 8},
            "navigator": {
                "port": port,
                "pid_file": str(folder / "app" / f"navigator-{port}.pid"),
                "reload_timeout": "10s",
                **extra.pop("navigator", {}),
            },
            "trigger": {"interval": "0s", "secret": "a-secret-for-tests-only"},
            **extra,
        }
        one = Machine(folder, settings)
        daemon = await stack.enter_async_context(one.daemon())
        outcome = await daemon.worker.submit(Request(trigger="start"))
        assert outcome.good, outcome
        await navigator.start_async("config/navigator.yml", one.application)
        stack.push_async_callback(navigator.stop_async)
        await until(lambda: daemon.generations.last_loaded() == 1)
        self.machines[machine], self.daemons[machine] = one, daemon
        self.navigators[machine] = navigator
        self.router.machines[machine] = navigator.url

    def _s3(self) -> dict[str, Any]:
        found = self.bucket.settings["s3"]
        assert isinstance(found, dict)
        return found

    def serves(self, machine: str) -> str | None:
        """The SHA-256 of the index that a machine says is loaded."""
        return self.daemons[machine]._served().sha256


@asynccontextmanager
async def fleet(
    folder: Path,
    bucket: Bucket,
    machines: Iterable[str],
    *,
    store: str | None = None,
    **extra: dict[str, Any],
) -> AsyncIterator[Fleet]:
    """A running fleet; `extra` are settings for single machines by id, `store` another way to the bucket."""
    first = folder / "first.sqlite3"
    index(first)
    bucket.put(KEY, first.read_bytes())
    whole = Fleet(folder, bucket, store or bucket.endpoint)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(whole.router.running())
        await stack.enter_async_context(whole.api.running())
        for machine in machines:
            # One after the other: a Navigator takes the next free port only once it listens.
            await whole.start(stack, machine, **extra.get(machine, {}))
            whole.api.documents.append(document(machine))
        with contextlib.suppress(asyncio.CancelledError):
            yield whole


class OldStore:
    """A way to the bucket whose reads stay behind: while told to, it gives what it gave before."""

    def __init__(self, endpoint: str) -> None:
        self.url = ""
        self._endpoint = endpoint
        self._kept: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.behind = False
        self.old_answers = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OldStore]:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as self._session,
            serve(self._handle) as self.url,
        ):
            yield self

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {n: v for n, v in request.headers.items() if n.lower() not in _NOT_PASSED}
        known = self._kept.get(request.path)
        if request.method == "GET" and self.behind and known is not None:
            self.old_answers += 1
            status, old, body = known
            if headers.pop("If-None-Match", None) == old.get("ETag"):
                return web.Response(status=304, headers={"ETag": old["ETag"]})
            return web.Response(status=status, headers=old, body=body)
        async with self._session.request(
            request.method,
            self._endpoint + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as found:
            passed = {n: v for n, v in found.headers.items() if n.lower() not in _NOT_PASSED}
            body = await found.read()
            if request.method == "GET" and found.status == 200:
                self._kept[request.path] = found.status, passed, body
            return web.Response(status=found.status, headers=passed, body=body)
