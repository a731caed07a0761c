"""The endpoints of the fleet: how its machines are, how an update of all stands, and the beginning of one."""

from __future__ import annotations

from aiohttp import web

from sidecar.errors import BadRequest
from sidecar.fleet.report import FleetReport, lines
from sidecar.fleet.run import FleetRequest
from sidecar.fleet.service import FleetService
from sidecar.observe.events import Broker
from sidecar.web.access import BasicAuth
from sidecar.web.answers import EVENTS, JSON, TEXT, json_answer, preferred, text_answer
from sidecar.web.streams import stream

_WAITS = ("loaded", "ready")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_MAX_NUMBER = 100_000


class FleetViews:
    """All need an administrator: the machines' ids are nobody else's business."""

    def __init__(self, service: FleetService, broker: Broker, administrators: BasicAuth) -> None:
        self._service = service
        self._broker = broker
        self._administrators = administrators

    async def state(self, request: web.Request) -> web.StreamResponse:
        """The fleet update under way, or how the last one ended; and how the fleet was seen last."""
        await self._administrators.require(request)
        return json_answer(self._service.state())

    async def look(self, request: web.Request) -> web.StreamResponse:
        """How every active machine is, asked now."""
        await self._administrators.require(request)
        return json_answer(await self._service.look())

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Update the fleet; the answer comes when the last machine is done, or as events until then."""
        who = await self._administrators.require(request)
        upload = request.query.get("upload") not in _NO
        ending = self._service.update(_wanted(request), who, upload=upload)
        if preferred(request, TEXT, JSON, EVENTS) == EVENTS:
            return await stream(request, self._broker, ending)
        report = await ending
        status = 200 if report.good or report.dry_run else 502
        if preferred(request, TEXT, JSON) == JSON:
            return json_answer(report, status)
        return text_answer(_text(report), status)

    async def history(self, request: web.Request) -> web.StreamResponse:
        """The indexes that the store has held."""
        await self._administrators.require(request)
        return json_answer(await self._service.history())

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What a rollback would change."""
        await self._administrators.require(request)
        return json_answer(await self._service.plan(request.query.get("to", "")))

    async def roll_back(self, request: web.Request) -> web.StreamResponse:
        """Put an older index back, on all machines."""
        who = await self._administrators.require(request)
        held = request.query.get("held", "")
        if not held:
            raise BadRequest("what the store must hold is not said", "ask GET /fleet/rollback for it: `held`")
        report = await self._service.roll_back(request.query.get("to", ""), held, who)
        return json_answer(report, 200 if report.good else 502)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Let the rollout under way rest."""
        return await self._control(request, "pause")

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Go on with it."""
        return await self._control(request, "resume")

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Take it back."""
        return await self._control(request, "abort")

    async def _control(self, request: web.Request, word: str) -> web.StreamResponse:
        who = await self._administrators.require(request)
        return json_answer(await self._service.control(word, who))


def _text(report: FleetReport) -> str:
    return "\n".join(lines(report))


def _wanted(request: web.Request) -> FleetRequest:
    query = request.query
    wait = query.get("wait", "loaded")
    if wait not in _WAITS:
        raise BadRequest(f"there is nothing to wait for named {wait!r}", f"known are {', '.join(_WAITS)}")
    quorum = query.get("quorum")
    if quorum is not None and not (
        quorum.isdecimal() and 0 < int(quorum[:9]) <= _MAX_NUMBER and len(quorum) < 9
    ):
        raise BadRequest(f"the quorum must be a whole number from 1 to {_MAX_NUMBER}, not {quorum!r}")
    return FleetRequest(
        only=tuple(query.getall("only", [])),
        quorum=None if quorum is None else int(quorum),
        wait=wait,
        replace=query.get("replace") in _YES,
        force=query.get("force") in _YES,
        dry_run=query.get("dry_run") in _YES,
        canary=query.get("canary"),
    )
