"""A stand-in for Navigator, the web server beside the sidecar: for the demo and for the tests.

    python sidecar/demo/navigator.py CONFIG --pid-file FILE

It does what Navigator does wherever the sidecar depends on it: logins, CGI, static files, hooks, reloads and
idling. A tenant is one line of text that names its database. Left out: routes, reverse proxies, WebSockets,
managed processes, a script's user and allowed_users, logins with crypt-SHA, the call that has Fly suspend or
stop the machine. It is a program of its own, which needs nothing else of this package.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import re2
import yaml
from aiohttp import web

HOOKS = [{"command": "", "args": [""], "timeout": "", "reload_config": ""}]
# What is read of navigator.yml: "" a text, 0 a number, False a truth value, [x] a list of x, {} any mapping.
SHAPE: dict[str, Any] = {
    "server": {
        "listen": "", "root_path": "",
        "cgi_scripts": [
            {"path": "", "script": "", "method": "", "env": {}, "timeout": "", "reload_config": ""},
        ],
        "static": {"public_dir": "", "allowed_extensions": [""], "try_files": [""]},
        "health_check": {"path": "", "response": {"status": 0, "body": "", "headers": {}}},
        "idle": {"action": "", "timeout": ""},
    },
    "auth": {
        "enabled": False, "realm": "", "htpasswd": "", "public_paths": [""],
        "auth_patterns": [{"pattern": "", "action": ""}],
    },
    "applications": {
        "pools": {"max_size": 0, "start_port": 0, "timeout": ""},
        "tenants": [{"path": "", "var": {}, "env": {}}],
    },
    "hooks": {"server": {"start": HOOKS, "ready": HOOKS, "resume": HOOKS, "idle": HOOKS}},
    "maintenance": {"enabled": False, "page": ""},
}  # fmt: skip


class TextLoader(yaml.SafeLoader):
    """Leaves scalars as text, for SHAPE to decide, and refuses a key given twice as the real parser does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if len(keys) != len(set(keys)):
            raise yaml.MarkedYAMLError(problem="mapping key already defined", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


TextLoader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].endswith((":null", ":merge"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def shaped(data: Any, shape: Any) -> Any:
    """The data as the shape wants it, with what is missing filled in; YAMLError when it does not fit."""
    kind = type(shape)
    if data is None:
        data = kind()
    if kind is bool and str(data).lower() in {"true", "y", "yes", "on", "false", "n", "no", "off"}:
        return str(data).lower() in {"true", "y", "yes", "on"}
    if kind is int and re.fullmatch(r"[-+]?\d+", str(data)):
        return int(data)
    if not isinstance(data, kind):
        raise yaml.YAMLError(f"cannot unmarshal {data!r} into {kind.__name__}")
    if isinstance(data, list):
        return [shaped(item, shape[0]) for item in data]
    return (
        SimpleNamespace(**{k: shaped(data.get(k), shape[k]) for k in shape})
        if shape and kind is dict
        else data
    )


def load_config(path: str | Path) -> Any:
    """The configuration in the file's first document; no document at all is an empty configuration."""
    with open(path, "rb") as file:
        return shaped(next(yaml.load_all(file, TextLoader), None), SHAPE)


def seconds(text: str) -> float:
    """A duration in Go's manner, and in days, weeks and years; what cannot be read means no limit."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
    parts = re.findall(r"([\d.]+)(ms|s|m|h|d|w|y)", text)
    return sum(float(n) * units[u] for n, u in parts) if "".join(n + u for n, u in parts) == text else 0.0


def log(level: str, message: str, **facts: object) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    print(f'time={stamp} level={level} msg="{message}"', *(f"{k}={v}" for k, v in facts.items()), flush=True)


# --- logins


def md5_crypt(password: bytes, salt: bytes, magic: bytes) -> str:
    """The digest of Apache's apr1 and of crypt's $1$: they differ in the magic alone."""
    inner = hashlib.md5(password + salt + password).digest()
    text = password + magic + salt + (inner * (len(password) // 16 + 1))[: len(password)]
    for bit in range(len(password).bit_length()):
        text += b"\0" if len(password) >> bit & 1 else password[:1]
    digest = hashlib.md5(text).digest()
    for i in range(1000):
        first, last = (password, digest) if i & 1 else (digest, password)
        digest = hashlib.md5(first + (salt if i % 3 else b"") + (password if i % 7 else b"") + last).digest()
    letters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    groups = [digest[a] << 16 | digest[a + 6] << 8 | digest[a + 12 if a < 4 else 5] for a in range(5)]
    return "".join(letters[value >> 6 * i & 63] for value in [*groups, digest[11]] for i in range(4))[:22]


def password_check(stored: str) -> Callable[[bytes], bool] | None:
    """How to check against a stored password; None to drop the line. An unknown form is plain text."""
    if stored.startswith(("$apr1$", "$1$")):
        _, kind, salt, *digest = stored.split("$", 3)
        magic = f"${kind}$".encode()
        return (lambda p: md5_crypt(p, salt.encode(), magic) == digest[0]) if digest else None
    if stored.startswith(("{SHA}", "{SSHA}")):
        with contextlib.suppress(binascii.Error):
            raw = base64.b64decode(stored.partition("}")[2], validate=True)
            if len(raw) == 20 or (len(raw) > 20 and stored.startswith("{SSHA}")):
                return lambda p: hashlib.sha1(p + raw[20:]).digest() == raw[:20]
        return None
    if stored.startswith(("$2y$", "$2a$", "$2b$", "$2x$")):
        return lambda p: bcrypt_matches(p, stored.encode())
    if stored.startswith(("$5$", "$6$")):
        return (lambda _: False) if stored.count("$") > 2 else None
    return lambda p: stored.encode() in {p, b"{PLAIN}" + p}


def bcrypt_matches(password: bytes, stored: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return bcrypt.checkpw(password[:72], stored)
    return False


class Users:
    """An htpasswd file as it was read last. It is read again when a login fails and the file is newer."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.read()

    def read(self) -> None:
        lines = [line.strip() for line in self.path.read_text(errors="replace").split("\n")]
        entries = (line.partition(":") for line in lines if ":" in line)
        self.checks = {user: check for user, _, stored in entries if (check := password_check(stored))}
        self.mtime = self.path.stat().st_mtime_ns

    def allow(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            return False
        if scheme.lower() != "basic" or not colon:
            return False
        user = name.decode(errors="replace").strip()
        matched = user in self.checks and self.checks[user](password)
        with contextlib.suppress(OSError):
            if not matched and self.path.stat().st_mtime_ns > self.mtime:
                log("INFO", "htpasswd file modified, reloading", file=self.path)
                self.read()
                return user in self.checks and self.checks[user](password)
        return matched


# --- requests


class Handler:
    """Answers requests by one configuration; a reload makes another one."""

    def __init__(self, navigator: StandIn, config: Any, users: Users | None) -> None:
        self.navigator, self.config, self.users = navigator, config, users
        self.public_dir = config.server.static.public_dir or "public"
        self.scripts = {s.path: s for s in config.server.cgi_scripts if Path(s.script).is_file()}
        self.public_patterns, options = [], re2.Options()
        options.log_errors = False
        for rule in config.auth.auth_patterns:
            with contextlib.suppress(re2.error):  # skipped by the real one, too
                self.public_patterns += [re2.compile(rule.pattern, options)] if rule.action == "off" else []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, health, auth = request.path, self.config.server.health_check, self.config.auth
        if health.path == path and not health.response.status:
            return await self.tenant(path)
        if health.path == path:
            answer = health.response
            return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
        public = auth.enabled and self.is_public(path)
        login = request.headers.get("Authorization", "")
        if self.users and not public and not await asyncio.to_thread(self.users.allow, login):
            challenge = {"WWW-Authenticate": f'Basic realm="{auth.realm or "Restricted"}"'}
            return web.Response(status=401, text="Unauthorized\n", headers=challenge)
        script = self.scripts.get(path)
        if script and script.method.upper() in {"", request.method}:
            return await self.cgi(script, request)
        if file := self.static_file(path, public):
            # the real one sends .../index.html to the folder
            return redirect("./") if path.endswith("/index.html") else web.FileResponse(file)
        return self.maintenance_page() if self.config.maintenance.enabled else await self.tenant(path)

    def is_public(self, path: str) -> bool:
        def fits(rule: str) -> bool:
            if "*" in rule[1:] and rule[0] != "*":
                return bool(
                    re.fullmatch(re.escape(rule).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"), path)
                )
            if rule.startswith("*"):
                return path.endswith(rule[1:])
            return path.startswith(rule) if rule.endswith("/") else path == rule

        return any(map(fits, self.config.auth.public_paths)) or any(
            e.search(path) for e in self.public_patterns
        )

    def static_file(self, path: str, public: bool) -> Path | None:
        """A file with an extension for anyone; a prerendered page (try_files) on public paths alone."""
        static, root = self.config.server.static, with_slash(self.config.server.root_path)
        inside = path.removeprefix(root) if path != root else "/"
        _, dot, suffix = inside.rpartition("/")[2].rpartition(".")
        ends = static.try_files if public and not dot else []
        if suffix and suffix in (static.allowed_extensions or [suffix]):
            ends = [""]
        names = [Path(os.path.normpath(f"{self.public_dir}/{inside}{end}")) for end in ends]
        return next((name for name in names if name.is_file()), None)

    def maintenance_page(self) -> web.Response:
        page = self.config.maintenance.page or "/503.html"
        file = Path(f"{self.public_dir}{page}" if page.startswith("/") else page)
        text = file.read_text() if file.is_file() else "Service Temporarily Unavailable"
        return web.Response(status=503, text=text, content_type="text/html")

    async def tenant(self, path: str) -> web.Response:
        """The tenant's page. An application goes on starting when the client that asked for it has left."""
        prefixes = [with_slash(t.path) for t in self.config.applications.tenants]
        prefix = max((p for p in prefixes if path.startswith(p)), key=len, default=None)
        if prefix is None:
            return web.Response(status=404, text="404 page not found\n")
        starting = self.navigator.in_background(self.navigator.application(prefix))
        if (database := await asyncio.shield(starting)) is None:
            return web.Response(status=500, text="Failed to start application\n")
        return web.Response(text=f"tenant {database}\n")

    async def cgi(self, script: Any, request: web.BaseRequest) -> web.StreamResponse:
        """Run a script. It is killed at its time limit and when the client leaves."""
        log("INFO", "Executing CGI script", script=script.script, method=request.method)
        errors = None if os.environ.get("LOG_LEVEL") == "debug" else DEVNULL
        folder, environment = Path(script.script).parent, cgi_environment(script, request)
        try:
            process = await asyncio.create_subprocess_exec(
                script.script, cwd=folder, env=environment, stdin=PIPE, stdout=PIPE, stderr=errors
            )
            async with on_the_side(process, request, seconds(script.timeout)):
                return await self.relay(script, process, request)
        except OSError as error:
            log("ERROR", "Failed to start CGI script", script=script.script, error=error)
            return web.Response(status=500, text="Internal Server Error\n")
        except asyncio.CancelledError:
            log("ERROR", "CGI script execution failed", script=script.script, error="the client left")
            raise

    async def relay(self, script: Any, process: Process, request: web.BaseRequest) -> web.StreamResponse:
        """Pass the script's output on, and before the answer ends ask for the reload that is due."""
        assert process.stdout
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        while line := (await process.stdout.readline()).strip().decode("latin-1"):
            name, colon, value = (part.strip() for part in line.partition(":"))
            if name.lower() == "status":
                code = value.split(" ")[0]
                response.set_status(int(code) if code.isdecimal() else response.status)
            elif colon:
                response.headers[name] = value
        body = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await process.stdout.read(4096):
                body += chunk
                if len(body) > 4096:  # a buffer is full: the answer starts on its way
                    await response.prepare(request)
                    await response.write(body)
                    body = b""
        if status := await process.wait():
            log("ERROR", "CGI script execution failed", script=script.script, status=status)
        elif self.navigator.reload_due(script.reload_config):
            log("INFO", "CGI script triggered config reload", script=script.script)
            asking = self.navigator.in_background(self.navigator.ask_for_reload(script.reload_config))
            await asyncio.shield(asking)
        with contextlib.suppress(ConnectionError):
            if not response.prepared:
                response.content_length = len(body)
            await response.prepare(request)
            await response.write_eof(body)
        return response


def redirect(to: str) -> web.Response:
    return web.Response(status=301, headers={"Location": to})


def with_slash(path: str) -> str:
    return path if not path or path.endswith("/") else path + "/"


def cgi_environment(script: Any, request: web.BaseRequest) -> dict[str, str]:
    """Navigator's own environment, then the script's env, CGI/1.1 and the headers; what comes later wins."""
    peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
    headers = {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers}
    standard = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": f"HTTP/{request.version.major}.{request.version.minor}",
        "SERVER_SOFTWARE": "Navigator",
        "SERVER_NAME": headers.pop("host", "") or "localhost",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.raw_path.partition("?")[2],
        "SCRIPT_NAME": request.path,
        "PATH_INFO": "",
        "REMOTE_ADDR": f"{peer[0]}:{peer[1]}",
        "CONTENT_TYPE": headers.pop("content-type", ""),
        "CONTENT_LENGTH": headers.pop("content-length", ""),
        "HTTP_X_REQUEST_ID": uuid.uuid4().hex,
    }
    passed = {n: v for n, v in headers.items() if n not in {"transfer-encoding", "trailer"}}
    http = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in passed.items()}
    return {**os.environ, **script.env, **standard, **http}


async def feed(process: Process, request: web.BaseRequest) -> None:
    """Give the script the body as it came."""
    assert process.stdin
    with contextlib.suppress(ConnectionError, web.RequestPayloadError):
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for chunk in request.content.iter_any():
            process.stdin.write(chunk)
            await process.stdin.drain()
    process.stdin.close()


@contextlib.asynccontextmanager
async def on_the_side(process: Process, request: web.BaseRequest, limit: float) -> AsyncIterator[None]:
    """Feed the process and watch its time; at the end it is gone, one way or the other."""
    feeding = asyncio.create_task(feed(process, request))
    timer = asyncio.get_running_loop().call_later(limit or 1e6, kill, process)
    try:
        yield
    finally:
        timer.cancel()
        feeding.cancel()
        kill(process)
        await process.wait()


def kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


# --- the server


def run_hook(hook: Any) -> None:
    """Run a hook until it has ended and its output is closed: a child that keeps it open holds up the rest.

    At its time limit the hook itself is killed, its children are not.
    """
    command = [hook.command, *hook.args]
    with subprocess.Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        timer = threading.Timer(seconds(hook.timeout) or 1e6, process.kill)
        timer.start()
        output = process.stdout.read()
        process.wait()
        timer.cancel()
    if output:
        log("INFO", "Hook output", command=hook.command, output=json.dumps(output.decode(errors="replace")))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def run_hooks(hooks: list[Any], kind: str) -> bool:
    """Run hooks one after the other; the first failure ends the list."""
    for hook in (h for h in hooks if h.command):
        log("INFO", "Executing hook", type=f"server.{kind}", command=hook.command, args=hook.args)
        try:
            run_hook(hook)
        except (OSError, subprocess.SubprocessError) as error:
            log("ERROR", "Hook execution failed", type=f"server.{kind}", error=error)
            return False
    return True


class StandIn:
    """The process: what is loaded now, and the one loop that signals and reloads go through."""

    handler: Handler

    def __init__(self, config: str, pid_file: Path) -> None:
        self.config_path, self.pid_file = config, pid_file
        self.applications = asyncio.Lock()  # held while one of them starts
        self.running: dict[str, str] = {}  # tenant path -> database its application was started with
        self.events: asyncio.Queue[tuple[str, int | str]] = asyncio.Queue()
        self.waiting: set[str] = set()  # a signal is lost while another one waits; a resume hook's wish, too
        self.reload_slot = asyncio.Semaphore(1)  # one script's reload may wait; the next script waits itself
        self.tasks: set[asyncio.Future[Any]] = set()
        self.active, self.asleep, self.awake = 0, False, asyncio.Event()
        self.idle_action, self.idle_timer = "", asyncio.get_running_loop().call_later(0, lambda: None)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(
            ThreadPoolExecutor(64)
        )  # hooks that hang are not to keep others from running
        await self.take(load_config(self.config_path))
        self.pid_file.write_text(str(os.getpid()))
        users = self.load_users()
        if not await asyncio.to_thread(run_hooks, self.config.hooks.server.start, "start"):
            return 1
        self.handler = Handler(self, self.config, users)
        for each in (
            signal.SIGHUP,
            signal.SIGTERM,
            signal.SIGINT,
        ):  # until here each of them ends the process
            loop.add_signal_handler(each, self.ask, "signal", each)
        server = web.Server(self.serve, handler_cancellation=True, auto_decompress=False, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=30)
        await runner.setup()
        self.awake.set()
        await web.TCPSite(runner, "127.0.0.1", int(self.config.server.listen or 3000)).start()
        log("INFO", "Navigator starting", port=self.config.server.listen)
        self.in_background(self.first_ready())
        while True:
            source, what = await self.events.get()
            self.waiting.discard(source)
            if source == "script":
                self.reload_slot.release()
            if what in {signal.SIGTERM, signal.SIGINT}:
                break
            await self.reload(what if isinstance(what, str) else self.config_path)
        log("INFO", "Received shutdown signal")
        await runner.cleanup()
        self.pid_file.unlink(missing_ok=True)
        return 0

    def ask(self, source: str, what: int | str) -> None:
        """Put a signal, or the path of a file to load, in the queue, unless one of this source waits."""
        if source not in self.waiting:
            self.waiting.add(source)
            self.events.put_nowait((source, what))

    async def ask_for_reload(self, path: str) -> None:
        await self.reload_slot.acquire()
        self.events.put_nowait(("script", path))

    def reload_due(self, path: str, loaded: tuple[str, int] | None = None) -> bool:
        """Whether a script or hook that names this path causes a reload: another text, or a newer file."""
        current, loaded_at = loaded or (self.config_path, self.loaded_at)
        try:
            newer = bool(path) and Path(path).stat().st_mtime_ns > loaded_at
        except OSError as error:
            log("WARN", "Cannot stat reload_config file", error=error)
            return False
        return newer or path not in {"", current}

    def in_background(self, work: Any) -> asyncio.Future[Any]:
        task: asyncio.Future[Any] = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def take(self, config: Any) -> None:
        """Make a configuration the current one. That waits for an application that is starting."""
        self.loaded_at = time.time_ns()
        async with self.applications:
            tenants = config.applications.tenants
            self.databases = {with_slash(t.path): t.var.get("database", "") for t in tenants}
        self.config, self.loaded = config, (self.config_path, self.loaded_at)
        idle, before = config.server.idle, self.idle_action
        self.idle_after = seconds(idle.timeout) or 600.0
        self.idle_action = idle.action if idle.action in {"suspend", "stop"} else ""
        if not (before and self.idle_action):
            self.count(0)

    def load_users(self) -> Users | None:
        auth = self.config.auth
        users = Users(auth.htpasswd) if auth.enabled and auth.htpasswd else None
        return users if auth.realm != "off" else None

    async def reload(self, path: str) -> None:
        log("INFO", "Received SIGHUP, reloading configuration")  # whoever asked: the real one's words
        self.config_path = path  # even if the file cannot be loaded
        try:
            config = load_config(path)
        except (OSError, yaml.YAMLError) as error:
            log("ERROR", "Failed to reload configuration", error=repr(error))
            return
        await self.take(config)
        await asyncio.to_thread(run_hooks, config.hooks.server.start, "start")
        users = self.handler.users
        try:
            users = self.load_users()
        except OSError as error:
            log("WARN", "Failed to reload auth file", error=error)
        self.handler = Handler(self, config, users)
        log("INFO", "Configuration reloaded successfully")
        self.in_background(asyncio.to_thread(run_hooks, config.hooks.server.ready, "ready"))

    async def application(self, prefix: str) -> str | None:
        """The database of a tenant's application; None if the tenant is gone. The first request starts it.

        Until it is up all requests to tenants wait, those that run included, and a reload waits, too.
        """
        async with self.applications:
            if prefix not in self.running and prefix in self.databases:
                log("INFO", "Starting web app", tenant=prefix)
                await self.start_application(prefix)
            return self.running.get(prefix)

    async def start_application(self, prefix: str) -> None:
        self.running[prefix] = self.databases[prefix]

    async def first_ready(self) -> None:
        await asyncio.sleep(0.1)
        await self.hooks_with_reload("ready")

    async def hooks_with_reload(self, kind: str) -> None:
        """Run hooks, then reload if one of them names another file or a newer one than when they began."""
        hooks, loaded = getattr(self.config.hooks.server, kind), self.loaded
        if await asyncio.to_thread(run_hooks, hooks, kind):
            path = next((h.reload_config for h in hooks if h.reload_config), "")
            if self.reload_due(path, loaded):
                self.ask(kind, path)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        await self.awake.wait()
        if self.asleep and self.idle_action:  # it wakes the machine and goes on; those after it wait
            self.asleep = False
            self.awake.clear()
            self.in_background(self.hooks_with_reload("resume")).add_done_callback(lambda _: self.awake.set())
        self.count(1)
        try:
            return await self.handler.answer(request)
        finally:
            self.count(-1)

    def count(self, change: int) -> None:
        loop = asyncio.get_running_loop()
        self.active += change
        self.last_activity = loop.time()
        self.idle_timer.cancel()
        if self.idle_action and not self.active:
            self.idle_timer = loop.call_later(self.idle_after, self.fall_asleep)

    def fall_asleep(self) -> None:
        """From here on the next request counts as the first one after waking, even while idle hooks run."""
        loop = asyncio.get_running_loop()
        if (left := self.last_activity + self.idle_after - loop.time()) > 0.001:  # a reload made it longer
            self.idle_timer = loop.call_later(left, self.fall_asleep)
            return
        self.asleep = True
        self.in_background(self.idle(self.idle_action))

    async def idle(self, action: str) -> None:
        await asyncio.to_thread(run_hooks, self.config.hooks.server.idle, "idle")
        doing = "Suspending" if action == "suspend" else "Stopping"
        log("INFO", f"{doing} machine due to inactivity")  # Fly would be asked now


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


async def serve(make: Callable[[], StandIn]) -> int:
    return await make().run()


def run(make: Callable[[], StandIn]) -> None:
    """Be the stand-in that is made, and end this process with it."""
    die_with_parent()
    status = 1
    try:
        status = asyncio.run(serve(make))
    except (OSError, yaml.YAMLError) as error:
        log("ERROR", "Failed to start", error=repr(error))
    os._exit(status)  # hooks that still run are left to themselves, as the real one leaves them


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A stand-in for Navigator.")
    parser.add_argument("config", nargs="?", default="config/navigator.yml")
    parser.add_argument("--pid-file", type=Path, required=True)
    return parser


def main() -> None:
    options = arguments().parse_args()
    run(lambda: StandIn(options.config, options.pid_file))


if __name__ == "__main__":
    main()
