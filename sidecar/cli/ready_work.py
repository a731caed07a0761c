"""The ready work and the databases: by the daemon where one runs, else in this process with its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sidecar.cli.client import Client, NoDaemon
from sidecar.cli.outcome import refused
from sidecar.config.settings import Settings
from sidecar.errors import NotFound, SidecarError
from sidecar.model.work import PushResult, Work

if TYPE_CHECKING:
    # These load what only a daemon needs.
    from sidecar.ready.assembly import ReadyParts
    from sidecar.ready.facts import GenerationData
    from sidecar.ready.table import DatabaseLine

_PUSH_SECONDS = 3600.0

Result = TypeVar("Result")


def ready(settings: Settings, *, everything: bool, tell: Callable[[str, dict[str, Any]], None]) -> Work:
    """Run the ready work to its end; `tell` gets the events meanwhile, where a daemon does it."""
    client = Client(settings.listen.socket)
    try:
        for kind, data in client.events("POST", f"/ready?everything={int(everything)}"):
            if kind == "outcome":
                return msgspec.convert(data, Work)
            if kind == "error":
                refused(data)
            tell(kind, data)
    except NoDaemon as error:
        _unless_absent(error)

        async def work(parts: ReadyParts) -> Work:
            import asyncio

            running = asyncio.create_task(parts.work.run())
            try:
                done = await parts.work.request("command", "a command", everything=everything)
            finally:
                running.cancel()
                await asyncio.wait({running})
            if done is None:
                raise NotFound("there is no generation yet", "run `sidecar update` first")
            return done

        return _here(settings, work)
    raise SidecarError("the sidecar broke off before the end", "look at `sidecar status`")


def databases(settings: Settings) -> list[DatabaseLine]:
    """Every database that belongs here."""
    try:
        status, body = Client(settings.listen.socket).request("GET", "/databases")
    except NoDaemon as error:
        _unless_absent(error)

        async def survey(parts: ReadyParts) -> list[DatabaseLine]:
            from sidecar.ready.table import lines

            return lines(await parts.databases.survey(await _facts(parts)))

        return _here(settings, survey)
    if status != 200:
        refused(body)
    from sidecar.ready.table import DatabaseLine

    return msgspec.convert(body, list[DatabaseLine])


def push(settings: Settings, names: Sequence[str], *, overwrite: bool) -> PushResult:
    """Upload databases that are written here."""
    asked = msgspec.json.encode({"names": list(names), "overwrite": overwrite})
    try:
        client = Client(settings.listen.socket, timeout=_PUSH_SECONDS)
        _, body = client.request("POST", "/databases/push", asked)
    except NoDaemon as error:
        _unless_absent(error)

        async def upload(parts: ReadyParts) -> PushResult:
            return await parts.push.push(await _facts(parts), names, overwrite=overwrite)

        return _here(settings, upload)
    if "failed" not in body:
        refused(body)
    return msgspec.convert(body, PushResult)


def _here(settings: Settings, do: Callable[[ReadyParts], Awaitable[Result]]) -> Result:
    from sidecar.cli.without_daemon import without_daemon

    return without_daemon(settings, lambda daemon: do(daemon.ready))


def _unless_absent(error: NoDaemon) -> None:
    """A daemon that is there, but slow, is at the work itself: nobody else may be."""
    if error.code != NoDaemon.code:
        raise error


async def _facts(parts: ReadyParts) -> GenerationData:
    facts = await parts.facts()
    if facts is None:
        raise NotFound("there is no generation yet", "run `sidecar update` first")
    return facts
