"""What is told as JSON: records that describe themselves."""

from __future__ import annotations

import json

import msgspec
import pytest

from sidecar.fleet.report import MachineResult
from sidecar.model.stream import STREAM_EVENTS, FleetEvent, GenerationNotLoaded, StreamEvent
from sidecar.web.routes import document
from tests.support.status import status


def test_the_status_keeps_its_names_and_their_order() -> None:
    """Scripts read these keys; whoever renames one breaks them."""
    told = json.loads(msgspec.json.encode(status()))
    assert " ".join(told) == (
        "version machine app region sync health generation fingerprint index published tenants users"
        " navigator ready drift waiting running last error problems started"
    )
    assert " ".join(told["generation"]) == "current loaded ready pending source pinned"
    assert " ".join(told["index"]) == "etag sha256 modified"
    assert " ".join(told["ready"]) == "state generation started seconds steps"


@pytest.mark.parametrize("event", [*STREAM_EVENTS, MachineResult])
def test_every_event_has_a_kind_and_a_schema(event: type[StreamEvent]) -> None:
    """The name in the stream is the class's; the description has each with all its fields."""
    schema = document()["components"]["schemas"][event.__name__]
    assert schema["required"] == list(event.__struct_encode_fields__)
    assert event.kind.isidentifier()
    assert (event.kind == "fleet") == issubclass(event, FleetEvent)


def test_an_event_holds_its_data_only() -> None:
    """The kind is the name of the event, no part of its data."""
    told = msgspec.json.encode(GenerationNotLoaded(3, "probe", "it answers 500"))
    assert told == b'{"generation":3,"reason":"probe","message":"it answers 500"}'


def test_descriptions_are_written_for_readers() -> None:
    """Every schema of a record says what it is, without the indentation of the code."""
    for name, schema in document()["components"]["schemas"].items():
        assert schema["description"], name
        assert "\n " not in schema["description"], name
