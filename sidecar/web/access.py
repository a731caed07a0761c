"""Who is asking: the socket's mode vouches for peers on the Unix socket, TCP clients prove themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import pwd
import secrets
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from math import ceil
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.errors import Forbidden, SidecarError, TooManyAttempts, Unauthorized

# Verified for nobody's benefit when the name is unknown, at the others' cost, so that the time does not tell.
_NOBODY = "$2b${}$abcdefghijklmnopqrstuuQmVZnKNzXwCqK8mVbYQ7Lw8Wk7g1zGy"
_MAX_REMEMBERED = 64
# Wrong passwords from one address: so many at once, then one in so many seconds.
_ATTEMPTS, _PAUSE_SECONDS = 10, 20.0
# And for one name, wherever they come from: more, as strangers must not keep its owner out easily.
_NAME_ATTEMPTS, _NAME_PAUSE_SECONDS = 100, 2.0
_MAX_KNOWN = 1000
# Names that nobody can register to let them lead here.
_PRIVATE = (".localhost", ".internal")


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
    person = login(Path(f"/proc/{pid}/loginuid"), uid)
    return f"{f'{person} as ' if person else ''}{name} (process {pid})"


def login(file: Path, uid: int) -> str:
    """Who logged in, where that is another user than `uid` (sudo, su); empty where nobody knows."""
    try:
        logged_in = int(file.read_text())
        return pwd.getpwuid(logged_in).pw_name if logged_in != uid else ""
    except (OSError, ValueError, KeyError, OverflowError):
        return ""  # the file has 2**32 - 1 for a process that no login began


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


class AttemptLimiter:
    """Counts wrong passwords by address, or by name: a token bucket each, for those seen last.

    A bucket holds `burst` attempts, and gets one back every `pause` seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: int = _ATTEMPTS,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._pause = pause
        self._full_at: dict[str, float] = {}

    def take(self, whose: str) -> None:
        """Count an attempt that begins; `TooManyAttempts` when there were too many."""
        now = self._clock()
        full_at = max(self._full_at.pop(whose, now), now)
        late = full_at - now - self._pause * (self._burst - 1)
        self._full_at[whose] = full_at if late > 0 else full_at + self._pause
        while len(self._full_at) > _MAX_KNOWN:
            del self._full_at[next(iter(self._full_at))]
        if late > 0:
            raise TooManyAttempts(ceil(late))

    def give_back(self, whose: str) -> None:
        """The attempt was right after all."""
        if whose in self._full_at:
            self._full_at[whose] -= self._pause


class BasicAuth:
    """Checks HTTP Basic credentials against bcrypt hashes, off the event loop.

    `behind_navigator` when requests come through it too: then the address is the one that it tells.
    """

    def __init__(
        self,
        hashes: Mapping[str, str],
        attempts: AttemptLimiter | None = None,
        *,
        behind_navigator: bool = False,
    ) -> None:
        self._hashes = dict(hashes)
        self._attempts = attempts or AttemptLimiter()
        self._by_name = AttemptLimiter(burst=_NAME_ATTEMPTS, pause=_NAME_PAUSE_SECONDS)
        costs = [hashed.split("$")[2] for hashed in hashes.values()]
        self._nobody = _NOBODY.format(max(costs, default="10")).encode()
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
            address = request.headers.get("X-Forwarded-For", address).rpartition(",")[2].strip()
        return _network(address)

    async def _verify(self, name: str, password: str, address: str) -> bool:
        proof = hmac.digest(self._salt, f"{name}:{password}".encode(), hashlib.sha256)
        if proof in self._verified:
            return True
        if proof in self._refused:
            return False  # the same once more is no new guess
        self._attempts.take(address)
        self._by_name.take(name)
        known = self._hashes.get(name)
        async with self._checking:
            right = await asyncio.to_thread(_matches, password, known.encode() if known else self._nobody)
        if not right or known is None:
            _remember(self._refused, proof)
            return False
        self._attempts.give_back(address)
        self._by_name.give_back(name)
        _remember(self._verified, proof)
        return True


def _network(address: str) -> str:
    """Whose address it is: of IPv6 everybody has as many as they like, in a network of their own."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


class _Misdirected(SidecarError):
    code = "host"
    status = 421

    def __init__(self) -> None:
        super().__init__(
            "the sidecar is not known by the name that this request is for",
            "use its address, or list the name in listen.names",
        )


def known_as(names: Collection[str]) -> Middleware:
    """A middleware that refuses requests on TCP for a name that is none of ours.

    A site can let a name of its own lead to an address here, and read with its visitors' browsers what that
    answers. It cannot do so with an address, a name without a dot, or one of a private network.
    """
    known = {name.lower() for name in names}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = _host(request.headers.get("Host", ""))
        if not (on_unix_socket(request) or name in known or _is_nobodys(name)):
            raise _Misdirected
        return await handler(request)

    return check


def _host(header: str) -> str:
    """The name, or address, in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def _is_nobodys(name: str) -> bool:
    """Whether nobody can register the name."""
    if "." not in name or name.endswith(_PRIVATE):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _remember(proofs: dict[bytes, None], proof: bytes) -> None:
    proofs[proof] = None
    while len(proofs) > _MAX_REMEMBERED:
        del proofs[next(iter(proofs))]


def _from_elsewhere(request: web.Request) -> bool:
    """Whether a browser says that another site's page made this request: it sends the password along."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    # Without TLS browsers do not say more than this, and only of what may change something.
    origin = request.headers.get("Origin")
    if origin is None or request.method in ("GET", "HEAD"):
        return False
    try:
        return urlsplit(origin).netloc.lower() != request.host.lower()
    except ValueError:
        return True


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
