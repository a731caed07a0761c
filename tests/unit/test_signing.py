"""Signed pokes: what headers() makes passes, and anything altered is refused."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Unauthorized
from sidecar.model.signing import (
    DIGEST,
    HEADERS,
    MACHINE,
    SIGNATURE,
    TIMESTAMP,
    Poke,
    headers,
    key_id,
    verify,
)

SECRET, OTHER = "the fleet's secret, long enough", "another secret, long enough too"
NOW = 1_780_000_000
POKE = Poke("POST", "/showcase/update_config?a=1", str(NOW), "148e21", hashlib.sha256(b"body").hexdigest())


def accepted(
    poke: Poke,
    signature: str,
    secrets: tuple[str, ...] = (SECRET,),
    machine: str = POKE.machine,
    now: float = NOW,
    window: float = 300,
) -> str | None:
    """The code of the refusal, or None when the signature passes."""
    try:
        verify(poke, signature, secrets, machine, float(now), window)
    except Unauthorized as error:
        return error.code
    return None


texts = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)
pokes = st.builds(Poke, texts, texts, st.integers(0, 2**33).map(str), texts, texts)


@given(pokes, texts)
def test_what_headers_make_passes(poke: Poke, secret: str) -> None:
    """A request signed with the secret is accepted, and the answer names the key."""
    made = headers(poke, secret)
    assert tuple(made) == HEADERS
    arrived = Poke(poke.method, poke.path, made[TIMESTAMP], made[MACHINE], made[DIGEST])
    found = verify(arrived, made[SIGNATURE], [secret], poke.machine, int(poke.timestamp), 300)
    assert found == key_id(secret)


@given(pokes, st.sampled_from([field.name for field in dataclasses.fields(Poke)]), texts)
def test_any_altered_part_is_refused(poke: Poke, part: str, other: str) -> None:
    """Another method, path, time, machine or digest than the signed one: the signature is wrong."""
    altered = dataclasses.replace(poke, **{part: other})
    if altered != poke:
        machine, now = altered.machine, int(poke.timestamp)
        assert accepted(altered, poke.signature(SECRET), machine=machine, now=now) == "signature"


@given(pokes, texts)
def test_any_other_signature_is_refused(poke: Poke, other: str) -> None:
    """Only the very signature passes: not one of another secret, cut, longer, or of another case."""
    good, now = poke.signature(SECRET), int(poke.timestamp)
    for wrong in (
        other,
        "",
        good + other + " ",
        good[:-1],
        good.upper(),
        good[3:],
        poke.signature(SECRET + " "),
    ):
        assert accepted(poke, wrong, machine=poke.machine, now=now) == "signature"


@pytest.mark.parametrize(
    ("away", "refusal"),
    [(0, None), (300, None), (-300, None), (301, "timestamp"), (-301, "timestamp"), (10**9, "timestamp")],
)
def test_the_window(away: int, refusal: str | None) -> None:
    """The time may be off by the window either way, and no more."""
    assert accepted(POKE, POKE.signature(SECRET), now=NOW + away) == refusal


@pytest.mark.parametrize(
    "timestamp", ["", "now", "-1", "1e9", "1780000000.5.5", " 1780000000", "9" * 400, "9" * 5000]
)
def test_a_time_that_is_none_is_refused(timestamp: str) -> None:
    """Even signed: seconds since 1970, within the window."""
    poke = dataclasses.replace(POKE, timestamp=timestamp)
    assert accepted(poke, poke.signature(SECRET)) == "timestamp"


@pytest.mark.parametrize("part", ["path", "timestamp", "machine", "digest"])
def test_bytes_that_are_no_text_are_refused(part: str) -> None:
    """A header of any bytes, as a server hands them on, is a wrong signature and no crash."""
    poke = dataclasses.replace(POKE, **{part: "\udcff"})
    assert accepted(poke, POKE.signature(SECRET)) == "signature"


def test_a_signature_of_bytes_that_are_no_text_is_refused() -> None:
    """The same for the signature's own header."""
    assert accepted(POKE, "v1=\udcff") == "signature"


def test_another_machine() -> None:
    """A request that was signed for one machine is no good on another."""
    assert accepted(POKE, POKE.signature(SECRET), machine="other") == "machine"
    assert accepted(POKE, POKE.signature(SECRET), machine="") == "machine"


def test_the_previous_secret_passes_while_it_is_known() -> None:
    """Both secrets are accepted, each under its own id; a secret that is gone is not."""
    for secret in (SECRET, OTHER):
        found = verify(POKE, POKE.signature(secret), (SECRET, OTHER), POKE.machine, NOW, 300)
        assert found == key_id(secret)
    assert accepted(POKE, POKE.signature(OTHER)) == "signature"


def test_without_a_secret_nothing_passes() -> None:
    """Not even a signature made with an empty secret."""
    assert accepted(POKE, POKE.signature(""), secrets=()) == "no_secret"


def test_a_wrong_signature_says_nothing_about_the_rest() -> None:
    """Time and machine are judged only for those who know the secret."""
    assert accepted(POKE, "v1=0", now=0, machine="other") == "signature"


def test_the_form_of_a_signature() -> None:
    """Scripts in other languages can make it: HMAC-SHA256 in hexadecimal over lines, with a version."""
    poke = Poke("POST", "/p", "1", "m", "d")
    assert poke.signature("key") == "v1=5f970b491c0f8261976e2a8723d16e6df155b0760f431ad37408ea27fde84f4b"


@given(texts, texts)
def test_a_key_id_tells_nothing(secret: str, other: str) -> None:
    """Eight hexadecimal digits, the same for the same secret only, and not its plain digest."""
    found = key_id(secret)
    assert len(found) == 8
    assert set(found) <= set("0123456789abcdef")
    assert found not in hashlib.sha256(secret.encode()).hexdigest()
    assert (found == key_id(other)) is (secret == other)
