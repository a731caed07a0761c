"""The interface's description, served as /openapi.json: OpenAPI 3.1, made of the routes and their records.

A test holds it against the routes, and another one against the answers of a running daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc, isclass
from typing import Any

import msgspec

from sidecar import __version__
from sidecar.fleet.report import MachineResult
from sidecar.model.record import ErrorAnswer, Record
from sidecar.model.stream import STREAM_EVENTS
from sidecar.web.answers import JSON
from sidecar.web.route import Parameter, Reply, Route, shown

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"

NOT_ALLOWED: Mapping[int, Reply] = {
    401: shown("no, or wrong, name and password", ErrorAnswer),
    403: shown("no administrators are configured, or another site's page sent this", ErrorAnswer),
    429: shown("too many wrong passwords from this address", ErrorAnswer),
}
"""What whoever is no administrator gets, where one is needed."""

_SECURITY: Mapping[str, Sequence[Schema]] = {
    "nothing": (),
    "administrator": [{"administrator": []}],
    "token": [{"token": []}, {"basicToken": []}],
}


def document(routes: Sequence[Route[Any]]) -> Schema:
    """The whole description."""
    types = [*dict.fromkeys(_types(routes)), *STREAM_EVENTS, MachineResult]
    made, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(types, made, strict=True))
    for schema in components.values():
        schema["description"] = cleandoc(schema["description"])
    for record in types:
        if isclass(record) and issubclass(record, Record) and _sends_everything(record):
            components[record.__name__]["required"] = list(record.__struct_encode_fields__)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
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
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "administrator": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer"},
                "basicToken": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _types(routes: Iterable[Route[Any]]) -> Iterator[Any]:
    """Whatever needs a schema."""
    for route in routes:
        for answer in (*route.answers.values(), *NOT_ALLOWED.values()):
            yield from answer.records
        yield from (parameter.type for parameter in route.parameters)
        if route.body is not None:
            yield route.body.record


def _sends_everything(record: type[Record]) -> bool:
    """Whether each field is told, also one with a default; a body that is taken may leave those out."""
    config = record.__struct_config__
    return not config.omit_defaults and not config.forbid_unknown_fields


def _operation(route: Route[Any], schemas: Mapping[Any, Schema]) -> Schema:
    answers = {**route.answers, **(NOT_ALLOWED if route.needs == "administrator" else {})}
    described: Schema = {
        "summary": route.summary,
        "responses": {str(status): _answer(answers[status], schemas) for status in sorted(answers)},
    }
    if route.description:
        described["description"] = route.description
    if route.parameters:
        described["parameters"] = [_parameter(one, schemas) for one in route.parameters]
    if route.body is not None:
        content: Schema = {"schema": schemas[route.body.record]}
        if route.body.example is not None:
            content["example"] = route.body.example
        described["requestBody"] = {"required": route.body.required, "content": {JSON: content}}
    if security := _SECURITY[route.needs]:
        described["security"] = security
    return described


def _answer(answer: Reply, schemas: Mapping[Any, Schema]) -> Schema:
    told = [schemas[record] for record in answer.records]
    as_json = told[0] if len(told) == 1 else {"anyOf": told}
    described: Schema = {"description": answer.words}
    if answer.kinds:
        described["content"] = {
            kind: {"schema": as_json if kind == JSON else {"type": "string"}} for kind in answer.kinds
        }
    if answer.headers:
        described["headers"] = {
            name: {"description": words, "schema": {"type": "string"}} for name, words in answer.headers
        }
    return described


def _parameter(parameter: Parameter, schemas: Mapping[Any, Schema]) -> Schema:
    schema = dict(schemas[parameter.type])
    if parameter.default is not None:
        schema["default"] = parameter.default
    described = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.words,
        "schema": schema,
    }
    return {**described, "required": True} if parameter.where == "path" else described
