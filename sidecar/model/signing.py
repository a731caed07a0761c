"""Signed pokes: how a request proves that it comes from someone who knows the fleet's secret.

What is signed is the method, the path with its query, the time, the id of the machine that is meant, and
the SHA-256 of the body as sent. The digest travels in a header, so a wrong signature is refused before any
of the body is read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.errors import Unauthorized

TIMESTAMP = "Sidecar-Timestamp"
MACHINE = "Sidecar-Machine"
DIGEST = "Sidecar-Content-SHA256"
SIGNATURE = "Sidecar-Signature"
HEADERS = (TIMESTAMP, MACHINE, DIGEST, SIGNATURE)

_SCHEME = "v1="
# The fraction keeps two signatures of one second apart.
_TIMESTAMP = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?\Z")


@dataclass(frozen=True, slots=True)
class Poke:
    """The signed parts of a request.

    `timestamp` is in seconds since 1970, with a fraction if one likes; `digest` is in hexadecimal.
    """

    method: str
    path: str
    timestamp: str
    machine: str
    digest: str

    def signature(self, secret: str) -> str:
        """The signature's header value."""
        text = "\n".join(("sidecar-v1", self.method, self.path, self.timestamp, self.machine, self.digest))
        return _SCHEME + hmac.new(_bytes(secret), _bytes(text), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    """What was sent, to the byte: a header may hold what is no text."""
    return text.encode("utf-8", "surrogateescape")


def headers(poke: Poke, secret: str) -> dict[str, str]:
    """The headers that make a request a signed one."""
    return {
        TIMESTAMP: poke.timestamp,
        MACHINE: poke.machine,
        DIGEST: poke.digest,
        SIGNATURE: poke.signature(secret),
    }


def verify(
    poke: Poke, signature: str, secrets: Sequence[str], machine: str, now: float, window: float
) -> str:
    """The id of the key that signed; `Unauthorized` says what is wrong without helping to guess."""
    key = signer(poke, signature, secrets)
    if not _TIMESTAMP.match(poke.timestamp) or abs(now - float(poke.timestamp)) > window:
        raise Unauthorized(
            f"the signature's time is more than {window:g} s away from this machine's",
            "sign anew, and check both clocks",
            code="timestamp",
        )
    if not hmac.compare_digest(_bytes(poke.machine), _bytes(machine)):
        raise Unauthorized(
            "the signature is for another machine", "sign for the machine that is meant", code="machine"
        )
    return key


def signer(poke: Poke, signature: str, secrets: Sequence[str]) -> str:
    """The id of the key that signed, whenever and for whomever; `Unauthorized` when it was none of ours."""
    if not secrets:
        raise Unauthorized(
            "this machine takes no signed pokes: it has no secret", "set trigger.secret", code="no_secret"
        )
    for secret in secrets:
        if hmac.compare_digest(_bytes(poke.signature(secret)), _bytes(signature)):
            return key_id(secret)
    raise Unauthorized(
        "the signature is wrong",
        "sign method, path, time, machine and body with the fleet's secret",
        code="signature",
    )


def key_id(secret: str) -> str:
    """A short name for a secret that tells nothing about it."""
    return hashlib.sha256(f"sidecar-key-id {secret}".encode()).hexdigest()[:8]
