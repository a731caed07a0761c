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
from collections.abc import Mapping

import bcrypt
from aiohttp import web

from sidecar.errors import Forbidden, Unauthorized

# Verified for nobody's benefit when the name is unknown, so that the time does not tell.
_NOBODY = b"$2b$10$abcdefghijklmnopqrstuuQmVZnKNzXwCqK8mVbYQ7Lw8Wk7g1zGy"
_REMEMBERED = 64


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


class Administrators:
    """Checks HTTP Basic credentials against bcrypt hashes, off the event loop."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)
        self._salt = secrets.token_bytes(16)
        self._verified: dict[bytes, None] = {}
        self._checking = asyncio.Semaphore(2)

    async def require(self, request: web.Request) -> str:
        """The name of whoever may change things; `Unauthorized` or `Forbidden` otherwise."""
        if on_unix_socket(request):
            return peer(request)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
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
        if not await self._verify(*given):
            raise Unauthorized("name or password is wrong", "sign in with name and password")
        return given[0]

    async def _verify(self, name: str, password: str) -> bool:
        proof = hmac.digest(self._salt, f"{name}:{password}".encode(), hashlib.sha256)
        if proof in self._verified:
            return True
        known = self._hashes.get(name)
        async with self._checking:
            right = await asyncio.to_thread(_matches, password, known.encode() if known else _NOBODY)
        if not right or known is None:
            return False
        self._verified[proof] = None
        while len(self._verified) > _REMEMBERED:
            del self._verified[next(iter(self._verified))]
        return True


def _matches(password: str, hashed: bytes) -> bool:
    try:
        # Longer passwords are cut as bcrypt always did: their hash was made of as much.
        return bcrypt.checkpw(password.encode()[:72], hashed)
    except ValueError:
        return False
