"""Commands whose standard output is a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import re
from asyncio.subprocess import DEVNULL
from contextlib import suppress
from pathlib import Path

from tests.support.cgi import environment

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


async def on_terminal(*command: str | Path, **variables: str) -> tuple[int, str]:
    """Run a command to its end; its exit status, and what it wrote to its terminal."""
    reading, writing = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=writing,
        stderr=writing,
        env=environment(TERM="xterm", COLUMNS="120", **variables),
    )
    os.close(writing)
    shown = await asyncio.wait_for(asyncio.to_thread(_read_all, reading), 60)
    os.close(reading)
    return await process.wait(), shown


def plain(shown: str) -> str:
    """What was written, without escapes."""
    return _ESCAPES.sub("", shown).replace("\r", "")


def _read_all(terminal: int) -> str:
    parts = []
    with suppress(OSError):  # the end, in a terminal's way
        while part := os.read(terminal, 4096):
            parts.append(part)
    return b"".join(parts).decode()
