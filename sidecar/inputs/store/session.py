"""The HTTP session of the S3 client, which goes nowhere but where it is sent.

Imported only where the S3 library is needed: loading it takes a third of a second.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession


class _NoRedirects:
    """A session that gives a redirect back as the answer that it is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, url: Any, **more: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, url, allow_redirects=False, **more)


class NoRedirectSession(AIOHTTPSession):
    """Follows no redirect: what another address answers to an unsigned request is not the object."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        # The library has no setting for it; should it call this otherwise one day, a test will say so.
        session = await super()._get_session(proxy_url)  # type: ignore[misc]  # its stubs leave it out
        return _NoRedirects(session)
