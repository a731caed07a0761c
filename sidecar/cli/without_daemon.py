"""Does something in this process, with the daemon's parts and its lock, where no daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.config.settings import Settings
from sidecar.daemon import Daemon
from sidecar.model.runs import Outcome, Request
from sidecar.observe.logs import set_up
from sidecar.system.privileges import become_owner

Result = TypeVar("Result")


def without_daemon(settings: Settings, do: Callable[[Daemon], Awaitable[Result]]) -> Result:
    """What `do` gives; `SidecarError` beside a running daemon."""
    become_owner(Path(settings.paths.state))
    set_up(msgspec.structs.replace(settings.logging, level="error"))

    async def work() -> Result:
        async with Daemon(settings).without_server() as daemon:
            return await do(daemon)

    return asyncio.run(work())


def run_once(settings: Settings, request: Request) -> Outcome:
    """Carry one request out, and see whether Navigator loads what it publishes."""

    async def do(daemon: Daemon) -> Outcome:
        outcome = await daemon.worker.submit(request)
        if outcome.state != "published":
            return outcome
        line = await daemon.follow_once()
        return msgspec.structs.replace(outcome, log=(*outcome.log, f"{line[0].upper()}{line[1:]}."))

    return without_daemon(settings, do)
