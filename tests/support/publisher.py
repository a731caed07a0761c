"""Publishes what the store holds, and dies of SIGKILL at a chosen point of that.

    python -m tests.support.publisher FOLDER SETTINGS

FOLDER is that of a `Machine`, SETTINGS are its extra ones as JSON. Each line on standard input is a job, done
in a process of its own and answered with a line of JSON; `Press` does that for a test. A job is what happens,
and at which point:

    checkpoint 3    die at the third checkpoint of Generations
    call 17         die before the 17th call that changes something in FOLDER
    full 3          from the third checkpoint on, no file can grow any more
    checkpoint 0    nothing happens
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from sidecar.daemon import Daemon
from sidecar.generations import INDEX, Generations, Manifest, targets
from sidecar.inputs.index import read_index
from sidecar.model.runs import Outcome, Request
from sidecar.system.sqlite import install_database
from tests.support.machine import Machine

_ROOT = Path(__file__).parents[2]
_CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.utime", "os.chmod", "os.chown"}


def open_generations(
    machine: Machine, keep: int = 10, checkpoint: Callable[[str], None] = lambda _: None
) -> Generations:
    """The generations of a machine, not started yet."""
    settings = machine.settings()
    return Generations(machine.state, targets(settings), install_database, keep, checkpoint=checkpoint)


def update(machine: Machine, checkpoint: Callable[[str], None] | None = None, **request: Any) -> Outcome:
    """One update in this process, as `sidecar update --once` does it."""
    daemon = Daemon(machine.settings())
    if checkpoint is not None:
        daemon.generations._checkpoint = checkpoint
    return asyncio.run(once(daemon, Request(**{"trigger": "once", **request})))


async def once(daemon: Daemon, request: Request) -> Outcome:
    """One run of a daemon without a server."""
    async with daemon.without_server():
        return await daemon.worker.submit(request)


Stamp = tuple[int, int, int]
"""A file's inode, mtime and ctime: they tell whether anybody has touched it."""


@contextmanager
def machine_in_memory(otherwise: Path, **extra: Any) -> Iterator[Machine]:
    """A machine on a file system in memory where there is one: quick, and no worse against a kill."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else otherwise
    try:
        yield Machine(folder, extra)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamps(machine: Machine) -> dict[str, Stamp]:
    """Of every file that is published, the index included."""
    found = {}
    for path in sorted(machine.application.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[path.name] = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def leftovers(machine: Machine) -> list[str]:
    """What should not be there: temporary files, parts of databases, anything half done."""
    generations = machine.state / "generations"
    found = [*machine.application.rglob("*"), *generations.rglob("*"), *machine.state.glob(".installed*")]
    names = [str(path.relative_to(machine.folder)) for path in found]
    return [
        name
        for name in names
        if "sidecar-new" in name
        or Path(name).name.startswith(f"{INDEX}-")
        or (name.startswith("state/generations/.") and name != "state/generations/.incoming")
    ]


def check_whole(machine: Machine, manifest: Manifest | None, index: Path) -> None:
    """Assert that what is in place is one generation, whole, made of this index, and nothing else."""
    assert manifest is not None
    assert manifest.index.sha256 == sha256(index)
    assert manifest.digests == {name: sha256(machine.target(name)) for name in manifest.digests}
    assert machine.targets().keys() == manifest.digests.keys()
    assert read_index(machine.target(INDEX)) == read_index(index)
    installed = json.loads((machine.state / "installed.json").read_bytes())
    assert installed["generation"] == manifest.number
    assert leftovers(machine) == []


@dataclass(frozen=True)
class Point:
    """A point of a publication: what it is, and whether the new generation counts already."""

    name: str
    committed: bool


@dataclass(frozen=True)
class Answer:
    """How a job ended: exit status (negative: the signal), the points that were reached, the outcome."""

    status: int
    points: tuple[Point, ...]
    state: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Press:
    """The program, kept ready for a test: `with Press(machine) as press: press.run("call", 17)`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._machine.folder), json.dumps(self._machine.extra)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)

    def run(self, kind: str, number: int) -> Answer:
        """Do one job."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kind} {number}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Answer(**{**answer, "points": tuple(Point(*point) for point in answer["points"])})


class _Trap:
    """Counts points, and lets happen at one of them what shall happen."""

    def __init__(self, folder: Path, kind: str, number: int, answer: int) -> None:
        self._inside = f"{folder}/"
        self._generations = folder / "state" / "generations"
        self._before = self._newest()
        self._kind = kind
        self._number = number
        self._answer = answer
        self._looking = False
        self._points: list[tuple[str, bool]] = []

    def checkpoint(self, name: str) -> None:
        if self._kind != "call":
            self._point(name)

    def call(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: it is called before the call is made."""
        if self._kind != "call" or self._looking:
            return
        if event in _CALLS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            path = str(arguments[0])
            within_a_removal = event in ("os.remove", "os.rmdir") and not path.startswith("/")
            if path.startswith(self._inside) or within_a_removal:
                self._point(f"{event} {path.removeprefix(self._inside)}")

    def _point(self, name: str) -> None:
        self._points.append((name, self._newest() > self._before))
        if len(self._points) != self._number:
            return
        if self._kind == "full":
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        else:
            self.answer()
            os.kill(os.getpid(), signal.SIGKILL)

    def _newest(self) -> int:
        self._looking = True
        try:
            numbers = [path.name for path in self._generations.iterdir() if path.name.isdecimal()]
            return max(map(int, numbers), default=0)
        except FileNotFoundError:
            return 0
        finally:
            self._looking = False

    def answer(self, **more: str) -> None:
        os.write(self._answer, json.dumps({"points": self._points, **more}).encode())


def _job(machine: Machine, kind: str, number: int, answer: int) -> NoReturn:
    """In the child: publish, or die."""
    status = 1
    try:
        if kind == "full":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it may be a file, which cannot grow either
        trap = _Trap(machine.folder, kind, number, answer)
        sys.addaudithook(trap.call)
        outcome = update(machine, trap.checkpoint)
        error = outcome.error
        facts = {"code": error.code, "message": error.message, "hint": error.hint} if error else {}
        trap.answer(state=outcome.state, **facts)
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def main() -> None:
    machine = Machine(Path(sys.argv[1]), json.loads(sys.argv[2]))
    for line in sys.stdin:
        kind, number = line.split()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _job(machine, kind, int(number), writing)
        os.close(writing)
        with open(reading) as stream:
            answer = json.loads(stream.read() or '{"points": []}')
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), **answer}), flush=True)


if __name__ == "__main__":
    main()
