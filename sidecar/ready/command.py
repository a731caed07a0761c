"""The commands about ready work and databases: by the daemon where one runs, else in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from sidecar.client import Client, NoDaemon
from sidecar.errors import NotFound, SidecarError
from sidecar.ready.assembly import Parts
from sidecar.ready.facts import Facts
from sidecar.ready.records import Pushed, Work
from sidecar.ready.table import Line, lines

Result = TypeVar("Result")


class Alone(Protocol):
    """Does something with the parts of this machine, where no daemon runs."""

    def __call__(self, do: Callable[[Parts], Awaitable[Result]], /) -> Result: ...


def ready(
    client: Client, alone: Alone, *, everything: bool, tell: Callable[[str, dict[str, Any]], None]
) -> Work:
    """Run the ready work to its end; `tell` gets the events meanwhile."""
    try:
        for kind, data in client.events("POST", f"/ready?everything={int(everything)}"):
            if kind == "outcome":
                return msgspec.convert(data, Work)
            if kind == "error":
                raise _refused(data)
            tell(kind, data)
    except NoDaemon as error:
        _unless_absent(error)

        async def work(parts: Parts) -> Work:
            running = asyncio.create_task(parts.work.run())
            try:
                done = await parts.work.request("command", "a command", everything=everything)
            finally:
                running.cancel()
                await asyncio.wait({running})
            if done is None:
                raise NotFound("there is no generation yet", "run `sidecar update` first")
            return done

        return alone(work)
    raise SidecarError("the sidecar broke off before the end", "look at `sidecar status`")


def databases(client: Client, alone: Alone) -> list[Line]:
    """Every database that belongs here."""
    try:
        status, body = client.request("GET", "/databases")
    except NoDaemon as error:
        _unless_absent(error)

        async def survey(parts: Parts) -> list[Line]:
            return lines(await parts.databases.survey(await _facts(parts)))

        return alone(survey)
    if status != 200:
        raise _refused(body)
    return msgspec.convert(body, list[Line])


def push(client: Client, alone: Alone, names: Sequence[str], *, overwrite: bool) -> Pushed:
    """Upload databases that are written here."""
    asked = msgspec.json.encode({"names": list(names), "overwrite": overwrite})
    try:
        _, body = client.request("POST", "/databases/push", asked)
    except NoDaemon as error:
        _unless_absent(error)

        async def upload(parts: Parts) -> Pushed:
            return await parts.push.push(await _facts(parts), names, overwrite=overwrite)

        return alone(upload)
    if "failed" not in body:
        raise _refused(body)
    return msgspec.convert(body, Pushed)


def _unless_absent(error: NoDaemon) -> None:
    """A daemon that is there, but slow, is at the work itself: nobody else may be."""
    if error.code != NoDaemon.code:
        raise error


async def _facts(parts: Parts) -> Facts:
    facts = await parts.facts()
    if facts is None:
        raise NotFound("there is no generation yet", "run `sidecar update` first")
    return facts


def _refused(body: Any) -> SidecarError:
    problem = body.get("error", {}) if isinstance(body, dict) else {}
    return SidecarError(problem.get("message", "the sidecar refused"), problem.get("hint", ""))
