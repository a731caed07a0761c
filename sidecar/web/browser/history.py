"""History as a page: runs and generations that were, and the way back to one."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from sidecar.errors import BadRequest, NotFound
from sidecar.generations import Generations
from sidecar.model.changes import Changes
from sidecar.model.runs import Request
from sidecar.observe.comparison import Comparison
from sidecar.observe.drift import Drift
from sidecar.observe.history import Entry, History, Search
from sidecar.web.answers import is_number
from sidecar.web.browser.common import Common
from sidecar.web.html import base_of
from sidecar.web.page import history as history_page
from sidecar.web.page import parts
from sidecar.web.page import preview as preview_page
from sidecar.web.views import search

_MAX_ENTRIES = 50


class HistoryPages:
    """What was, and a rollback to it."""

    def __init__(
        self,
        common: Common,
        generations: Generations,
        history: History,
        comparison: Comparison,
        drift: Drift,
    ) -> None:
        self._common = common
        self._generations = generations
        self._history = history
        self._comparison = comparison
        self._drift = drift

    async def past(self, request: web.Request) -> web.StreamResponse:
        """The history."""
        who = await self._common.require(request, linked=True)
        text = request.query.get("before", "")
        if text and (not text.isdecimal() or len(text) > 12):
            raise BadRequest(f"before must be a whole number, not {text!r}")
        wanted = search(request)
        entries = await asyncio.to_thread(
            self._history.entries, _MAX_ENTRIES + 1, int(text) if text else None, wanted
        )
        charted = [] if text or wanted != Search() else await asyncio.to_thread(self._published)
        content = history_page.history(
            entries[:_MAX_ENTRIES],
            charted,
            self._current_number,
            time.time(),
            search=wanted,
            base=base_of(request),
            more=entries[_MAX_ENTRIES - 1].run if len(entries) > _MAX_ENTRIES else None,
        )
        return self._common.answer(request, who, "History", content, section="generations")

    def _published(self) -> list[Entry]:
        """The newest publications, for the charts."""
        return self._history.entries(history_page.MAX_CHARTED, None, Search(published=True))

    async def run(self, request: web.Request) -> web.StreamResponse:
        """One run, whatever became of it."""
        who = await self._common.require(request, linked=True)
        number = _number(request, "run")
        entry = await asyncio.to_thread(self._history.run, number)
        if entry is None:
            raise NotFound(f"the history knows no run {number}", "look at the list of runs")
        if entry.outcome.state == "published":
            raise web.HTTPSeeOther(f"../generations/{entry.outcome.generation}")
        content = history_page.generation(
            entry, None, None, None, time.time(), kept=False, current=False, base=base_of(request)
        )
        return self._common.answer(request, who, f"Run {number}", content, section="generations")

    async def generation(self, request: web.Request) -> web.StreamResponse:
        """One generation."""
        who = await self._common.require(request, linked=True)
        number = _number(request)
        entry = await asyncio.to_thread(self._history.generation, number)
        if entry is None:
            raise NotFound(f"the history knows no generation {number}", "look at the list of runs")
        kept = await asyncio.to_thread(self._generations.archive.numbers)
        older = max((one for one in kept if one < number), default=None)
        diffs = None
        if number in kept and older == number - 1:
            diffs = await asyncio.to_thread(self._comparison.files, older, number)
        content = history_page.generation(
            entry,
            number,
            diffs,
            older,
            time.time(),
            kept=number in kept,
            current=number == self._current_number,
            base=base_of(request),
        )
        return self._common.answer(request, who, f"Generation {number}", content, section="generations")

    async def confirm_rollback(self, request: web.Request) -> web.StreamResponse:
        """The question before a rollback."""
        who = await self._common.require(request)
        number, current = _number(request), self._generations.current
        await asyncio.to_thread(self._generations.archive.manifest, number)
        found, diffs = None, {}
        if current is not None:
            found = await asyncio.to_thread(self._comparison.changes, current.number, number)
            diffs = await asyncio.to_thread(self._comparison.files, current.number, number)
        drift = dict.fromkeys(self._drift.names, "")
        lead = (
            "Its files and its index come back as a new generation, which stays until somebody asks for an "
            "update."
        )
        if found == Changes() and not diffs:
            found, lead = None, "It is the same as what is in place, so there is nothing to be changed."
        content = preview_page.question(
            f"Roll back to generation {number}?",
            lead,
            preview_page.consequences(found, drift),
            found,
            action=str(number),
            button=f"Roll back to generation {number}",
            fields=[("token", self._common.tokens.token(who, f"rollback {number}"))],
            back=f"../../generations/{number}",
            more=parts.diffs(diffs, "File by file"),
        )
        title = f"Roll back to generation {number}?"
        return self._common.answer(request, who, title, content, section="generations")

    async def roll_back(self, request: web.Request) -> web.StreamResponse:
        """Restore an older generation."""
        who = await self._common.require(request)
        number = _number(request)
        await self._common.tokens.require(request, who, f"rollback {number}")
        await self._common.start(Request(trigger="rollback", who=who, rollback=number))
        raise web.HTTPSeeOther("../../")

    @property
    def _current_number(self) -> int | None:
        current = self._generations.current
        return current.number if current else None


def _number(request: web.Request, what: str = "generation") -> int:
    text = request.match_info["number"]
    if not is_number(text):
        raise NotFound(f"there is no {what} {text!r}", "look at the list of runs")
    return int(text)
