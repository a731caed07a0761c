"""What goes over the bus is signed, for one place only, and in order."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.parse import masked, parse
from sidecar.errors import BadRequest, SettingsError, Unauthorized
from sidecar.fleet.bus import STATEMENT_SECONDS, Announcement
from sidecar.model import signing
from sidecar.model.bus import Hint, Statement, fleet_key, later, machine_key, opened, seal
from sidecar.model.machine_report import MachineReport
from sidecar.model.signing import Poke

SECRET, OTHER = "a-secret-for-tests-only", "another-secret-altogether"
HINT = Hint("0" * 64)
STATEMENT = Statement(MachineReport("m1", "iad", "synced", "healthy", sha256="0" * 64), 12.5)


@pytest.mark.parametrize("record", [HINT, Hint("a" * 64, 2.5), STATEMENT])
def test_what_is_sealed_is_opened_again(record: Hint | Statement) -> None:
    """The record, its stamp to the microsecond, and the key that signed."""
    found, stamp, key = opened(type(record), "k", seal(record, "k", 1.7e9 + 0.000001, SECRET), [SECRET])
    assert (found, f"{stamp:.6f}", key) == (record, "1700000000.000001", signing.key_id(SECRET))


def test_the_secret_before_is_taken_too() -> None:
    """While a secret is being replaced, both are good."""
    assert opened(Hint, "k", seal(HINT, "k", 1.0, OTHER), [SECRET, OTHER])[2] == signing.key_id(OTHER)


def test_a_seal_is_good_for_one_place_and_kind() -> None:
    """Under another key, as another kind, or with another secret it is worth nothing."""
    sealed = seal(HINT, "k", 1.0, SECRET)
    for kind, key, secret in ((Hint, "l", SECRET), (Statement, "k", SECRET), (Hint, "k", OTHER)):
        with pytest.raises(Unauthorized):
            opened(kind, key, sealed, [secret])


def test_nothing_of_it_can_be_changed() -> None:
    """Neither the digest nor the time."""
    sealed = seal(HINT, "k", 1.0, SECRET)
    for before, after in ((b"0" * 64, b"1" * 64), (b"1.000000", b"2.000000")):
        with pytest.raises(Unauthorized):
            opened(Hint, "k", sealed.replace(before, after), [SECRET])


def test_a_hints_signature_is_good_for_no_poke() -> None:
    """Whoever reads the bus gains nothing by it."""
    envelope = msgspec.json.decode(seal(HINT, "/update_config", 1.0, SECRET))
    for method in ("POST", "GET"):
        poke = Poke(method, "/update_config", envelope["stamp"], "", "0" * 64)
        with pytest.raises(Unauthorized):
            signing.signer(poke, envelope["signature"], [SECRET])


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_rubbish_is_refused(data: bytes) -> None:
    """Whatever is on the bus, only the declared errors come of it."""
    with pytest.raises((BadRequest, Unauthorized)):
        opened(Hint, "k", data, [SECRET])


def test_what_is_too_large_is_not_read() -> None:
    """Somebody who writes to the bus costs no memory."""
    with pytest.raises(BadRequest, match="larger"):
        opened(Hint, "k", seal(HINT, "k", 1.0, SECRET) + b" " * (16 << 10), [SECRET])


@given(st.floats(0, 4e9), st.integers(0, 4 * 10**15).map(lambda digits: digits / 1e6))
def test_a_stamp_is_later_than_the_one_before(now: float, newest: float) -> None:
    """Whatever the two clocks say, and the same number when it is read again."""
    stamp = later(now, newest)
    assert float(f"{stamp:.6f}") == stamp > newest


@given(st.text(min_size=1), st.text(min_size=1))
def test_machines_have_keys_of_their_own(one: str, other: str) -> None:
    """A key holds few characters only, and no two machines share one."""
    keys = machine_key("f", one), machine_key("f", other)
    assert (keys[0] == keys[1]) == (one == other)
    assert all(
        set(key) <= set("-_=.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for key in keys
    )


def test_an_index_has_a_key_of_its_own() -> None:
    """Fleets of other stores or indexes do not hear it."""
    assert len({fleet_key("s3://a", "b"), fleet_key("s3://a", "c"), fleet_key("s3://b", "b")}) == 3


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("nats://127.0.0.1:4222", True),
        ("tls://user:password@bus.example.com", True),
        ("nats://a:1,nats://b:2", True),
        ("http://bus.example.com", False),
        ("nats://[::1]:4222/", True),
        ("nats://user:pass:w@rd@bus.internal", True),
        ("nats://one two", False),
        ("nats://user:password", False),
        ("nats://user:password@", False),
    ],
)
def test_the_bus_is_a_nats_url(url: str, good: bool) -> None:
    """Anything else is an error that does not repeat it, as it may hold a password."""
    document = {"fleet": {"bus": url}, "trigger": {"secret": SECRET}}
    if good:
        assert parse(document, {}).fleet.bus == url
    else:
        with pytest.raises(SettingsError) as raised:
            parse(document, {})
        assert url not in str(raised.value)


def test_the_bus_is_masked() -> None:
    """Its URL may hold a password."""
    settings = parse({"fleet": {"bus": "nats://u:hidden@h"}, "trigger": {"secret": SECRET}}, {})
    assert "hidden" not in str(masked(settings)) + repr(settings)


def test_an_older_statement_counts_for_nothing() -> None:
    """The bus may repeat what it likes, and keep it for longer than it was asked to."""
    settings = parse({"trigger": {"secret": SECRET}}, {})
    announcement = Announcement(settings, None)  # type: ignore[arg-type]  # nothing is sent
    key, now = machine_key(fleet_key(settings.store, settings.index_key), "m1"), time.time()
    worse = Statement(msgspec.structs.replace(STATEMENT.served, health="degraded"), 12.5)
    announcement.take(key, seal(STATEMENT, key, now - 2 * STATEMENT_SECONDS, SECRET))
    assert announcement.statements == {}
    announcement.take(key, seal(worse, key, now, SECRET))
    announcement.take(key, seal(STATEMENT, key, now - 60, SECRET))
    assert announcement.statements == {"m1": worse}
