"""The object stores against a real S3 server behind a faulty network, and against a real folder."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.config.parse import parse
from sidecar.errors import SettingsError, StoreError
from sidecar.fleet.index_history import MAX_KEPT, PastIndex
from sidecar.fleet.store_records import StoreRecords, store_surely
from sidecar.inputs.store import Store, open_store
from sidecar.model.objects import Fetched
from tests.conftest import Bucket, free_port
from tests.support import proxy as faults
from tests.support.machine import until
from tests.support.origin import origin
from tests.support.proxy import Fault, Proxy

KEY = "db/index.sqlite3"
BODY = os.urandom(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
MANY_PAGES = 2000


@dataclass
class Shop:
    """An open store, and what it told of its requests."""

    store: Store
    folder: Path
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.folder / "fetched"

    async def fetch(self, etag: str | None = None, key: str = KEY) -> Fetched | None:
        return await self.store.fetch(key, self.target, etag)

    async def refused(self, etag: str | None = None, key: str = KEY) -> StoreError:
        """The error of a fetch that must fail: it has a code, a sentence, and was counted under its code."""
        with pytest.raises(StoreError) as caught:
            await self.fetch(etag, key)
        error = caught.value
        assert error.code.startswith("store_")
        assert len(error.message.split()) > 3
        assert "\n" not in error.message
        assert "Error object at" not in error.message
        assert error.status == 502
        assert self.seen[-1] == ("get", error.code.removeprefix("store_"))
        return error


@asynccontextmanager
async def opened(folder: Path, settings: dict[str, Any], **limits: Any) -> AsyncIterator[Shop]:
    """A store as the daemon opens it. Bounds are generous and nothing is tried twice, unless said."""
    document = {**settings, "fetch": {"timeout": 20, "attempts": 1, **limits}}
    seen: list[tuple[str, str]] = []
    store = open_store(
        parse(document, {}), lambda operation, outcome, seconds: seen.append((operation, outcome))
    )
    await store.startup()
    try:
        yield Shop(store, folder, seen)
    finally:
        await store.shutdown()


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[Proxy]:
    """A proxy in front of the S3 server, well behaved until told otherwise."""
    async with Proxy(bucket.endpoint) as running:
        yield running


def through(bucket: Bucket, proxy: Proxy) -> dict[str, Any]:
    """The settings of a store that is reached through the proxy."""
    return {
        "store": f"s3://{bucket.name}",
        "s3": {"endpoint": proxy.url, "access_key_id": "test", "secret_access_key": "test"},
    }


# A bucket


async def test_an_object_arrives_whole_with_its_digests(bucket: Bucket, tmp_path: Path) -> None:
    """A fetch writes the object's very bytes and tells ETag, SHA-256 and size."""
    etag = bucket.put(KEY, BODY)
    async with opened(tmp_path, bucket.settings) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert shop.target.read_bytes() == BODY
    assert (fetched.etag, fetched.sha256, fetched.size) == (etag, SHA256, len(BODY))
    assert shop.seen == [("get", "ok")]


async def test_an_empty_object_arrives_empty(bucket: Bucket, tmp_path: Path) -> None:
    """The store judges no content: an empty object is fetched as it is."""
    bucket.put(KEY, b"")
    async with opened(tmp_path, bucket.settings) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert fetched.size == 0
    assert shop.target.read_bytes() == b""


async def test_a_known_etag_transfers_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """An object whose ETag is known already is answered with None, and no file is touched."""
    etag = bucket.put(KEY, BODY)
    async with opened(tmp_path, bucket.settings) as shop:
        assert await shop.fetch(etag) is None
        assert not shop.target.exists()
        bucket.put(KEY, BODY + b"!")
        fetched = await shop.fetch(etag)
    assert fetched is not None
    assert fetched.etag != etag
    assert shop.seen == [("get", "not_modified"), ("get", "ok")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-05-01 12:00:00 UTC", 1777636800.0),
        ("2026-05-01 12:00:00.25 UTC", 1777636800.25),
        ("2026-05-01 12:00:00.123456 UTC", 1777636800.123456),
        ("2026-05-01T14:00:00+02:00", 1777636800.0),
    ],
)
async def test_the_metadata_tell_the_true_age(
    bucket: Bucket, tmp_path: Path, text: str, seconds: float
) -> None:
    """An object's age is its metadata entry `last-modified`, a fraction of a second included."""
    bucket.put(KEY, BODY, text)
    async with opened(tmp_path, bucket.settings) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert fetched.modified == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", [None, "yesterday", "UTC", "2026-13-45 99:00:00 UTC", "1777636800", "-"])
async def test_without_sound_metadata_the_stores_own_date_counts(
    bucket: Bucket, tmp_path: Path, text: str | None
) -> None:
    """No entry, or one that is no date, falls back to the date that the store keeps."""
    bucket.put(KEY, BODY, text)
    own = bucket.client.head_object(Bucket=bucket.name, Key=KEY)["LastModified"].timestamp()
    async with opened(tmp_path, bucket.settings) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert fetched.modified == own


@pytest.mark.parametrize("prefix", ["machines/iad", "/machines/iad/"])
async def test_a_prefix_goes_before_every_key(bucket: Bucket, tmp_path: Path, prefix: str) -> None:
    """`s3://bucket/prefix` reads `prefix/key`, and never the key without it."""
    bucket.put(KEY, b"another one")
    bucket.put(f"machines/iad/{KEY}", BODY)
    settings = {**bucket.settings, "store": f"s3://{bucket.name}/{prefix}"}
    async with opened(tmp_path, settings) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert fetched.sha256 == SHA256


async def test_a_missing_key_is_named(bucket: Bucket, tmp_path: Path) -> None:
    """A key that is not there is an error that names it, and no file is left behind."""
    async with opened(tmp_path, bucket.settings) as shop:
        error = await shop.refused()
    assert error.code == "store_missing"
    assert f"s3://{bucket.name}/{KEY}: the object" in error.message
    assert not shop.target.exists()


async def test_a_missing_bucket_is_told_from_a_missing_key(bucket: Bucket, tmp_path: Path) -> None:
    """A bucket that is not there is named as such."""
    settings = {**bucket.settings, "store": f"s3://{bucket.name}-not-there"}
    async with opened(tmp_path, settings) as shop:
        error = await shop.refused()
    assert error.code == "store_missing"
    assert "the bucket is not there" in error.message


async def test_denied_access_says_what_to_check(bucket: Bucket, tmp_path: Path) -> None:
    """A bucket whose policy refuses the reader gives `store_denied`, with a hint about credentials."""
    bucket.put(KEY, BODY)
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket.name}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)
    async with opened(tmp_path, bucket.settings) as shop:
        error = await shop.refused()
    assert error.code == "store_denied"
    assert "AWS_ACCESS_KEY_ID" in error.hint


async def test_an_object_above_the_limit_is_refused_unread(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """An object whose announced size is above the limit is refused before any of it is read."""
    bucket.put(KEY, BODY)
    proxy.always(faults.stall)  # whoever wanted the rest would wait for it
    async with opened(tmp_path, through(bucket, proxy), max_bytes=len(BODY) - 1) as shop:
        error = await shop.refused()
    assert error.code == "store_too_large"
    assert "fetch.max_bytes" in error.hint
    assert not shop.target.exists()


async def test_an_object_that_grows_above_the_limit_is_refused(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """An object that does not announce its size is refused as soon as it passes the limit."""
    bucket.put(KEY, BODY)
    proxy.always(faults.chunked)
    async with opened(tmp_path, through(bucket, proxy), max_bytes=100_000) as shop:
        error = await shop.refused()
    assert error.code == "store_too_large"
    assert shop.target.stat().st_size <= 100_000


async def test_an_object_of_exactly_the_limit_is_taken(bucket: Bucket, tmp_path: Path) -> None:
    """The limit itself is still allowed."""
    bucket.put(KEY, BODY)
    async with opened(tmp_path, bucket.settings, max_bytes=len(BODY)) as shop:
        assert await shop.fetch() is not None


FAULTS = [
    pytest.param(faults.internal_error, "store_failed", id="500"),
    pytest.param(faults.unavailable, "store_failed", id="503"),
    pytest.param(faults.moved, "store_failed", id="301"),
    pytest.param(faults.not_modified, "store_failed", id="304 unasked"),
    pytest.param(faults.denied, "store_denied", id="403"),
    pytest.param(faults.no_key, "store_missing", id="404 key"),
    pytest.param(faults.no_bucket, "store_missing", id="404 bucket"),
    pytest.param(faults.cut, "store_torn", id="half a body"),
    pytest.param(faults.shortened, "store_torn", id="half a body, announced"),
    pytest.param(faults.flipped, "store_torn", id="flipped bytes"),
    pytest.param(faults.wrong_etag, "store_torn", id="wrong ETag"),
    pytest.param(faults.no_etag, "store_failed", id="no ETag"),
    pytest.param(faults.login_page, "store_failed", id="another site's page"),
    pytest.param(faults.wrong_date, "store_failed", id="broken date"),
    pytest.param(faults.wrong_length, "store_unreachable", id="broken length"),
    pytest.param(faults.rubbish, "store_unreachable", id="not HTTP"),
    pytest.param(faults.reset, "store_unreachable", id="reset"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
async def test_every_fault_has_its_code_and_sentence(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, fault: Fault, code: str
) -> None:
    """Whatever the store or the network does, only a StoreError comes out, and it tells what happened.

    The next fetch through the same client is as good as any.
    """
    bucket.put(KEY, BODY)
    proxy.always(fault)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        error = await shop.refused()
        assert error.code == code
        proxy.always(faults.well)
        fetched = await shop.fetch()
    assert fetched is not None
    assert shop.target.read_bytes() == BODY


SLOW = [
    pytest.param(faults.hang, id="no answer"),
    pytest.param(faults.stall, id="stops in the body"),
    pytest.param(faults.trickle, id="a byte at a time"),
]


@pytest.mark.parametrize("fault", SLOW)
async def test_a_transfer_has_a_limit_as_a_whole(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    """A server that hangs or trickles costs the configured time, however many attempts there are."""
    bucket.put(KEY, BODY)
    proxy.then(*[fault] * 20)
    async with opened(tmp_path, through(bucket, proxy), timeout="400ms", attempts=20) as shop:
        error = await shop.refused()
    assert error.code == "store_timeout"
    assert "0.4 s" in error.message
    assert "fetch.timeout" in error.hint


def _with_trailer(answer: faults.Answer) -> faults.Answer:
    body = answer.body + b"\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    return replace(answer, body=body, length=len(body))


async def test_what_the_protocol_left_in_the_body_is_noticed(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """A body of the announced length that carries a checksum behind the content is damaged, and not taken."""
    bucket.put(KEY, BODY)
    proxy.always(faults.altered(_with_trailer))
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        error = await shop.refused()
    assert error.code == "store_torn"


async def test_the_length_vouches_where_the_etag_does_not(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """An object stored in parts has no ETag to compare with: what comes must be as long as was announced."""

    def in_parts(answer: faults.Answer) -> faults.Answer:
        return answer.header("ETag", f'"{MD5}-2"')

    async def cut(answer: faults.Answer, writer: asyncio.StreamWriter) -> None:
        await faults.cut(in_parts(answer), writer)

    bucket.put(KEY, BODY)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        proxy.always(faults.altered(in_parts))
        assert await shop.fetch() is not None
        proxy.always(cut)
        error = await shop.refused()
    assert error.code == "store_torn"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(bucket: Bucket, proxy: Proxy, tmp_path: Path, status: int) -> None:
    """What another address serves is not the object: nobody asks there, and the error says what it was."""
    bucket.put(KEY, BODY)
    async with origin() as elsewhere, opened(tmp_path, through(bucket, proxy)) as shop:
        headers = (("Location", f"{elsewhere.url}/{KEY}"),)
        proxy.always(faults.altered(lambda _: faults.Answer(status, headers, b"", 0)))
        error = await shop.refused()
        with pytest.raises(StoreError):
            await shop.store.objects("")
        with pytest.raises(StoreError):
            await shop.store.put(KEY, Path(__file__), 0.0, None)
    assert elsewhere.asked == []
    assert error.code == "store_failed"
    assert str(status) in error.message
    assert "s3.endpoint" in error.hint


async def test_refused_connections_are_unreachable(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """A store that takes no connections is unreachable, and reached again once it does."""
    bucket.put(KEY, BODY)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        await proxy.refuse()
        error = await shop.refused()
        assert error.code == "store_unreachable"
        await proxy.accept()
        assert await shop.fetch() is not None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.internal_error, id="500"),
        pytest.param(faults.unavailable, id="503"),
        pytest.param(faults.reset, id="reset"),
        pytest.param(faults.cut, id="half a body"),
        pytest.param(faults.flipped, id="flipped bytes"),
        pytest.param(faults.wrong_etag, id="wrong ETag"),
    ],
)
async def test_a_passing_fault_is_tried_again(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    """With attempts left, one bad answer is not even noticed."""
    bucket.put(KEY, BODY)
    proxy.then(fault)
    async with opened(tmp_path, through(bucket, proxy), attempts=2) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert shop.target.read_bytes() == BODY
    assert len(proxy.requests) == 2
    assert shop.seen == [("get", "ok")]


async def test_a_global_bucket_is_asked_for_its_newest(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """Tigris may serve an older object elsewhere, unless each request says otherwise, in a signed header."""
    bucket.put(KEY, BODY)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        await shop.fetch()
        await shop.store.head(KEY)
        await shop.store.put(f"{KEY}-2", shop.target, time.time(), None)
    assert [head["x-tigris-consistent"] for head in proxy.heads] == ["true"] * 3
    assert all("x-tigris-consistent" in head["authorization"] for head in proxy.heads)


async def test_what_arrives_damaged_is_not_tried_for_ever(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """A body that is damaged every time is given up after the configured number of attempts."""
    bucket.put(KEY, BODY)
    proxy.always(faults.flipped)
    async with opened(tmp_path, through(bucket, proxy), attempts=2) as shop:
        error = await shop.refused()
    assert error.code == "store_torn"
    assert "2 times" in error.message
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("fault", [faults.denied, faults.no_key])
async def test_a_clear_no_is_not_asked_again(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    """What another attempt cannot change costs one request."""
    proxy.always(fault)
    async with opened(tmp_path, through(bucket, proxy), attempts=3) as shop:
        await shop.refused()
    assert len(proxy.requests) == 1


async def test_a_flaky_network_only_costs_attempts(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """With every third request torn, every fetch still succeeds."""
    bucket.put(KEY, BODY)
    proxy.every(3, faults.cut)
    async with opened(tmp_path, through(bucket, proxy), attempts=2) as shop:
        for _ in range(6):
            assert await shop.fetch() is not None
            assert shop.target.read_bytes() == BODY
    assert shop.seen == [("get", "ok")] * 6


@pytest.mark.parametrize("fault", [faults.chunked, faults.no_date])
async def test_an_unusual_answer_with_a_sound_body_is_taken(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    """Neither an announced length nor a date is needed: the ETag vouches for the body."""
    bucket.put(KEY, BODY)
    proxy.always(fault)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        fetched = await shop.fetch()
    assert fetched is not None
    assert fetched.sha256 == SHA256


async def test_one_client_serves_many_fetches(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """Fetches one after the other share a connection, and the end of the store closes it."""
    etag = bucket.put(KEY, BODY)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        for _ in range(10):
            assert await shop.fetch() is not None
            assert await shop.fetch(etag) is None
        assert (len(proxy.requests), proxy.connections) == (20, 1)
    await until(lambda: proxy.open == 0)
    gc.collect()  # whatever was not closed would complain now, and every warning is an error


async def test_failed_fetches_leak_no_connections(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """However a transfer breaks off, its connection is closed and not kept for another one."""
    bucket.put(KEY, BODY)
    async with opened(tmp_path, through(bucket, proxy), max_bytes=100_000) as shop:
        for _ in range(5):
            assert (await shop.refused()).code == "store_too_large"
        await until(lambda: proxy.open == 0)
    proxy.always(faults.stall)
    async with opened(tmp_path, through(bucket, proxy), timeout="300ms") as shop:
        for _ in range(2):
            assert (await shop.refused()).code == "store_timeout"
        await until(lambda: proxy.open == 0)
    gc.collect()


async def test_a_cancelled_fetch_leaves_nothing_open(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """Whoever stops waiting, as the daemon does when it stops, gets the connection closed."""
    bucket.put(KEY, BODY)
    proxy.then(faults.stall)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        fetching = asyncio.create_task(shop.fetch())
        await until(lambda: proxy.requests)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert await shop.fetch() is not None
    await until(lambda: proxy.open == 0)
    gc.collect()


async def test_a_reset_lets_what_is_under_way_end(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """After a suspension connections are dropped, but not those of requests that began since the wake-up."""
    bucket.put(KEY, BODY)
    delivered = asyncio.Event()
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        await shop.fetch()
        proxy.then(faults.held(delivered))
        fetching = asyncio.create_task(shop.fetch())
        await until(lambda: len(proxy.requests) == 2)
        await shop.store.reset()
        assert await shop.store.head(KEY) is not None
        assert proxy.connections == 2
        delivered.set()
        fetched = await fetching
        assert fetched is not None
        assert fetched.sha256 == SHA256
        await until(lambda: proxy.open == 1)
        await shop.store.reset()
        await until(lambda: proxy.open == 0)
    gc.collect()


async def test_the_end_of_the_store_ends_what_a_reset_left(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    """Clients that still have requests under way when the store is closed are closed with it."""
    bucket.put(KEY, BODY)
    proxy.then(faults.hang)
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        fetching = asyncio.create_task(shop.fetch())
        await until(lambda: proxy.requests)
        await shop.store.reset()
    with pytest.raises(StoreError):
        await fetching
    await until(lambda: proxy.open == 0)
    gc.collect()


async def test_nothing_is_requested_before_the_first_fetch(tmp_path: Path) -> None:
    """A store that is down does not keep the daemon from starting."""
    settings = {
        "store": "s3://bucket",
        "s3": {
            "endpoint": f"http://127.0.0.1:{free_port()}",
            "access_key_id": "test",
            "secret_access_key": "test",
        },
    }
    async with opened(tmp_path, settings) as shop:
        assert (await shop.refused()).code == "store_unreachable"


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "what is this"])
async def test_an_endpoint_that_is_no_url_is_a_settings_error(tmp_path: Path, endpoint: str) -> None:
    """A wrong endpoint is named as the setting it is, not as a traceback."""
    settings = {
        "store": "s3://bucket",
        "s3": {"endpoint": endpoint, "access_key_id": "test", "secret_access_key": "test"},
    }
    with pytest.raises(SettingsError, match=r"s3\.endpoint"):
        async with opened(tmp_path, settings):
            pass


async def test_a_full_disk_is_not_blamed_on_the_store(bucket: Bucket) -> None:
    """When the fetched bytes cannot be written, the error names the disk."""
    bucket.put(KEY, BODY)
    async with opened(Path("/"), bucket.settings) as shop:
        with pytest.raises(StoreError, match="No space left") as caught:
            await shop.store.fetch(KEY, Path("/dev/full"), None)
    assert caught.value.code == "store_disk"
    assert "reached" not in caught.value.message
    assert "disk" in caught.value.hint


# A folder


def folder_settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "store" / "db").mkdir(parents=True)
    return {"store": f"file://{tmp_path}/store"}


async def test_a_folder_gives_its_files(tmp_path: Path) -> None:
    """A file below the folder is an object: whole, with its age, and known by its ETag until it changes."""
    settings = folder_settings(tmp_path)
    source = tmp_path / "store" / KEY
    source.write_bytes(BODY)
    os.utime(source, (1777636800.25, 1777636800.25))
    async with opened(tmp_path, settings) as shop:
        first = await shop.fetch()
        assert first is not None
        assert shop.target.read_bytes() == BODY
        assert (first.sha256, first.size, first.modified) == (SHA256, len(BODY), 1777636800.25)
        assert await shop.fetch(first.etag) is None
        source.write_bytes(BODY[::-1])
        second = await shop.fetch(first.etag)
    assert second is not None
    assert second.etag != first.etag
    assert shop.target.read_bytes() == BODY[::-1]
    assert shop.seen == [("get", "ok"), ("get", "not_modified"), ("get", "ok")]


async def test_a_replaced_file_is_another_object(tmp_path: Path) -> None:
    """A file renamed over the old one is noticed even with the same size and time."""
    settings = folder_settings(tmp_path)
    source = tmp_path / "store" / KEY
    source.write_bytes(b"one")
    async with opened(tmp_path, settings) as shop:
        first = await shop.fetch()
        assert first is not None
        other = source.with_name("other")
        other.write_bytes(b"two")
        os.utime(other, ns=(source.stat().st_mtime_ns, source.stat().st_mtime_ns))
        other.rename(source)
        assert await shop.fetch(first.etag) is not None
    assert shop.target.read_bytes() == b"two"


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error that names it, and what a host with its own index sets."""
    async with opened(tmp_path, folder_settings(tmp_path)) as shop:
        error = await shop.refused()
    assert error.code == "store_missing"
    assert str(tmp_path / "store" / KEY) in error.message
    assert "update.own_index" in error.hint


async def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    """What cannot be read says so, with its path."""
    settings = folder_settings(tmp_path)
    (tmp_path / "store" / KEY).mkdir()
    async with opened(tmp_path, settings) as shop:
        error = await shop.refused()
    assert error.code == "store_failed"
    assert str(tmp_path / "store" / KEY) in error.message


async def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    """The limit holds for a folder too."""
    settings = folder_settings(tmp_path)
    (tmp_path / "store" / KEY).write_bytes(BODY)
    async with opened(tmp_path, settings, max_bytes=len(BODY) - 1) as shop:
        error = await shop.refused()
    assert error.code == "store_too_large"


async def test_a_hanging_file_has_a_limit(tmp_path: Path) -> None:
    """A file system that hangs costs the configured time, no more."""
    settings = folder_settings(tmp_path)
    source = tmp_path / "store" / KEY
    os.mkfifo(source)  # to open it waits for a writer
    async with opened(tmp_path, settings, timeout="200ms") as shop:
        error = await shop.refused()
        assert error.code == "store_timeout"
        source.open("wb").close()  # lets the thread end


@pytest.mark.parametrize("opened_before", [False, True], ids=["while opening", "while reading"])
async def test_a_transfer_that_was_given_up_writes_no_more(tmp_path: Path, opened_before: bool) -> None:
    """What a hanging file system gives in the end does not get into the file of the next fetch."""
    settings = folder_settings(tmp_path)
    source, late = tmp_path / "store" / KEY, tmp_path / "late"
    os.mkfifo(source)
    writer = os.open(source, os.O_RDWR) if opened_before else -1
    async with opened(tmp_path, settings, timeout="200ms") as shop:
        assert (await shop.refused()).code == "store_timeout"
        source.rename(late)
        source.write_bytes(BODY)
        shop.target.unlink(missing_ok=True)  # as an update does
        fetched = await shop.fetch()
        assert fetched is not None
        if writer < 0:
            writer = os.open(late, os.O_RDWR)
        os.write(writer, b"late")
        os.close(writer)
        # With all threads of the pool at once, the one that hung has ended.
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        assert shop.target.read_bytes() == BODY


class Disturber(threading.Thread):
    """Appends to a file while it is read, for the first `times` of its reads.

    What is read goes into a pipe, which holds less than the file: so the reader is in the middle of it.
    """

    def __init__(self, source: Path, pipe: Path, times: int) -> None:
        super().__init__()
        self._source, self._left, self._ended = source, times, False
        os.mkfifo(pipe)
        self._pipe = os.open(pipe, os.O_RDWR)

    def run(self) -> None:
        received = start = 0
        while not self._ended:
            received += len(os.read(self._pipe, 1 << 16))
            if self._left and received > start:
                with self._source.open("ab") as source:
                    source.write(b"more")
                self._left -= 1
                start += self._source.stat().st_size  # there the next read begins

    def end(self) -> None:
        self._ended = True
        os.write(self._pipe, b"!")
        self.join()
        os.close(self._pipe)


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_a_file_that_is_written_to_is_read_again(tmp_path: Path, times: int) -> None:
    """A file that changes while it is read is read again, and given up after the attempts."""
    settings = folder_settings(tmp_path)
    source = tmp_path / "store" / KEY
    source.write_bytes(os.urandom(1 << 20))
    disturber = Disturber(source, tmp_path / "fetched", times)
    disturber.start()
    try:
        async with opened(tmp_path, settings, attempts=2) as shop:
            if times < 2:
                fetched = await shop.fetch()
                assert fetched is not None
                assert fetched.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
            else:
                error = await shop.refused()
                assert error.code == "store_torn"
                assert "rename" in error.hint
    finally:
        disturber.end()
    assert source.stat().st_size == (1 << 20) + 4 * times


async def test_a_short_read_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    """A file of which another number of bytes comes than its size is not taken: not all file systems tell."""
    settings = {"store": "file:///proc"}  # whose files have a content, and no size
    async with opened(tmp_path, settings) as shop:
        error = await shop.refused(key="version")
    assert error.code == "store_torn"
    assert "of 0 bytes" in error.message


async def test_a_full_disk_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    """When the copy cannot be written, the error names the disk and not the source."""
    settings = folder_settings(tmp_path)
    (tmp_path / "store" / KEY).write_bytes(BODY)
    async with opened(tmp_path, settings) as shop:
        with pytest.raises(StoreError, match="No space left") as caught:
            await shop.store.fetch(KEY, Path("/dev/full"), None)
    assert caught.value.code == "store_disk"


@pytest.fixture(params=["folder", "s3"])
async def writable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind, opened."""
    document: dict[str, object] = {"store": f"file://{tmp_path}/objects"}
    if request.param == "s3":
        document = request.getfixturevalue("bucket").settings
    (tmp_path / "objects").mkdir()
    store = open_store(parse(document, {}), lambda operation, outcome, seconds: None)
    await store.startup()
    yield store
    await store.shutdown()


async def test_what_is_put_is_listed_and_fetched(writable: Store, tmp_path: Path) -> None:
    """An object keeps its content, its ETag and its true age."""
    source = tmp_path / "source"
    source.write_bytes(BODY)
    etag = await writable.put("db/one.sqlite3", source, 1_700_000_000.25, None)
    await writable.put("other/two", source, 1.0, None)

    (listed,) = await writable.objects("db/")
    assert (listed.key, listed.etag, listed.size) == ("db/one.sqlite3", etag, len(BODY))
    assert await writable.objects("nothing/") == []
    head = await writable.head("db/one.sqlite3")
    assert head is not None
    assert (head.etag, head.modified, head.size) == (etag, 1_700_000_000.25, len(BODY))
    assert await writable.head("db/none") is None
    fetched = await writable.fetch("db/one.sqlite3", tmp_path / "target", None)
    assert fetched == Fetched(etag, 1_700_000_000.25, SHA256, len(BODY))


async def test_put_never_replaces_what_was_not_seen(writable: Store, tmp_path: Path) -> None:
    """Of two writers that saw the same object one wins, and the other is told."""
    source = tmp_path / "source"
    source.write_bytes(b"first")
    first = await writable.put("db/one", source, 1.0, None)
    with pytest.raises(StoreError) as caught:
        await writable.put("db/one", source, 2.0, None)
    assert caught.value.code == "store_changed"

    source.write_bytes(b"second")
    second = await writable.put("db/one", source, 3.0, first)
    source.write_bytes(b"third")
    with pytest.raises(StoreError) as caught:
        await writable.put("db/one", source, 4.0, first)
    assert caught.value.code == "store_changed"
    await writable.fetch("db/one", tmp_path / "target", None)
    assert (tmp_path / "target").read_bytes() == b"second"
    assert second != first


async def test_a_request_waits_for_the_start(bucket: Bucket) -> None:
    """The daemon takes requests while the library is loaded; who asks a closed store is told."""
    store = open_store(parse(bucket.settings, {}), lambda operation, outcome, seconds: None)
    asked = asyncio.create_task(store.head("db/none"))
    await asyncio.sleep(0)
    await store.startup()
    assert await asked is None
    await store.shutdown()
    with pytest.raises(StoreError, match="not open"):
        await store.head("db/none")


@pytest.mark.parametrize("key", ["a", ""])
async def test_the_library_finds_services_and_endpoints(key: str) -> None:
    """Of itself it knows where S3 is in a region; with its own way to credentials also who gives those."""
    from sidecar.inputs.store.session import session

    secret = "b" if key else ""
    settings = parse({"s3": {"access_key_id": key, "secret_access_key": secret, "region": "eu-west-1"}}, {})
    made = session(settings.s3)
    async with made.client("s3") as client:
        assert client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    assert ("sts" in made.get_available_services()) is not bool(key)


async def test_a_listing_has_all_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects than one answer of the store holds."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # of the server; S3's own 1,000 say no more
    keys = [f"db/{number:04d}" for number in range(25)]
    for key in keys:
        bucket.put(key, b"")
    store = open_store(parse(bucket.settings, {}), lambda operation, outcome, seconds: None)
    await store.startup()
    try:
        assert [one.key for one in await store.objects("db/")] == keys
    finally:
        await store.shutdown()


def _endless(token: Callable[[], str]) -> Fault:
    """A listing of which there is more and more: its first page, again and again, with another token.

    It ends after far more pages than there is time for, so that whoever has no limit ends too.
    """
    first: list[faults.Answer] = []

    def change(answer: faults.Answer) -> faults.Answer:
        first.append(answer)
        if len(first) > MANY_PAGES:
            return first[0]
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token()}</NextContinuationToken>"
        body = first[0].body.replace(b"<IsTruncated>false</IsTruncated>", more.encode())
        return replace(first[0], body=body, length=len(body))

    return faults.altered(change)


async def test_a_listing_without_end_has_a_limit(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """However many pages a store goes on to give, the listing ends with the time for one transfer."""
    bucket.put("db/one", b"")
    numbers = itertools.count()
    proxy.always(_endless(lambda: str(next(numbers))))
    async with opened(tmp_path, through(bucket, proxy), timeout="400ms") as shop:
        with pytest.raises(StoreError, match=r"listing .* took longer than 0\.4 s") as caught:
            await shop.store.objects("db/")
        assert caught.value.code == "store_timeout"
        assert shop.seen[-1] == ("list", "timeout")
        assert next(numbers) > 1  # it has followed them
        proxy.always(faults.well)
        assert [one.key for one in await shop.store.objects("db/")] == ["db/one"]


async def test_a_listing_that_goes_round_is_given_up(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """A store that names the same page as the next one is not followed, and the error says what it is."""
    bucket.put("db/one", b"")
    proxy.always(_endless(lambda: "again"))
    async with opened(tmp_path, through(bucket, proxy)) as shop:
        with pytest.raises(StoreError, match="cannot be understood") as caught:
            await shop.store.objects("db/")
    assert caught.value.code == "store_failed"


async def test_what_is_removed_is_gone(writable: Store, tmp_path: Path) -> None:
    """And removing what is not there is no error."""
    source = tmp_path / "source"
    source.write_bytes(BODY)
    await writable.put("db/one", source, 1.0, None)
    for _ in range(2):
        await writable.remove("db/one")
        assert await writable.head("db/one") is None


async def test_the_fleets_history_lies_beside_the_index(writable: Store, tmp_path: Path) -> None:
    """Entries newest first, contents that are what they were, and no more of both than are kept."""
    records = StoreRecords(writable, "db/index.sqlite3", tmp_path)
    source = tmp_path / "source"
    now = time.time()
    for number in range(MAX_KEPT + 2):
        source.write_bytes(str(number).encode())
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        entry = PastIndex(sha256, 1, now, now + number, "somebody")
        await records.add(entry)
        await records.keep(sha256, source, now)
        await records.keep(sha256, source, now)
    await records.write(msgspec.structs.replace(entry, state="loaded"))
    await records.prune()
    entries = await records.entries()
    assert len(entries) == MAX_KEPT
    assert (entries[0].sha256, entries[0].state) == (sha256, "loaded")
    assert (await records.content(sha256)).read_bytes() == source.read_bytes()
    contents = [one for one in await writable.objects("db/index-history/") if not one.key.endswith(".json")]
    assert len(contents) == MAX_KEPT
    assert await writable.head(f"db/index-history/{hashlib.sha256(b'0').hexdigest()}") is None


async def test_a_put_whose_answer_was_lost_counts(writable: Store, tmp_path: Path) -> None:
    """What is there is what was to be stored; another content stays a conflict."""
    source = tmp_path / "source"
    source.write_bytes(BODY)
    etag = await writable.put("db/one", source, 1.0, None)
    again = await store_surely(writable, "db/one", source, 1.0, None, tmp_path / "other")
    assert again == etag
    source.write_bytes(b"another")
    with pytest.raises(StoreError) as error:
        await store_surely(writable, "db/one", source, 1.0, None, tmp_path / "other")
    assert error.value.code == "store_changed"
