"""Commands with a time limit: started without a shell, ended with all their children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sidecar.errors import CommandError

# What no command needs to know: the sidecar's own settings, secrets among them, and tokens for all machines.
_OWN = "SIDECAR_"
_OWN_SECRETS = frozenset({"FLY_API_TOKEN", "FLY_ACCESS_TOKEN"})

_MAX_OUTPUT_BYTES = 64 << 10
_MAX_LINE_BYTES = 4096
_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.1
_LEFTOVER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit status and the last part of what it printed."""

    status: int
    output: str


async def run_command(
    command: Sequence[str],
    folder: Path,
    timeout: float,
    environ: Mapping[str, str] | None = None,
    *,
    output: Path | None = None,
    nice: int = 0,
    idle: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Finished:
    """Run a command in a folder; `CommandError` when it cannot start or takes over `timeout` seconds.

    With `output` all that it prints goes to that file, and what is kept is its standard error. `nice` is its
    niceness, children included. With `idle` it gets what nobody else wants of processor and disk, where the
    system knows such a class: it must hold nothing that others wait for. `tell` gets each line that is kept,
    as it comes. It inherits the environment without the sidecar's settings and secrets, and gets `environ`
    besides.
    """
    if output is None:
        return await _run(command, folder, timeout, environ, None, nice, idle, tell)
    with output.open("wb") as stream:
        return await _run(command, folder, timeout, environ, stream, nice, idle, tell)


async def _run(
    command: Sequence[str],
    folder: Path,
    timeout: float,
    environ: Mapping[str, str] | None,
    output: IO[bytes] | None,
    nice: int,
    idle: bool,
    tell: Callable[[str], None],
) -> Finished:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**_inherited(), **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output or asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if output else asyncio.subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that its children end with it
        )
    except OSError as error:
        # Not the command itself is at fault where its folder, or /dev/null, is.
        fault = "" if error.filename in (None, command[0]) else f"{error.filename}: "
        raise CommandError(
            f"{command[0]} cannot be started: {fault}{error.strerror}",
            f"check that {error.filename or 'it'} exists, and may be used"
            if fault
            else "check that it exists and is executable",
        ) from error
    kept = bytearray()
    try:
        with suppress(ProcessLookupError):
            if nice:
                os.setpriority(os.PRIO_PGRP, process.pid, nice)
            if idle and sys.platform == "linux":
                # The class of its reads and writes follows: ioprio_set(2).
                os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        async with asyncio.timeout(timeout):
            status = await _status(process, asyncio.create_task(_collect(process, kept, tell)))
    except TimeoutError:
        raise CommandError(
            f"{command[0]} was ended after its limit of {timeout:g} s",
            "see what it waits for, or give it longer",
            code="command_timeout",
            detail=f"{command[0]}: {_tail(kept)}",
        ) from None
    finally:
        await _end(process)
    return Finished(status, kept.decode("utf-8", "replace"))


def _inherited() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OWN) and name not in _OWN_SECRETS
    }


async def _status(process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> int:
    """The command's exit status, after what it printed was read.

    A child that it leaves behind may hold its output for ever: nobody waits for that.
    """
    try:
        while not reading.done() and process.returncode is None:
            await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
        await asyncio.wait({reading}, timeout=_LEFTOVER_SECONDS)
        # asyncio's own wait() is for the output's end, too, in some versions.
        return await process.wait() if process.returncode is None else process.returncode
    finally:
        reading.cancel()


async def _collect(process: asyncio.subprocess.Process, kept: bytearray, tell: Callable[[str], None]) -> None:
    stream = process.stdout or process.stderr
    assert stream is not None  # noqa: S101 - it was asked for
    line = bytearray()
    while chunk := await stream.read(4096):
        kept += chunk
        del kept[:-_MAX_OUTPUT_BYTES]
        *whole, rest = (line + chunk).split(b"\n")
        for one in whole:
            tell(one.decode("utf-8", "replace"))
        line = rest[-_MAX_LINE_BYTES:]
    if line:
        tell(line.decode("utf-8", "replace"))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of the command is left behind, however it ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
            if number is signal.SIGTERM:
                continue  # the command is gone; its children may have stayed
            return


def _tail(output: bytearray) -> str:
    return output.decode("utf-8", "replace").strip()[-500:] or "it printed nothing"
