"""The endpoints of the ready work: run it, look at the databases, push them."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from sidecar.errors import BadRequest, Busy, NotFound
from sidecar.model.record import Record
from sidecar.model.work import Work, work_text
from sidecar.observe.events import Broker
from sidecar.ready.assembly import ReadyParts
from sidecar.ready.facts import GenerationData
from sidecar.ready.table import lines, table
from sidecar.web.access import BasicAuth, on_unix_socket
from sidecar.web.answers import EVENTS, JSON, TEXT, json_answer, preferred, text_answer
from sidecar.web.streams import stream


class PushBody(Record, frozen=True, forbid_unknown_fields=True):
    """Which databases to upload: without `names` all with something new.

    With `overwrite` also over objects that were not seen here.
    """

    names: tuple[str, ...] = ()
    overwrite: bool = False


class BackgroundViews:
    """All of it needs an administrator, or the Unix socket."""

    def __init__(self, parts: ReadyParts, broker: Broker, administrators: BasicAuth) -> None:
        self._parts = parts
        self._broker = broker
        self._administrators = administrators

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Run the ready work; the answer comes when it has ended."""
        who = await self._administrators.require(request)
        everything = request.query.get("everything") in ("1", "true", "yes")
        trigger = "socket" if on_unix_socket(request) else "http"
        if preferred(request, TEXT, JSON, EVENTS) == EVENTS:
            return await stream(request, self._broker, self._work(trigger, who, everything=everything))
        work = await self._work(trigger, who, everything=everything)
        status = 200 if work.good else 500
        if preferred(request, TEXT, JSON) == JSON:
            return json_answer(work, status)
        return text_answer(work_text(work), status)

    async def _work(self, trigger: str, who: str, *, everything: bool) -> Work:
        future = self._parts.work.request(trigger, who, everything=everything)
        try:
            # Others may wait for the same: who goes away must not take it from them.
            work = await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            raise Busy("the sidecar is stopping", "ask again in a moment", code="stopping") from None
        if work is None:
            raise Busy(
                "the ready work could not begin: there is no generation yet",
                "run an update first",
                code="not_begun",
            )
        return work

    async def databases(self, request: web.Request) -> web.StreamResponse:
        """Every database that belongs here: local, in the store, owner, what would happen."""
        await self._administrators.require(request)
        rows = lines(await self._parts.databases.survey(await self._facts()))
        if preferred(request, TEXT, JSON) == JSON:
            return json_answer(rows)
        return text_answer(table(rows))

    async def push(self, request: web.Request) -> web.StreamResponse:
        """Upload databases that are written here."""
        await self._administrators.require(request)
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=PushBody)
        except msgspec.MsgspecError as error:
            raise BadRequest(
                f"the body does not say what to push: {error}", 'send {"names": ["2026-boston"]}, or nothing'
            ) from None
        if asked.overwrite and not asked.names:
            raise BadRequest("overwriting needs names", "name the databases whose objects are to be replaced")
        pushed = await self._parts.push.push(await self._facts(), asked.names, overwrite=asked.overwrite)
        status = 409 if pushed.failed else 200
        if preferred(request, TEXT, JSON) == JSON:
            return json_answer(pushed, status)
        return text_answer("\n".join(pushed.said) or "nothing has changed here since it was stored", status)

    async def _facts(self) -> GenerationData:
        facts = await self._parts.facts()
        if facts is None:
            raise NotFound("there is no generation yet", "run an update first")
        return facts
