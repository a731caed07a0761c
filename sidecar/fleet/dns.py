"""The little of DNS that it takes to ask for TXT records: a question's bytes, and the texts of an answer.

No library that is here asks for anything but addresses. Messages are bounded, and names are skipped and
never followed.
"""

from __future__ import annotations

import struct

_TXT, _IN, _OPT = 16, 1, 41
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_TRUNCATED = 0x0200
_RECURSE = 0x0100
_NO_SUCH_NAME = 3
SIZE = 4096
"""How large an answer over UDP may be."""


class DnsError(ValueError):
    """An answer that is none."""


class Truncated(DnsError):
    """The answer did not fit: ask again over TCP."""


def question(name: str, number: int) -> bytes:
    """The query for a name's TXT records; `number` ties the answer to it."""
    labels = [label.encode("ascii") for label in name.strip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels) or len(name) > 253:
        raise DnsError(f"{name!r} is no name for DNS")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    extended = b"\0" + struct.pack("!HHIH", _OPT, SIZE, 0, 0)
    return _HEADER.pack(number, _RECURSE, 1, 0, 0, 1) + encoded + struct.pack("!HH", _TXT, _IN) + extended


def texts(answer: bytes, number: int) -> list[str]:
    """The texts in an answer, one for each record; none when there is no such name."""
    try:
        return _texts(answer, number)
    except (struct.error, IndexError):
        raise DnsError("the answer breaks off") from None


def _texts(answer: bytes, number: int) -> list[str]:
    found_number, flags, questions, answers, _, _ = _HEADER.unpack_from(answer)
    if found_number != number or not flags & 0x8000:
        raise DnsError("the answer is to another question")
    if flags & _TRUNCATED:
        raise Truncated("the answer was cut off")
    if flags & 0xF == _NO_SUCH_NAME:
        return []
    if flags & 0xF:
        raise DnsError(f"the server answers with the error {flags & 0xF}")
    at = _HEADER.size
    for _ in range(questions):
        at = _after_name(answer, at) + 4
    found = []
    for _ in range(answers):
        at = _after_name(answer, at)
        kind, _, _, length = _RECORD.unpack_from(answer, at)
        at += _RECORD.size
        if at + length > len(answer):
            raise DnsError("the answer breaks off")
        if kind == _TXT:
            found.append(_strings(answer[at : at + length]))
        at += length
    return found


def _after_name(message: bytes, at: int) -> int:
    while length := message[at]:
        if length & 0xC0:
            return at + 2  # the rest of the name stands elsewhere
        at += 1 + length
    return at + 1


def _strings(data: bytes) -> str:
    """A record's text comes in pieces of up to 255 bytes."""
    parts, at = [], 0
    while at < len(data):
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts).decode("utf-8", "replace")
