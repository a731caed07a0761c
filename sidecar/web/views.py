"""The endpoints that tell: status, history, events, metrics, health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from sidecar.errors import BadRequest, Busy, NotFound
from sidecar.model.text import printable
from sidecar.observe.comparison import Comparison
from sidecar.observe.events import Broker
from sidecar.observe.history import Entry, History, Search
from sidecar.observe.metrics import Metrics
from sidecar.observe.status import StatusSource
from sidecar.update.worker import Worker
from sidecar.web.access import BasicAuth
from sidecar.web.answers import (
    JSON,
    TEXT,
    Healthy,
    is_number,
    json_answer,
    outcome_text,
    preferred,
    text_answer,
    wants_page,
)
from sidecar.web.streams import stream

_MAX_ENTRIES = 500
_MAX_SEARCH_CHARACTERS = 100


class Views:
    """Status, metrics and health are open; what may name users needs an administrator."""

    def __init__(
        self,
        worker: Worker,
        status: StatusSource,
        history: History,
        metrics: Metrics,
        broker: Broker,
        administrators: BasicAuth,
        comparison: Comparison,
    ) -> None:
        self._worker = worker
        self._status = status
        self._history = history
        self._broker = broker
        self._administrators = administrators
        self._comparison = comparison
        self.metrics = make_aiohttp_handler(metrics.registry)
        """In Prometheus's text format, or OpenMetrics when that is asked for."""

    async def status(self, request: web.Request) -> web.StreamResponse:
        """The state of this machine, without names of users."""
        status = self._status.status()
        if preferred(request, JSON, TEXT) == JSON:
            return json_answer(status)
        return text_answer(
            "\n".join(
                f"{key}: {msgspec.json.encode(value).decode()}" for key, value in status.fields().items()
            )
        )

    async def generations(self, request: web.Request) -> web.StreamResponse:
        """The history, newest first: `limit` entries of those that are searched, below the run `before`."""
        await self._administrators.require(request)
        limit = _number(request, "limit", 50)
        before = _number(request, "before", 0) or None
        entries = await asyncio.to_thread(
            self._history.entries, min(limit, _MAX_ENTRIES), before, search(request)
        )
        if preferred(request, JSON, TEXT) == JSON:
            return json_answer([_brief(entry) for entry in entries])
        return text_answer("\n".join(map(_line, entries)) or "nothing has happened yet")

    async def generation(self, request: web.Request) -> web.StreamResponse:
        """One generation: everything that is remembered of it."""
        await self._administrators.require(request)
        return await self._entry(request, "generation", self._history.generation)

    async def diff(self, request: web.Request) -> web.StreamResponse:
        """What differs between two generations that are kept."""
        await self._administrators.require(request)
        number = request.match_info["number"]
        if not is_number(number):
            raise NotFound(f"there is no generation {number!r}", "`sidecar history` lists the runs")
        after = _number(request, "to", 0) or None
        return json_answer(await asyncio.to_thread(self._comparison.differences, int(number), after))

    async def run(self, request: web.Request) -> web.StreamResponse:
        """One run, whatever became of it."""
        await self._administrators.require(request)
        return await self._entry(request, "run", self._history.run)

    async def _entry(
        self, request: web.Request, what: str, find: Callable[[int], Entry | None]
    ) -> web.StreamResponse:
        number = request.match_info["number"]
        entry = await asyncio.to_thread(find, int(number)) if is_number(number) else None
        if entry is None:
            raise NotFound(f"the history knows no {what} {number}", "`sidecar history` lists the runs")
        return _whole(request, entry)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens, as it happens. A person's browser is led to the page, which shows that."""
        await self._administrators.require(request)
        if wants_page(request):
            raise web.HTTPSeeOther("./")
        return await stream(request, self._broker)

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Alive: the loop that does the work turns."""
        if not self._worker.alive:
            raise Busy("the loop that runs the updates is stuck", "restart the sidecar", code="stuck")
        return _fine(request)

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Ready: a generation is loaded."""
        if not self._status.ready():
            raise Busy("no generation was loaded yet", "look at /status", code="not_ready")
        return _fine(request)


def search(request: web.Request) -> Search:
    """Which runs are asked for."""
    trigger, who, state = (
        request.query.get(name, "").strip()[:_MAX_SEARCH_CHARACTERS] for name in ("trigger", "who", "state")
    )
    return Search(trigger, who, state)


def _whole(request: web.Request, entry: Entry) -> web.Response:
    if preferred(request, JSON, TEXT) == JSON:
        return json_answer(entry)
    return text_answer(f"{_line(entry)}\n{outcome_text(entry.outcome)}")


def _fine(request: web.Request) -> web.Response:
    return json_answer(Healthy()) if preferred(request, TEXT, JSON) == JSON else text_answer("ok")


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 12:
        raise BadRequest(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _brief(entry: Entry) -> Entry:
    """Without the log and the diffs, which a list would drown in."""
    return msgspec.structs.replace(entry, outcome=msgspec.structs.replace(entry.outcome, log=(), diffs={}))


def _line(entry: Entry) -> str:
    outcome = entry.outcome
    error = f": {outcome.error.message}" if outcome.error else f": {entry.note}" if entry.note else ""
    number = f"generation {outcome.generation}" if outcome.state == "published" else "-"
    by = f"{outcome.trigger} ({outcome.who})"
    moment = datetime.fromtimestamp(outcome.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return printable(f"{entry.run} {moment} {entry.state} {number} by {by}{error}")
