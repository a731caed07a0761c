"""The endpoints that make something happen: update, preview, rollback, webhook."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, get_args

import msgspec
from aiohttp import web

from sidecar.errors import BadRequest, NotFound, SidecarError, Unauthorized
from sidecar.model.record import Problem, Record
from sidecar.model.runs import PREVIEW, TRIGGERS, LoadVerdict, Outcome, Request
from sidecar.observe.events import Broker
from sidecar.ready.runner import ReadyWork
from sidecar.system.tasks import Tasks
from sidecar.update.reconciler import Reconciler
from sidecar.update.worker import Worker
from sidecar.web.access import BasicAuth, basic_credentials, on_unix_socket
from sidecar.web.answers import EVENTS, JSON, TEXT, Accepted, json_answer, outcome_answer, preferred
from sidecar.web.streams import stream

logger = logging.getLogger(__name__)

Wait = Literal["published", "loaded", "ready"]
_WAITS: tuple[str, ...] = get_args(Wait)
_MAX_WORK_SECONDS = 3600.0
BOOT_SECONDS = 1.5
"""Seconds that a machine that boots shows its maintenance page for the newest, with a whole set in place."""


class RollbackBody(Record, frozen=True, forbid_unknown_fields=True):
    """Which generation to restore; with `index` its index database too, not the files only."""

    generation: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    index: bool = True


class Operations:
    """Needs an administrator, or the Unix socket, for everything but the webhook, which has a token."""

    def __init__(
        self,
        worker: Worker,
        reconciler: Reconciler,
        stands: Callable[[], Awaitable[bool]],
        ready_work: ReadyWork,
        broker: Broker,
        administrators: BasicAuth,
        webhook_token: str,
        reload_timeout: float,
        relay: Callable[[], None] = lambda: None,
    ) -> None:
        """`stands` tells whether what is in place can serve; `relay` is told of each webhook.

        The latter comes once this machine has looked at the store itself.
        """
        self._relay = relay
        self._worker = worker
        self._reconciler = reconciler
        self._stands = stands
        self._ready_work = ready_work
        self._broker = broker
        self._administrators = administrators
        self._webhook_token = webhook_token
        # Up to the signal, from there to the rollback, and time for the probes.
        self._longest_load = 3 * reload_timeout + 10
        self._tasks = Tasks()

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Run an update; the answer comes when it is published, or loaded where that is waited for."""
        who = await self._administrators.require(request)
        trigger = request.query.get("trigger", "socket" if on_unix_socket(request) else "http")
        if trigger not in TRIGGERS:
            raise BadRequest(f"there is no trigger {trigger!r}", f"known are {', '.join(TRIGGERS)}")
        match = request.headers.get("If-Match")
        wanted = Request(
            trigger=trigger,
            who=who,
            force=request.query.get("force") in ("1", "true", "yes"),
            if_match=None if match is None else match.strip().removeprefix("W/").strip('"'),
        )
        return await self._answer(request, wanted)

    async def rollback(self, request: web.Request) -> web.StreamResponse:
        """Restore an older generation, which then stays until somebody asks for an update."""
        who = await self._administrators.require(request)
        try:
            asked = msgspec.json.decode(await request.read(), type=RollbackBody)
        except msgspec.MsgspecError as error:
            raise BadRequest(
                f"the body does not say what to restore: {error}", 'send {"generation": 12}'
            ) from None
        wanted = Request(trigger="rollback", who=who, rollback=asked.generation, with_index=asked.index)
        return await self._answer(request, wanted)

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """What an update would change now. Its ETag in If-Match applies exactly that."""
        who = await self._administrators.require(request)
        outcome = await self._worker.submit(Request(trigger=PREVIEW, who=who, preview=True))
        return outcome_answer(request, outcome, {"ETag": f'"{outcome.tag}"'} if outcome.tag else None)

    async def webhook(self, request: web.Request) -> web.StreamResponse:
        """A notification that the store has something new: always a poke, whatever the body says."""
        self._check_token(request)
        # The sender waits for some seconds only and sends again what was not answered.
        self._tasks.start(self._poke(request.remote or "unknown"))
        return json_answer(Accepted(), 202)

    async def _poke(self, address: str) -> None:
        try:
            await self._worker.submit(Request(trigger="webhook", who=address))
            self._relay()
        except SidecarError as error:
            logger.warning("the update for the webhook was not run: %s", error)

    def _check_token(self, request: web.Request) -> None:
        if not self._webhook_token:
            raise NotFound("the webhook is off", "set trigger.webhook_token")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            given = (basic_credentials(request) or ("", ""))[1]
        if not hmac.compare_digest(given.strip().encode(), self._webhook_token.encode()):
            raise Unauthorized("the webhook's token is wrong", "send it as Bearer token or as Basic password")

    async def _answer(self, request: web.Request, wanted: Request) -> web.StreamResponse:
        wait = request.query.get("wait", "published")
        if wait not in _WAITS:
            raise BadRequest(f"there is nothing to wait for named {wait!r}", f"known are {', '.join(_WAITS)}")
        ending = self._run(wanted, wait)
        if preferred(request, TEXT, JSON, EVENTS) == EVENTS:
            return await stream(request, self._broker, ending)
        return outcome_answer(request, await ending)

    async def _run(self, wanted: Request, wait: str) -> Outcome:
        if wanted.is_hook:
            return await self._run_for_hook(wanted)
        outcome = await self._worker.submit(wanted)
        if wait == "published" or outcome.error is not None or outcome.generation is None:
            return outcome
        verdict = await self._reconciler.wait(outcome.generation, self._longest_load)
        if verdict == "loaded":
            if wait == "ready":
                return await self._until_ready(outcome, outcome.generation)
            return (
                msgspec.structs.replace(outcome, state="loaded") if outcome.state == "published" else outcome
            )
        message, hint, status = _VERDICTS[verdict]
        return msgspec.structs.replace(
            outcome,
            error=Problem(f"load_{verdict}", f"generation {outcome.generation} {message}", hint, status),
        )

    async def _run_for_hook(self, wanted: Request) -> Outcome:
        """The update for a hook of Navigator's own, which looks at its configuration when this ends well.

        A machine that boots gets what is in place, if that is whole, whatever has failed or takes long.
        """
        with self._reconciler.navigator_asks() as asking:
            outcome = await (self._boot(wanted) if wanted.trigger == "boot" else self._worker.submit(wanted))
            asking.looks = outcome.error is None or outcome.stands
            return outcome

    async def _boot(self, wanted: Request) -> Outcome:
        """The outcome of the update, or that it goes on while what is in place is served."""
        started = time.time()
        update = self._tasks.start(self._worker.submit(wanted))
        await asyncio.wait({update}, timeout=BOOT_SECONDS)
        if not update.done() and await self._stands():
            error = Problem(
                "update_pending",
                f"the update has not ended within {BOOT_SECONDS:g} s, and goes on",
                "look at /status; Navigator is made to load what comes",
                504,
            )
            update.add_done_callback(_say_if_not_run)
            seconds, current = time.time() - started, self._reconciler.pending or self._reconciler.served
            return Outcome("pending", "boot", wanted.who, started, seconds, current, error=error, stands=True)
        outcome = await update
        if outcome.error is None:
            return outcome
        return msgspec.structs.replace(outcome, stands=await self._stands())

    async def _until_ready(self, outcome: Outcome, generation: int) -> Outcome:
        work = await self._ready_work.wait_for(generation, _MAX_WORK_SECONDS)
        if work is not None and work.good:
            return msgspec.structs.replace(outcome, state="ready")
        if work is None:
            code, message, status = "ready_pending", "its ready work has not ended", 504
        else:
            errors = (f"{step.name}: {step.error.message}" for step in work.steps if step.error is not None)
            code, message, status = "ready_failed", f"its ready work failed, {next(errors, work.state)}", 500
        sentence = f"generation {generation} is loaded, but {message}"
        return msgspec.structs.replace(outcome, error=Problem(code, sentence, "look at /status", status))


def _say_if_not_run(update: asyncio.Future[Outcome]) -> None:
    if not update.cancelled() and (error := update.exception()) is not None:
        logger.warning("the update for the boot was not run: %s", error)


_VERDICTS: dict[LoadVerdict, tuple[str, str, int]] = {
    "failed": ("was published, but Navigator did not load it", "look at Navigator's log and at /status", 502),
    "superseded": ("was replaced before it was loaded", "look at /status", 409),
    "down": ("is in place, but Navigator is down", "start Navigator: it will load it", 503),
    "pending": ("is in place, but there is no sign yet that it was loaded", "look at /status", 504),
}
