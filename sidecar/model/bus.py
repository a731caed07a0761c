"""What goes over a bus: small records, signed as pokes are.

hint         the digest that the store holds now, from whoever updates the fleet; one for each index
statement    what a machine serves, and which hint it has followed; one for each machine

A bus may lose, repeat, delay or make up whatever it likes. So a hint only has a machine look at the store,
and counts when its stamp is newer than that of every hint before. The stamp is the time of whoever signed it,
in seconds since 1970, but later than that of the hint it takes the place of. One far ahead of the reader's
clock is refused: it would keep all later ones out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from sidecar.errors import BadRequest
from sidecar.model import signing
from sidecar.model.machine_report import MachineReport
from sidecar.model.record import Record

HINTS, STATEMENTS = "sidecar_index", "sidecar_machines"
"""The buckets. In the first a key is an index, in the second an index and a machine."""

MAX_SPREAD_SECONDS = 600.0
"""Seconds over which a hint may have the machines look."""

_MAX_BYTES = 16 << 10
_STEP_SECONDS = 1e-6  # the last digit of a stamp

Kind = TypeVar("Kind")


class Hint(Record, frozen=True):
    """The SHA-256 that the store holds, and over how many seconds the machines shall spread their looks."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    spread: Annotated[float, Meta(ge=0, le=MAX_SPREAD_SECONDS)] = 0.0


class Statement(Record, frozen=True):
    """What a machine serves, and the stamp of the newest hint that it has followed; 0: none yet."""

    served: MachineReport
    hint: float = 0.0


class _Envelope(msgspec.Struct):
    stamp: Annotated[str, Meta(pattern=r"^[0-9]{1,12}\.[0-9]{6}$")]
    signature: str
    body: str


def fleet_key(store: str, index_key: str) -> str:
    """The key of an index: machines that fetch the same object have the same."""
    return hashlib.sha256(f"{store}\n{index_key}".encode()).hexdigest()[:16]


def machine_key(fleet: str, machine: str) -> str:
    """The key of a machine's statement; what a key cannot hold is written as its number."""
    safe = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"={ord(found[0]):x}=", machine)
    return f"{fleet}.{safe}"


def seal(record: Record, key: str, stamp: float, secret: str) -> bytes:
    """A record as it goes over the bus under a key; the same under another one is worth nothing."""
    body = msgspec.json.encode(record)
    text = f"{stamp:.6f}"
    signature = _poke(type(record), key, text, body).signature(secret)
    return msgspec.json.encode(_Envelope(text, signature, body.decode()))


def opened(kind: type[Kind], key: str, data: bytes, secrets: Sequence[str]) -> tuple[Kind, float, str]:
    """The record, its stamp, and the id of the key that signed it.

    `Unauthorized` when nobody of ours did, `BadRequest` when it cannot be understood.
    """
    if len(data) > _MAX_BYTES:
        raise BadRequest(f"what is on the bus is larger than {_MAX_BYTES} bytes")
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        body = envelope.body.encode()
        signer = signing.signer(_poke(kind, key, envelope.stamp, body), envelope.signature, secrets)
        return msgspec.json.decode(body, type=kind), float(envelope.stamp), signer
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadRequest(f"what is on the bus cannot be understood: {error}") from None


def _poke(kind: type, key: str, stamp: str, body: bytes) -> signing.Poke:
    """Its own method, so that no signature is good for a poke as well."""
    return signing.Poke(kind.__name__.upper(), key, stamp, "", hashlib.sha256(body).hexdigest())


def later(now: float, newest: float) -> float:
    """The stamp of a hint that takes the place of the one stamped `newest`, as exact as it is written."""
    return round(max(now, newest + _STEP_SECONDS), 6)
