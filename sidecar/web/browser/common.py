"""What the operators' pages share: who may see them, their frame and forms, the runs they begin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web

from sidecar.errors import BadRequest
from sidecar.model.runs import PREVIEW, Outcome, Request
from sidecar.observe.status import StatusSource
from sidecar.system.tasks import Tasks
from sidecar.update.worker import Worker
from sidecar.web.access import BasicAuth
from sidecar.web.answers import Handler, wants_page
from sidecar.web.csrf import CsrfTokens, field
from sidecar.web.html import ADDRESSES, base_of, html_answer
from sidecar.web.page.layout import PageFrame, page
from sidecar.web.page.markup import Content

logger = logging.getLogger(__name__)

WORD = "lose"
"""What has to be typed where an update takes away more than is allowed at once."""


def either(shown: Handler, plain: Handler) -> Handler:
    """One address for both: a page for browsers, `plain` for everyone else."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (shown if wants_page(request) else plain)(request)

    return handler


class Common:
    """Reading and acting need an administrator. The state alone is open, as it is in JSON."""

    def __init__(self, administrators: BasicAuth, status: StatusSource, worker: Worker) -> None:
        self._administrators = administrators
        self._status = status
        self._worker = worker
        self._tasks = Tasks()
        self.tokens = CsrfTokens()

    async def require(self, request: web.Request, *, linked: bool = False) -> str:
        """Who is asking, else `Unauthorized`; `linked` pages may be reached by a link from elsewhere."""
        return await self._administrators.require(request, linked=linked)

    async def preview(self, who: str, *, force: bool = False) -> Outcome:
        """What an update would do now."""
        return await self._worker.submit(Request(trigger=PREVIEW, who=who, preview=True, force=force))

    async def start(self, wanted: Request) -> None:
        """Begin a run whose progress the first page shows. What refuses it at once is an error."""
        await self.begin(self._worker.submit(wanted))

    async def begin(self, work: Coroutine[Any, Any, object], patience_seconds: float = 0.0) -> None:
        """Begin work that outlives the request. What ends it within the patience is the request's error."""
        task = self._tasks.start(work)
        task.add_done_callback(_ended)
        await asyncio.wait({task}, timeout=patience_seconds)
        if task.done():
            task.result()

    def frame(self, request: web.Request, who: str) -> PageFrame:
        """What surrounds a page."""
        status = self._status.status()
        return PageFrame(
            base=base_of(request),
            assets=ADDRESSES,
            machine=status.machine,
            region=status.region or "",
            who=who,
        )

    def answer(
        self,
        request: web.Request,
        who: str,
        title: str,
        content: Content,
        *,
        section: str,
        refresh: bool = False,
    ) -> web.Response:
        """A whole page; `refresh` where it changes by itself."""
        frame = msgspec.structs.replace(self.frame(request, who), section=section, refresh=refresh)
        return html_answer(page(frame, title, content))


async def require_word(request: web.Request) -> None:
    """`BadRequest` unless the word was typed that such an update needs."""
    if (await field(request, "word")).strip().lower() != WORD:
        raise BadRequest(f"the word {WORD!r} was not typed", "go back, and type it if that is meant")


def _ended(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.warning("a run asked for on the page was not run: %s", task.exception())
