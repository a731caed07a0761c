"""The installed forwarder, started as Navigator starts a CGI, before the installed daemon."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import socket
import sqlite3
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from sidecar.demo.sample import add_user
from sidecar.model.artifacts import NAMES
from sidecar.model.machine_report import MachineReport
from tests.conftest import Bucket
from tests.support.cgi import CGI, UPDATE_PATH, Daemon, environment, run_cgi, serving, sidecar, signed
from tests.support.machine import Machine, until

KEY = "db/index.sqlite3"
HASH = "{SHA}" + "A" * 27 + "="
LIMIT = 1 << 20


@asynccontextmanager
async def serving_bucket(machine: Machine, bucket: Bucket) -> AsyncIterator[Daemon]:
    """The installed daemon on a machine whose index lies in a bucket."""
    machine.extra = {
        **bucket.settings,
        "navigator": {"pid_file": str(machine.folder / "navigator.pid")},
        "trigger": {"burst": 1000, "max_body": LIMIT, "max_inflated": 4 * LIMIT},
    }
    machine.put_index()
    bucket.put(KEY, machine.store_index.read_bytes())
    async with serving(machine) as daemon:
        # It updates when it starts: what a test sends comes after that.
        await until(lambda: len(machine.targets()) == len(NAMES))
        yield daemon


async def from_sign(machine: Machine, *arguments: str) -> dict[str, str]:
    """The headers that `sidecar sign` prints, as curl reads them."""
    printed = await sidecar(machine, "sign", "--machine", "test-machine", *arguments)
    assert printed.code == 0, printed.err
    return dict(line.split(": ", 1) for line in printed.out.splitlines())


async def test_a_poke_fetches_and_publishes(machine: Machine, bucket: Bucket) -> None:
    """Started as Navigator starts it, the forwarder answers 200 with the log, and the files are there."""
    async with serving_bucket(machine, bucket):
        add_user(machine.store_index, "new", f"new:{HASH}")
        bucket.put(KEY, machine.store_index.read_bytes())
        answer = await run_cgi(machine.socket)
        assert (answer.status, answer.code, answer.err) == (200, 0, "")
        assert answer.headers["Status"] == "200 OK"
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "fetched the index" in answer.body
        assert "published generation 2" in answer.body
        assert sorted(machine.targets()) == sorted(NAMES)
        again = await run_cgi(machine.socket)
        assert (again.status, again.code) == (200, 0)
        assert "nothing changed" in again.body


async def test_a_signed_gzipped_body_is_published(machine: Machine, bucket: Bucket, tmp_path: Path) -> None:
    """The same with the index itself as gzipped body, signed by `sidecar sign`: it is ahead of the store."""
    async with serving_bucket(machine, bucket):
        await run_cgi(machine.socket)
        add_user(machine.store_index, "sent", f"sent:{HASH}")
        body = tmp_path / "index.gz"
        body.write_bytes(gzip.compress(machine.store_index.read_bytes()))
        headers = await from_sign(machine, "--body", str(body))
        assert headers["Content-Encoding"] == "gzip"
        answer = await run_cgi(machine.socket, body.read_bytes(), headers=headers)
        assert (answer.status, answer.code) == (200, 0), answer.body
        assert "published generation 2" in answer.body
    assert b"sent:" in machine.targets()["htpasswd"]
    with closing(sqlite3.connect(machine.target("index.sqlite3"))) as connection:
        assert connection.execute("select 1 from users where userid = 'sent'").fetchone()


async def test_a_chunked_body_is_published(machine: Machine, bucket: Bucket) -> None:
    """A chunked request has no length: the body ends where standard input does."""
    async with serving_bucket(machine, bucket):
        add_user(machine.store_index, "sent", f"sent:{HASH}")
        body = gzip.compress(machine.store_index.read_bytes())
        headers = {**signed(body), "Content-Encoding": "gzip"}
        answer = await run_cgi(machine.socket, body, headers=headers, chunked=True)
        assert (answer.status, answer.code) == (200, 0), answer.body
    assert b"sent:" in machine.targets()["htpasswd"]


async def test_an_expected_digest_is_passed_on(machine: Machine, bucket: Bucket) -> None:
    """The query that `sidecar sign --expect` puts into the path reaches the daemon and is signed with it."""
    async with serving_bucket(machine, bucket):
        first = await run_cgi(machine.socket)
        assert first.status == 200
        with closing(http.client.HTTPConnection("sidecar")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(machine.socket))
            connection.request("GET", "/status")
            told = connection.getresponse().read().decode()
        digest = told.partition('"sha256":"')[2][:64]
        headers = await from_sign(machine, "--expect", digest)
        answer = await run_cgi(machine.socket, headers=headers, query=f"sha256={digest}")
        assert (answer.status, answer.code) == (200, 0), answer.body
        other = await run_cgi(machine.socket, headers=signed(), query=f"sha256={digest}")
        assert (other.status, other.code) == (401, 1)


async def test_refusals_do_not_make_navigator_look(machine: Machine, bucket: Bucket) -> None:
    """Whatever is refused has a fitting 4xx, a sentence, exit status 1, and changes nothing."""
    async with serving_bucket(machine, bucket):
        await run_cgi(machine.socket)
        before = machine.targets()
        body = gzip.compress(machine.store_index.read_bytes())
        bomb = gzip.compress(bytes(20 * LIMIT), 9)
        noise = os.urandom(1000)
        zipped = {"Content-Encoding": "gzip"}
        replayed = signed(age=9)
        await run_cgi(machine.socket, headers=replayed)
        refusals = [
            (401, await run_cgi(machine.socket, body, headers=signed(body, secret="no such secret at all"))),
            (401, await run_cgi(machine.socket, body, headers=signed(body, age=400))),
            (401, await run_cgi(machine.socket, headers=replayed)),
            (401, await run_cgi(machine.socket, body, headers=signed(body[:-1]))),
            (400, await run_cgi(machine.socket, body[:-9], headers={**signed(body[:-9]), **zipped})),
            (400, await run_cgi(machine.socket, noise, headers={**signed(noise), **zipped})),
            (422, await run_cgi(machine.socket, noise, headers=signed(noise))),
            (413, await run_cgi(machine.socket, bomb, headers={**signed(bomb), **zipped})),
            (405, await run_cgi(machine.socket, method="GET")),
        ]
        for status, answer in refusals:
            assert (answer.status, answer.code, answer.err) == (status, 1, "")
            assert len(answer.body.split()) > 4
            assert "Traceback" not in answer.body
        assert machine.targets() == before


async def test_a_failed_update_does_not_make_navigator_look(machine: Machine, bucket: Bucket) -> None:
    """When the store fails the answer says so, with the store's part in it, and exit status 1."""
    async with serving_bucket(machine, bucket):
        await run_cgi(machine.socket)
        before = machine.targets()
        bucket.client.delete_object(Bucket=bucket.name, Key=KEY)
        answer = await run_cgi(machine.socket)
        assert (answer.status, answer.code) == (502, 1)
        assert "store_missing" in answer.body
        assert machine.targets() == before


async def test_the_old_path_comes_with_a_notice(machine: Machine, bucket: Bucket) -> None:
    """`index_update` still works, and its answer says what to call instead."""
    async with serving_bucket(machine, bucket):
        answer = await run_cgi(machine.socket, path="/showcase/index_update")
        assert (answer.status, answer.code) == (200, 0)
        assert "deprecated" in answer.body


async def test_a_json_answer_passes_through(machine: Machine, bucket: Bucket) -> None:
    """The client's Accept reaches the daemon, and its content type comes back."""
    async with serving_bucket(machine, bucket):
        answer = await run_cgi(machine.socket, headers={"Accept": "application/json"})
        assert answer.headers["Content-Type"].startswith("application/json")
        assert json.loads(answer.body)["state"] in ("published", "unchanged")


async def test_the_state_is_told_to_anyone(machine: Machine, bucket: Bucket) -> None:
    """GET update_status tells state and digests, and every answer which machine gave it, letter by letter."""
    machine.extra = {"machine": {"id": "Machine-A1"}}
    machine.put_index()
    async with serving(machine):
        before = await run_cgi(machine.socket, method="GET", path="/showcase/update_status")
        assert (before.status, before.headers["Sidecar-Machine"]) == (200, "Machine-A1")
        assert json.loads(before.body)["health"] == "waiting"
        poked = await run_cgi(machine.socket)
        assert (poked.status, poked.headers["Sidecar-Machine"]) == (200, "Machine-A1")
        after = json.loads((await run_cgi(machine.socket, method="GET", path="/showcase/update_status")).body)
        assert after["published"] == hashlib.sha256(machine.store_index.read_bytes()).hexdigest()
        assert (after["generation"], after["loaded"], after["sha256"]) == (1, None, None)
        assert (after["sync"], after["health"], after["busy"]) == ("synced", "waiting", False)
        assert set(after) == set(MachineReport.__struct_fields__)


async def test_a_question_is_answered_under_its_own_path_only(machine: Machine, bucket: Bucket) -> None:
    """A GET of update_config is refused: a link that somebody follows sets nothing going."""
    async with serving_bucket(machine, bucket):
        assert (await run_cgi(machine.socket, method="GET")).status == 405


async def test_hostile_values_do_nothing(machine: Machine, bucket: Bucket) -> None:
    """Line breaks in values start no headers, and headers that look like its own are not passed on."""
    injected = "x\r\nSidecar-Path: /showcase/index_update\r\n\r\nPOST /update?force=1 HTTP/1.1\r\n\r\n"
    async with serving_bucket(machine, bucket):
        for headers in (
            {"Accept": injected},
            {"Content-Encoding": injected},
            {"Sidecar-Path": "/showcase/index_update", "Sidecar-Method": "GET", "Sidecar-Remote": "evil"},
            {"Transfer-Encoding": "chunked", "Content-Length": "5", "Connection": "keep-alive"},
            {"Proxy": "http://192.0.2.66:3128", "Host": "evil.example.com"},
            {"Accept": "ÿ\x85\u2028\x7f\x1b"},
        ):
            answer = await run_cgi(machine.socket, headers=headers)
            assert (answer.status, answer.code) == (200, 0), answer.body
            assert "deprecated" not in answer.body
        for query in (injected, "%0d%0aSidecar-Machine:x", "a=" + "b" * 5000):
            answer = await run_cgi(machine.socket, query=query)
            assert answer.status in (200, 400)
        answer = await run_cgi(machine.socket, path=UPDATE_PATH + injected)
        assert (answer.status, "deprecated" in answer.body) == (200, False)
        answer = await run_cgi(machine.socket, method=injected)
        assert (answer.status, answer.code) == (405, 1)
        for length in ("-1", "5 ", "0x10", "²", "9" * 5000, "1\r\nX: y"):
            for proof in ({}, signed()):
                answer = await run_cgi(machine.socket, length=length, headers=proof)
                assert (answer.status, answer.code) == (200, 0), (length, answer.body)
    assert machine.targets()["navigator.yml"]


OWN = {"host", "connection", "sidecar-method", "sidecar-path", "sidecar-remote", "content-length"}
PASSED = {
    "Accept",
    "Content-Encoding",
    "Sidecar-Timestamp",
    "Sidecar-Machine",
    "Sidecar-Content-SHA256",
    "Sidecar-Signature",
}


async def test_the_daemon_gets_the_forwarders_headers_and_no_others(machine: Machine) -> None:
    """Whatever the values hold, the request is one request with a known set of headers, each once."""
    hostile = "x\r\nSidecar-Path: /evil\r\n\r\nPOST /update HTTP/1.1\r\nX: \n\x0b\x7f\x1b[31mé\u2028y"
    headers = dict.fromkeys({*PASSED, "Proxy", "Cookie", "Authorization", "Host", "Sidecar-Path"}, hostile)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with listening(lambda connection: connection.sendall(ok), machine.socket) as (_, visitors):
        answer = await run_cgi(
            machine.socket, method=hostile, path=f"/a{hostile}", query=hostile, headers=headers
        )
    assert (answer.status, answer.body, answer.code) == (200, "ok", 0)
    (sent,) = visitors
    assert sent.count(b"\r\n\r\n") == 1
    assert sent.endswith(b"\r\n\r\n")
    start, *lines = sent.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert start == b"POST /public HTTP/1.1"
    names = [line.partition(b": ")[0].decode().lower() for line in lines]
    assert sorted(names) == sorted(OWN | {name.lower() for name in PASSED})
    assert all(0x20 <= byte != 0x7F for line in lines for byte in line)


async def test_a_hostile_proxy_header_is_not_followed(machine: Machine) -> None:
    """HTTP_PROXY, which a `Proxy:` header becomes, sends the poke nowhere but to the daemon's socket."""
    with listening() as (port, visitors):
        answer = await run_cgi(machine.socket, headers={"Proxy": f"http://127.0.0.1:{port}"})
        assert answer.status == 503
        assert visitors == []


async def test_a_huge_body_does_not_hang(machine: Machine, bucket: Bucket) -> None:
    """More than the daemon reads is refused, or ignored without a signature, its length told or not."""
    huge = os.urandom(8 * LIMIT)
    async with serving_bucket(machine, bucket):
        before = machine.targets()
        for chunked in (False, True):
            answer = await run_cgi(machine.socket, huge, chunked=chunked)
            assert (answer.status, answer.code) == (200, 0)
            assert "nothing changed" in answer.body
            answer = await run_cgi(machine.socket, huge, chunked=chunked, headers=signed(huge))
            assert (answer.status, answer.code) == (413, 1)
    assert machine.targets() == before


async def test_a_body_that_breaks_off_is_refused(machine: Machine, bucket: Bucket) -> None:
    """When the client sends less than it promised it is told so; nothing is published, nothing hangs."""
    async with serving_bucket(machine, bucket) as daemon:
        before = machine.targets()
        add_user(machine.store_index, "sent", f"sent:{HASH}")
        body = gzip.compress(machine.store_index.read_bytes())
        headers = {**signed(body), "Content-Encoding": "gzip"}
        answer = await run_cgi(machine.socket, body[:-100], headers=headers, length=str(len(body)))
        assert (answer.status, answer.code, answer.err) == (400, 1, "")
        assert "broke off" in answer.body
        assert machine.targets() == before
        assert (await run_cgi(machine.socket)).status == 200
    assert "Traceback" not in daemon.log


async def test_a_strangers_body_is_ignored(machine: Machine, bucket: Bucket) -> None:
    """The application sends its index without a signature: that is a poke, and the answer says so."""
    async with serving_bucket(machine, bucket):
        before = machine.targets()
        add_user(machine.store_index, "sent", f"sent:{HASH}")
        body = gzip.compress(machine.store_index.read_bytes())
        answer = await run_cgi(machine.socket, body, headers={"Content-Encoding": "gzip"})
        assert (answer.status, answer.code, answer.err) == (200, 0, "")
        assert "The body was not read" in answer.body
        assert machine.targets() == before


@pytest.mark.parametrize("proof", ["none", "wrong", "right"])
async def test_a_body_that_never_comes_holds_no_process(machine: Machine, bucket: Bucket, proof: str) -> None:
    """Who announces a body and sends none is answered, and the forwarder ends, long before its time limit.

    With a right signature the body is waited for, until that limit.
    """
    proofs = {"none": {}, "wrong": {"Sidecar-Signature": "v1=0"}, "right": signed(b"x" * 1000)}
    async with serving_bucket(machine, bucket):
        read, write = os.pipe()
        try:
            environ = {
                **environment(SIDECAR_SOCKET=str(machine.socket)),
                # As shipped it is 110 s, which nobody but a right signature comes to.
                **({"SIDECAR_CGI_TIMEOUT": "0.5"} if proof == "right" else {}),
                "REQUEST_METHOD": "POST",
                "SCRIPT_NAME": UPDATE_PATH,
                "CONTENT_LENGTH": "1000",
                **{f"HTTP_{name.upper().replace('-', '_')}": text for name, text in proofs[proof].items()},
            }
            process = await asyncio.create_subprocess_exec(CGI, stdin=read, stdout=PIPE, env=environ)
            async with asyncio.timeout(60):
                out, _ = await process.communicate()
        finally:
            os.close(read)
            os.close(write)
    assert out[:12].decode() == f"Status: {({'none': 200, 'wrong': 401, 'right': 504})[proof]} "


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "0", "", "soon", "1e400"])
async def test_a_time_limit_that_is_none_is_the_usual_one(
    machine: Machine, bucket: Bucket, limit: str
) -> None:
    """Whatever stands in SIDECAR_CGI_TIMEOUT, there is an answer."""
    async with serving_bucket(machine, bucket):
        answer = await run_cgi(machine.socket, SIDECAR_CGI_TIMEOUT=limit)
        assert (answer.status, answer.code, answer.err) == (200, 0, "")


async def test_without_a_daemon_the_answer_comes_soon(machine: Machine) -> None:
    """No daemon, no socket: 503, a sentence with the path, exit status 1. So with a dead daemon's socket."""
    answer = await run_cgi(machine.socket)
    assert (answer.status, answer.code, answer.err) == (503, 1, "")
    assert str(machine.socket) in answer.body
    assert "Is it running?" in answer.body
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(machine.socket))
    left.close()
    answer = await run_cgi(machine.socket, b"x" * 1_000_000)
    assert (answer.status, answer.code) == (503, 1)
    answer = await run_cgi(machine.folder / ("x" * 200))
    assert (answer.status, answer.code) == (503, 1)


@contextmanager
def listening(
    answer: Callable[[socket.socket], None] | None = None, path: Path | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Something that listens, notes what it gets, and answers in its own way."""
    family = socket.AF_INET if path is None else socket.AF_UNIX
    visitors: list[bytes] = []
    with socket.socket(family) as server:
        server.bind(("127.0.0.1", 0) if path is None else str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    visitors.append(connection.recv(65536))
                    if answer is not None:
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield 0 if path else server.getsockname()[1], visitors
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\r\n\r\n",
        b"who are you?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
    ],
)
async def test_a_broken_daemon_is_a_bad_gateway(machine: Machine, broken: bytes) -> None:
    """Whatever else answers on the socket, or half an answer, is 502, a sentence, and exit status 1."""
    with listening(lambda connection: connection.sendall(broken), machine.socket):
        answer = await run_cgi(machine.socket)
    assert (answer.status, answer.code, answer.err) == (502, 1, "")
    assert "broke off" in answer.body


async def test_a_daemon_that_does_not_answer_times_out(machine: Machine) -> None:
    """After its time limit the forwarder gives up with 504, so Navigator need not kill it."""
    done = threading.Event()
    with listening(lambda _: wait_for(done), machine.socket):
        answer = await run_cgi(machine.socket, SIDECAR_CGI_TIMEOUT="0.3")
        done.set()
    assert (answer.status, answer.code, answer.err) == (504, 1, "")
    assert "0.3 s" in answer.body


def wait_for(event: threading.Event) -> None:
    event.wait(30)


async def test_fifty_at_once_all_get_the_truth(machine: Machine, bucket: Bucket) -> None:
    """Scripts run concurrently and nothing queues them: each gets the outcome of a run after its start."""
    async with serving_bucket(machine, bucket):
        await run_cgi(machine.socket)
        add_user(machine.store_index, "crowd", f"crowd:{HASH}")
        bucket.put(KEY, machine.store_index.read_bytes())
        answers = await asyncio.gather(*(run_cgi(machine.socket) for _ in range(50)))
    assert [(answer.status, answer.code) for answer in answers] == [(200, 0)] * 50
    assert all("in place: generation 2" in answer.body for answer in answers)
    assert b"crowd:" in machine.targets()["htpasswd"]


def test_the_forwarder_needs_no_packages() -> None:
    """It runs with the system's own Python, isolated: nothing in the environment can make it load code."""
    first = CGI.read_text().splitlines()[0]
    assert first == "#!/usr/bin/python3 -IS"
