"""What comes from outside, at random: a short run with every test, a long one by `make fuzz`.

    FUZZ_EXAMPLES   how many each test tries; `make fuzz` takes thousands

What hypothesis finds it keeps in .hypothesis, and tries first the next time.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config.parse import keys, parse
from sidecar.demo.sample import write_index
from sidecar.errors import ReadError, Rejected, SettingsError, SidecarError
from sidecar.generate import Deployment, generate
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import LossLimits, check
from sidecar.inputs.index import read_index
from sidecar.inputs.machine import placeholder_values
from sidecar.inputs.profiles import load_profile
from sidecar.inputs.store import open_store
from tests.conftest import Bucket
from tests.support.machine import SMALL, Machine
from tests.support.proxy import Answer, Proxy, altered

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
# Each of these takes a daemon, or a client, of its own, and tries several things with it.
FEWER = settings(FUZZ, max_examples=max(2, EXAMPLES // 10))
# No answer may take longer; it is a limit for a hang, not a measure.
PATIENCE = 10.0


@pytest.fixture(scope="module")
def sample() -> Iterator[Path]:
    """An index as the application makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite3"
        write_index(path, SMALL, 1)
        yield path


def deployment() -> Deployment:
    """A machine as shipped."""
    values = placeholder_values(parse({}, {}), Path("/markers"))
    profile = load_profile("local").data
    return Deployment(profile, values, None, "/rails/db", b"k" * 32)


# Indexes

PATCHES = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=64)), min_size=1, max_size=8)


@FUZZ
@given(patches=PATCHES, cut=st.none() | st.floats(0, 1))
def test_a_damaged_index(sample: Path, patches: list[tuple[float, bytes]], cut: float | None) -> None:
    """Any bytes are read, or refused in a sentence."""
    content = bytearray(sample.read_bytes())
    for place, patch in patches:
        at = int(place * (len(content) - 1))
        content[at : at + len(patch)] = patch
    if cut is not None:
        del content[int(cut * len(content)) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite3"
        path.write_bytes(content)
        _read(path)


TEXT = st.text(max_size=40) | st.sampled_from(["{{region}}", "!ruby/object", "../../x", "a|.*", "<<", "\x00"])
VALUES = TEXT | st.none() | st.integers() | st.floats() | st.binary(max_size=20)
COLUMNS = [
    *(("users", column) for column in ("userid", "password")),
    *(
        ("locations", column)
        for column in ("key", "name", "latitude", "longitude", "locale", "logo", "region")
    ),
    *(("showcases", column) for column in ("key", "name", "year", "location_id", "order")),
    *(("regions", column) for column in ("code", "location", "latitude", "longitude")),
]


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), st.integers(0, 3), VALUES), min_size=1, max_size=6))
def test_any_value_in_any_column(sample: Path, edits: list[tuple[tuple[str, str], int, Any]]) -> None:
    """A row costs that row, or the index is refused; what is generated can be read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite3"
        path.write_bytes(sample.read_bytes())
        with closing(sqlite3.connect(path)) as connection, connection:
            for (table, column), row, value in edits:
                first = f"select rowid from {table} limit 1 offset ?"
                sql = f'update {table} set "{column}" = ? where rowid = ({first})'
                try:
                    connection.execute(sql, (value, row))
                except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                    continue  # the application's own database would not take it either
        _read(path)


def _read(path: Path) -> None:
    """The whole way to a set that could be published."""
    try:
        index, memo = read_index(path), ResultCache()
        generated = generate(index, deployment(), memo)
        check(generated, None, LossLimits(0.5, 0.5), memo, force=False)
    except (Rejected, ReadError):
        return
    configuration = yaml.safe_load(generated["navigator.yml"])
    paths = [tenant["path"] for tenant in configuration["applications"]["tenants"]]
    assert len(paths) == len(set(paths))
    assert all(path.startswith("/") and ".." not in path for path in paths)
    for line in generated["tenants.list"].decode().splitlines():
        assert Path(line).parent == Path("/rails/db")


# The configuration

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({key.partition(".")[0] for key in keys()})
NAMES = sorted({key.rpartition(".")[2] for key in keys()})


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(KEYS) | TEXT,
        DOCUMENTS | st.dictionaries(st.sampled_from(NAMES), DOCUMENTS, max_size=3),
        max_size=4,
    )
    | DOCUMENTS,
    st.dictionaries(st.sampled_from(KEYS).map(lambda key: f"SIDECAR_{key.upper()}"), TEXT, max_size=2),
)
def test_any_configuration(document: Any, environ: dict[str, str]) -> None:
    """A configuration is understood, or refused with its place."""
    with suppress(SettingsError):
        parse(document, environ)


# Requests


def _http(method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (method, path), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join([*lines, b"", body])


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Host", b"Origin", b"Expect", b"Authorization", b"Content-Length", b"Accept", b"X"]
        ),
        st.binary(max_size=40),
    ),
    max_size=4,
)
PATHS = st.sampled_from(
    [b"/", b"/status", b"/public", b"/update", b"/rollback", b"/generations/1", b"/page/update", b"*", b"//"]
) | st.binary(max_size=30)
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"get"]) | st.binary(min_size=1, max_size=5)


@FEWER
@given(st.lists(st.builds(_http, METHODS, PATHS, HEADERS, st.binary(max_size=60)) | st.binary(max_size=200)))
def test_any_bytes_on_both_sockets(tmp_path_factory: pytest.TempPathFactory, requests: list[bytes]) -> None:
    """Whatever is sent gets an answer below 500, or none, soon; nothing changes; the daemon goes on."""
    machine = Machine(tmp_path_factory.mktemp("fuzz"))

    async def attack() -> None:
        async with machine.daemon() as daemon:
            before = machine.targets()
            assert daemon.server.url is not None
            port = int(daemon.server.url.rpartition(":")[2])
            for data in requests:
                await _send(await asyncio.open_connection("127.0.0.1", port), data)
                await _send(await asyncio.open_unix_connection(machine.socket), data)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{daemon.server.url}/healthz") as answer,
            ):
                assert answer.status == 200
            assert machine.targets() == before

    asyncio.run(attack())


async def _send(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> None:
    (reader, writer), answer = streams, b""
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            # Half a request is answered when its time is up; that is not waited for.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    answer = await reader.read(1 << 16)
    except (ConnectionError, BrokenPipeError):
        return
    finally:
        writer.transport.abort()
    status = answer.split(b" ", 2)[1:2]
    assert not status or status == [b"503"] or not status[0].startswith(b"5"), answer[:300]


# The store

LISTED = st.fixed_dictionaries(
    {},
    optional={
        "Key": st.sampled_from(["db/a.sqlite3", "db/../../x", "", "db/\ufffe"]),
        "LastModified": st.sampled_from(
            ["2026-05-01T12:00:00Z", "0001-01-01T00:00:00+23:59", "soon", "9" * 30]
        ),
        "ETag": st.text("ab1\"'", max_size=4),
        "Size": st.sampled_from(["1", "-1", "9" * 30, "x"]),
    },
)


def listing(entries: list[dict[str, str]], more: str) -> bytes:
    """A list of objects, as a store writes it, with whatever it says of each."""
    contents = "".join(
        f"<Contents>{''.join(f'<{name}>{value}</{name}>' for name, value in entry.items())}</Contents>"
        for entry in entries
    )
    return f"<ListBucketResult>{contents}<IsTruncated>{more}</IsTruncated></ListBucketResult>".encode()


LISTINGS = st.builds(listing, st.lists(LISTED, max_size=3), st.sampled_from(["true", "false", "x"]))
ANSWERS = st.builds(
    Answer,
    st.sampled_from([200, 204, 206, 301, 304, 307, 400, 403, 404, 412, 500, 503, 999]),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["ETag", "Last-Modified", "Content-Type", "x-amz-meta-last-modified", "Location"]
            ),
            st.text("ab1\"'-: /", max_size=20)
            | st.sampled_from(["Fri, 01 May 2026 12:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2359"]),
        ),
        max_size=3,
    ).map(tuple),
    st.binary(max_size=300) | LISTINGS,
    st.none() | st.integers(0, 400),
)


@FEWER
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_any_answer_of_a_store(
    tmp_path_factory: pytest.TempPathFactory, bucket: Bucket, answers: list[Answer]
) -> None:
    """A store that answers nonsense costs an error of the store, and nothing is taken for an index."""
    folder = tmp_path_factory.mktemp("store")
    machine = Machine(folder)

    async def ask() -> None:
        async with Proxy(bucket.endpoint) as proxy:
            for one in answers:
                proxy.then(altered(lambda _, one=one: one))  # type: ignore[misc]
            machine.extra |= {
                "store": "s3://bucket",
                "s3": {
                    "endpoint": proxy.url,
                    "path_style": True,
                    "access_key_id": "test",
                    "secret_access_key": "test",
                },
                "fetch": {"attempts": 1, "timeout": 5},
            }
            store = open_store(machine.settings(), lambda *_: None)
            await store.startup()
            try:
                for number in range(len(answers)):
                    with suppress(SidecarError):
                        if number % 3 == 0:
                            await store.fetch("db/index.sqlite3", folder / "index", None)
                        elif number % 3 == 1:
                            await store.objects("db/")
                        else:
                            await store.head("db/index.sqlite3")
            finally:
                await store.shutdown()

    asyncio.run(ask())
