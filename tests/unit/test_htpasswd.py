"""htpasswd: every row is fit for Navigator or left out, and no password is ever written as it is."""

from __future__ import annotations

import unicodedata

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.generate.htpasswd import htpasswd
from sidecar.model.index import User

KEY = b"a key for tests"
BCRYPT = "$2y$05$abcdefghijklmnopqrstuuHZ9PqJmrZy1rZzGg3R3b1mJ1N1xHJHu"
HASHES = {
    "apr1": "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
    "apr1 without salt": "$apr1$$HqJZimcKQFAMYayBlzkrA/",
    "md5-crypt": "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
    "sha1": "{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=",
    "salted sha1": "{SSHA}4QXQnVTSo8ufpgvvcDzULOyRwdyNqNWI",
    "bcrypt": BCRYPT,
    "bcrypt a": "$2a" + BCRYPT[3:],
    "bcrypt b": "$2b" + BCRYPT[3:],
    "sha256-crypt": "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
    "sha256-crypt with rounds": "$5$rounds=10000$salt$" + "x" * 43,
    "sha512-crypt": "$6$saltstring$" + "y" * 86,
    "sha512-crypt with rounds": "$6$rounds=5000$saltstring$" + "y" * 86,
}
MALFORMED = [
    "$apr1$r31.....$tooshort",
    "$apr1$nothing",
    "$2y$05$short",
    BCRYPT + "x",
    BCRYPT + " ",
    BCRYPT[:-1] + "!",
    "{SHA}short=",
    "{SSHA}",
    "$5$salt$" + "x" * 42,
    "$6$salt$" + "x" * 43,
    "$7$whatever",
    "$y$j9T$unknown",
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$aGFzaA",
    "$scrypt$whatever",
    "$pbkdf2-sha256$29000$salt$hash",
    BCRYPT.replace("$05$", "$15$"),
    BCRYPT.replace("$05$", "$31$"),
    BCRYPT.replace("$05$", "$99$"),
    BCRYPT.replace("$05$", "$03$"),
    "$5$rounds=1000001$salt$" + "x" * 43,
    "$6$rounds=999999999$salt$" + "x" * 86,
]


def rows(*lines: str) -> list[User]:
    """Users with these lines; each has a number for its name, so that no warning can quote a secret by it."""
    return [User(str(number), line) for number, line in enumerate(lines)]


def made(*lines: str, previous: bytes = b"", key: bytes = KEY) -> list[str]:
    """The lines of the file."""
    return htpasswd(rows(*lines), key, previous)[0].decode().removesuffix("\n").split("\n")


def accepts(line: str, password: str) -> bool:
    """Whether a line of bcrypt is that of a password."""
    return bcrypt.checkpw(password.encode(), line.partition(":")[2].encode())


@pytest.fixture(scope="module")
def line() -> str:
    """What the password `secret` of `name` becomes."""
    return made("name:secret")[0]


@pytest.mark.parametrize("hashed", HASHES.values(), ids=HASHES.keys())
def test_every_hash_that_navigator_knows_passes_unchanged(hashed: str) -> None:
    """Apache's MD5, md5-crypt, SHA-1, salted SHA-1, bcrypt and sha-crypt rows are written as they are."""
    assert htpasswd(rows(f"name:{hashed}"), KEY) == (f"name:{hashed}\n".encode(), [], 0)


def test_the_order_is_kept() -> None:
    """Rows are written in the order given."""
    lines = [f"{name}:{hashed}" for name, hashed in zip("dbcae", HASHES.values(), strict=False)]
    assert made(*lines) == lines


def test_no_rows_make_an_empty_file() -> None:
    """No users: an empty file, no warning."""
    assert htpasswd([], KEY) == (b"", [], 0)


@pytest.mark.parametrize(
    "bad",
    [
        "nothing",
        "",
        ":hunter2",
        ":",
        "name:",
        "name:   ",
        "name:{PLAIN}",
        " name:hunter2",
        "name :hunter2",
        "\u00a0:hunter2",
        "#name:hunter2",
        "name:hun\nter2",
        "name\n:hunter2",
        "name:hunter2\n",
        "name:hunter2\r",
        "name:hun\0ter2",
        "na\0me:hunter2",
        "na\tme:hunter2",
        "name:hun\x85ter2",
        "name:hun\u2028ter2",
        "name:hun\x1b[0mter2",
        "name:hun\x9bter2",
        "na\u202eme:hunter2",
        f"\ufeffname:{HASHES['sha1']}",
        f"na\u200bme:{HASHES['sha1']}",
        f"name\U000e0041:{HASHES['sha1']}",
        "name:" + "hunter2" * 200,
        f"name{'e' * 1000}:{HASHES['bcrypt']}",
        f"na\nme:{HASHES['apr1']}",
        *(f"name:{secret}" for secret in MALFORMED),
    ],
    ids=lambda bad: ascii(bad[:40]),
)
def test_a_bad_row_costs_that_row_alone(bad: str) -> None:
    """A malformed row is left out with a warning that names the user and not the secret."""
    good = [f"one:{HASHES['apr1']}", f"two:{HASHES['sha1']}"]
    users = rows(good[0], bad, good[1])
    content, warnings, _ = htpasswd(users, KEY)
    assert content.decode().splitlines() == good
    assert len(warnings) == 1
    assert "'1'" in warnings[0]
    secret = bad.partition(":")[2].strip()
    assert not secret or secret not in warnings[0]
    assert "hunter2" not in warnings[0]


def test_the_first_of_duplicates_counts() -> None:
    """A name that occurs twice: the first row is written, the second is left out with a warning."""
    content, warnings, _ = htpasswd(rows(f"a:{HASHES['apr1']}", f"a:{HASHES['sha1']}", "a:hunter2"), KEY)
    assert content.decode() == f"a:{HASHES['apr1']}\n"
    assert len(warnings) == 2
    assert not any("hunter2" in warning or HASHES["sha1"] in warning for warning in warnings)


def test_a_row_that_was_left_out_takes_no_name() -> None:
    """A sound row after a malformed one of the same name is written."""
    assert made(f"a:{MALFORMED[0]}", f"a:{HASHES['sha1']}") == [f"a:{HASHES['sha1']}"]


def test_names_differ_by_case() -> None:
    """`User1` and `user1` are two users, as for the web server."""
    assert len(made(f"User1:{HASHES['sha1']}", f"user1:{HASHES['sha1']}")) == 2


@pytest.mark.parametrize(
    ("secret", "password"),
    [
        ("secret", "secret"),
        ("{PLAIN}secret", "secret"),
        ("with:colon", "with:colon"),
        ("pässwörd 😀", "pässwörd 😀"),
        ("abJnggxhB/yWI", "abJnggxhB/yWI"),
        ("{sha}whatever", "{sha}whatever"),
        ("{PLAIN}$apr1$x", "$apr1$x"),
        ("x" * 72, "x" * 72),
    ],
    ids=[
        "plain",
        "prefix",
        "colon",
        "unicode",
        "looks like DES",
        "unknown scheme",
        "prefixed hash",
        "72 bytes",
    ],
)
def test_a_plain_password_is_hashed_with_bcrypt(secret: str, password: str) -> None:
    """What Navigator would compare as plain text is written as bcrypt, and the same password still opens."""
    (line,) = made(f"name:{secret}")
    assert line.startswith("name:$2b$")
    assert password not in line
    assert accepts(line, password)


@pytest.mark.parametrize(
    "password", ["x" * 73, "ä" * 37, "{PLAIN}" + "x" * 73], ids=["ascii", "two bytes", "prefix"]
)
def test_a_password_that_bcrypt_would_cut_is_left_out(password: str) -> None:
    """More than 72 bytes: another password with the same beginning would open, so the row is left out."""
    content, warnings, _ = htpasswd(rows(f"name:{password}"), KEY)
    assert content == b""
    assert "72" in warnings[0]
    assert "xxx" not in warnings[0]


def test_each_update_hashes_a_part() -> None:
    """However many passwords are plain, an update spends a bounded time on them, and the next one goes on."""
    users = rows(*(f"name{number}:secret" for number in range(5)), f"name4:{HASHES['sha1']}")
    content = b""
    for lines, still in [(2, 3), (4, 1), (5, 0), (5, 0)]:
        content, warnings, waiting = htpasswd(users, KEY, content, most=2)  # 100 take seconds
        assert (content.count(b"\n"), waiting) == (lines, still)
        assert warnings == ["user '5': the name occurs twice; the row is left out of htpasswd"]
    assert accepts(content.decode().splitlines()[4], "secret")


def test_the_line_is_the_same_from_run_to_run(line: str) -> None:
    """The same password gives the same line, with and without the previous file."""
    assert made("name:secret") == made("name:secret", previous=f"{line}\n".encode()) == [line]


@pytest.mark.parametrize(
    ("row", "key"), [("name:other", KEY), ("other:secret", KEY), ("name:secret", b"another machine's")]
)
def test_the_salt_depends_on_name_password_and_key(line: str, row: str, key: bytes) -> None:
    """Nobody can tell from two lines, or two machines' files, that two passwords are the same."""
    salt = slice(0, 29)
    (other,) = made(row, previous=f"{line}\n".encode(), key=key)
    assert other.partition(":")[2][salt] != line.partition(":")[2][salt]
    assert accepts(other, row.partition(":")[2])


def test_a_known_line_is_taken_over_without_hashing(line: str) -> None:
    """With an equal salt in the previous file nothing is hashed: even a wrong hash is taken as it is."""
    marked = line[:-31] + "/" * 31
    assert not accepts(marked, "secret")
    previous = f"someone:{HASHES['sha1']}\n{marked}\nother:{HASHES['sha1']}\n".encode()
    assert made("name:secret", previous=previous) == [marked]


@pytest.mark.parametrize(
    "previous",
    [
        b"name:secret\n",
        b"name:$2b$10$\n",
        b"\xff\xfe\n\n:::\nname",
        f"name:{HASHES['bcrypt b']}\n".encode(),
    ],
    ids=["plain", "cut", "garbage", "another hash"],
)
def test_a_previous_file_is_not_trusted(line: str, previous: bytes) -> None:
    """A previous line of another salt or form does not come back."""
    assert made("name:secret", previous=previous) == [line]


def test_a_cut_previous_line_is_not_taken_over(line: str) -> None:
    """A torn line has the right salt and is no hash: it is made anew."""
    assert made("name:secret", previous=line[:-5].encode()) == [line]


def test_a_previous_line_does_not_outlive_its_row(line: str) -> None:
    """Whoever is no longer in the index is no longer in the file; a hash replaces a plain password."""
    assert made(f"other:{HASHES['sha1']}", previous=f"{line}\n".encode()) == [f"other:{HASHES['sha1']}"]
    assert made(f"name:{HASHES['sha1']}", previous=f"{line}\n".encode()) == [f"name:{HASHES['sha1']}"]


NAMES = ["user1", "user2", "Üser", "a b", "", " x", "#c"]
KNOWN_PLAIN = {name: f"password of {name}" for name in NAMES}
names = st.sampled_from(NAMES)
lines = st.one_of(
    st.builds(lambda name, hashed: f"{name}:{hashed}", names, st.sampled_from([*HASHES.values()])),
    st.builds(lambda name, bad: f"{name}:{bad}", names, st.sampled_from(MALFORMED)),
    st.builds(lambda name: f"{name}:{KNOWN_PLAIN[name]}", names),
    st.builds(lambda name, end: f"{name}:{end}", names, st.text("\n\r\0\x0b\u2028 ", min_size=1)),
    st.text("ab:#\n\t \u2029", max_size=6).filter(lambda line: not line.partition(":")[2].strip()),
)


def assert_sound(users: list[User], content: bytes) -> None:
    """What holds for the file, whatever the rows."""
    given = {user.line for user in users}
    text = content.decode()
    assert text == "" or text.endswith("\n")
    written = text.split("\n")[:-1]
    found = [line.partition(":")[0] for line in written]
    assert len(set(found)) == len(found)
    for line in written:
        name, colon, hashed = line.partition(":")
        assert name
        assert colon
        assert ":" not in hashed
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in line)
        assert hashed.startswith("$2b$") or line in given
        assert hashed.startswith(("$", "{S"))


@pytest.fixture(scope="module")
def previous() -> bytes:
    """The file that holds all known plain passwords, so that few examples need the slow hash."""
    return htpasswd(rows(*(f"{name}:{password}" for name, password in KNOWN_PLAIN.items())), KEY)[0]


@settings(max_examples=200)
@given(st.lists(lines, max_size=8))
def test_whatever_the_rows_the_file_is_sound(previous: bytes, lines: list[str]) -> None:
    """Names are unique, each line has one colon, no control characters, and is original or bcrypt."""
    users = rows(*lines)
    content, warnings, _ = htpasswd(users, KEY, previous)
    assert_sound(users, content)
    assert content.count(b"\n") + len(warnings) == len(users)


@settings(max_examples=25)
@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_the_text_the_file_is_sound(name: str, secret: str) -> None:
    """The same for a row of any text at all."""
    users = rows(f"{name}:{secret}", f"user1:{HASHES['sha1']}")
    content, _, _ = htpasswd(users, KEY)
    assert_sound(users, content)
    assert f"user1:{HASHES['sha1']}\n".encode() in content or name == "user1"
