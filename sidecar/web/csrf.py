"""Forms that only the sidecar's own page can send: by a token of who, for what and until when."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from aiohttp import web

from sidecar.errors import BadRequest, Forbidden

_LIFETIME_SECONDS = 3600.0
_URLENCODED = "application/x-www-form-urlencoded"


class CsrfTokens:
    """Makes and checks the tokens. The key lives as long as the daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def token(self, who: str, action: str) -> str:
        """A proof that the daemon showed this form to this administrator."""
        return self._made(who, action, int(self._clock() + _LIFETIME_SECONDS))

    def _made(self, who: str, action: str, until: int) -> str:
        text = "\0".join((str(until), who, action))
        proof = hmac.new(self._key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
        return f"{until}.{proof}"

    def fits(self, token: str, who: str, action: str) -> bool:
        """Whether a token was made for this administrator and action, not too long ago."""
        until = token.partition(".")[0]
        if not until.isdecimal() or len(until) > 12 or int(until) < self._clock():
            return False
        made = self._made(who, action, int(until))
        return hmac.compare_digest(token.encode(errors="surrogatepass"), made.encode())

    async def require(self, request: web.Request, who: str, action: str) -> None:
        """`Forbidden` unless this is the form that the daemon showed to `who` for `action`."""
        if not self.fits(await field(request, "token"), who, action):
            raise Forbidden(
                "this form is too old, or is not yours", "load the page again and repeat", code="form"
            )


async def field(request: web.Request, name: str) -> str:
    """What was sent in a field of the page's form, empty where it has none; an error for any other body."""
    if request.content_type != _URLENCODED:
        raise Forbidden("this is not the page's own form", "use the button on the page", code="form")
    try:
        return str((await request.post()).get(name, ""))
    except (LookupError, ValueError):
        raise BadRequest("the form cannot be read", "use the button on the page") from None
