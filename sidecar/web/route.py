"""A route of the interface as a record: what it is for, who may use it, what it takes and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import msgspec

from sidecar.web.answers import EVENTS, JSON, TEXT, Handler
from sidecar.web.html import HTML

OPENMETRICS = "application/openmetrics-text"

Parts = TypeVar("Parts")
Needs = Literal["nothing", "administrator", "token"]
"""What must be shown on TCP: an administrator's name and password, or the webhook's token."""


class Reply(msgspec.Struct, frozen=True):
    """An answer of one status: in words, and its content types.

    As JSON it is one of `records`; every other type is text.
    """

    words: str
    records: tuple[Any, ...] = ()
    kinds: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Names of headers, and what they hold."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter: `type` as Python spells it, `default` None where there is none."""

    name: str
    words: str
    type: Any = str
    default: Any = None
    where: Literal["query", "header", "path"] = "query"


class Body(msgspec.Struct, frozen=True):
    """A JSON body that is taken: its record, and an example, where there is one."""

    record: Any
    example: Any = None
    required: bool = False


class Route(msgspec.Struct, Generic[Parts], frozen=True):
    """A route: `handler` finds what handles it among the parts of the application.

    Browsers, which name HTML first, get `page` instead, where there is one. `needs` says who may use it;
    the handler sees to it. `{number}` in the path stands for digits.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    handler: Callable[[Parts], Handler]
    needs: Needs = "nothing"
    answers: dict[int, Reply] = {}
    page: Callable[[Parts], Handler] | None = None
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None


def answer(words: str, *records: Any, also: tuple[str, ...] = (TEXT,)) -> Reply:
    """JSON, one of `records`, and what else it comes as."""
    return Reply(words, records, (JSON, *also) if records else also)


def shown(words: str, *records: Any) -> Reply:
    """The same with a page for browsers."""
    return answer(words, *records, also=(TEXT, HTML))


def followed(words: str, *records: Any) -> Reply:
    """The same with events until it comes."""
    return answer(words, *records, also=(TEXT, EVENTS))
