"""Questions for TXT records, and the texts in an answer."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.fleet.dns import DnsError, Truncated, question, texts

NAME = "vms.app.internal"
QUESTION = b"\3vms\3app\10internal\0" + struct.pack("!HH", 16, 1)


def answer(*records: bytes, number: int = 7, flags: int = 0x8180) -> bytes:
    return struct.pack("!6H", number, flags, 1, len(records), 0, 0) + QUESTION + b"".join(records)


def record(*strings: bytes, kind: int = 16) -> bytes:
    data = b"".join(bytes([len(one)]) + one for one in strings)
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 5, len(data)) + data


def test_a_question_is_as_it_must_be() -> None:
    """One question for TXT, recursion wanted, and room for a large answer."""
    sent = question(NAME, 7)
    assert sent[:12] == struct.pack("!6H", 7, 0x0100, 1, 0, 0, 1)
    assert sent[12 : 12 + len(QUESTION)] == QUESTION
    assert sent[12 + len(QUESTION) :] == b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".internal", ".".join(["abcdefgh"] * 40)])
def test_what_is_no_name_is_refused(name: str) -> None:
    """Nothing malformed is sent."""
    with pytest.raises(DnsError):
        question(name, 7)


def test_texts_come_in_pieces_and_among_others() -> None:
    """A text's pieces belong together; records of another kind are passed over."""
    found = texts(answer(record(b"a iad,", b"b syd"), record(b"x", kind=5), record(b"c lhr")), 7)
    assert found == ["a iad,b syd", "c lhr"]


def test_no_such_name_is_no_texts() -> None:
    """An application without machines, or no such application: nobody there."""
    assert texts(answer(flags=0x8183), 7) == []


def test_what_is_not_the_answer_is_none() -> None:
    """Another number, a question, an error of the server, one that was cut off."""
    for wrong in (answer(number=8), answer(flags=0x0180), answer(flags=0x8182)):
        with pytest.raises(DnsError):
            texts(wrong, 7)
    with pytest.raises(Truncated):
        texts(answer(flags=0x8380), 7)


@given(st.binary(max_size=80), st.integers(0, 120))
def test_nothing_that_is_sent_breaks_it(rubbish: bytes, cut: int) -> None:
    """Any bytes give texts or an error of its own kind, and always in the end."""
    for message in (rubbish, (answer(record(b"a iad")) + rubbish)[:cut], answer()[:12] + rubbish):
        try:
            found = texts(message, 7)
        except DnsError:
            continue
        assert all(isinstance(text, str) for text in found)
