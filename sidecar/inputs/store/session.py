"""The S3 library's session: its client knows one service, and goes nowhere but where it is sent.

Imported only where the S3 library is needed: loading it takes a fifth of a second.
"""

from __future__ import annotations

from typing import Any

import aioboto3
import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.loaders import Loader

from sidecar.config.settings import S3Settings


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


def session(access: S3Settings) -> aioboto3.Session:
    """What makes clients of S3. Without a key of its own the library may ask another service for one."""
    inner = get_session()
    if access.access_key_id:
        inner.register_component("data_loader", _OnlyS3())
    return aioboto3.Session(
        aws_access_key_id=access.access_key_id or None,
        aws_secret_access_key=str.__str__(access.secret_access_key) or None,
        region_name=access.region,
        botocore_session=inner,
    )


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
