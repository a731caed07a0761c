"""The HTTP interface on the Unix socket and on TCP: who may do what, in which form, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import os
import re
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import bcrypt
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from sidecar import __version__
from sidecar.daemon import Daemon
from sidecar.demo.sample import add_user, set_password
from sidecar.errors import Busy, SettingsError
from sidecar.model.stream import StreamEvent
from sidecar.web.server import unix_socket
from tests.support.cgi import forwarded, signed
from tests.support.machine import QUIET_START, SECRET, Machine, until

PASSWORD = "correct horse battery staple"
HASH = "{SHA}" + "A" * 27 + "="

OPEN = [("GET", "/status"), ("GET", "/metrics"), ("GET", "/healthz"), ("GET", "/readyz")]
GUARDED = [
    ("POST", "/update"),
    ("GET", "/preview"),
    ("POST", "/rollback"),
    ("GET", "/generations"),
    ("GET", "/generations/1"),
    ("GET", "/events"),
]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def kind(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Site:
    """A running daemon, and clients on both of its addresses."""

    machine: Machine
    daemon: Daemon
    unix: aiohttp.ClientSession
    tcp: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, *, over: str = "unix", data: Any = None, **headers: str
    ) -> Answer:
        session = self.tcp if over == "tcp" else self.unix
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.request(method, path, headers=sent, data=data) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())


@asynccontextmanager
async def running(machine: Machine) -> AsyncIterator[Site]:
    """A daemon on a machine whose store has an index, beside a Navigator that loads nothing by itself.

    Nothing is published but by the test itself, which counts runs and generations.
    """
    machine.extra["update"] = {**QUIET_START, **machine.extra.get("update", {})}
    machine.extra.setdefault("navigator", {"pid_file": str(machine.folder / "navigator.pid")})
    if not machine.store_index.exists():
        machine.put_index()
    machine.live()
    async with (
        machine.daemon() as daemon,
        machine.client() as unix,
        aiohttp.ClientSession(daemon.server.url) as tcp,
    ):
        yield Site(machine, daemon, unix, tcp)


def with_administrator(machine: Machine) -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    machine.extra["administrators"] = {"admin": hashed}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def load(site: Site) -> None:
    """Do what Navigator's first ready hook does after a load: leave the marker."""
    site.machine.load()
    async with asyncio.timeout(10):
        while True:
            if (await site.ask("GET", "/readyz")).status == 200:
                return


def check_error(answer: Answer, status: int, code: str) -> None:
    """An error as JSON: a code for machines, a sentence and a hint for people."""
    assert answer.status == status, answer.text
    assert answer.kind == "application/json"
    assert answer.json.keys() == {"error"}
    error = answer.json["error"]
    assert error.keys() >= {"code", "message", "hint"}
    assert error["code"] == code
    assert error["message"]
    assert "Traceback" not in answer.text


# The form of an answer

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"
NEGOTIATED = [
    ("GET", "/status", {None: JSON, "*/*": JSON, JSON: JSON, TEXT: TEXT, "text/*": TEXT, "image/png": JSON}),
    ("GET", "/generations", {None: JSON, JSON: JSON, TEXT: TEXT, "text/plain, application/json;q=0.9": TEXT}),
    ("GET", "/generations/1", {None: JSON, JSON: JSON, TEXT: TEXT}),
    ("GET", "/preview", {None: TEXT, TEXT: TEXT, JSON: JSON, "application/*": JSON}),
    (
        "POST",
        "/update",
        {
            None: TEXT,
            "*/*": TEXT,
            TEXT: TEXT,
            JSON: JSON,
            EVENTS: EVENTS,
            "text/event-stream, application/json;q=0.5": EVENTS,
            "text/plain;q=0.1, application/json": JSON,
            "application/json;q=0, text/plain": TEXT,
        },
    ),
    ("GET", "/healthz", {None: TEXT, JSON: JSON, TEXT: TEXT}),
    ("GET", "/readyz", {None: TEXT, JSON: JSON, TEXT: TEXT}),
    (
        "GET",
        "/metrics",
        {None: TEXT, TEXT: TEXT, "application/openmetrics-text": "application/openmetrics-text"},
    ),
]


@pytest.mark.parametrize(("method", "path", "wanted"), NEGOTIATED)
async def test_an_answer_has_the_form_that_was_asked_for(
    machine: Machine, method: str, path: str, wanted: dict[str | None, str]
) -> None:
    """Every endpoint answers in the form that Accept names, and in its own when that names none it has."""
    async with running(machine) as site:
        await site.ask("POST", "/update")
        await load(site)
        for accept, kind in wanted.items():
            answer = await site.ask(method, path, **({} if accept is None else {"Accept": accept}))
            assert (answer.status, answer.kind) == (200, kind), accept
            if kind == JSON:
                assert answer.json is not None


@pytest.mark.parametrize(
    "accept",
    ["", ";", ",,,", "application/json;q=", "application/json;q=x", "*/*;q=nan", "a/b;q=inf", "x" * 5000],
)
async def test_a_strange_accept_header_does_no_harm(machine: Machine, accept: str) -> None:
    """Whatever a client writes there, it gets an answer."""
    async with running(machine) as site:
        assert (await site.ask("GET", "/status", Accept=accept)).status == 200
        assert (await site.ask("POST", "/update", Accept=accept)).status == 200


async def test_the_history_as_text_is_for_people(machine: Machine) -> None:
    """A run a line, with a date that can be read, in the list and for one generation."""
    async with running(machine) as site:
        await site.ask("POST", "/update")
        for path in ("/generations", "/generations/1"):
            line = (await site.ask("GET", path, Accept=TEXT)).text.splitlines()[0]
            assert re.match(r"1 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC published generation 1 by socket", line)


async def test_errors_have_the_form_that_was_asked_for(machine: Machine) -> None:
    """An error is JSON with code, message and hint, or plain text that says the same."""
    async with running(machine) as site:
        check_error(await site.ask("GET", "/nowhere", Accept=JSON), 404, "not_found")
        check_error(await site.ask("POST", "/status", Accept=JSON), 405, "method_not_allowed")
        check_error(await site.ask("POST", "/update?trigger=nobody", Accept=JSON), 400, "bad_request")
        check_error(await site.ask("GET", "/readyz", Accept=JSON), 503, "not_ready")
        check_error(await site.ask("GET", "/generations/77", Accept=JSON), 404, "not_found")
        check_error(await site.ask("POST", "/rollback", Accept=JSON, data=b"?"), 400, "bad_request")
        for path in ("/nowhere", "/readyz", "/generations/77"):
            answer = await site.ask("GET", path, Accept=TEXT)
            assert answer.kind == TEXT
            assert answer.text.strip()


async def test_a_wrong_method_names_the_right_one(machine: Machine) -> None:
    """405 comes with Allow."""
    async with running(machine) as site:
        for method, path, right in (
            ("GET", "/update", "POST"),
            ("DELETE", "/status", "GET"),
            ("POST", "/metrics", "GET"),
            ("GET", "/public", "POST"),
        ):
            answer = await site.ask(method, path)
            assert answer.status == 405
            assert right in answer.headers["Allow"]


async def test_a_refused_update_says_why_in_both_forms(machine: Machine) -> None:
    """The outcome of a run that failed has the fitting status, its log, and what to do."""
    async with running(machine) as site:
        machine.store_index.write_bytes(b"no database")
        text = await site.ask("POST", "/update")
        assert text.status == 422
        assert "not an SQLite database" in text.text
        assert "What to do:" in text.text
        data = await site.ask("POST", "/update", Accept=JSON)
        assert data.status == 422
        assert data.json["error"].keys() == {"code", "message", "hint", "status"}


@pytest.mark.parametrize("number", ["0", "-1", "1000000001", "9" * 400, "1.5", "true", "null", '"1"'])
async def test_a_number_that_no_generation_has_is_refused(machine: Machine, number: str) -> None:
    """What cannot be a generation's number is told so, before anything runs."""
    async with running(machine) as site:
        answer = await site.ask("POST", "/rollback", Accept=JSON, data=f'{{"generation": {number}}}')
        check_error(answer, 400, "bad_request")
        assert (await site.ask("GET", "/status")).json["last"] is None


async def test_no_failure_shows_a_traceback(machine: Machine) -> None:
    """Even when the state folder vanishes under the daemon, answers are sentences with a fitting status."""
    async with running(machine) as site:
        await site.ask("POST", "/update")
        before = machine.targets()
        machine.state.rename(machine.folder / "gone")
        machine.state.write_text("in the way")
        requests = [("POST", "/update"), ("GET", "/preview"), ("GET", "/generations"), ("POST", "/public")]
        for method, path in requests:
            for accept in (TEXT, JSON):
                answer = await site.ask(method, path, Accept=accept, **forwarded(), **signed())
                assert answer.kind == accept
                assert "Traceback" not in answer.text
                assert 'File "' not in answer.text
                assert path == "/generations" or answer.status >= 400
        assert machine.targets() == before
        assert (await site.ask("GET", "/status")).status == 200


# Who may do what


async def test_without_administrators_tcp_changes_nothing(machine: Machine) -> None:
    """With no administrators configured, what needs one is forbidden on TCP, and the hint says what to do."""
    async with running(machine) as site:
        for method, path in GUARDED:
            answer = await site.ask(method, path, over="tcp", Accept=JSON)
            check_error(answer, 403, "no_administrators")
            assert "hash-password" in answer.text
        assert machine.targets() == {}


async def test_a_wrong_password_is_refused(machine: Machine) -> None:
    """Whoever is no administrator gets 401 and is asked to sign in, however the proof is spoilt."""
    with_administrator(machine)
    proofs = [
        None,
        basic("admin", "wrong"),
        basic("admin", ""),
        basic("nobody", PASSWORD),
        basic("", ""),
        basic("admin", PASSWORD.upper()),
        f"Bearer {PASSWORD}",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        basic("admin", "x" * 500),
        basic("admin", "null\0byte"),
    ]
    async with running(machine) as site:
        for method, path in GUARDED:
            answer = await site.ask(method, path, over="tcp", Accept=JSON)
            check_error(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        for proof in proofs:
            headers = {} if proof is None else {"Authorization": proof}
            answer = await site.ask("POST", "/update", over="tcp", Accept=JSON, **headers)
            check_error(answer, 401, "unauthorized")
        assert machine.targets() == {}


async def test_an_administrator_may_do_everything(machine: Machine) -> None:
    """With the right password everything works on TCP, and the records say who it was."""
    with_administrator(machine)
    proof = {"Authorization": basic("admin", PASSWORD)}
    async with running(machine) as site:
        answer = await site.ask("POST", "/update", over="tcp", Accept=JSON, **proof)
        assert (answer.status, answer.json["state"], answer.json["who"]) == (200, "published", "admin")
        assert answer.json["trigger"] == "http"
        for path in ("/preview", "/generations"):
            assert (await site.ask("GET", path, over="tcp", **proof)).status == 200
        # After a right one a wrong one still is wrong.
        wrong = {"Authorization": basic("admin", "wrong")}
        assert (await site.ask("POST", "/update", over="tcp", **wrong)).status == 401


async def test_a_password_in_another_script_works(machine: Machine) -> None:
    """Names and passwords are UTF-8, and what bcrypt ignores beyond 72 bytes does no harm."""
    password = "пароль" * 10
    hashed = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()
    machine.extra["administrators"] = {"Алиса": hashed}
    async with running(machine) as site:
        proof = basic("Алиса", password)
        assert (await site.ask("POST", "/update", over="tcp", Authorization=proof)).status == 200


async def test_the_unix_socket_needs_no_password(machine: Machine) -> None:
    """Whoever may open the socket is trusted, and recorded by the kernel's word for who it is."""
    async with running(machine) as site:
        answer = await site.ask("POST", "/update", Accept=JSON)
        assert answer.status == 200
        assert answer.json["trigger"] == "socket"
        assert f"(process {os.getpid()})" in answer.json["who"]


@pytest.mark.parametrize("administrators", [True, False])
async def test_status_and_metrics_are_open(machine: Machine, administrators: bool) -> None:
    """Status, metrics and health need nobody's password, with administrators or without."""
    if administrators:
        with_administrator(machine)
    async with running(machine) as site:
        await site.ask("POST", "/update")
        await load(site)
        for method, path in OPEN:
            assert (await site.ask(method, path, over="tcp")).status == 200


async def test_another_site_cannot_use_an_administrators_browser(machine: Machine) -> None:
    """A request that another site made a browser send is refused, the right password notwithstanding."""
    with_administrator(machine)
    proof = {"Authorization": basic("admin", PASSWORD)}
    async with running(machine) as site:
        for origin in ("cross-site", "same-site", "anything else"):
            for method, path in GUARDED:
                answer = await site.ask(method, path, over="tcp", Accept=JSON, Sec_Fetch_Site=origin, **proof)
                check_error(answer, 403, "cross_site")
        assert machine.targets() == {}
        for origin in ("none", "same-origin"):
            answer = await site.ask("POST", "/update", over="tcp", Sec_Fetch_Site=origin, **proof)
            assert answer.status == 200


async def test_open_answers_name_no_user(machine: Machine) -> None:
    """What anyone may read on TCP has no user's name in it."""
    machine.put_index()
    add_user(machine.store_index, "zz-recognisable", f"zz-recognisable:{HASH}")
    add_user(machine.store_index, "zz-bad", "zz-bad:$apr1$broken")
    async with running(machine) as site:
        answer = await site.ask("POST", "/update", Accept=JSON)
        assert any("zz-bad" in warning for warning in answer.json["warnings"])
        await load(site)
        set_password(machine.store_index, "zz-recognisable", f"zz-recognisable:{HASH[:-2]}B=")
        machine.target("htpasswd").write_text("zz-somebody:else\n")
        await site.ask("POST", "/update")
        for method, path in OPEN:
            for accept in (JSON, TEXT):
                assert "zz-" not in (await site.ask(method, path, over="tcp", Accept=accept)).text


# Addresses


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
async def test_the_socket_has_its_mode_from_the_start(tmp_path: Path, mode: int) -> None:
    """Between bind and listen nobody can be faster: the mode is right before anyone can connect."""
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            bound = unix_socket(tmp_path / "s.sock", mode)
            assert os.umask(umask) == umask  # and the process's own is as it was
        finally:
            os.umask(before)
        with bound:
            assert stat.S_IMODE((tmp_path / "s.sock").stat().st_mode) == mode
            with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
                probe.connect(str(tmp_path / "s.sock"))
        (tmp_path / "s.sock").unlink()


async def test_the_daemons_socket_is_for_its_group(machine: Machine) -> None:
    """The daemon's socket has the mode 0660 unless the settings say otherwise."""
    async with running(machine):
        assert stat.S_IMODE(machine.socket.stat().st_mode) == 0o660
    machine.extra["listen"] = {"socket_mode": "0600"}
    async with running(machine):
        assert stat.S_IMODE(machine.socket.stat().st_mode) == 0o600


async def start(machine: Machine) -> None:
    async with machine.daemon():
        pass


async def test_a_second_daemon_is_told_that_there_is_one(machine: Machine, tmp_path: Path) -> None:
    """Beside a running daemon none starts on the same state or socket; the first notices nothing."""
    other = Machine(tmp_path / "other")
    other.put_index()
    async with running(machine) as site:
        with pytest.raises(Busy, match="holds"):
            await start(machine)
        other.extra = {"listen": {"socket": str(machine.socket)}}
        with pytest.raises(Busy, match="another process listens"):
            await start(other)
        gc.collect()  # what a failed start left open would complain now
        assert not other.socket.exists()
        assert (await site.ask("POST", "/update")).status == 200
        assert (await site.ask("GET", "/healthz", over="tcp")).status == 200
    await start(machine)  # and once it is gone there is room


async def test_a_dead_daemons_socket_is_replaced(machine: Machine) -> None:
    """A socket that a killed daemon left behind is no obstacle."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(machine.socket))
    left.close()
    assert machine.socket.is_socket()
    async with running(machine) as site:
        assert (await site.ask("GET", "/healthz")).status == 200


async def test_a_busy_daemons_socket_is_its_own(machine: Machine) -> None:
    """Whoever has no room for another caller listens all the same: the socket stays."""
    machine.put_index()
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as caller:
        living.bind(str(machine.socket))
        living.listen(0)
        caller.connect(str(machine.socket))
        with pytest.raises(Busy, match="another process listens"):
            await start(machine)
    assert machine.socket.is_socket()


async def test_a_file_in_the_sockets_place_is_kept(machine: Machine) -> None:
    """What is no socket is somebody's file: it stays, and the setting is named."""
    machine.socket.write_text("precious")
    machine.put_index()
    with pytest.raises(SettingsError, match=r"listen\.socket"):
        await start(machine)
    gc.collect()
    assert machine.socket.read_text() == "precious"


async def test_a_socket_path_that_is_too_long_is_explained(machine: Machine) -> None:
    """The kernel allows 107 bytes; the error says what is wrong with the path."""
    machine.extra["listen"] = {"socket": str(machine.folder / ("x" * 120))}
    with pytest.raises(SettingsError, match=r"listen\.socket.*too long"):
        await start(machine)
    gc.collect()


async def test_tcp_can_be_turned_off(machine: Machine) -> None:
    """Without TCP there is the Unix socket alone."""
    machine.extra["listen"] = {"tcp": False}
    async with machine.daemon() as daemon, machine.client() as client:
        assert daemon.server.url is None
        async with client.get("/healthz") as answer:
            assert answer.status == 200


# Metrics, status

NAMES = {
    "sidecar_updates_total",
    "sidecar_update_seconds_count",
    "sidecar_stage_seconds_count",
    "sidecar_generation",
    "sidecar_last_success_timestamp_seconds",
    "sidecar_in_sync",
    "sidecar_rejected_total",
    "sidecar_store_requests_total",
    "sidecar_store_request_seconds_count",
    "sidecar_htpasswd_rows_skipped",
    "sidecar_tenants",
    "sidecar_build_info",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
}


async def test_the_metrics_have_the_promised_names(machine: Machine) -> None:
    """Every metric of the contract is there, in both formats; counters exist before they count."""
    async with running(machine) as site:
        await site.ask("POST", "/update")
        plain = await site.ask("GET", "/metrics", over="tcp")
        found = {sample.name for family in parse_metrics(plain.text) for sample in family.samples}
        assert found >= NAMES
        opened = await site.ask("GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert opened.text.endswith("# EOF\n")
        openmetrics = parse_openmetrics(opened.text)  # type: ignore[no-untyped-call]
        names = {sample.name for family in openmetrics for sample in family.samples}
        assert names >= NAMES
        assert value(plain.text, "sidecar_updates_total", trigger="cgi", outcome="failed") == 0
        assert value(plain.text, "sidecar_rejected_total", reason="loss") == 0


async def test_the_metrics_tell_what_happened(machine: Machine) -> None:
    """Updates, refusals, store requests and the state are counted where they belong."""
    machine.put_index()
    add_user(machine.store_index, "bad", "bad:$apr1$broken")
    async with running(machine) as site:
        fresh = (await site.ask("GET", "/metrics")).text
        assert value(fresh, "sidecar_generation", state="current") == 0
        await site.ask("POST", "/update")
        await site.ask("POST", "/update")
        await site.ask("GET", "/preview")  # no update
        text = (await site.ask("GET", "/metrics")).text
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="published") == 1
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="unchanged") == 1
        assert value(text, "sidecar_generation", state="current") == 1
        # Published is not yet served.
        assert value(text, "sidecar_in_sync") == 0
        assert value(text, "sidecar_sync", state="synced") == 1
        assert value(text, "sidecar_health", state="healthy") == 0
        await load(site)
        text = (await site.ask("GET", "/metrics")).text
        assert value(text, "sidecar_in_sync") == 1
        assert value(text, "sidecar_health", state="healthy") == 1
        assert value(text, "sidecar_tenants") >= 40
        assert value(text, "sidecar_htpasswd_rows_skipped") == 1
        assert value(text, "sidecar_store_requests_total", operation="get", outcome="ok") == 1
        assert value(text, "sidecar_store_requests_total", operation="get", outcome="not_modified") == 2
        assert value(text, "sidecar_stage_seconds_count", stage="publish") == 1
        assert value(text, "sidecar_last_success_timestamp_seconds", stage="publish") > 0
        machine.store_index.write_bytes(b"no database")
        await site.ask("POST", "/update")
        machine.store_index.unlink()
        await site.ask("POST", "/update")
        text = (await site.ask("GET", "/metrics")).text
        assert value(text, "sidecar_rejected_total", reason="not_sqlite") == 1
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="rejected") == 1
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="failed") == 1
        assert value(text, "sidecar_in_sync") == 0
        assert value(text, "sidecar_generation", state="current") == 1
        assert value(text, "sidecar_store_requests_total", operation="get", outcome="missing") == 1


def value(text: str, name: str, **labels: str) -> float:
    """The value of one sample; the test fails unless there is exactly one."""
    (found,) = [
        sample.value
        for family in parse_metrics(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


async def test_the_status_tells_the_state(machine: Machine) -> None:
    """Status is one JSON object with what the contract names, before and after an update and a failure."""
    async with running(machine) as site:
        told = (await site.ask("GET", "/status")).json
        assert told["version"] == __version__
        assert told["machine"] == "test-machine"
        assert (told["sync"]["state"], told["health"]["state"]) == ("unknown", "progressing")
        assert told["generation"]["current"] is None
        assert told.keys() >= {"region", "index", "error", "navigator"}
        update = (await site.ask("POST", "/update", Accept=JSON)).json
        await load(site)
        told = (await site.ask("GET", "/status")).json
        assert (told["sync"]["state"], told["health"]["state"]) == ("synced", "healthy")
        assert told["sync"]["store"] == update["sha256"]
        assert told["generation"]["current"] == told["generation"]["loaded"] == 1
        assert (told["index"]["sha256"], told["index"]["etag"]) == (update["sha256"], update["etag"])
        machine.store_index.write_bytes(b"no database")
        await site.ask("POST", "/update")
        told = (await site.ask("GET", "/status")).json
        assert (told["sync"]["state"], told["health"]["state"]) == ("out_of_sync", "healthy")
        assert told["error"]["code"] == "not_sqlite"
        assert told["generation"]["current"] == 1


async def test_a_refused_request_says_nothing_about_the_machine(machine: Machine) -> None:
    """A condition that no longer holds, a generation or an index that is not there: state, last error and
    metrics of the machine stay, and only the last run tells of it. Neither does a preview change them."""
    machine.extra["fetch"] = {"expect_timeout": "0s"}
    async with running(machine) as site:
        await site.ask("POST", "/update")
        await load(site)
        target = f"/showcase/update_config?sha256={'0' * 64}"
        requests: list[tuple[int, str, str, dict[str, Any]]] = [
            (412, "changed", "/update", {"If_Match": '"another"'}),
            (404, "not_found", "/rollback", {"data": '{"generation": 99}'}),
            (502, "store_stale", "/public", forwarded(path=target) | signed(path=target)),
        ]
        for status, code, path, more in requests:
            answer = await site.ask("POST", path, Accept=JSON, **more)
            assert (answer.status, answer.json["error"]["code"]) == (status, code)
            told = (await site.ask("GET", "/status")).json
            assert (told["sync"]["state"], told["health"]["state"]) == ("synced", "healthy")
            assert told["error"] is None
            assert told["last"]["error"]["code"] == code
        text = (await site.ask("GET", "/metrics")).text
        assert value(text, "sidecar_in_sync") == 1
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="refused") == 1
        assert value(text, "sidecar_updates_total", trigger="rollback", outcome="refused") == 1
        assert value(text, "sidecar_updates_total", trigger="socket", outcome="failed") == 0
        machine.store_index.write_bytes(b"no database")
        assert (await site.ask("GET", "/preview", Accept=JSON)).status == 422
        # What it saw there is told all the same.
        told = (await site.ask("GET", "/status")).json
        assert (told["sync"]["state"], told["error"]) == ("out_of_sync", None)
        assert told["last"]["trigger"] != "preview"
        assert len((await site.ask("GET", "/generations")).json) == 4
        # Nor does a mistake make good what is wrong.
        await site.ask("POST", "/update")
        await site.ask("POST", "/rollback", data='{"generation": 99}')
        told = (await site.ask("GET", "/status")).json
        assert (told["sync"]["state"], told["error"]["code"]) == ("out_of_sync", "not_sqlite")
        assert value((await site.ask("GET", "/metrics")).text, "sidecar_in_sync") == 0


async def test_a_preview_is_no_update(machine: Machine) -> None:
    """While a preview is under way nothing runs, in data and on the page: it changes nothing."""
    gate = Gate(machine.folder)
    machine.extra["update"] = {"check_command": gate.command}
    with_administrator(machine)
    async with running(machine) as site:
        preview = asyncio.create_task(site.ask("GET", "/preview"))
        await gate.reached()
        told = (await site.ask("GET", "/status")).json
        # It has looked at the store; there is nothing here to compare with.
        assert (told["running"], told["sync"]["state"]) == (None, "out_of_sync")
        page = await site.ask("GET", "/", Accept="text/html")
        assert "Nothing has been published yet" in page.text
        assert "under way" not in page.text.lower()
        gate.open()
        assert (await preview).status == 200


async def test_ready_is_not_the_same_as_alive(machine: Machine) -> None:
    """The daemon is alive at once, and ready when a generation is loaded."""
    async with running(machine) as site:
        assert (await site.ask("GET", "/healthz")).status == 200
        assert (await site.ask("GET", "/readyz")).status == 503
        await site.ask("POST", "/update")
        await load(site)
        assert (await site.ask("GET", "/readyz")).status == 200
        assert (await site.ask("GET", "/healthz")).status == 200


# Events


def events(text: str) -> list[tuple[str, Any]]:
    """Kind and data of each event of a stream."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_a_streamed_update_ends_with_its_outcome(machine: Machine) -> None:
    """Progress comes as it happens, all lines of the log in order, and the outcome last."""
    async with running(machine) as site:
        for state in ("published", "unchanged"):
            answer = await site.ask("POST", "/update", Accept=EVENTS)
            assert (answer.status, answer.kind) == (200, EVENTS)
            seen = events(answer.text)
            kind, outcome = seen[-1]
            assert (kind, outcome["state"]) == ("outcome", state)
            assert [kind for kind, _ in seen].count("outcome") == 1
            assert [data["line"] for kind, data in seen if kind == "log"] == outcome["log"]
            stages = [data["stage"] for kind, data in seen if kind == "stage"]
            assert list(dict.fromkeys(stages)) == list(outcome["stages"])


async def test_a_streamed_failure_ends_with_its_outcome_too(machine: Machine) -> None:
    """A run that fails is no broken stream: its outcome, with the error, comes last."""
    async with running(machine) as site:
        machine.store_index.write_bytes(b"no database")
        seen = events((await site.ask("POST", "/update", Accept=EVENTS)).text)
        assert seen[-1][0] == "outcome"
        assert seen[-1][1]["error"]["code"] == "not_sqlite"


async def test_events_tell_of_everybodys_runs(machine: Machine) -> None:
    """GET /events shows runs that others asked for, in order and numbered, until the daemon stops."""
    machine.extra["update"] = QUIET_START  # nothing runs yet when the stream begins
    machine.put_index()
    async with machine.client() as client, AsyncExitStack() as stack:
        await stack.enter_async_context(machine.daemon())
        async with client.get("/events") as stream:
            assert stream.status == 200
            await answer_of(client)
            text = ""
            while "event: finished" not in text:
                text += (await stream.content.readline()).decode()
            kinds = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("event: ")]
            assert kinds[0] == "started"
            assert {"log", "stage", "finished"} <= set(kinds)
            numbers = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
            assert numbers == sorted(set(numbers))
            stopping = asyncio.create_task(stack.aclose())
            await stream.content.read()  # ends, because the daemon closes it
            await stopping


async def test_a_listener_that_goes_away_leaves_no_trace(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing the tab with the events is no error: the daemon's log has no traceback of it."""
    async with running(machine) as site:
        for method, path in (("GET", "/events"), ("POST", "/update")):
            async with site.machine.client() as other:
                stream = await other.request(method, path, headers={"Accept": EVENTS})
                stream.close()
            for _ in range(3):
                assert (await site.ask("POST", "/update")).status == 200
    assert not [record for record in caplog.records if record.exc_info]


class Unspeakable(StreamEvent, frozen=True):
    """What cannot be encoded."""

    kind: ClassVar[str] = "unspeakable"
    thing: object


@pytest.mark.parametrize(("method", "path"), [("GET", "/events"), ("POST", "/update")])
async def test_a_stream_that_fails_is_broken_off(
    machine: Machine, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    """When an answer has begun and its handler fails, the connection closes without a second answer, and
    the log tells of the failure once."""
    gate = Gate(machine.folder)
    machine.extra["update"] = {"check_command": gate.command}
    async with running(machine) as site:
        async with site.unix.request(method, path, headers={"Accept": EVENTS}) as answer:
            site.daemon.broker.emit(Unspeakable(object()))
            async with asyncio.timeout(10):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
        (failure,) = [record for record in caplog.records if record.exc_info]
        assert "failed after its answer had begun" in failure.getMessage()
        if path == "/update":
            await gate.reached()
            gate.open()
        assert (await site.ask("GET", "/healthz")).status == 200


# Secrets


async def test_secrets_appear_nowhere(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """No answer, metric or log holds a secret, whatever goes right or wrong."""
    caplog.set_level(logging.DEBUG)
    with_administrator(machine)
    hashed = machine.extra["administrators"]["admin"]
    others = {"previous_secret": "the-secret-before-this-one", "webhook_token": "a-token-for-the-webhook"}
    machine.extra |= {
        "trigger": others,
        "s3": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "s3-secret-key-for-tests"},
    }
    secrets = [SECRET, *others.values(), "s3-secret-key-for-tests", hashed, PASSWORD, "not-the-password"]
    texts: list[str] = []
    async with running(machine) as site:
        proofs = (None, basic("admin", PASSWORD), basic("admin", "not-the-password"))
        for accept in (TEXT, JSON):
            for method, path in [*OPEN, *GUARDED[:-1], ("POST", "/webhook"), ("GET", "/nowhere")]:
                for proof in proofs:
                    headers = {} if proof is None else {"Authorization": proof}
                    answer = await site.ask(method, path, over="tcp", Accept=accept, **headers)
                    texts += [answer.text, *answer.headers.values()]
            for headers in (
                signed(),
                signed(secret="not-the-password-but-long"),
                {"Sidecar-Signature": SECRET},
            ):
                answer = await site.ask("POST", "/public", Accept=accept, **forwarded(), **headers)
                texts += [answer.text, *answer.headers.values()]
        texts.append((await site.ask("POST", "/update", Accept=EVENTS)).text)
    texts += [caplog.text, *(repr(record.args) for record in caplog.records)]
    assert len(texts) > 50
    for secret in secrets:
        assert not [text for text in texts if secret in text], secret


async def test_signatures_are_not_logged(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """What a used signature was stays out of the log and of the answers."""
    caplog.set_level(logging.DEBUG)
    headers = signed()
    async with running(machine) as site:
        first = await site.ask("POST", "/public", **forwarded(), **headers)
        again = await site.ask("POST", "/public", **forwarded(), **headers)
    assert (first.status, again.status) == (200, 401)
    proof = headers["Sidecar-Signature"].removeprefix("v1=")
    assert proof not in caplog.text + first.text + again.text


# The end


class Gate:
    """A check command that waits until it is let through, so that a run is under way for certain."""

    def __init__(self, folder: Path) -> None:
        self._started, self._fifo = folder / "gate-reached", folder / "gate"
        os.mkfifo(self._fifo)
        self.command = ["/bin/sh", "-c", f"touch {self._started}; cat {self._fifo}"]

    async def reached(self) -> None:
        await until(self._started.exists)

    def open(self) -> None:
        """Let the run through."""
        threading.Thread(target=lambda: self._fifo.open("wb").close()).start()


async def test_a_run_under_way_is_finished_before_the_end(machine: Machine) -> None:
    """A daemon that is told to stop finishes its run and answers for it; new pokes are sent away."""
    gate = Gate(machine.folder)
    machine.extra["update"] = {"check_command": gate.command, **QUIET_START}  # the run is the poke's
    machine.put_index()
    async with machine.client() as client, AsyncExitStack() as stack:
        await stack.enter_async_context(machine.daemon())
        poke = asyncio.create_task(answer_of(client))
        await gate.reached()
        stopping = asyncio.create_task(stack.aclose())
        async with asyncio.timeout(10):
            while True:
                status, body = await answer_of(client)
                if status == 503:
                    break
        assert body["error"]["code"] == "stopping"
        gate.open()
        status, body = await poke
        await stopping
    assert (status, body["state"]) == (200, "published")
    assert len(machine.targets()) == 7
    assert not machine.socket.exists()


async def test_a_run_that_does_not_end_is_given_up_at_the_end(machine: Machine) -> None:
    """A run that goes on for too long after the signal is broken off, and nothing is published. Whoever waits
    for it or for the next is told in the form that was asked for, and does not lose the connection."""
    gate = Gate(machine.folder)
    machine.extra["update"] = {"check_command": gate.command, **QUIET_START}  # the run is the poke's
    machine.put_index()
    async with machine.client() as client, AsyncExitStack() as stack:
        await stack.enter_async_context(machine.daemon())
        pokes = [asyncio.create_task(answer_of(client))]
        await gate.reached()
        pokes.append(asyncio.create_task(answer_of(client)))
        async with client.post("/update", headers={"Accept": EVENTS}) as stream:
            await stack.aclose()
            for status, body in await asyncio.gather(*pokes):
                assert (status, body["error"]["code"]) == (503, "stopping")
            kind, body = events(await stream.text())[-1]
            assert (kind, body["error"]["code"]) == ("error", "stopping")
    assert machine.targets() == {}
    assert not machine.socket.exists()
    del machine.extra["update"]
    async with running(machine) as site:
        assert (await site.ask("POST", "/update", Accept=JSON)).json["generation"] == 1


async def test_who_waits_for_a_load_is_answered_at_the_end(machine: Machine) -> None:
    """A daemon that stops before Navigator has loaded says that it is not known yet, and stops soon."""
    machine.extra["update"] = QUIET_START  # the poke must not wait behind another run
    machine.put_index()
    async with machine.client() as client, AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(machine.daemon())
        poke = asyncio.create_task(client.post("/update?wait=loaded", headers={"Accept": JSON}))
        await until(lambda: daemon.reconciler.pending is not None)
        await stack.aclose()
        async with await poke as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (504, "load_pending")


async def answer_of(client: aiohttp.ClientSession) -> tuple[int, Any]:
    async with client.post("/update", headers={"Accept": JSON}) as answer:
        return answer.status, await answer.json()


async def test_an_idle_daemon_stops_with_clients_connected(machine: Machine) -> None:
    """Open connections and event streams do not keep a daemon from stopping, and the socket is gone after."""
    async with machine.client() as client, AsyncExitStack() as stack:
        await stack.enter_async_context(machine.daemon())
        idle = await asyncio.open_unix_connection(machine.socket)
        streams = [await client.get("/events") for _ in range(3)]
        await stack.aclose()
        for stream in streams:
            await stream.read()  # ended by the daemon
        idle[1].close()
        await idle[1].wait_closed()
    assert not machine.socket.exists()


async def test_a_daemon_can_start_again_at_once(machine: Machine) -> None:
    """Start and stop leave nothing behind that a next start would trip over, and no warning."""
    for _ in range(3):
        async with running(machine) as site:
            assert (await site.ask("GET", "/healthz")).status == 200
    gc.collect()


async def test_too_many_requests_are_sent_away_in_their_own_form(machine: Machine) -> None:
    """Above the limit of waiting requests: 503 with Retry-After, or an error event in a stream."""
    gate = Gate(machine.folder)
    machine.extra["update"] = {"check_command": gate.command, "waiting": 1}
    async with running(machine) as site:
        poke = asyncio.create_task(site.ask("POST", "/update", Accept=JSON))
        await gate.reached()
        answer = await site.ask("POST", "/update", Accept=JSON)
        check_error(answer, 503, "busy")
        assert int(answer.headers["Retry-After"]) > 0
        streamed = await site.ask("POST", "/update", Accept=EVENTS)
        if streamed.kind == EVENTS:
            kind, data = events(streamed.text)[-1]
            assert (kind, data["error"]["code"]) == ("error", "busy")
        else:
            assert streamed.status == 503
        gate.open()
        assert (await poke).status == 200


async def test_a_taken_port_keeps_nobody_down(machine: Machine) -> None:
    """Without its TCP address the daemon works, says why, and listens there once that is possible."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        machine.extra["listen"] = {"port": port}
        machine.put_index()
        async with machine.daemon() as daemon, machine.client() as client:
            assert daemon.server.url is None
            assert "cannot listen on 127.0.0.1" in (daemon.server.problem or "")
            async with client.post("update") as answer:
                assert answer.status == 200
            taken.close()
            await until(lambda: daemon.server.url == f"http://127.0.0.1:{port}")
            assert daemon.server.problem is None
