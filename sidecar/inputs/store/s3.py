"""A bucket of an S3-compatible store as object store: Tigris, or any other.

One session and one client for the life of the process. The library retries refused and failed requests;
what it does not see, a body that breaks off or does not match its ETag, is tried again here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config.settings import FetchSettings, S3Settings
from sidecar.errors import SettingsError, StoreError
from sidecar.inputs.store.transfer import CHUNK_BYTES, IncomingFile, changed, format_age, parse_age, too_large
from sidecar.model.objects import Fetched, Stored, is_md5

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

logger = logging.getLogger(__name__)

_LIBRARY = "sidecar.inputs.store.session"
_RETRY_SECONDS = 0.2


def _ask_for_consistency(request: Any, **_: Any) -> None:
    """Global buckets of Tigris may serve an older object elsewhere for seconds; other stores ignore it."""
    request.headers["X-Tigris-Consistent"] = "true"


class S3Store:
    """A bucket, with an optional prefix before every key."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        access: S3Settings,
        limits: FetchSettings,
        observe: Callable[[str, str, float], None],
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._access = access
        self._limits = limits
        self._observe = observe
        self._started = asyncio.Event()
        self._opened: _Opened | None = None
        self._retired: set[_Opened] = set()

    async def startup(self) -> None:
        """Make the client; requests wait for it. Loading the library, in a thread, takes 0.2 s."""
        await asyncio.to_thread(import_module, _LIBRARY)
        self._opened = await self._open()
        self._started.set()

    async def _open(self) -> _Opened:
        from aiobotocore.config import AioConfig
        from botocore.exceptions import BotoCoreError

        from sidecar.inputs.store.session import NoRedirectSession, session

        config = AioConfig(
            http_session_cls=NoRedirectSession,
            # Tigris refuses the library's default of chunked uploads with trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self._access.path_style else "auto"},
            retries={"mode": "standard", "total_max_attempts": self._limits.attempts},
            connect_timeout=min(5.0, self._limits.timeout),
            read_timeout=min(10.0, self._limits.timeout),
        )
        try:
            client = session(self._access).client(
                "s3", endpoint_url=self._access.endpoint or None, config=config
            )
            resources = AsyncExitStack()
            opened = _Opened(await resources.enter_async_context(client), resources)
            opened.client.meta.events.register("before-sign.s3", _ask_for_consistency)
            return opened
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(
                f"s3: {error}", "s3.endpoint is a URL with its scheme, s3.region a name such as auto"
            ) from error

    async def shutdown(self) -> None:
        """Close the client and its connections, whatever is under way."""
        opened, self._opened = self._opened, None
        for client in (*self._retired, *([opened] if opened else ())):
            await client.resources.aclose()
        self._retired.clear()

    async def reset(self) -> None:
        """A new client, whose connections are all new; requests that are under way end with the old one."""
        try:
            fresh = await self._open()
        except SettingsError as error:
            logger.warning(
                "the connections to the store are kept, because no new client can be made: %s", error
            )
            return
        old, self._opened = self._opened, fresh
        if old is not None:
            self._retired.add(old)
            await self._close_unused(old)

    async def _close_unused(self, client: _Opened) -> None:
        """Close a client that another one has taken the place of, once its last request has ended."""
        if client in self._retired and not client.requests:
            self._retired.discard(client)
            await client.resources.aclose()

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        """Write the object to `target`, or give None when its ETag still is `etag`."""
        async with self._request("get", key) as request:
            fetched = await self._fetch_whole(self._prefix + key, target, etag)
            request.outcome = "not_modified" if fetched is None else "ok"
            return fetched

    async def objects(self, prefix: str) -> list[Stored]:
        """All objects whose keys begin with `prefix`, by key."""
        found = []
        async with self._request("list", prefix):
            pages = self._client.get_paginator("list_objects_v2")
            async for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self._prefix)
                    modified = entry["LastModified"].timestamp()
                    found.append(Stored(key, entry["ETag"].strip('"'), modified, entry["Size"]))
        return found

    async def head(self, key: str) -> Stored | None:
        """What there is to know of an object, or None when there is none."""
        from botocore.exceptions import ClientError

        async with self._request("head", key):
            try:
                answer = await self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                # The answer to HEAD has no body, so it cannot tell whether the bucket is missing.
                if _status(error.response) == 404:
                    return None
                raise
        modified = parse_age(answer["Metadata"].get("last-modified")) or answer["LastModified"].timestamp()
        return Stored(key, answer["ETag"].strip('"'), modified, answer["ContentLength"])

    async def put(self, key: str, source: Path, modified: float, replaces: str | None) -> str:
        """Store a file of the age `modified` over the object with the ETag `replaces`, or where none is."""
        condition: dict[str, Any] = {"IfMatch": f'"{replaces}"'} if replaces else {"IfNoneMatch": "*"}
        body = await asyncio.to_thread(source.read_bytes)
        async with self._request("put", key):
            answer = await self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=body,
                Metadata={"last-modified": format_age(modified)},
                **condition,
            )
        return answer["ETag"].strip('"')

    async def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        async with self._request("remove", key):
            await self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    async def _fetch_whole(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return await self._fetch_once(key, target, etag)
            except _Torn as torn:
                if attempt == self._limits.attempts:
                    raise StoreError(
                        f"the object {key} arrived damaged {attempt} times: {torn}",
                        "look at the store's health; the current configuration stays",
                        code="store_torn",
                    ) from torn
                await asyncio.sleep(_RETRY_SECONDS * attempt)
        raise AssertionError("unreachable")

    async def _fetch_once(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        import aiohttp
        from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

        condition: dict[str, Any] = {"IfNoneMatch": f'"{etag}"'} if etag else {}
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key, **condition)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if etag and code in ("304", "NotModified"):
                return None
            if code == "RequestTimeTooSkewed":
                # Signed before the machine was suspended, sent after: signed anew it will do.
                raise _Torn("the request's time was too far from the store's") from error
            raise
        body = answer["Body"]
        promised = answer.get("ContentLength")
        found = answer.get("ETag", "").strip('"')
        try:
            if not found:
                raise StoreError(
                    f"what answers for {key} is not an object: it has no ETag",
                    "check the endpoint: is this an S3 store?",
                )
            if promised is not None and promised > self._limits.max_bytes:
                raise too_large(promised, self._limits.max_bytes)
            with IncomingFile(target, self._limits.max_bytes) as incoming:
                while chunk := await body.read(CHUNK_BYTES):
                    incoming.write(chunk)
        except (aiohttp.ClientPayloadError, IncompleteReadError, ResponseStreamingError) as error:
            raise _Torn(f"the transfer broke off: {error}") from error
        finally:
            body.close()
        if promised is not None and incoming.size != promised:
            raise _Torn(f"{incoming.size} of {promised} bytes came")
        # An ETag is the content's MD5, except for multipart uploads and keys held by the store.
        if is_md5(found) and answer.get("ServerSideEncryption") != "aws:kms" and found != incoming.md5:
            raise _Torn(f"its ETag is {found}, its content's MD5 {incoming.md5}")
        modified = parse_age(answer["Metadata"].get("last-modified"))
        if modified is None and "LastModified" in answer:
            modified = answer["LastModified"].timestamp()
        return Fetched(found, modified, incoming.sha256, incoming.size)

    @property
    def _client(self) -> S3Client:
        if self._opened is None:
            raise StoreError("the store is not open")
        return self._opened.client

    async def _start(self) -> None:
        """Wait for the client, where it is being made."""
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._started.wait()
        except TimeoutError:
            raise StoreError("the store is not open") from None

    @asynccontextmanager
    async def _request(self, operation: str, key: str) -> AsyncIterator[_Request]:
        """Bound a request, tell how it went, and turn the library's errors into sentences."""
        await self._start()
        from botocore.exceptions import BotoCoreError, ClientError, PaginationError
        from botocore.parsers import ResponseParserError

        where = f"s3://{self._bucket}/{self._prefix}{key}"
        request = _Request()
        started = time.perf_counter()
        client = self._opened
        if client is not None:
            client.requests += 1
        try:
            try:
                async with asyncio.timeout(self._limits.timeout):
                    yield request
            except TimeoutError:
                raise StoreError(
                    f"{_DOING[operation]} {where} took longer than {self._limits.timeout:g} s",
                    "look at the store's health; fetch.timeout sets the limit",
                    code="store_timeout",
                ) from None
            except ClientError as error:
                raise _explain(where, error.response) from error
            except (ResponseParserError, PaginationError, KeyError, ValueError) as error:
                raise StoreError(
                    f"{where}: the store's answer cannot be understood: {error}",
                    "check the endpoint: is this an S3 store?",
                ) from error
            except (BotoCoreError, OSError) as error:
                raise StoreError(
                    f"{where} cannot be reached: {' '.join(str(error).split())}",
                    "check the endpoint, the credentials and the network",
                    code="store_unreachable",
                ) from error
        except StoreError as error:
            request.outcome = error.code.removeprefix("store_")
            raise
        except BaseException:
            request.outcome = "error"
            raise
        finally:
            self._observe(operation, request.outcome, time.perf_counter() - started)
            if client is not None:
                client.requests -= 1
                await self._close_unused(client)


_DOING = {"get": "fetching", "head": "asking for", "list": "listing", "put": "storing", "remove": "removing"}


@dataclass(eq=False)
class _Opened:
    """An open client, what closes it, and how many requests are under way with it."""

    client: S3Client
    resources: AsyncExitStack
    requests: int = 0


@dataclass
class _Request:
    """A request under way, and how it ends."""

    outcome: str = "ok"


class _Torn(Exception):
    """A transfer that did not bring what was promised."""


def _status(response: Any) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _explain(where: str, response: Any) -> StoreError:
    code = str(response.get("Error", {}).get("Code", "unknown"))
    status = _status(response)
    if status == 412 or code == "ConditionalRequestConflict":
        return changed(where)
    if status == 404:
        what = "the bucket" if code == "NoSuchBucket" else "the object"
        return StoreError(
            f"{where}: {what} is not there ({code})", "check `store` and `index_key`", code="store_missing"
        )
    if status in (401, 403):
        return StoreError(
            f"{where}: the store refuses access ({code})",
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            code="store_denied",
        )
    if 300 <= status < 400 and status != 304:
        return StoreError(
            f"{where}: the store answers {status} ({code}): it is to be asked at another address",
            "no redirect is followed: set s3.endpoint and s3.region to where the bucket lies",
        )
    return StoreError(
        f"{where}: the store answers {status} ({code})",
        "look at the store's health; the current configuration stays",
        code="store_failed",
    )
