"""What a machine's answer means: is it done, to be waited for, to be tried again, or refused for good.

loaded, ready     what was asked for
stopped           it stopped meanwhile, and fetches when it wakes: no failure
refused           it will not have this index, or Navigator would not: it went back
wrong_machine     another machine answered, or nobody can tell which
stale             the store does not serve the expected index there
superseded        it has taken another index since
failing           it answers, but with an error
degraded          it serves the index, but not as it should: a probe fails since, say
hanging           no answer, or no load, in time
unreachable       no connection
denied            it does not accept the signature
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sidecar.model.machine_report import MachineReport, decode
from sidecar.model.record import Record

GOOD = frozenset({"loaded", "ready"})
BAD = (
    "refused",
    "wrong_machine",
    "stale",
    "superseded",
    "failing",
    "degraded",
    "hanging",
    "unreachable",
    "denied",
)

_MAX_PAUSE_SECONDS = 30.0
_MAX_SENTENCE_CHARACTERS = 160


class MachineAnswer(Record, frozen=True):
    """An HTTP answer: status, the machine that it names (None: none), body, Retry-After in seconds."""

    status: int
    machine: str | None
    body: bytes
    retry_after: float | None = None


class Verdict(Record, frozen=True):
    """What follows. `final` when trying again is no use; `accepted` when the load is to be waited for."""

    state: str
    reason: str = ""
    final: bool = False
    accepted: bool = False
    retry_after: float | None = None
    served: MachineReport | None = None


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Outcome(msgspec.Struct):
    """A run's outcome, or an error alone, as far as it matters here."""

    state: str = ""
    sha256: str | None = None
    error: _Problem | None = None


def of_poke(answer: MachineAnswer, machine: str, digest: str) -> Verdict:
    """What the answer to a poke means; `machine` is the one that was meant, `digest` the index's SHA-256."""
    if answer.machine not in (None, machine):
        return _wrong(answer.machine or "", machine)
    outcome = _decode(answer.body)
    said = _said(answer, outcome)
    if 200 <= answer.status < 300:
        if answer.machine is None:
            if outcome is None and _line(answer.body):
                # A script's output, not the page of a proxy or of a machine that boots.
                return Verdict(
                    "wrong_machine", "what answers there is not the sidecar: is it installed?", final=True
                )
            return Verdict("wrong_machine", "the answer does not say which machine gave it")
        if outcome is None:
            return Verdict("failing", "its answer cannot be understood")
        if outcome.sha256 != digest:
            return Verdict("superseded", "it has looked at another index")
        return Verdict(outcome.state, accepted=True)
    if answer.status == 401:
        return Verdict("denied", said, final=True)
    code = outcome.error.code if outcome and outcome.error else ""
    if answer.status == 422:
        return Verdict("refused", said, final=True)
    if code == "store_stale":
        return Verdict("stale", said)
    # Whatever else is too large or forbidden is the same the next time.
    return Verdict(
        "failing", said, final=answer.status in (400, 403, 413, 415), retry_after=answer.retry_after
    )


def of_status(answer: MachineAnswer, machine: str, digest: str, *, ready: bool) -> Verdict | None:
    """What a machine's state means for the update; None when it is to be asked again."""
    if answer.machine not in (None, machine):
        return _wrong(answer.machine or "", machine)
    served = decode(answer.body) if answer.status == 200 else None
    if served is None:
        if answer.status == 200:
            return Verdict("failing", "its state cannot be understood")
        return Verdict("failing", _said(answer, _decode(answer.body)), retry_after=answer.retry_after)
    if served.machine != machine:
        return _wrong(served.machine, machine)
    return of_served(served, digest, ready=ready)


def of_served(served: MachineReport, digest: str, *, ready: bool) -> Verdict | None:
    """The same, from what a machine says of itself."""
    if served.sha256 == digest:
        if served.health == "degraded":
            return Verdict("degraded", "it serves the index, but not as it should", served=served)
        if served.health != "healthy":
            return None
        if not ready:
            return Verdict("loaded", final=True, served=served)
        if served.ready is not None and served.ready == served.loaded:
            return Verdict("ready", final=True, served=served)
        if served.unready is not None and served.unready == served.loaded:
            return Verdict(
                "failing", "it has loaded it, but its ready work failed", final=True, served=served
            )
        return None
    if served.published == digest:
        if served.health == "degraded" and not served.busy:
            return Verdict(
                "refused",
                "Navigator did not load it",
                final=True,
                served=served,
            )
        return None
    if served.refused == digest:
        reason = served.reason or "rejected"
        said = "Navigator did not load it" if reason == "not_loaded" else f"it was refused ({reason})"
        back = f", and the machine went back: generation {served.loaded}" if served.loaded else ""
        return Verdict("refused", f"{said}{back}", final=True, served=served)
    if served.health != "progressing" and not served.busy:
        return Verdict("superseded", "it serves another index meanwhile", served=served)
    return None


def pause(attempt: int, first: float, retry_after: float | None) -> float:
    """Seconds to wait after the attempt with this number, doubling, bounded; at least what was asked for."""
    return min(_MAX_PAUSE_SECONDS, max(first * 2.0 ** (attempt - 1), retry_after or 0.0))


def seconds_of(header: Mapping[str, str]) -> float | None:
    """What Retry-After says, when it says seconds."""
    text = header.get("Retry-After", "").strip()
    return float(text) if text.isdecimal() and len(text) < 6 else None


def _wrong(found: str, meant: str) -> Verdict:
    return Verdict("wrong_machine", f"{_clean(found)} answered instead of {meant}")


def _decode(body: bytes) -> _Outcome | None:
    try:
        return msgspec.json.decode(body, type=_Outcome)
    except msgspec.MsgspecError:
        return None


def _said(answer: MachineAnswer, outcome: _Outcome | None) -> str:
    """Status and sentence of an answer that is no success."""
    sentence = _clean((outcome.error.message if outcome and outcome.error else "") or _line(answer.body))
    return f"it answers {answer.status}{f': {sentence}' if sentence else ''}"


def _line(body: bytes) -> str:
    """The first line of a text for people; a page, or an object, says nothing in a line."""
    line = body[:1000].decode("utf-8", "replace").strip().partition("\n")[0]
    return "" if line.startswith(("<", "{")) else line


def _clean(text: str) -> str:
    """What was sent is shown on a terminal."""
    return "".join(letter for letter in text if letter.isprintable())[:_MAX_SENTENCE_CHARACTERS].rstrip(".")
