"""Who is asking: the socket's mode vouches for peers on the Unix socket, TCP clients prove themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import pwd
import secrets
import socket
import struct
import time
from collections.abc import Callable, Mapping
from math import ceil
from urllib.parse import urlsplit

import bcrypt
from aiohttp import web

from sidecar.errors import Forbidden, TooManyAttempts, Unauthorized

# Verified for nobody's benefit when the name is unknown, so that the time does not tell.
_NOBODY = b"$2b$10$abcdefghijklmnopqrstuuQmVZnKNzXwCqK8mVbYQ7Lw8Wk7g1zGy"
_REMEMBERED = 64
# Wrong passwords from one address: so many at once, then one in so many seconds.
_ATTEMPTS = 10
_PAUSE = 20.0
_ADDRESSES = 1000


def on_unix_socket(request: web.Request) -> bool:
    """Whether the request came through the Unix socket."""
    return _socket(request).family == socket.AF_UNIX


def peer(request: web.Request) -> str:
    """Who is at the other end, for the records."""
    connection = _socket(request)
    if connection.family != socket.AF_UNIX:
        return request.remote or "unknown"
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return f"{name} (process {pid})"


def _socket(request: web.Request) -> socket.socket:
    if request.transport is None:
        raise ConnectionResetError("the client is gone")
    found: socket.socket = request.transport.get_extra_info("socket")
    return found


def basic_credentials(request: web.Request) -> tuple[str, str] | None:
    """Name and password of HTTP Basic; None when there are none or they are malformed."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon else None


class Attempts:
    """Counts wrong passwords by address: a token bucket each, for the addresses seen last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, address: str) -> None:
        """Count an attempt that begins; `TooManyAttempts` when there were too many."""
        now = self._clock()
        full_at = max(self._full_at.pop(address, now), now)
        late = full_at - now - _PAUSE * (_ATTEMPTS - 1)
        self._full_at[address] = full_at if late > 0 else full_at + _PAUSE
        while len(self._full_at) > _ADDRESSES:
            del self._full_at[next(iter(self._full_at))]
        if late > 0:
            raise TooManyAttempts(ceil(late))

    def give_back(self, address: str) -> None:
        """The attempt was right after all."""
        if address in self._full_at:
            self._full_at[address] -= _PAUSE


class Administrators:
    """Checks HTTP Basic credentials against bcrypt hashes, off the event loop.

    `behind_navigator` when requests come through it too: then the address is the one that it tells.
    """

    def __init__(
        self, hashes: Mapping[str, str], attempts: Attempts | None = None, *, behind_navigator: bool = False
    ) -> None:
        self._hashes = dict(hashes)
        self._attempts = attempts or Attempts()
        self._behind_navigator = behind_navigator
        self._salt = secrets.token_bytes(16)
        self._verified: dict[bytes, None] = {}
        self._refused: dict[bytes, None] = {}
        self._checking = asyncio.Semaphore(2)

    async def require(self, request: web.Request, *, linked: bool = False) -> str:
        """The name of whoever may change things; `Unauthorized` or `Forbidden` otherwise.

        `linked` when other sites may link to it: a page that only shows what is, without work or a stream.
        """
        if on_unix_socket(request):
            return peer(request)
        if _from_elsewhere(request) and not (linked and _link(request)):
            raise Forbidden(
                "another site sent this request", "open the sidecar's own page", code="cross_site"
            )
        if not self._hashes:
            raise Forbidden(
                "no administrators are configured, so this works on the Unix socket only",
                "add one under administrators, with a hash from `sidecar hash-password`",
                code="no_administrators",
            )
        given = basic_credentials(request)
        if given is None:
            raise Unauthorized("this needs an administrator", "sign in with name and password")
        if not await self._verify(*given, self._address(request)):
            raise Unauthorized("name or password is wrong", "sign in with name and password")
        return given[0]

    def _address(self, request: web.Request) -> str:
        """Whose attempts to count. Navigator adds the address of its client last, whatever that sent."""
        address = request.remote or "unknown"
        if self._behind_navigator and address in ("127.0.0.1", "::1"):
            return request.headers.get("X-Forwarded-For", address).rpartition(",")[2].strip()
        return address

    async def _verify(self, name: str, password: str, address: str) -> bool:
        proof = hmac.digest(self._salt, f"{name}:{password}".encode(), hashlib.sha256)
        if proof in self._verified:
            return True
        if proof in self._refused:
            return False  # the same once more is no new guess
        self._attempts.take(address)
        known = self._hashes.get(name)
        async with self._checking:
            right = await asyncio.to_thread(_matches, password, known.encode() if known else _NOBODY)
        if not right or known is None:
            _remember(self._refused, proof)
            return False
        self._attempts.give_back(address)
        _remember(self._verified, proof)
        return True


def _remember(proofs: dict[bytes, None], proof: bytes) -> None:
    proofs[proof] = None
    while len(proofs) > _REMEMBERED:
        del proofs[next(iter(proofs))]


def _from_elsewhere(request: web.Request) -> bool:
    """Whether a browser says that another site's page made this request: it sends the password along."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    # Without TLS browsers do not say more than this, and only of what may change something.
    origin = request.headers.get("Origin")
    return (
        request.method not in ("GET", "HEAD")
        and origin is not None
        and urlsplit(origin).netloc.lower() != request.host.lower()
    )


def _link(request: web.Request) -> bool:
    """Whether it only follows a link from elsewhere: a page to look at, in a window of its own."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


def _matches(password: str, hashed: bytes) -> bool:
    try:
        # Longer passwords are cut as bcrypt always did: their hash was made of as much.
        return bcrypt.checkpw(password.encode()[:72], hashed)
    except ValueError:
        return False
