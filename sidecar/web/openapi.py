"""The interface's description, served as /openapi.json: OpenAPI 3.1, its schemas made from the records.

A test holds it against the routes, and another one against the answers of a running daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import cleandoc
from typing import Any

import msgspec
from aiohttp import web

from sidecar import __version__
from sidecar.fleet.report import Report, Result, State
from sidecar.model.record import ErrorAnswer, Record
from sidecar.model.runs import TRIGGERS, Outcome
from sidecar.model.status import Status
from sidecar.model.stream import STREAM_EVENTS
from sidecar.model.work import Pushed, Work
from sidecar.observe.history import Entry
from sidecar.ready.table import Line
from sidecar.web.answers import EVENTS, JSON, TEXT, Accepted, Fine, json_answer

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_OPENMETRICS = "application/openmetrics-text"


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


_TEXT: Schema = {"type": "string"}


def _answer(description: str, **content: Schema) -> Schema:
    return {
        "description": description,
        "content": {_KINDS[kind]: {"schema": content[kind]} for kind in content},
    }


_KINDS = {"json": JSON, "text": TEXT, "events": EVENTS, "open": _OPENMETRICS, "html": "text/html"}


def _error(description: str) -> Schema:
    return _answer(description, json=_ref("ErrorAnswer"), text=_TEXT, html=_TEXT)


def _failed(description: str) -> Schema:
    """An answer that is the outcome of a run, with its error; or an error alone when there was no run."""
    return _answer(
        description, json={"anyOf": [_ref("Outcome"), _ref("ErrorAnswer")]}, text=_TEXT, html=_TEXT
    )


_NOT_ALLOWED = {
    "401": _error("no, or wrong, name and password"),
    "403": _error("no administrators are configured, or another site's page sent this"),
    "429": _error("too many wrong passwords from this address"),
}
_RUN: Mapping[str, Schema] = {
    "200": _answer("done", json=_ref("Outcome"), text=_TEXT, events=_TEXT),
    "400": _error("a parameter or the body cannot be used"),
    **_NOT_ALLOWED,
    "404": _failed("there is no such generation"),
    "409": _failed("another generation was published before this one was loaded"),
    "412": _failed("the preview that If-Match names is not what would be published now"),
    "413": _error("the body is too large"),
    "422": _failed("the index is refused; the configuration in place stays"),
    "500": _failed("the update failed on this machine"),
    "502": _failed("the store failed, or Navigator did not load the generation"),
    "503": _failed("too many are waiting, the daemon is stopping, or Navigator is down"),
    "504": _failed("no sign yet that the generation was loaded"),
}
_WAIT = {
    "name": "wait",
    "in": "query",
    "description": "answer when it is in place, when Navigator has loaded it, or when its ready work is done",
    "schema": {"type": "string", "enum": ["published", "loaded", "ready"], "default": "published"},
}
_BASIC: list[Schema] = [{"administrator": []}]
_TOKEN: list[Schema] = [{"token": []}, {"basicToken": []}]


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


PATHS: dict[str, dict[str, Schema]] = {
    "/": {
        "get": {
            "summary": "The operators' page for browsers; the state for everyone else.",
            "description": "The addresses below /page are the page's own and not described.",
            "responses": {
                "200": _answer("the page, or the state", json=_ref("Status"), text=_TEXT, html=_TEXT),
                **_NOT_ALLOWED,
            },
        }
    },
    "/update": {
        "post": {
            "summary": "Run an update.",
            "description": "It answers when the update is published. Pokes that arrive during a run share "
            "the next one. As text/event-stream the run's log comes line by line, its outcome last.",
            "parameters": [
                _WAIT,
                _query("force", "1, true or yes: accept large losses, retry what was refused", _TEXT),
                _query("trigger", "what asks, for the records", {"type": "string", "enum": list(TRIGGERS)}),
                {
                    "name": "If-Match",
                    "in": "header",
                    "description": "the ETag of a preview: publish exactly that",
                    "schema": _TEXT,
                },
            ],
            "responses": dict(_RUN),
            "security": _BASIC,
        }
    },
    "/preview": {
        "get": {
            "summary": "What an update would change now: a summary and unified diffs.",
            "responses": {
                **_RUN,
                "200": {
                    **_answer("what would change", json=_ref("Outcome"), text=_TEXT, html=_TEXT),
                    "headers": {"ETag": {"description": "for If-Match of POST /update", "schema": _TEXT}},
                },
            },
            "security": _BASIC,
        }
    },
    "/rollback": {
        "post": {
            "summary": "Restore an older generation. It stays until somebody asks for an update.",
            "parameters": [_WAIT],
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "generation": {"type": "integer", "description": "which one"},
                                "index": {
                                    "type": "boolean",
                                    "default": True,
                                    "description": "the index database too, not the files only",
                                },
                            },
                            "required": ["generation"],
                            "additionalProperties": False,
                        },
                        "example": {"generation": 1},
                    }
                },
            },
            "responses": dict(_RUN),
            "security": _BASIC,
        }
    },
    "/ready": {
        "post": {
            "summary": "Run the ready work: event databases and prerendered pages.",
            "description": "It answers when the work has ended. As text/event-stream its progress comes "
            "as it happens, its result last.",
            "parameters": [
                _query("everything", "1, true or yes: render also what cannot have changed", _TEXT)
            ],
            "responses": {
                "200": _answer("done", json=_ref("Work"), text=_TEXT, events=_TEXT),
                **_NOT_ALLOWED,
                "500": _answer("a step failed", json=_ref("Work"), text=_TEXT, html=_TEXT),
                "503": _error("there is no generation yet, or another process does the work"),
            },
            "security": _BASIC,
        }
    },
    "/databases": {
        "get": {
            "summary": "The event databases that belong here: local, in the store, whose, what would happen.",
            "responses": {
                "200": _answer("the databases", json={"type": "array", "items": _ref("Line")}, text=_TEXT),
                **_NOT_ALLOWED,
                "404": _error("there is no generation yet"),
                "502": _error("the store failed"),
            },
            "security": _BASIC,
        }
    },
    "/databases/push": {
        "post": {
            "summary": "Upload event databases that are written here, and renew the inventory.",
            "description": "Without names all with something new. What the store holds is replaced only "
            "if it is what was last seen here, or with `overwrite`.",
            "requestBody": {
                "content": {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "names": {"type": "array", "items": _TEXT},
                                "overwrite": {"type": "boolean", "default": False},
                            },
                            "additionalProperties": False,
                        },
                        "example": {"names": []},
                    }
                },
            },
            "responses": {
                "200": _answer("all are stored", json=_ref("Pushed"), text=_TEXT),
                "400": _error("the body cannot be used"),
                **_NOT_ALLOWED,
                "404": _error("there is no such database here, or no generation yet"),
                "409": _answer(
                    "some are not stored",
                    json={"anyOf": [_ref("Pushed"), _ref("ErrorAnswer")]},
                    text=_TEXT,
                    html=_TEXT,
                ),
                "413": _error("the body is too large"),
                "502": _error("the store failed"),
            },
            "security": _BASIC,
        }
    },
    "/webhook": {
        "post": {
            "summary": "The store has something new, or may have: a poke, whatever the body says.",
            "requestBody": {"content": {JSON: {"schema": {}}}},
            "responses": {
                "202": _answer("an update will run", json=_ref("Accepted")),
                "401": _error("the token is wrong"),
                "404": _error("no token is configured: the webhook is off"),
            },
            "security": _TOKEN,
        }
    },
    "/public": {
        "post": {
            "summary": "What Navigator's CGI passes on. On the Unix socket only.",
            "description": "The forwarder adds the headers Sidecar-Method, Sidecar-Path and Sidecar-Remote. "
            "A body without a signature is not read; an expected digest needs one. A GET of "
            "`<root>/update_status` that it passes on is answered with this machine's state and digests.",
            "responses": {
                **{status: answer for status, answer in _RUN.items() if status not in ("403", "412")},
                "404": _error("this is not the Unix socket"),
                "405": _error("the request that was forwarded is not a POST"),
                "408": _error("the signed body did not come in time"),
                "415": _error("the body's encoding is not understood"),
            },
        }
    },
    "/fleet": {
        "get": {
            "summary": "The update of all machines that is under way, or how the last one ended.",
            "responses": {"200": _answer("how it stands", json=_ref("State")), **_NOT_ALLOWED},
            "security": _BASIC,
        }
    },
    "/fleet/update": {
        "post": {
            "summary": "Bring all machines to the newest index, and see that they load it.",
            "description": "Where this machine owns the index, it is uploaded first. It answers when the "
            "last machine is done; as text/event-stream the events tell how each stands. One at a time.",
            "parameters": [
                _query("only", "machines with this id, name or region; may be repeated", _TEXT),
                _query("quorum", "so many machines are enough", {"type": "integer", "minimum": 1}),
                _query("wait", "until when", {"type": "string", "enum": ["loaded", "ready"]}),
                _query("upload", "0, false or no: poke with what the store holds", _TEXT),
                _query("replace", "1, true or yes: upload over an index that was not seen here", _TEXT),
                _query("dry_run", "1, true or yes: only say what would be done", _TEXT),
            ],
            "responses": {
                "200": _answer("all have loaded it", json=_ref("Report"), text=_TEXT, events=_TEXT),
                "400": _error("a parameter cannot be used"),
                **_NOT_ALLOWED,
                "409": _error("one is under way already, or this machine is not configured for it"),
                "502": _answer(
                    "not all have loaded it, or their list or the store failed",
                    json={"anyOf": [_ref("Report"), _ref("ErrorAnswer")]},
                    text=_TEXT,
                    html=_TEXT,
                ),
                "503": _error("the daemon is stopping"),
            },
            "security": _BASIC,
        }
    },
    "/status": {
        "get": {
            "summary": "The state of this machine; nothing secret, no names of users.",
            "responses": {"200": _answer("the state", json=_ref("Status"), text=_TEXT, html=_TEXT)},
        }
    },
    "/generations": {
        "get": {
            "summary": "What ran and how it ended, newest first.",
            "parameters": [
                _query("limit", "how many", {"type": "integer", "minimum": 0, "maximum": 500, "default": 50}),
                _query("before", "only runs below this number", {"type": "integer", "minimum": 0}),
            ],
            "responses": {
                "200": _answer(
                    "the runs", json={"type": "array", "items": _ref("Entry")}, text=_TEXT, html=_TEXT
                ),
                "400": _error("a parameter is not a whole number"),
                **_NOT_ALLOWED,
            },
            "security": _BASIC,
        }
    },
    "/generations/{number}": {
        "get": {
            "summary": "Everything that is remembered of one generation.",
            "parameters": [
                {
                    "name": "number",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 1},
                }
            ],
            "responses": {
                "200": _answer("the run that published it", json=_ref("Entry"), text=_TEXT, html=_TEXT),
                "404": _error("the history does not know it"),
                **_NOT_ALLOWED,
            },
            "security": _BASIC,
        }
    },
    "/events": {
        "get": {
            "summary": "What happens, as it happens, as server-sent events.",
            "responses": {
                "200": _answer("events until the client leaves", events=_TEXT),
                "303": {"description": "a browser that wants HTML is sent to the page"},
                **_NOT_ALLOWED,
            },
            "security": _BASIC,
        }
    },
    "/metrics": {
        "get": {
            "summary": "The metrics for Prometheus; OpenMetrics when that is asked for.",
            "parameters": [
                _query("name[]", "only these", {"type": "array", "items": _TEXT}),
            ],
            "responses": {"200": _answer("the metrics", text=_TEXT, open=_TEXT)},
        }
    },
    "/healthz": {
        "get": {
            "summary": "Alive: the loop that does the work turns.",
            "responses": {
                "200": _answer("ok", text=_TEXT, json=_ref("Fine")),
                "503": _error("it is stuck"),
            },
        }
    },
    "/readyz": {
        "get": {
            "summary": "Ready: the living web server serves a generation.",
            "responses": {
                "200": _answer("ok", text=_TEXT, json=_ref("Fine")),
                "503": _error("no generation was loaded yet"),
            },
        }
    },
    "/openapi.json": {
        "get": {
            "summary": "This description.",
            "responses": {"200": _answer("an OpenAPI 3.1 document", json={"type": "object"})},
        }
    },
}


_ANSWERS: tuple[type[Record], ...] = (
    *(Status, Outcome, Entry, Work, Line, Pushed, State, Report, Accepted, Fine, ErrorAnswer),
    *STREAM_EVENTS,
    Result,
)


def _schemas() -> dict[str, Schema]:
    """The schemas of all records that are told, by their names."""
    _, components = msgspec.json.schema_components(_ANSWERS, ref_template=_REF)
    for schema in components.values():
        schema["description"] = cleandoc(schema["description"])
    for record in _ANSWERS:
        if not record.__struct_config__.omit_defaults:
            # A field with a default may be left out by whoever makes the record, but is always told.
            components[record.__name__]["required"] = list(record.__struct_encode_fields__)
    return components


@cache
def document() -> Schema:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sidecar",
            "version": __version__,
            "summary": "Keeps a machine's web server configuration in step with the index database.",
            "description": "The same on the Unix socket, where the socket's mode decides who may do what, "
            "and on TCP, where reading status and metrics is open and all else needs an administrator. "
            "`Accept` decides between text, JSON and, where a run is followed, server-sent events.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": PATHS,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "administrator": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer"},
                "basicToken": {"type": "http", "scheme": "basic"},
            },
        },
    }


async def handle(request: web.Request) -> web.StreamResponse:
    """Serve the description."""
    return json_answer(document())
