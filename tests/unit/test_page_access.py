"""Limits on sign-in attempts, and the proofs that forms carry."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import pytest

from sidecar.errors import TooManyAttempts
from sidecar.web.access import AttemptLimiter, BasicAuth, login
from sidecar.web.csrf import CsrfTokens


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_after_a_burst_attempts_have_to_wait() -> None:
    """Ten wrong passwords at once, then one in twenty seconds; the error says when."""
    clock = Clock()
    attempts = AttemptLimiter(clock)
    for _ in range(10):
        attempts.take("a")
    with pytest.raises(TooManyAttempts) as caught:
        attempts.take("a")
    assert caught.value.retry_after == 20
    clock.now += 19
    with pytest.raises(TooManyAttempts):
        attempts.take("a")
    clock.now += 1
    attempts.take("a")
    with pytest.raises(TooManyAttempts):
        attempts.take("a")


def test_addresses_do_not_hinder_each_other() -> None:
    """Who guesses at one address locks out nobody at another; a right password costs nothing."""
    attempts = AttemptLimiter(Clock())
    for _ in range(10):
        attempts.take("a")
    for _ in range(50):
        attempts.take("b")
        attempts.give_back("b")


def test_a_bucket_may_be_larger() -> None:
    """A name gets more attempts than an address, and gets them back faster."""
    clock = Clock()
    attempts = AttemptLimiter(clock, burst=100, pause=2.0)
    for _ in range(100):
        attempts.take("admin")
    with pytest.raises(TooManyAttempts):
        attempts.take("admin")
    clock.now += 2
    attempts.take("admin")


def test_an_unknown_name_takes_as_long_as_a_known_one() -> None:
    """What is verified in its place costs as much as the costliest hash that is configured."""
    hashes = {f"a{cost}": bcrypt.hashpw(b"x", bcrypt.gensalt(cost)).decode() for cost in (4, 6, 5)}
    nobody = BasicAuth(hashes)._nobody
    assert nobody.startswith(b"$2b$06$")
    assert not bcrypt.checkpw(b"x", nobody)
    assert not bcrypt.checkpw(b"x", BasicAuth({})._nobody)


def test_memory_is_bounded() -> None:
    """However many addresses guess, only the latest are remembered."""
    attempts = AttemptLimiter(Clock())
    for number in range(5000):
        attempts.take(str(number))
    assert len(attempts._full_at) == 1000


def test_a_token_is_for_one_person_one_action_and_one_hour() -> None:
    """Nobody else's, nothing else's, no older, none that was made up, none of another run of the daemon."""
    clock = Clock()
    forms = CsrfTokens(clock)
    token = forms.token("admin", "update x")
    assert forms.fits(token, "admin", "update x")
    assert not forms.fits(token, "other", "update x")
    assert not forms.fits(token, "admin", "update y")
    assert not forms.fits(token, "admin", "update \ud800")
    assert not CsrfTokens(clock).fits(token, "admin", "update x")
    until, _, proof = token.partition(".")
    for made_up in (
        "",
        ".",
        "x",
        f"{int(until) + 1}.{proof}",
        f"{until}.",
        f"{until}.é",
        "9" * 30,
        "\ud800",
        f"{until}.\ud800",
        f"-1.{proof}",
    ):
        assert not forms.fits(made_up, "admin", "update x")
    clock.now += 3599
    assert forms.fits(token, "admin", "update x")
    clock.now += 2
    assert not forms.fits(token, "admin", "update x")


@pytest.mark.parametrize(
    ("content", "person"), [("0", "root"), ("4294967295", ""), ("1000000", ""), ("", "")]
)
def test_a_shared_account_names_whoever_logged_in(tmp_path: Path, content: str, person: str) -> None:
    """Under sudo the history names the person: the login stays with a process, whoever it becomes."""
    file = tmp_path / "loginuid"
    assert login(file, 1) == ""
    file.write_text(content)
    assert login(file, 1) == person
    assert login(file, 0) == ""
