"""The public trigger: what strangers can do with it, which is nothing but ask for a fetch."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.daemon import Daemon
from sidecar.demo.sample import add_user, set_password
from sidecar.inputs.store.transfer import IncomingFile
from sidecar.model import signing
from sidecar.model.artifacts import NAMES
from sidecar.web import public
from tests.support.cgi import UPDATE_PATH, forwarded, signed
from tests.support.machine import Machine, until

HASH = "{SHA}" + "A" * 27 + "="
OTHER_SECRET = "another-secret-for-tests"
MOST_SENT = 1 << 20
MOST_INFLATED = 4 << 20


@dataclass(frozen=True)
class Answer:
    """An answer of the public trigger, as text."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Stranger:
    """Somebody whose requests reach the daemon through Navigator and the forwarder."""

    machine: Machine
    daemon: Daemon
    session: aiohttp.ClientSession

    async def send(self, body: Any = b"", headers: dict[str, str] | None = None, **more: str) -> Answer:
        """A request with these headers beside what the forwarder adds."""
        sent = {**forwarded(**more), **(headers or {})}
        if isinstance(body, bytes):
            sent["Content-Length"] = str(len(body))
            body = io.BytesIO(body)
        async with self.session.post("/public", data=body, headers=sent) as answer:
            return Answer(answer.status, await answer.text(), dict(answer.headers))

    async def poke(self, body: bytes = b"", **signature: Any) -> Answer:
        """A signed request; gzipped when the body is."""
        headers = signed(body, **signature)
        if body[:2] == b"\x1f\x8b":
            headers["Content-Encoding"] = "gzip"
        return await self.send(body, headers, path=signature.get("path", UPDATE_PATH))

    async def refused(self, answer: Answer, status: int, words: str) -> None:
        """The answer must say no in a sentence, and nothing may have changed by it."""
        assert answer.status == status, answer.text
        assert words.lower() in answer.text.lower()
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "Traceback" not in answer.text
        assert len(answer.text) < 1000
        assert self.machine.targets() == self.before
        async with self.session.get("/status") as told:
            data = await told.json()
        assert data["generation"]["current"] == 1
        received = self.machine.state / "received"
        assert not received.exists() or not list(received.iterdir())

    before: dict[str, bytes] = field(default_factory=dict)


@asynccontextmanager
async def strangers(machine: Machine, *, fresh: bool = False) -> AsyncIterator[Stranger]:
    """A daemon whose first generation is in place, with small limits, and somebody outside."""
    machine.extra.setdefault("navigator", {"pid_file": str(machine.folder / "navigator.pid")})
    limits = {"max_body": MOST_SENT, "max_inflated": MOST_INFLATED, "interval": 0.001, "burst": 100}
    machine.extra["trigger"] = {**limits, **machine.extra.get("trigger", {})}
    if not machine.store_index.exists():
        machine.put_index()
    async with machine.daemon() as daemon, machine.client() as session:
        if not fresh:
            async with session.post("/update") as answer:
                assert answer.status == 200
        yield Stranger(machine, daemon, session, machine.targets())


def changed_index(machine: Machine, user: str = "someone-new") -> bytes:
    """The index with another user. The store keeps the one without."""
    other = machine.folder / "other.sqlite3"
    other.write_bytes(machine.store_index.read_bytes())
    add_user(other, user, f"{user}:{HASH}")
    return other.read_bytes()


# What is allowed


async def test_an_unsigned_poke_fetches_what_the_store_holds(machine: Machine) -> None:
    """Without a signature one can ask for a fetch, and gets the run's log."""
    async with strangers(machine) as stranger:
        add_user(machine.store_index, "stored", f"stored:{HASH}")
        answer = await stranger.send()
        assert answer.status == 200
        assert "published generation 2" in answer.text
        assert b"stored:" in machine.targets()["htpasswd"]
        assert "nothing changed" in (await stranger.send()).text


@pytest.mark.parametrize("gzipped", [True, False])
async def test_a_signed_body_is_published(machine: Machine, gzipped: bool) -> None:
    """The index itself, gzipped or not, is taken over with a valid signature."""
    async with strangers(machine) as stranger:
        index = changed_index(machine)
        answer = await stranger.poke(gzip.compress(index) if gzipped else index)
        assert answer.status == 200, answer.text
        assert "received the index" in answer.text
        assert "published generation 2" in answer.text
    assert b"someone-new:" in machine.targets()["htpasswd"]
    with closing(sqlite3.connect(machine.target("index.sqlite3"))) as connection:
        assert connection.execute("select 1 from users where userid = 'someone-new'").fetchone()


async def test_a_chunked_body_is_published(machine: Machine) -> None:
    """A body that was sent in chunks, without its length, is as good."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 5000):
            yield body[start : start + 5000]

    async with strangers(machine) as stranger:
        body = gzip.compress(changed_index(machine))
        answer = await stranger.send(pieces(body), {**signed(body), "Content-Encoding": "gzip"})
        assert answer.status == 200, answer.text
    assert b"someone-new:" in machine.targets()["htpasswd"]


async def test_a_signed_poke_needs_no_body(machine: Machine) -> None:
    """Signed and empty asks for a fetch, as an unsigned one does."""
    async with strangers(machine) as stranger:
        answer = await stranger.poke()
        assert answer.status == 200
        assert "nothing changed" in answer.text


async def test_the_secret_before_is_accepted_while_it_is_replaced(machine: Machine) -> None:
    """With `previous_secret` set, a fleet can change its secret machine by machine."""
    machine.extra["trigger"] = {"previous_secret": OTHER_SECRET}
    async with strangers(machine) as stranger:
        assert (await stranger.poke(secret=OTHER_SECRET)).status == 200
        assert (await stranger.poke()).status == 200


async def test_the_old_path_works_with_a_notice(machine: Machine) -> None:
    """`index_update` does the same for a transition period, and says what to use instead."""
    path = "/showcase/index_update"
    async with strangers(machine) as stranger:
        for answer in (await stranger.send(path=path), await stranger.poke(path=path)):
            assert answer.status == 200
            assert "deprecated: use update_config" in answer.text
            assert answer.headers["Deprecation"] == "true"
        refusal = await stranger.poke(b"x", secret=OTHER_SECRET, path=path)
        assert refusal.status == 401
        assert "deprecated" in refusal.text
        current = await stranger.send()
        assert "deprecated" not in current.text
        assert "Deprecation" not in current.headers


async def test_every_answer_names_the_machine(machine: Machine) -> None:
    """A caller can see which machine of the fleet has answered, also when it refused."""
    async with strangers(machine) as stranger:
        assert (await stranger.send()).headers["Sidecar-Machine"] == "test-machine"
        refusal = await stranger.poke(secret=OTHER_SECRET)
        assert (refusal.status, refusal.headers["Sidecar-Machine"]) == (401, "test-machine")


async def test_a_json_answer_is_one_too(machine: Machine) -> None:
    """Whoever asks for JSON gets JSON, outcome and error alike."""
    async with strangers(machine) as stranger:
        accept = {"Accept": "application/json"}
        good = await stranger.send(headers=accept)
        bad = await stranger.send(headers={**signed(b"x"), **accept})
    for answer in (good, bad):
        assert answer.headers["Content-Type"].startswith("application/json")
    assert '"state":"unchanged"' in good.text
    assert '"code":"body"' in bad.text


# What is refused


async def test_a_wrong_signature_is_refused(machine: Machine) -> None:
    """A signature made with another secret, or over something else, changes nothing."""
    body = b"whatever it is, it is not read"
    async with strangers(machine) as stranger:
        await stranger.refused(await stranger.poke(body, secret=OTHER_SECRET), 401, "signature is wrong")
        for name, value in (
            (signing.SIGNATURE, "v1=" + "0" * 64),
            (signing.SIGNATURE, "é"),
            (signing.SIGNATURE, signed(body)[signing.SIGNATURE].upper()),
            (signing.SIGNATURE, "v1=" + signed(body)[signing.SIGNATURE][3:].upper()),
            (signing.TIMESTAMP, "0"),
            (signing.MACHINE, "test-machine-2"),
            (signing.DIGEST, "0" * 64),
        ):
            answer = await stranger.send(body, {**signed(body), name: value})
            await stranger.refused(answer, 401, "signature is wrong")
        answer = await stranger.send(body, signed(body), path="/showcase/another_path")
        await stranger.refused(answer, 401, "signature is wrong")


async def test_a_signature_without_its_parts_is_refused(machine: Machine) -> None:
    """A lone signature header is no proof."""
    async with strangers(machine) as stranger:
        lone = {signing.SIGNATURE: signed()[signing.SIGNATURE]}
        await stranger.refused(await stranger.send(headers=lone), 401, "signature is wrong")


async def test_a_signature_for_another_machine_is_refused(machine: Machine) -> None:
    """What was signed for one machine works on no other."""
    async with strangers(machine) as stranger:
        answer = await stranger.poke(machine="another-machine")
        await stranger.refused(answer, 401, "for another machine")


@pytest.mark.parametrize("age", [301, 86400, -330])
async def test_an_old_or_future_signature_is_refused(machine: Machine, age: int) -> None:
    """A signature counts for five minutes around its time."""
    async with strangers(machine) as stranger:
        answer = await stranger.poke(age=age)
        await stranger.refused(answer, 401, "300 s away")


@pytest.mark.parametrize("age", [290, -290])
async def test_a_clock_may_be_off_by_some_minutes(machine: Machine, age: int) -> None:
    """Within five minutes a signature is good, in both directions."""
    async with strangers(machine) as stranger:
        assert (await stranger.poke(age=age)).status == 200


@pytest.mark.parametrize("timestamp", ["", "now", "1e9", "²", "-1", " 1777636800 "])
async def test_a_broken_timestamp_is_refused(machine: Machine, timestamp: str) -> None:
    """A signed time that is no time proves nothing."""
    async with strangers(machine) as stranger:
        poke = signing.Poke("POST", UPDATE_PATH, timestamp, "test-machine", signed()[signing.DIGEST])
        headers = signing.headers(poke, machine.settings().trigger.secret)
        answer = await stranger.send(headers=headers)
        assert answer.status == 401
        await stranger.refused(answer, 401, "signature")


async def test_a_signature_counts_once(machine: Machine) -> None:
    """The same signature again is refused, also by a daemon that was started anew."""
    async with strangers(machine) as stranger:
        headers = signed()
        assert (await stranger.send(headers=headers)).status == 200
        await stranger.refused(await stranger.send(headers=headers), 401, "used before")
    async with strangers(machine) as stranger:
        await stranger.refused(await stranger.send(headers=headers), 401, "used before")
        assert (await stranger.poke()).status == 200


async def test_a_signature_counts_once_even_at_once(machine: Machine) -> None:
    """Of many copies sent together exactly one is accepted."""
    async with strangers(machine) as stranger:
        headers = signed()
        answers = await asyncio.gather(*(stranger.send(headers=headers) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 19


@pytest.mark.parametrize("kept", ["signature", "body"])
async def test_a_slow_disk_holds_up_one_signed_poke_only(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """While the disk takes long with a signature, or with what came with it, everybody else is answered."""
    asked, answers, waited = threading.Event(), threading.Event(), list[bool]()
    sync, write = os.fsync, IncomingFile.write

    def wait() -> None:
        asked.set()
        waited.append(answers.wait(10))

    def slow_sync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == machine.state / "signatures":
            wait()
        sync(descriptor)

    def slow_write(file: IncomingFile, chunk: bytes) -> None:
        if file._target.parent == machine.state / "received":
            wait()
        write(file, chunk)

    async with strangers(machine) as one:
        body = gzip.compress(changed_index(machine))
        if kept == "signature":
            monkeypatch.setattr(os, "fsync", slow_sync)
        else:
            monkeypatch.setattr(IncomingFile, "write", slow_write)
        poke = asyncio.create_task(one.poke(body))
        await until(asked.is_set)
        assert (await one.send()).status == 200
        answers.set()
        assert (await poke).status == 200
        assert all(waited), "the loop stood still, and nobody could say that the disk has it"


async def test_a_body_without_a_signature_is_a_plain_poke(machine: Machine) -> None:
    """Nobody unknown brings data: a body is not read, whatever it is, and the store's index is fetched."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a piece"

    async with strangers(machine) as stranger:
        index = changed_index(machine)
        for body in (index, gzip.compress(index), pieces(), b"x" * (4 * MOST_SENT)):
            answer = await stranger.send(body)
            assert answer.status == 200, answer.text
            assert "The body was not read" in answer.text
            assert "nothing changed" in answer.text
        assert machine.targets() == stranger.before
        assert not (machine.state / "received").exists()
        assert "The body was not read" not in (await stranger.send()).text
        add_user(machine.store_index, "stored", f"stored:{HASH}")
        assert (await stranger.send(index)).status == 200
    assert b"stored:" in machine.targets()["htpasswd"]
    assert b"someone-new:" not in machine.targets()["htpasswd"]


async def test_what_a_poke_with_a_body_announced_is_looked_for_again(machine: Machine) -> None:
    """The application stores the index and pokes at once: a store that serves it later is believed, too."""
    async with strangers(machine) as stranger:
        answer = await stranger.send(changed_index(machine))
        assert "nothing changed" in answer.text
        add_user(machine.store_index, "stored", f"stored:{HASH}")
        await until(lambda: b"stored:" in machine.targets()["htpasswd"])


async def test_a_body_without_a_signature_is_not_waited_for(machine: Machine) -> None:
    """A stranger who announces a body and never sends it gets the answer all the same."""
    async with strangers(machine):
        reader, writer = await asyncio.open_unix_connection(machine.socket)
        headers = {**forwarded(), "Host": "sidecar", "Content-Length": "1000"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST /public HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(10):
            assert b" 200 OK\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()


async def test_a_signed_body_that_does_not_come_is_given_up(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may send one does not keep the daemon waiting for it either; nothing is left of its half."""
    monkeypatch.setattr(public, "_BODY_SECONDS", 0.2)  # as shipped, a hundred seconds
    async with strangers(machine) as stranger:

        async def half() -> AsyncIterator[bytes]:
            yield b"x" * 500
            await asyncio.Event().wait()

        body = half()
        async with asyncio.timeout(20):
            answer = await stranger.send(body, signed(b"x" * 1000))
        await stranger.refused(answer, 408, "did not come within")


async def test_an_expected_digest_without_a_signature_is_refused(machine: Machine) -> None:
    """Nobody unknown makes the daemon wait for something."""
    async with strangers(machine) as stranger:
        answer = await stranger.send(path=f"{UPDATE_PATH}?sha256={'0' * 64}")
        await stranger.refused(answer, 401, "must be signed")


@pytest.mark.parametrize("digest", ["0" * 63, "0" * 65, "g" * 64, "%00"])
async def test_an_expected_digest_that_is_none_is_refused(machine: Machine, digest: str) -> None:
    """What cannot be a SHA-256 is not waited for."""
    async with strangers(machine) as stranger:
        answer = await stranger.poke(path=f"{UPDATE_PATH}?sha256={digest}")
        await stranger.refused(answer, 400, "SHA-256")


async def test_an_expected_digest_may_be_in_capitals(machine: Machine) -> None:
    """Hexadecimal digits have no case."""
    async with strangers(machine) as stranger:
        async with stranger.session.get("/status") as answer:
            digest = (await answer.json())["index"]["sha256"]
        poke = await stranger.poke(path=f"{UPDATE_PATH}?sha256={digest.upper()}")
        assert poke.status == 200


async def test_an_altered_body_is_refused(machine: Machine) -> None:
    """A body that is not the signed one is refused, whichever byte differs; so is half of it, and none."""
    async with strangers(machine) as stranger:
        body = gzip.compress(changed_index(machine))
        altered = bytearray(body)
        altered[4] ^= 1  # gzip's own date, which inflates to the same
        for sent in (bytes(altered), body[:-1], body + b"\0", b""):
            headers = {**signed(body), "Content-Encoding": "gzip"}
            answer = await stranger.send(sent, headers)
            assert answer.status in (400, 401)
            await stranger.refused(answer, answer.status, "")
            assert answer.status == 401 or "behind the gzipped body" in answer.text


async def test_an_oversized_body_is_refused(machine: Machine) -> None:
    """A body above the limit is refused, its length told or not; one of exactly the limit is read."""
    huge = os.urandom(MOST_SENT + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(huge), 1 << 16):
            yield huge[start : start + (1 << 16)]

    async with strangers(machine) as stranger:
        await stranger.refused(await stranger.poke(huge), 413, f"larger than {MOST_SENT} bytes")
        answer = await stranger.send(pieces(), signed(huge))
        await stranger.refused(answer, 413, f"larger than {MOST_SENT} bytes")
        answer = await stranger.poke(huge[:-1])
        await stranger.refused(answer, 422, "not an SQLite database")


async def test_an_exploding_body_is_refused(machine: Machine) -> None:
    """A small body that inflates beyond the limit is refused on the way."""
    async with strangers(machine) as stranger:
        bomb = gzip.compress(bytes(20 << 20), 9)
        assert len(bomb) < MOST_SENT
        await stranger.refused(await stranger.poke(bomb), 413, f"more than {MOST_INFLATED} bytes")


async def test_a_body_inflates_in_pieces_beside_the_loop(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far a small chunk inflates: little of it is in memory at once, and nobody waits meanwhile."""
    pieces: list[tuple[int, int]] = []
    keep = public._Body._keep

    def note(body: public._Body, data: bytes) -> None:
        pieces.append((len(data), threading.get_ident()))
        keep(body, data)

    monkeypatch.setattr(public._Body, "_keep", note)
    async with strangers(machine) as stranger:
        body = gzip.compress(bytes(MOST_INFLATED))
        await stranger.refused(await stranger.poke(body), 422, "not an SQLite database")
    assert sum(size for size, _ in pieces) == MOST_INFLATED
    assert max(size for size, _ in pieces) <= 1 << 20
    assert threading.get_ident() not in {thread for _, thread in pieces}


async def test_a_body_that_the_disk_refuses_is_told(machine: Machine) -> None:
    """A full disk costs an answer that says so, not an error of the daemon's; the next body is taken."""
    async with strangers(machine) as stranger:
        received = machine.state / "received"
        received.mkdir()
        (received / "index-1").symlink_to("/dev/full")
        await stranger.refused(await stranger.poke(changed_index(machine)), 507, "No space left on device")
        assert not (received / "index-1").is_symlink()
        assert (await stranger.poke(changed_index(machine))).status == 200


async def test_a_truncated_body_is_refused(machine: Machine) -> None:
    """A gzip stream that ends too soon is refused, wherever it breaks off."""
    async with strangers(machine) as stranger:
        body = gzip.compress(changed_index(machine))
        for length in (2, 10, len(body) // 2, len(body) - 8, len(body) - 1):
            answer = await stranger.poke(body[:length])
            await stranger.refused(answer, 400, "breaks off")


async def test_garbage_behind_a_body_is_refused(machine: Machine) -> None:
    """Nothing may follow the gzip stream, not even another one."""
    async with strangers(machine) as stranger:
        body = gzip.compress(changed_index(machine))
        await stranger.refused(await stranger.poke(body + b"?"), 400, "behind the gzipped body")
        await stranger.refused(await stranger.poke(body + body), 400, "behind the gzipped body")


async def test_a_damaged_gzip_stream_is_refused(machine: Machine) -> None:
    """A stream whose check sum does not fit is refused."""
    async with strangers(machine) as stranger:
        body = bytearray(gzip.compress(changed_index(machine)))
        body[-5] ^= 1
        await stranger.refused(await stranger.poke(bytes(body)), 400, "not gzip")


async def test_random_bytes_are_refused(machine: Machine) -> None:
    """Neither as gzip nor as an index do random bytes get anywhere."""
    async with strangers(machine) as stranger:
        noise = os.urandom(50_000)
        headers = {**signed(noise), "Content-Encoding": "gzip"}
        await stranger.refused(await stranger.send(noise, headers), 400, "not gzip")
        await stranger.refused(await stranger.poke(noise), 422, "not an SQLite database")
        await stranger.refused(await stranger.poke(gzip.compress(noise)), 422, "not an SQLite database")
        await stranger.refused(await stranger.poke(gzip.compress(b"")), 422, "not an SQLite database")


async def test_another_database_is_refused(machine: Machine) -> None:
    """An SQLite file without the tables, or without a column, is not the index."""
    async with strangers(machine) as stranger:
        other = machine.folder / "other.sqlite3"
        with closing(sqlite3.connect(other)) as connection:
            connection.execute("create table pets (name text)")
        await stranger.refused(await stranger.poke(other.read_bytes()), 422, "no table")
        other.write_bytes(machine.store_index.read_bytes())
        with closing(sqlite3.connect(other)) as connection:
            connection.execute("alter table users drop column password")
        await stranger.refused(await stranger.poke(other.read_bytes()), 422, "lacks the columns password")


async def test_a_damaged_database_is_refused(machine: Machine) -> None:
    """A database with overwritten pages is not taken over."""
    async with strangers(machine) as stranger:
        body = bytearray(changed_index(machine))
        body[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
        await stranger.refused(await stranger.poke(bytes(body)), 422, "index")


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x"])
async def test_an_unknown_encoding_is_refused(machine: Machine, encoding: str) -> None:
    """Only gzip, or nothing, is understood."""
    async with strangers(machine) as stranger:
        answer = await stranger.send(b"body", {**signed(b"body"), "Content-Encoding": encoding})
        await stranger.refused(answer, 415, "encoding is not understood")


@pytest.mark.parametrize("encoding", ["GZIP", " gzip "])
async def test_an_encodings_name_has_no_case(machine: Machine, encoding: str) -> None:
    """`GZIP` is gzip."""
    async with strangers(machine) as stranger:
        body = gzip.compress(changed_index(machine))
        assert (await stranger.send(body, {**signed(body), "Content-Encoding": encoding})).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "", "post"])
async def test_another_method_is_refused(machine: Machine, method: str) -> None:
    """Navigator hands on other methods to others; should one come all the same, it does nothing."""
    async with strangers(machine) as stranger:
        await stranger.refused(await stranger.send(method=method), 405, "only POST")


async def test_a_body_and_another_expected_digest_are_refused(machine: Machine) -> None:
    """A request that brings one index and names another contradicts itself."""
    async with strangers(machine) as stranger:
        answer = await stranger.poke(changed_index(machine), path=f"{UPDATE_PATH}?sha256={'0' * 64}")
        await stranger.refused(answer, 400, "whose digest the path names")


async def test_without_a_secret_nothing_signed_is_accepted(machine: Machine) -> None:
    """A machine without a secret takes unsigned pokes only; an empty secret signs nothing."""
    machine.extra["trigger"] = {"secret": ""}
    async with strangers(machine) as stranger:
        await stranger.refused(await stranger.poke(secret=""), 401, "no secret")
        assert (await stranger.send()).status == 200


async def test_the_path_is_not_there_on_tcp(machine: Machine) -> None:
    """What the forwarder brings comes through the Unix socket; on TCP the path does not exist."""
    async with strangers(machine) as stranger, aiohttp.ClientSession(stranger.daemon.server.url) as tcp:
        for headers in (forwarded(), {**forwarded(), **signed()}):
            async with tcp.post("/public", headers=headers) as answer:
                text = await answer.text()
                await stranger.refused(Answer(answer.status, text, dict(answer.headers)), 404, "nothing here")
        assert (await stranger.poke()).status == 200  # nor was the signature used up


async def test_a_refused_body_frees_the_daemon_for_the_next(machine: Machine) -> None:
    """After any number of refusals the trigger works, and no received file is left."""
    async with strangers(machine) as stranger:
        for _ in range(10):
            await stranger.poke(os.urandom(1000))
            await stranger.send(os.urandom(1000))
        body = gzip.compress(changed_index(machine))
        assert (await stranger.poke(body)).status == 200
        assert list((machine.state / "received").iterdir()) == []


async def test_bodies_of_a_killed_daemon_are_removed_at_the_start(machine: Machine) -> None:
    """What was on its way in when a daemon was killed does not stay on the disk."""
    received = machine.state / "received"
    received.mkdir(parents=True)
    (received / "index-7").write_bytes(b"half a body")
    async with machine.daemon():
        assert list(received.iterdir()) == []


@pytest.mark.parametrize("signature", [True, False])
@pytest.mark.parametrize("chunks", [True, False])
async def test_a_client_that_goes_away_leaves_no_trace(
    machine: Machine, caplog: pytest.LogCaptureFixture, signature: bool, chunks: bool
) -> None:
    """Whoever breaks off in the middle of a body changes nothing, and fills no log with tracebacks."""
    body = gzip.compress(machine.put_index().read_bytes())
    headers = {**forwarded(), **(signed(body) if signature else {}), "Host": "sidecar"}
    headers |= {"Transfer-Encoding": "chunked"} if chunks else {"Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with strangers(machine) as stranger:
        _, writer = await asyncio.open_unix_connection(machine.socket)
        writer.write(f"POST /public HTTP/1.1\r\n{head}\r\n".encode())
        if signature:
            writer.write(b"100\r\n" + body[:200] if chunks else body[:200])
        await writer.drain()
        if signature:
            await until(lambda: list((machine.state / "received").glob("*")))
        else:
            assert (await stranger.send()).status == 200  # came later, so that one is being read
        writer.close()
        await writer.wait_closed()
        if signature:
            await until(lambda: not list((machine.state / "received").glob("*")))
        assert (await stranger.send()).status == 200
        assert machine.targets() == stranger.before
    assert not [record for record in caplog.records if record.exc_info]


# What the public learns


NAME = "zz-recognisable-name"


def with_recognisable_users(machine: Machine) -> None:
    """Users whose names must not get out: a sound one, and one whose row gives a warning."""
    machine.put_index()
    add_user(machine.store_index, NAME, f"{NAME}:{HASH}")
    add_user(machine.store_index, f"{NAME}-bad", f"{NAME}-bad:$apr1$broken")


@pytest.mark.parametrize("accept", ["text/plain", "application/json", "text/event-stream", "*/*"])
async def test_public_answers_name_no_user(machine: Machine, accept: str) -> None:
    """Neither changes nor warnings tell the public a user's name, though administrators see it."""
    with_recognisable_users(machine)
    headers = {"Accept": accept}
    async with strangers(machine, fresh=True) as stranger:
        texts = [await stranger.send(headers=headers)]
        set_password(machine.store_index, NAME, f"{NAME}:{HASH[:-2]}B=")
        async with stranger.session.get("/preview", headers={"Accept": "application/json"}) as preview:
            assert NAME in await preview.text()  # so it would be there to tell
        texts.append(await stranger.send(headers=headers))
        index = machine.store_index.read_bytes()
        texts.append(await stranger.send(index, {**signed(index), **headers}))
        machine.store_index.write_bytes(b"")
        texts.append(await stranger.send(headers=headers))
    assert [answer.status for answer in texts] == [200, 200, 200, 422]
    for answer in texts:
        assert NAME not in answer.text
        assert "apr1" not in answer.text


async def test_public_answers_do_not_quote_the_check_command(machine: Machine) -> None:
    """What the operator's own command prints, which may be anything, is for administrators only."""
    with_recognisable_users(machine)
    machine.extra["update"] = {"check_command": ["/bin/sh", "-c", "grep recognisable htpasswd; exit 1"]}
    async with strangers(machine, fresh=True) as stranger:
        answer = await stranger.send()
        assert answer.status == 422
        assert "(veto)" in answer.text
        assert NAME not in answer.text


async def test_strangers_learn_of_a_failure_no_more_than_its_code(machine: Machine) -> None:
    """Paths, keys and hints are for whoever signs, or is an administrator."""
    async with strangers(machine) as stranger:
        machine.store_index.unlink()
        for accept in ("text/plain", "application/json"):
            answer = await stranger.send(headers={"Accept": accept})
            assert answer.status == 502
            assert "store_missing" in answer.text
            assert str(machine.folder) not in answer.text
            trusted = await stranger.send(headers={**signed(), "Accept": accept})
            assert trusted.status == 502
            assert str(machine.store_index) in trusted.text


async def test_public_answers_tell_no_secret(machine: Machine) -> None:
    """No answer helps to guess: neither the secret nor a right signature is in any."""
    async with strangers(machine) as stranger:
        right = signed(b"x")[signing.SIGNATURE]
        texts = [
            (await stranger.poke(b"x", secret=OTHER_SECRET)).text,
            (await stranger.send(b"x", {**signed(b"x"), signing.SIGNATURE: "v1=0"})).text,
            (await stranger.poke()).text,
        ]
    for text in texts:
        assert machine.settings().trigger.secret not in text
        assert right not in text
        assert right.removeprefix("v1=") not in text


# Many pokes


async def test_unsigned_pokes_are_put_off_but_not_refused(machine: Machine) -> None:
    """After the burst an unsigned poke waits for its turn; a trusted one does not, and takes it along."""
    machine.extra["trigger"] = {"interval": "1h", "burst": 1}
    async with strangers(machine) as stranger:
        assert (await stranger.send()).status == 200
        put_off = [asyncio.create_task(stranger.send()) for _ in range(5)]
        await until(lambda: stranger.daemon.worker.waiting == 5)
        async with stranger.session.get("/preview") as preview:
            assert preview.status == 200  # a run of its own, which nothing keeps from starting
        assert not any(poke.done() for poke in put_off)
        async with stranger.session.post("/update") as answer:
            assert answer.status == 200
        answers = await asyncio.gather(*put_off)
    assert [answer.status for answer in answers] == [200] * 5
    assert all("nothing changed" in answer.text for answer in answers)


async def test_a_signed_body_does_not_wait_for_the_throttle(machine: Machine) -> None:
    """Who can sign is no stranger: the throttle is not for them."""
    machine.extra["trigger"] = {"interval": "1h", "burst": 1}
    async with strangers(machine) as stranger:
        assert (await stranger.send()).status == 200
        assert (await stranger.poke(changed_index(machine))).status == 200
        assert (await stranger.poke()).status == 200


async def test_the_throttle_lets_pokes_through_again(machine: Machine) -> None:
    """Unsigned pokes one after the other, faster than allowed, are all answered in the end."""
    machine.extra["trigger"] = {"interval": "50ms", "burst": 2}
    async with strangers(machine) as stranger:
        for _ in range(6):
            assert (await stranger.send()).status == 200


async def test_too_many_waiting_pokes_are_told_to_come_back(machine: Machine) -> None:
    """Above the limit of waiting requests the answer is 503 with Retry-After, at once."""
    machine.extra["trigger"] = {"interval": "1h", "burst": 1}
    machine.extra["update"] = {"waiting": 3}
    async with strangers(machine) as stranger:
        assert (await stranger.send()).status == 200
        put_off = [asyncio.create_task(stranger.send()) for _ in range(3)]
        await until(lambda: stranger.daemon.worker.waiting == 3)
        answer = await stranger.send()
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        for poke in put_off:
            poke.cancel()
        await asyncio.gather(*put_off, return_exceptions=True)
    assert sorted(machine.targets()) == sorted(NAMES)
