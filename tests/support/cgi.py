"""The installed commands as others start them: `sidecar-cgi` as Navigator does, `sidecar` as operators do.

Also the headers that the forwarder sends on to the daemon, for tests that talk to the daemon directly.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from sidecar.model import signing
from tests.support import warm
from tests.support.machine import SECRET, Machine

BIN = Path(sys.executable).parent
SIDECAR = BIN / "sidecar"
CGI = BIN / "sidecar-cgi"

UPDATE_PATH = "/showcase/update_config"
REMOTE = "192.0.2.7:40123"
# No command of these tests takes nearly as long; one that hangs shall fail and not block.
_LIMIT = 60.0

_made: set[str] = set()
_OWN = ("SIDECAR_", "AWS_", "FLY_", "KAMAL_", "RAILS_", "NAVIGATOR_", "BUCKET_NAME", "STATE_DIRECTORY")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that configures a sidecar, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", **more}


def forwarded(
    *, method: str = "POST", path: str = UPDATE_PATH, remote: str = REMOTE, **more: str
) -> dict[str, str]:
    """The headers with which the forwarder hands a request to the daemon."""
    return {"Sidecar-Method": method, "Sidecar-Path": path, "Sidecar-Remote": remote, **more}


def signed(
    body: bytes = b"",
    *,
    path: str = UPDATE_PATH,
    machine: str = "test-machine",
    age: float = 0,
    secret: str = SECRET,
) -> dict[str, str]:
    """The headers of a signed poke made `age` seconds ago, or a little before that: no two are the same."""
    moment = int(time.time() - age)
    while True:
        poke = signing.Poke("POST", path, str(moment), machine, hashlib.sha256(body).hexdigest())
        headers = signing.headers(poke, secret)
        if headers[signing.SIGNATURE] not in _made:
            _made.add(headers[signing.SIGNATURE])
            return headers
        moment -= 1


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, when that is JSON and nothing else."""
        return json.loads(self.out)


async def run(*command: str | Path, stdin: bytes = b"", **environ: str) -> Finished:
    """Run a command to its end; `sidecar` warm, unless the environment has something for its interpreter."""
    if command[0] == SIDECAR and not any(name.startswith("PYTHON") for name in environ):
        return await _run_warm([str(word) for word in command[1:]], stdin, environment(**environ))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(**environ)
    )
    out, err = await _communicate(process, stdin)
    return Finished(process.returncode or 0, out.decode(), err.decode())


async def _run_warm(arguments: list[str], stdin: bytes, environ: Mapping[str, str]) -> Finished:
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        streams = {"stdin": given.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        process = warm.start(arguments, environ, **streams)
        try:
            async with asyncio.timeout(_LIMIT):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for file in (out, err):
            file.seek(0)
        return Finished(code, out.read().decode(), err.read().decode())


async def sidecar(machine: Machine | None, *arguments: str, stdin: bytes = b"", **environ: str) -> Finished:
    """Run `sidecar` with the machine's configuration."""
    config = [] if machine is None else ["--config", str(machine.write_settings())]
    return await run(SIDECAR, *config, *arguments, stdin=stdin, **environ)


async def _communicate(process: Process, stdin: bytes) -> tuple[bytes, bytes]:
    try:
        async with asyncio.timeout(_LIMIT):
            return await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Daemon:
    """A running `sidecar serve`."""

    machine: Machine
    process: warm.Process
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def stop(self) -> int:
        """End it as systemd would; its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(_LIMIT):
            return await self.process.wait()


@asynccontextmanager
async def serving(machine: Machine, **environ: str) -> AsyncIterator[Daemon]:
    """The installed daemon on a machine, from when it answers."""
    log_file = machine.folder / "serve.log"
    with log_file.open("ab") as log, TemporaryFile() as nothing:
        process = warm.start(
            ["--config", str(machine.write_settings()), "serve"],
            environment(**environ),
            stdin=nothing.fileno(),
            stdout=log.fileno(),
            stderr=log.fileno(),
        )
    daemon = Daemon(machine, process, log_file)
    try:
        await answering(machine.socket, daemon)
        yield daemon
    finally:
        try:
            await daemon.stop()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def answering(socket: Path, daemon: Daemon) -> None:
    """Wait until something listens on the socket, for as long as the daemon lives."""
    async with asyncio.timeout(_LIMIT):
        while True:
            assert daemon.process.returncode is None, daemon.log
            try:
                _, writer = await asyncio.open_unix_connection(socket)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


@dataclass(frozen=True)
class CgiAnswer:
    """What a CGI script printed, as Navigator reads it, and how it ended."""

    status: int
    headers: Mapping[str, str]
    body: str
    code: int
    err: str

    @property
    def reloads(self) -> bool:
        """Whether Navigator would look at its configuration now."""
        return self.code == 0


async def run_cgi(
    socket: Path,
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = UPDATE_PATH,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    chunked: bool = False,
    length: str | None = None,
    **environ: str,
) -> CgiAnswer:
    """Start `sidecar-cgi` as Navigator starts a CGI, for one request.

    It gets Navigator's own environment, the script's `env`, the CGI variables and the request's headers; its
    folder as working directory; the body, as it came, through a pipe. `length` tells a false length.
    """
    http = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in (headers or {}).items()}
    told = "" if chunked else str(len(body)) if length is None else length
    process = await asyncio.create_subprocess_exec(
        CGI,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=CGI.parent,
        env={
            **environment(SIDECAR_SOCKET=str(socket)),
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "Navigator",
            "SERVER_NAME": "example.com",
            "REQUEST_METHOD": method,
            "QUERY_STRING": query,
            "SCRIPT_NAME": path,
            "PATH_INFO": "",
            "REMOTE_ADDR": REMOTE,
            "CONTENT_TYPE": "application/octet-stream" if body else "",
            "CONTENT_LENGTH": told,
            **http,
            **environ,
        },
    )
    out, err = await _communicate(process, body)
    return _parse(out, process.returncode or 0, err.decode())


def _parse(out: bytes, code: int, err: str) -> CgiAnswer:
    head, separator, body = out.partition(b"\r\n\r\n")
    assert separator, f"no headers in {out!r}, standard error {err!r}"
    lines = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")]
    headers = {name: value for name, _, value in lines}
    assert len(headers) == len(lines), f"a header twice in {head!r}"
    return CgiAnswer(int(headers.get("Status", "200")[:3]), headers, body.decode(), code, err)
