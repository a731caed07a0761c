"""The S3 library's session: its client knows one service, and goes nowhere but where it is sent.

Imported only where the S3 library is needed: loading it takes a fifth of a second.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore.loaders import Loader


class _OnlyS3(Loader):
    """The library's data without four hundred other services, 5 MB and a look at all their folders."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ["s3"]

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        data, path = super().load_data_with_path(name)
        if name == "endpoints":
            for partition in data["partitions"]:
                services = partition["services"]
                partition["services"] = {one: services[one] for one in services if one == "s3"}
        return data, path


def session(*, alone: bool) -> AioSession:
    """What makes clients of S3; `alone` when no other service has to give them their credentials."""
    made = get_session()
    if alone:
        made.register_component("data_loader", _OnlyS3())
    return made


class _Straight:
    """A session that gives a redirect back as the answer that it is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, url: Any, **more: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, url, allow_redirects=False, **more)


class StraightSession(AIOHTTPSession):
    """Follows no redirect: what another address answers to an unsigned request is not the object."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        # The library has no setting for it; should it call this otherwise one day, a test will say so.
        session = await super()._get_session(proxy_url)  # type: ignore[misc]  # its stubs leave it out
        return _Straight(session)
