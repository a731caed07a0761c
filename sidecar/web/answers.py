"""Answers in the form that was asked for: JSON or text, errors too, and never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from sidecar.errors import BadRequest, SidecarError
from sidecar.model.record import ErrorAnswer, Problem, Record
from sidecar.model.runs import Outcome
from sidecar.model.text import printable
from sidecar.web.html import HTML, error_page

logger = logging.getLogger(__name__)

_BEGUN = web.RequestKey("begun", web.StreamResponse)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"


class Accepted(Record, frozen=True):
    """What was sent is taken, and worked on later."""

    accepted: bool = True


class Healthy(Record, frozen=True):
    """The answer of a probe when all is well."""

    ok: bool = True


def preferred(request: web.Request, *offered: str) -> str:
    """Which of the offered content types the client wants most; the first one when it does not say."""
    best, best_quality = offered[0], -1.0
    for kind in offered:
        quality = _quality(request.headers.get("Accept", "*/*"), kind)
        if quality > best_quality:
            best, best_quality = kind, quality
    return best


def wants_page(request: web.Request) -> bool:
    """Whether a browser asks, which names HTML first; who takes anything gets text or JSON."""
    return preferred(request, TEXT, JSON, EVENTS, HTML) == HTML


def _quality(accept: str, kind: str) -> float:
    """The weight of a content type in an Accept header; the most specific range that fits counts."""
    found, specific = 0.0, -1
    for part in accept.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        rank = (
            2 if name == kind else 1 if name == kind.partition("/")[0] + "/*" else 0 if name == "*/*" else -1
        )
        if rank > specific:
            weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
            try:
                found, specific = float(weight), rank
            except ValueError:
                continue
    return found


def is_number(text: str) -> bool:
    """Whether a part of a path can be the number of a run or a generation."""
    return text.isdecimal() and len(text) < 12


def json_answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Any record or plain data as JSON."""
    return web.Response(
        body=msgspec.json.encode(data) + b"\n", status=status, content_type=JSON, headers=headers
    )


def text_answer(text: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Plain text."""
    return web.Response(text=text if text.endswith("\n") else f"{text}\n", status=status, headers=headers)


def outcome_answer(
    request: web.Request, outcome: Outcome, headers: dict[str, str] | None = None
) -> web.Response:
    """A run's outcome: its log as text, or all of it as JSON."""
    status = outcome.error.status if outcome.error else 200
    if preferred(request, TEXT, JSON) == JSON:
        return json_answer(outcome, status, headers)
    return text_answer(outcome_text(outcome), status, headers)


def outcome_text(outcome: Outcome) -> str:
    """A run's outcome for people."""
    lines = [printable(line) for line in outcome.log]
    if outcome.error is not None and outcome.error.hint:
        lines.append(printable(f"What to do: {outcome.error.hint}."))
    place = f"generation {outcome.generation}" if outcome.generation else "nothing yet"
    lines.append(f"{outcome.state.capitalize()} in {outcome.seconds * 1000:.0f} ms; in place: {place}.")
    return "\n".join(lines)


def error_answer(
    request: web.Request, error: SidecarError, headers: dict[str, str] | None = None
) -> web.Response:
    """An error, with what to do about it."""
    headers = dict(headers or {})
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", 'Basic realm="sidecar", charset="UTF-8"')
    if error.status in (429, 503):
        headers.setdefault("Retry-After", str(error.retry_after))
    if wants_page(request):
        return error_page(request, error, headers)
    if preferred(request, TEXT, JSON) == JSON:
        problem = Problem(error.code, error.message, error.hint, error.status)
        return json_answer(ErrorAnswer(problem), error.status, headers)
    hint = f"What to do: {printable(error.hint)}.\n" if error.hint else ""
    message = printable(error.message)
    return text_answer(f"{message[:1].upper()}{message[1:]}.\n{hint}", error.status, headers)


class _HttpError(SidecarError):
    """What the HTTP library itself refuses: an unknown path, a wrong method, too large a body."""

    def __init__(self, error: web.HTTPException) -> None:
        super().__init__(error.reason, code=error.reason.lower().replace(" ", "_"))
        self.status = error.status


async def note_begun(request: web.Request, response: web.StreamResponse) -> None:
    """Remember, once an answer's head goes out, that it is too late for another one."""
    request[_BEGUN] = response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an answer; where one has begun, break it off."""
    try:
        return await handler(request)
    except Exception as error:
        if _BEGUN not in request:
            return _answer_to(request, error)
        if not isinstance(error, ConnectionError):
            logger.exception("%s %s failed after its answer had begun", request.method, request.path)
        # Without its end, so that nobody takes the part for the whole.
        if request.transport is not None:
            request.transport.close()
        return request[_BEGUN]


def _answer_to(request: web.Request, error: Exception) -> web.StreamResponse:
    headers = None
    match error:
        case SidecarError():
            answered = error
        case web.HTTPException(status=status) if status < 400:
            raise error
        case web.HTTPException():
            answered = _HttpError(error)
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        case ConnectionError() | web.RequestPayloadError():
            # The client went away, or what it sends is no body: that is no failure of ours.
            answered = BadRequest("the request broke off", "send it whole", code="broken_off")
        case _:
            logger.error(
                "unexpected internal error while answering %s %s",
                request.method,
                request.path,
                exc_info=error,
            )
            answered = SidecarError("unexpected internal error", "the log has the details", code="internal")
    return error_answer(request, answered, headers)
