"""htpasswd: the lines of `users.password`, each fit for the web server or left out with a warning.

Navigator's reader (go-htpasswd) knows apr1 and md5-crypt, {SHA}, {SSHA}, bcrypt and sha-crypt. Anything
else it takes for a plain-text password, old 13-character DES hashes included. So whatever it would
compare as plain text is hashed here with bcrypt first.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable

import bcrypt

from sidecar.model.artifacts import OWN_USER
from sidecar.model.index import User

_BCRYPT_COST = 10
# The alphabet of bcrypt's own base64.
_BCRYPT64 = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)
# A longer line would make Navigator's reader give up on the whole file at 64 KiB.
_MAX_LINE_BYTES = 1024
_MAX_BCRYPT_BYTES = 72
# Each takes some 50 ms: what an update may spend on them is bounded, and the next one goes on.
_MAX_HASHED = 100

# Checking one with more rounds would keep Navigator busy for seconds, or years, at every login attempt.
_HASH = re.compile(
    r"""
      \$(?:apr1|1)\$[^$:]{0,64}\$[./0-9A-Za-z]{22}
    | \$2[abxy]\$(?:0[4-9]|1[0-4])\$[./0-9A-Za-z]{53}
    | \{SHA\}[+/0-9A-Za-z]{27}=
    | \{SSHA\}[+/0-9A-Za-z]{28,}={0,2}
    | \$5\$(?:rounds=(?:\d{1,6}|1000000)\$)?[^$:]{0,64}\$[./0-9A-Za-z]{43}
    | \$6\$(?:rounds=(?:\d{1,6}|1000000)\$)?[^$:]{0,64}\$[./0-9A-Za-z]{86}
    """,
    re.VERBOSE,
)
# What claims to be a hash and is not a sound one that Navigator knows.
_CLAIMS = re.compile(r"\$(?:apr1|1|2[abxy]|5|6|7|y|argon2\w*|scrypt|pbkdf2[\w-]*)\$|\{S?SHA\}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Format characters and those that never will be any: two names may look the same.
_HIDDEN = re.compile(
    r"[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def htpasswd(
    users: Iterable[User], key: bytes, previous: bytes = b"", most: int = _MAX_HASHED
) -> tuple[bytes, list[str], int]:
    """The file's bytes, in the order given; a warning for each row that was skipped; how many wait.

    Those that wait have a plain-text password that a later update hashes: each does `most` at the most.

    `key` is this machine's secret for the salts of hashed plain-text passwords; `previous` is the
    file as it was, from which the lines of unchanged plain-text passwords are taken over.
    """
    known: dict[str, str] = {}
    for line in previous.decode("utf-8", "replace").splitlines():
        known.setdefault(line.partition(":")[0], line)
    lines: dict[str, str] = {}
    warnings: list[str] = []
    hashed = waiting = 0
    for row in users:
        name, colon, secret = row.line.partition(":")
        problem = _problem(row.line, name, colon, secret)
        if problem is None and name in lines:
            problem = "the name occurs twice"
        if problem is not None:
            warnings.append(f"user {row.userid!r:.80}: {problem}; the row is left out of htpasswd")
        elif _HASH.fullmatch(secret):
            lines[name] = row.line
        else:
            password = secret.removeprefix("{PLAIN}")
            salt = _salt(name, password, key)
            before = known.get(name, "")
            if before.startswith(f"{name}:{salt}") and _HASH.fullmatch(before[len(name) + 1 :]):
                lines[name] = before
            elif hashed < most:
                hashed += 1
                lines[name] = f"{name}:{bcrypt.hashpw(password.encode(), salt.encode()).decode()}"
            else:
                waiting += 1
                lines[name] = ""  # no later row takes the name
    return "".join(f"{line}\n" for line in lines.values() if line).encode(), warnings, waiting


def _problem(line: str, name: str, colon: str, secret: str) -> str | None:
    """What is wrong with a row, or None. Never quotes the secret."""
    if _UNFIT.search(line):
        return "the line holds a line break or control character"
    if not colon:
        return "the line has no colon"
    if _HIDDEN.search(name):
        return "the name holds a character that nobody sees"
    if name == OWN_USER:
        return "the name is that of the sidecar's own account"
    if not name or name != name.strip() or name.startswith("#"):
        return "the name is empty, starts with # or has blanks around it"
    if len(line) > _MAX_LINE_BYTES:
        return f"the line is longer than {_MAX_LINE_BYTES} characters"
    if _HASH.fullmatch(secret):
        return None
    if _CLAIMS.match(secret):
        return "the hash is malformed, takes too long to check, or is of a kind that Navigator does not know"
    plain = secret.removeprefix("{PLAIN}")
    if not plain.strip():
        return "the password is empty"
    if len(plain.encode()) > _MAX_BCRYPT_BYTES:
        return f"the plain-text password is longer than the {_MAX_BCRYPT_BYTES} bytes that bcrypt can hash"
    return None


def _salt(name: str, password: str, key: bytes) -> str:
    """How the hash of a plain-text password begins: the same as before while the password is.

    It is a keyed digest of name and password, so an equal salt means an equal password and the slow hash
    need not be made again. Without the key, it tells nothing about the password.
    """
    digest = hmac.digest(key, f"{name}:{password}".encode(), hashlib.sha256)[:16]
    # 16 bytes are 22 characters, the last of which carries two bits only: as bcrypt itself writes it.
    salt = base64.b64encode(digest).rstrip(b"=").translate(_BCRYPT64)
    return f"$2b${_BCRYPT_COST}${salt.decode()}"
