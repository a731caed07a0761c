"""Every route of the interface, in one table: `app` adds them, `openapi` describes them.

To add one: a record here, and its handler in `operations`, `views`, `background` or `fleet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from sidecar.fleet.report import FleetOverview, FleetReport, FleetState
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.undo import IndexHistory, RollbackPlan
from sidecar.model.changes import Differences
from sidecar.model.record import ErrorAnswer
from sidecar.model.runs import ENDINGS, TRIGGERS, Outcome
from sidecar.model.status import Status
from sidecar.model.work import PushResult, Work
from sidecar.observe.history import Entry
from sidecar.ready.table import DatabaseLine
from sidecar.web import openapi
from sidecar.web.answers import EVENTS, JSON, TEXT, Accepted, Healthy, json_answer
from sidecar.web.background import BackgroundViews, PushBody
from sidecar.web.browser.fleet import FleetPages
from sidecar.web.browser.history import HistoryPages
from sidecar.web.browser.preview import PreviewPages
from sidecar.web.browser.status import StatusPages
from sidecar.web.fleet import FleetViews
from sidecar.web.html import HTML, asset
from sidecar.web.operations import Operations, RollbackBody, Wait
from sidecar.web.public import PublicTrigger
from sidecar.web.route import OPENMETRICS, Body, Parameter, Reply, Route, answer, followed, shown
from sidecar.web.views import Views


@dataclass(frozen=True, slots=True)
class Handlers:
    """What handles the requests."""

    operations: Operations
    background: BackgroundViews
    views: Views
    public: PublicTrigger
    fleet: FleetViews
    status_pages: StatusPages
    preview_pages: PreviewPages
    fleet_pages: FleetPages
    history_pages: HistoryPages


def _error(words: str) -> Reply:
    return shown(words, ErrorAnswer)


def _failed(words: str) -> Reply:
    """The outcome of a run, with its error; or an error alone when there was no run."""
    return shown(words, Outcome, ErrorAnswer)


_RUN = {
    200: followed("done", Outcome),
    400: _error("a parameter or the body cannot be used"),
    404: _failed("there is no such generation"),
    409: _failed("another generation was published before this one was loaded"),
    412: _failed("the preview that If-Match names is not what would be published now"),
    413: _error("the body is too large"),
    422: _failed("the index is refused; the configuration in place stays"),
    500: _failed("the update failed on this machine"),
    502: _failed("the store failed, or Navigator did not load the generation"),
    503: _failed("too many are waiting, the daemon is stopping, or Navigator is down"),
    504: _failed("no sign yet that the generation was loaded"),
}
_WAIT = Parameter(
    "wait",
    "answer when it is in place, when Navigator has loaded it, or when its ready work is done",
    Wait,
    "published",
)
_SWITCH = "1, true or yes: "


_TO = Parameter("to", "the first digits of an index in the history; without it one step back")
_FLEET = {
    409: _error("not now, or this machine is not configured for it"),
    502: _error("the machines' list or the store failed"),
    503: _error("the daemon is stopping"),
}


async def _describe(request: web.Request) -> web.StreamResponse:
    return json_answer(document())


ROUTES: tuple[Route[Handlers], ...] = (
    Route(
        "GET",
        "/",
        "The operators' page for browsers; the state for everyone else.",
        lambda parts: parts.views.status,
        page=lambda parts: parts.status_pages.home,
        description="The addresses below /page are the page's own and not described.",
        answers={200: shown("the page, or the state", Status), **openapi.NOT_ALLOWED},
    ),
    Route(
        "POST",
        "/update",
        "Run an update.",
        lambda parts: parts.operations.update,
        needs="administrator",
        description="It answers when the update is published. Pokes that arrive during a run share "
        "the next one. As text/event-stream the run's log comes line by line, its outcome last.",
        parameters=(
            _WAIT,
            Parameter("force", f"{_SWITCH}accept large losses, retry what was refused"),
            Parameter("trigger", "what asks, for the records", Literal[tuple(TRIGGERS)]),
            Parameter("If-Match", "the ETag of a preview: publish exactly that", where="header"),
        ),
        answers=_RUN,
    ),
    Route(
        "GET",
        "/preview",
        "What an update would change now: a summary and unified diffs.",
        lambda parts: parts.operations.preview,
        needs="administrator",
        page=lambda parts: parts.preview_pages.preview,
        answers={
            **_RUN,
            200: msgspec.structs.replace(
                shown("what would change", Outcome), headers=(("ETag", "for If-Match of POST /update"),)
            ),
        },
    ),
    Route(
        "POST",
        "/rollback",
        "Restore an older generation. It stays until somebody asks for an update.",
        lambda parts: parts.operations.rollback,
        needs="administrator",
        parameters=(_WAIT,),
        body=Body(RollbackBody, {"generation": 1}, required=True),
        answers=_RUN,
    ),
    Route(
        "POST",
        "/ready",
        "Run the ready work: event databases and prerendered pages.",
        lambda parts: parts.background.ready,
        needs="administrator",
        description="It answers when the work has ended. As text/event-stream its progress comes "
        "as it happens, its result last.",
        parameters=(Parameter("everything", f"{_SWITCH}render also what cannot have changed"),),
        answers={
            200: followed("done", Work),
            500: shown("a step failed", Work),
            503: _error("there is no generation yet, or another process does the work"),
        },
    ),
    Route(
        "GET",
        "/databases",
        "The event databases that belong here: local, in the store, whose, what would happen.",
        lambda parts: parts.background.databases,
        needs="administrator",
        answers={
            200: answer("the databases", tuple[DatabaseLine, ...]),
            404: _error("there is no generation yet"),
            502: _error("the store failed"),
        },
    ),
    Route(
        "POST",
        "/databases/push",
        "Upload event databases that are written here, and renew the inventory.",
        lambda parts: parts.background.push,
        needs="administrator",
        description="Without names all with something new. What the store holds is replaced only "
        "if it is what was last seen here, or with `overwrite`.",
        body=Body(PushBody, {"names": []}),
        answers={
            200: answer("all are stored", PushResult),
            400: _error("the body cannot be used"),
            404: _error("there is no such database here, or no generation yet"),
            409: shown("some are not stored", PushResult, ErrorAnswer),
            413: _error("the body is too large"),
            502: _error("the store failed"),
        },
    ),
    Route(
        "POST",
        "/webhook",
        "The store has something new, or may have: a poke, whatever the body says.",
        lambda parts: parts.operations.webhook,
        needs="token",
        body=Body(Any),
        answers={
            202: answer("an update will run", Accepted, also=()),
            401: _error("the token is wrong"),
            404: _error("no token is configured: the webhook is off"),
        },
    ),
    Route(
        "POST",
        "/public",
        "What Navigator's CGI passes on. On the Unix socket only.",
        lambda parts: parts.public.handle,
        description="The forwarder adds the headers Sidecar-Method, Sidecar-Path and Sidecar-Remote. "
        "A body without a signature is not read; an expected digest needs one. A GET of "
        "`<root>/update_status` that it passes on is answered with this machine's state and digests.",
        answers={
            **{status: answers for status, answers in _RUN.items() if status != 412},
            401: _error("the signature is missing, wrong, too old, or used already"),
            404: _error("this is not the Unix socket"),
            405: _error("the request that was forwarded is not a POST"),
            408: _error("the signed body did not come in time"),
            415: _error("the body's encoding is not understood"),
        },
    ),
    Route(
        "GET",
        "/fleet",
        "The update of all machines that is under way or was the last, and how all were seen last.",
        lambda parts: parts.fleet.state,
        needs="administrator",
        page=lambda parts: parts.fleet_pages.fleet,
        answers={200: Reply("how it stands", (FleetState,), (JSON, HTML))},
    ),
    Route(
        "POST",
        "/fleet/look",
        "Ask every active machine what it serves, and compare that with the store.",
        lambda parts: parts.fleet.look,
        needs="administrator",
        description="GET /fleet, the metrics and the page tell what was found until the next look.",
        answers={
            200: answer("how each is", FleetOverview, also=()),
            409: _error("this machine is not configured for it"),
            502: _error("the list of machines or the store failed"),
        },
    ),
    Route(
        "GET",
        "/fleet/history",
        "The indexes that the store has held, newest first.",
        lambda parts: parts.fleet.history,
        needs="administrator",
        answers={200: answer("what is known of each", IndexHistory, also=()), **_FLEET},
    ),
    Route(
        "GET",
        "/fleet/rollback",
        "What putting an older index back would change, with names.",
        lambda parts: parts.fleet.plan,
        needs="administrator",
        parameters=(_TO,),
        answers={
            200: answer("what would change", RollbackPlan, also=()),
            404: _error("it is not there"),
            **_FLEET,
        },
    ),
    Route(
        "POST",
        "/fleet/rollback",
        "Put an older index back into the store, and see that all machines load it.",
        lambda parts: parts.fleet.roll_back,
        needs="administrator",
        parameters=(_TO, Parameter("held", "the SHA-256 that the store must hold, as the question told it")),
        answers={
            200: answer("all have loaded it", FleetReport, also=()),
            400: _error("`held` is missing"),
            404: _error("it is not there"),
            **_FLEET,
            502: shown("not all have loaded it, or their list or the store failed", FleetReport, ErrorAnswer),
        },
    ),
    *(
        Route(
            "POST",
            f"/fleet/{word}",
            what,
            handler,
            needs="administrator",
            answers={200: answer("the rollout as it is then", Rollout, also=()), **_FLEET},
        )
        for word, what, handler in (
            (
                "pause",
                "Let the rollout rest before its next step.",
                lambda parts: parts.fleet.pause,
            ),
            (
                "resume",
                "Go on with a rollout that rests, or was left.",
                lambda parts: parts.fleet.resume,
            ),
            ("abort", "Take the rollout under way back.", lambda parts: parts.fleet.abort),
        )
    ),
    Route(
        "POST",
        "/fleet/update",
        "Bring all machines to the newest index, and see that they load it.",
        lambda parts: parts.fleet.update,
        needs="administrator",
        description="Where this machine owns the index, it is uploaded first. It answers when the "
        "last machine is done; as text/event-stream the events tell how each stands. One at a time.",
        parameters=(
            Parameter("only", "machines with this id, name or region; may be repeated"),
            Parameter("quorum", "so many machines are enough", Annotated[int, msgspec.Meta(ge=1)]),
            Parameter("wait", "until when", Literal["loaded", "ready"]),
            Parameter("upload", "0, false or no: poke with what the store holds"),
            Parameter("replace", f"{_SWITCH}upload over an index that was not seen here"),
            Parameter("force", f"{_SWITCH}accept that one region loses many events"),
            Parameter("dry_run", f"{_SWITCH}only say what would be done"),
            Parameter("canary", "so many machines, or this id, name or region, first; empty: all at once"),
        ),
        answers={
            200: followed("all have loaded it", FleetReport),
            400: _error("a parameter cannot be used"),
            409: _error("one is under way already, or this machine is not configured for it"),
            422: _error("one region would lose too many events"),
            502: shown("not all have loaded it, or their list or the store failed", FleetReport, ErrorAnswer),
            503: _error("the daemon is stopping"),
        },
    ),
    Route(
        "GET",
        "/status",
        "The state of this machine; nothing secret, no names of users.",
        lambda parts: parts.views.status,
        page=lambda parts: parts.status_pages.state,
        answers={200: shown("the state", Status)},
    ),
    Route(
        "GET",
        "/generations",
        "What ran and how it ended, newest first.",
        lambda parts: parts.views.generations,
        needs="administrator",
        page=lambda parts: parts.history_pages.past,
        parameters=(
            Parameter("limit", "how many", Annotated[int, msgspec.Meta(ge=0, le=500)], 50),
            Parameter("before", "only runs below this number", Annotated[int, msgspec.Meta(ge=0)]),
            Parameter("trigger", "only runs that this asked for", Literal[(*TRIGGERS, "fleet")]),
            Parameter("who", "only runs asked for by somebody in whose name this is"),
            Parameter("state", "only runs that ended so", Literal[ENDINGS]),
        ),
        answers={
            200: shown("the runs", tuple[Entry, ...]),
            400: _error("a parameter is not a whole number"),
        },
    ),
    Route(
        "GET",
        "/generations/{number}",
        "Everything that is remembered of one generation.",
        lambda parts: parts.views.generation,
        needs="administrator",
        page=lambda parts: parts.history_pages.generation,
        parameters=(Parameter("number", "which one", Annotated[int, msgspec.Meta(ge=1)], where="path"),),
        answers={
            200: shown("the run that published it", Entry),
            404: _error("the history does not know it"),
        },
    ),
    Route(
        "GET",
        "/generations/{number}/diff",
        "What differs between two generations that are kept.",
        lambda parts: parts.views.diff,
        needs="administrator",
        description="By name, and file by file as unified diffs without the hashes of passwords.",
        parameters=(
            Parameter("number", "the one to begin with", Annotated[int, msgspec.Meta(ge=1)], where="path"),
            Parameter("to", "the other one; without it the one in place", Annotated[int, msgspec.Meta(ge=0)]),
        ),
        answers={
            200: shown("what differs", Differences),
            400: _error("`to` is not a whole number"),
            404: _error("one of them is not kept, or not whole"),
        },
    ),
    Route(
        "GET",
        "/runs/{number}",
        "Everything that is remembered of one run, also of one that published nothing.",
        lambda parts: parts.views.run,
        needs="administrator",
        page=lambda parts: parts.history_pages.run,
        parameters=(Parameter("number", "which one", Annotated[int, msgspec.Meta(ge=1)], where="path"),),
        answers={200: shown("the run", Entry), 404: _error("the history does not know it")},
    ),
    Route(
        "GET",
        "/events",
        "What happens, as it happens, as server-sent events.",
        lambda parts: parts.views.events,
        needs="administrator",
        answers={
            200: Reply("events until the client leaves", kinds=(EVENTS,)),
            303: Reply("a browser that wants HTML is sent to the page"),
        },
    ),
    Route(
        "GET",
        "/metrics",
        "The metrics for Prometheus; OpenMetrics when that is asked for.",
        lambda parts: parts.views.metrics,
        parameters=(Parameter("name[]", "only these", list[str]),),
        answers={200: Reply("the metrics", kinds=(TEXT, OPENMETRICS))},
    ),
    Route(
        "GET",
        "/healthz",
        "Alive: the loop that does the work turns.",
        lambda parts: parts.views.healthz,
        answers={200: answer("ok", Healthy), 503: _error("it is stuck")},
    ),
    Route(
        "GET",
        "/readyz",
        "Ready: the living web server serves a generation.",
        lambda parts: parts.views.readyz,
        answers={200: answer("ok", Healthy), 503: _error("no generation was loaded yet")},
    ),
    Route(
        "GET",
        "/openapi.json",
        "This description.",
        lambda _: _describe,
        answers={200: answer("an OpenAPI 3.1 document", dict[str, Any], also=())},
    ),
)

PAGE_ROUTES: tuple[Route[Handlers], ...] = (
    Route("GET", "/page/help", "Questions, and what answers them.", lambda parts: parts.status_pages.help),
    Route("GET", "/page/live", "The page's changing part.", lambda parts: parts.status_pages.live),
    Route("GET", "/page/update", "Asks before an update.", lambda parts: parts.preview_pages.confirm),
    Route("POST", "/page/update", "Begins an update.", lambda parts: parts.preview_pages.apply),
    Route("POST", "/page/look", "Looks at the fleet.", lambda parts: parts.fleet_pages.look_at_fleet),
    Route("GET", "/page/fleet", "Asks before a fleet update.", lambda parts: parts.fleet_pages.confirm_fleet),
    Route("POST", "/page/fleet", "Begins a fleet update.", lambda parts: parts.fleet_pages.apply_fleet),
    Route(
        "GET", "/page/fleet/rollback", "Asks before an undo.", lambda parts: parts.fleet_pages.confirm_undo
    ),
    Route("POST", "/page/fleet/rollback", "Begins an undo.", lambda parts: parts.fleet_pages.apply_undo),
    Route(
        "GET", "/page/fleet/rollout", "Shows the rollout under way.", lambda parts: parts.fleet_pages.rollout
    ),
    Route("POST", "/page/fleet/rollout", "Controls it.", lambda parts: parts.fleet_pages.control),
    Route(
        "GET",
        "/page/rollback/{number}",
        "Asks before a rollback.",
        lambda parts: parts.history_pages.confirm_rollback,
    ),
    Route(
        "POST", "/page/rollback/{number}", "Begins a rollback.", lambda parts: parts.history_pages.roll_back
    ),
    Route("GET", "/page/assets/{digest}/{name}", "The page's style and script.", lambda _: asset),
)
"""What the page needs for itself; nothing else should rely on it. Without a password only the assets come."""


@cache
def document() -> dict[str, Any]:
    """The description of the interface."""
    return openapi.document(ROUTES)
