"""Forms that only the sidecar's own page can send: by a token of who, for what and until when."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from aiohttp import web

from sidecar.errors import Forbidden

_LIFETIME = 3600.0
_URLENCODED = "application/x-www-form-urlencoded"


class Forms:
    """Makes and checks the tokens. The key lives as long as the daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def token(self, who: str, action: str) -> str:
        """A proof that the daemon showed this form to this administrator."""
        return self._made(who, action, int(self._clock() + _LIFETIME))

    def _made(self, who: str, action: str, until: int) -> str:
        text = "\0".join((str(until), who, action))
        return f"{until}.{hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()}"

    def fits(self, token: str, who: str, action: str) -> bool:
        """Whether a token was made for this administrator and action, not too long ago."""
        until = token.partition(".")[0]
        if not until.isdecimal() or len(until) > 12 or int(until) < self._clock():
            return False
        return hmac.compare_digest(token.encode(), self._made(who, action, int(until)).encode())

    async def require(self, request: web.Request, who: str, action: str) -> None:
        """`Forbidden` unless this is the form that the daemon showed to `who` for `action`."""
        if request.content_type != _URLENCODED:
            raise Forbidden("this is not the page's own form", "use the button on the page", code="form")
        if not self.fits(str((await request.post()).get("token", "")), who, action):
            raise Forbidden(
                "this form is too old, or is not yours", "load the page again and repeat", code="form"
            )
