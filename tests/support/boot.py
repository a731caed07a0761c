"""A machine on Fly, as shipped, in a temporary folder: image, volume, store, and `fly/start.sh`.

    machine.put("new")                    # the store's index, in which a user has this password
    async with machine.boot() as booted:  # power on; power off at the end: kill -9 of everything
        await booted.up()                 # until a visitor sees something else than the maintenance page

What differs from a real machine: `fly/sidecar.yml` is the shipped file, but the environment replaces its
paths, ports, store, users (there is no user `rails` here) and profile. That is a copy of the shipped one with
another port in its maintenance part, which has it in writing. The image's programs (`ruby`, the application's
hooks) do nothing. Every boot begins with the image's files and with the volume as the last boot has left it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from sidecar.cli.client import Client, NoDaemon
from sidecar.demo.sample import set_password, write_index
from sidecar.inputs.profiles import load_profile
from tests.support import navigator
from tests.support.cgi import SIDECAR, Finished, environment, run
from tests.support.machine import SECRET, SMALL

FLY = Path(__file__).parents[2] / "fly"
USER = "user0003"
TOKEN = "a-token-for-tests"
REAL = os.environ.get("NAVIGATOR_BIN")
# No case takes nearly as long, not even on a slow machine. It is less than the 35 s of
# navigator.reload_timeout: a case that has to wait for that has failed.
BOUND = 30.0
_PAUSE = 0.05
_ENOUGH = 5

# A clock that a test sets: what Python reads of it is off by so many seconds.
_CLOCK = """
import os, time
def offset():
    try:
        with open(os.environ["CLOCK"]) as file:
            return int(file.read() or 0)
    except (OSError, ValueError, KeyError):
        return 0
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + offset()
time.time_ns = lambda: nanoseconds() + offset() * 10**9
"""
_TOUCH = '#!/bin/sh\nexec {touch} -d "now + $(cat "$CLOCK" 2>/dev/null || echo 0) seconds" "$@"\n'
# While HOLD exists a reload goes no further, at most for the 10 s that the profile gives this hook.
_HOLD = '#!/bin/sh\nwhile [ -e "$HOLD" ]; do sleep 0.02; done\n'


class Visitor:
    """Somebody who asks for a page again and again, from when the port answers until it is there to stay."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: list[tuple[float, float, int]] = []
        """When each was asked for, when it was answered, and the status."""
        self.realm = ""
        self._task: asyncio.Task[None] | None = None
        self._begun = time.monotonic()

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def begin(self) -> None:
        """Ask from now on; what was before counts no more."""
        await self.leave()
        self.answers, self._begun = [], time.monotonic()
        self._task = asyncio.create_task(self._ask())

    async def leave(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(BOUND)) as session:
            while not self.is_done:
                asked = time.monotonic()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(self._url, allow_redirects=False) as answer:
                        self.answers.append((asked, time.monotonic(), answer.status))
                        self.realm = answer.headers.get("WWW-Authenticate", self.realm)
                await asyncio.sleep(_PAUSE)

    @property
    def is_done(self) -> bool:
        """Whether the last answers were all no maintenance page."""
        last = [status for _, _, status in self.answers[-_ENOUGH:]]
        return len(last) == _ENOUGH and 503 not in last

    @property
    def is_in(self) -> bool:
        """Whether the last answer was not the maintenance page."""
        return bool(self.answers) and self.answers[-1][2] != 503

    @property
    def maintenance(self) -> float:
        """Seconds from the first answer to the first that is not the maintenance page."""
        begun = self.answers[0][1]
        return (
            next((answered for _, answered, status in self.answers if status != 503), time.monotonic())
            - begun
        )

    @property
    def down(self) -> float:
        """Seconds without any answer but the maintenance page, from `begin` on."""
        up = (answered for _, answered, status in self.answers if status != 503)
        return next(up, time.monotonic()) - self._begun

    @property
    def longest(self) -> float:
        """Seconds that the slowest answer took."""
        return max((answered - asked for asked, answered, _ in self.answers), default=0.0)


@dataclass
class Machine:
    """The machine, off. Its environment is that of all its processes."""

    folder: Path
    port: int = field(default_factory=navigator.free_port)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environ = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "CONFIG": str(FLY / "sidecar.yml"),
            "SIDECAR_CONFIG": str(FLY / "sidecar.yml"),
            "APPLICATION": str(self.application),
            "DATA": str(self.data),
            "DEMO": str(self.folder / "demo"),
            "RUN": str(self.folder / "run"),
            "RUN_AS": "",
            "HOLD": str(self.folder / "hold"),
            "CLOCK": str(self.folder / "clock"),
            "FLY_APP_NAME": "showcase",
            "FLY_REGION": "iad",
            "FLY_MACHINE_ID": "148e21",
            "SIDECAR_STORE": f"file://{self.folder}/store",
            "SIDECAR_PROFILE": str(self.profile),
            "SIDECAR_PATHS_APPLICATION": str(self.application),
            "SIDECAR_PATHS_DATABASES": str(self.data / "db"),
            "SIDECAR_PATHS_STORAGE": str(self.data / "storage"),
            "SIDECAR_PATHS_STATE": str(self.state),
            "SIDECAR_LISTEN_SOCKET": str(self.socket),
            "SIDECAR_LISTEN_HOST": "127.0.0.1",
            "SIDECAR_LISTEN_PORT": str(navigator.free_port()),
            "SIDECAR_DATABASES_OWNER": "",
            "SIDECAR_DATABASES_GROUP": "",
            "SIDECAR_NAVIGATOR_PORT": str(self.port),
            "SIDECAR_NAVIGATOR_PID_FILE": str(self.pid_file),
            "SIDECAR_NAVIGATOR_CGI_USER": "",
            "SIDECAR_NAVIGATOR_CGI_GROUP": "",
            "SIDECAR_TRIGGER_SECRET": SECRET,
            "SIDECAR_TRIGGER_WEBHOOK_TOKEN": TOKEN,
        } | self.environ

    @property
    def application(self) -> Path:
        return self.folder / "rails"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def state(self) -> Path:
        return self.data / "sidecar"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "sidecar.sock"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.yml"

    @property
    def index(self) -> Path:
        """The index in the store."""
        return self.folder / "store" / "db" / "index.sqlite3"

    @property
    def pid_file(self) -> Path:
        return Path("/tmp/navigator.pid") if REAL else self.application / f"navigator-{self.port}.pid"

    @property
    def log(self) -> str:
        """What the last boot's processes have written."""
        return (self.folder / "log").read_text(errors="replace")

    # What others prepare

    def build(self) -> None:
        """Make the image and an empty volume."""
        for part in ("image/config", "image/script", "image/bin", "image/public", "bin", "python", "data"):
            (self.folder / part).mkdir(parents=True)
        self.index.parent.mkdir(parents=True)
        self.reset_profile()
        options = f'"{sys.executable}" "{navigator.__file__}" "$1" --pid-file "{self.pid_file}"'
        programs = {
            "bin/navigator": f"#!/bin/sh\nexec {f'{REAL} $1' if REAL else options}\n",
            "bin/ruby": "#!/bin/sh\n",
            "bin/touch": _TOUCH.format(touch=shutil.which("touch")),
            "image/bin/prerender": "#!/bin/sh\n",
            "image/script/hook_navigator_start.sh": _HOLD,
            "image/script/hook_navigator_idle.sh": f'#!/bin/sh\ntouch "{self.folder}/idle"\n',
            "image/script/hook_app_idle.sh": "#!/bin/sh\n",
        }
        for name, text in programs.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        (self.folder / "bin" / "sidecar").symlink_to(SIDECAR)
        (self.folder / "python" / "sitecustomize.py").write_text(_CLOCK)
        # Behind the login as soon as there is one, and served without any application.
        (self.folder / "image" / "public" / "secret.txt").write_text("secret\n")
        built = self.environment(FLY_APP_NAME="build", FLY_REGION="build")
        maintenance = subprocess.run(
            [SIDECAR, "config", "--maintenance"], env=built, capture_output=True, check=True
        ).stdout
        (self.folder / "image" / "config" / "navigator-maintenance.yml").write_bytes(maintenance)

    def reset_profile(self) -> None:
        """The shipped profile, on the machine's port."""
        text = yaml.safe_dump(load_profile("fly").data, sort_keys=False)
        assert text.count("listen: 9999") == 1
        self.profile.write_text(text.replace("listen: 9999", f"listen: {self.port}"))

    def change_profile(self, old: str, new: str) -> None:
        """A deployment with another profile."""
        text = self.profile.read_text()
        assert old in text
        self.profile.write_text(text.replace(old, new))

    def put(self, password: str) -> bytes:
        """An index in the store in which a user has this password; gives it, too."""
        incoming = self.index.with_name("incoming")
        incoming.unlink(missing_ok=True)
        write_index(incoming, SMALL)
        digest = base64.b64encode(sha1(password.encode()).digest()).decode()
        set_password(incoming, USER, f"{USER}:{{SHA}}{digest}")
        incoming.replace(self.index)
        return self.index.read_bytes()

    def spoil(self) -> None:
        """Something in the store that is no index."""
        self.index.with_name("incoming").write_text("this is no database")
        self.index.with_name("incoming").replace(self.index)

    @property
    def digest(self) -> str:
        """Of the index in the store."""
        return sha256(self.index.read_bytes()).hexdigest()

    def set_clock(self, seconds: int) -> None:
        """Let the clock be off by so many seconds, for Python and for the time of a touched file."""
        path = self.folder / "clock"
        path.with_name("clock.new").write_text(str(seconds))
        path.with_name("clock.new").replace(path)

    @contextmanager
    def reloads_held(self) -> Iterator[None]:
        """No reload comes to its end meanwhile."""
        hold = self.folder / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    # Power

    def reset_image(self) -> None:
        """What a boot finds: the image's files, nothing of the boot before beside the volume."""
        for part in ("rails", "run"):
            shutil.rmtree(self.folder / part, ignore_errors=True)
        for part in ("idle", "hold"):
            (self.folder / part).unlink(missing_ok=True)
        shutil.copytree(self.folder / "image", self.application)

    def environment(self, **more: str) -> dict[str, str]:
        """Of every process of the machine; an empty value takes a variable away."""
        merged = self.environ | more
        clock = {"PYTHONPATH": str(self.folder / "python")} if (self.folder / "clock").exists() else {}
        return environment(
            **{name: value for name, value in merged.items() if name in _EMPTY or value}, **clock
        )

    @asynccontextmanager
    async def boot(self, **environ: str) -> AsyncIterator[Booted]:
        """Power on, with `fly/start.sh` as the first process; power off at the end."""
        self.reset_image()
        async with self._first(environ, FLY / "start.sh") as booted:
            yield booted

    @asynccontextmanager
    async def serve(self, **environ: str) -> AsyncIterator[Booted]:
        """The daemon alone, as a service manager runs it: Navigator comes and goes as the test says."""
        self.reset_image()
        for part in (
            self.socket.parent,
            self.data / "db",
            self.data / "storage",
            self.state,
            self.application / "tmp",
        ):
            part.mkdir(parents=True, exist_ok=True)
        async with self._first(environ, SIDECAR, "serve") as booted:
            await booted.answers()
            yield booted

    @asynccontextmanager
    async def _first(self, environ: dict[str, str], *command: str | Path) -> AsyncIterator[Booted]:
        env = self.environment(**environ)
        with _alone(), (self.folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            booted = Booted(self, process, env)
            try:
                async with booted.visitor:
                    yield booted
            finally:
                await booted.off()


@dataclass
class Booted:
    """The machine while it is on."""

    machine: Machine
    process: Process
    environ: dict[str, str]

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.machine.port}/showcase"
        self.visitor = Visitor(f"{self.url}/")
        self.client = Client(str(self.machine.socket), timeout=BOUND)

    async def off(self) -> None:
        """Power off: every process is gone at once."""
        strays = _below(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in strays:  # those with a group of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()
        await holds(lambda: not _group(self.process.pid), "the processes end")

    async def answers(self) -> None:
        """Wait for the daemon."""
        await asyncio.to_thread(self.client.wait_for_daemon, BOUND)

    async def up(self) -> float:
        """Wait until the visitor is in; seconds of maintenance page."""
        await holds(lambda: self.visitor.is_in, "the visitor gets past the maintenance page", self.log_tail)
        return self.visitor.maintenance

    async def now(self) -> dict[str, Any]:
        """The daemon's status; empty when it does not answer."""
        with contextlib.suppress(NoDaemon):
            return dict((await asyncio.to_thread(self.client.request, "GET", "/status"))[1])
        return {}

    async def status(self, good: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The status, once it is as it should be."""
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(BOUND):
                while True:
                    found = await self.now()
                    if found and good(found):
                        return found
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            seen = {name: found.get(name) for name in ("sync", "health", "generation", "running", "last")}
            raise AssertionError(
                f"the status stays {json.dumps(seen, indent=1)}\n{self.log_tail()}"
            ) from None

    async def lets_in(self, password: str) -> bool:
        """Whether Navigator lets the user in with this password."""
        login = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(BOUND)) as session,
            session.get(f"{self.url}/secret.txt", headers={"Authorization": login}) as answer,
        ):
            assert answer.status in (200, 401)
            return answer.status == 200

    async def poke(self) -> tuple[int, str]:
        """What anybody can do: a POST through Navigator to its CGI."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(BOUND)) as session,
            session.post(f"{self.url}/update_config") as answer,
        ):
            return answer.status, await answer.text()

    async def webhook(self) -> None:
        """What the store does when an index was put."""
        url = f"http://127.0.0.1:{self.environ['SIDECAR_LISTEN_PORT']}/webhook"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
            session.post(url) as answer,
        ):
            assert answer.status == 202

    async def command(self, *arguments: str) -> Finished:
        """What an operator does on the machine."""
        return await run(SIDECAR, *arguments, stdin=b"", **self.environ)

    @contextmanager
    def navigator(self, *options: str) -> Iterator[navigator.NavigatorProcess]:
        """A Navigator that the test starts by `launch`, and that ends with the block."""
        process = _Navigator(*options)
        try:
            yield process
        finally:
            with contextlib.suppress(AttributeError):
                process.kill()

    def log_tail(self) -> str:
        return "\n".join(self.machine.log.splitlines()[-60:])


class _Navigator(navigator.NavigatorProcess):
    """One of a machine that holds the lock on the real one's pid file already."""

    def _locked(self) -> bool:
        return True


# What is set to nothing, while others are taken away by that.
_EMPTY = frozenset(
    {"RUN_AS"}
    | {
        f"SIDECAR_{name}_{kind}"
        for name in ("DATABASES", "NAVIGATOR_CGI")
        for kind in ("OWNER", "USER", "GROUP")
    }
)


async def holds(
    condition: Callable[[], object], what: str, more: Callable[[], str] = lambda: "", bound: float = BOUND
) -> None:
    """Wait until a condition holds; the test fails when it does not within the bound."""
    try:
        async with asyncio.timeout(bound):
            while not condition():  # noqa: ASYNC110 - conditions are not events
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"within {bound:g} s it does not come true: {what}\n{more()}") from None


def _stat(pid: int) -> tuple[str, int, int]:
    """State, parent and process group."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0], int(words[1]), int(words[2])


def _processes() -> dict[int, tuple[str, int, int]]:
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                found[int(path.name)] = _stat(int(path.name))
    return found


def _group(number: int) -> list[int]:
    """The living processes of a group."""
    return [pid for pid, (state, _, group) in _processes().items() if group == number and state != "Z"]


def _below(pid: int) -> list[int]:
    """A process's children, their children, and so on."""
    processes, found, seen = _processes(), [pid], 0
    while seen < len(found):
        parent, seen = found[seen], seen + 1
        found += [child for child, (_, above, _) in processes.items() if above == parent]
    return found[1:]


@contextmanager
def _alone() -> Iterator[None]:
    """All real Navigators share one pid file, so there is one at a time."""
    if not REAL:
        yield
        return
    import fcntl

    with open("/tmp/navigator.pid.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
