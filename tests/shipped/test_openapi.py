"""The description of the interface: complete, sound, and what a running daemon really does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import jsonschema_rs
import pytest

from sidecar.daemon import Daemon
from sidecar.web.routes import ROUTES, document
from tests.support.machine import Machine, until
from tests.support.navigator import NavigatorProcess, free_port

PASSWORD = "a password for tests"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


def routes(daemon: Daemon) -> set[tuple[str, str]]:
    """Method and path of every route."""
    app = daemon.server._runner.app
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
        and route.method != "HEAD"
        and not route.resource.canonical.startswith("/page/")  # the page's own, as the description says
    }


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_route_is_described(machine: Machine) -> None:
    """The description names each route of the daemon, and none that it has not."""
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert described == routes(Daemon(machine.settings()))


def test_every_operation_says_what_it_does() -> None:
    """Each has a summary, and each answer a description; what is named exists."""
    whole = document()
    schemas = {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    assert references(whole) <= schemas
    for path, item in whole["paths"].items():
        for method, operation in item.items():
            assert operation["summary"].endswith("."), (method, path)
            assert all(answer["description"] for answer in operation["responses"].values())
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            for scheme in operation.get("security", ()):
                assert set(scheme) <= set(whole["components"]["securitySchemes"])


def test_whatever_changes_or_names_users_needs_proof() -> None:
    """Open are the state, metrics, health and the description, and on the Unix socket the public trigger."""
    open_to_all = {
        path
        for path, item in document()["paths"].items()
        for operation in item.values()
        if not operation.get("security")
    }
    assert open_to_all - {"/"} == {"/status", "/metrics", "/healthz", "/readyz", "/openapi.json", "/public"}


async def test_each_route_needs_what_its_record_says(machine: Machine) -> None:
    """Without a password, whatever needs an administrator or the token is refused, and the rest is not."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    # Without them the one is forbidden and the other off, with a password or without.
    machine.extra["administrators"] = {"admin": hashed}
    machine.extra["trigger"] = {"webhook_token": PASSWORD}
    async with machine.daemon() as daemon, aiohttp.ClientSession(daemon.server.url) as client:
        for route in ROUTES:
            url = route.path.replace("{number}", "1")
            async with client.request(route.method, url, headers={"Accept": "application/json"}) as answer:
                assert (answer.status == 401) == (route.needs != "nothing"), route.path


async def test_it_is_served_and_json(machine: Machine) -> None:
    """GET /openapi.json gives the description, and the status fits its schema."""
    machine.put_index()
    async with machine.daemon(), machine.client() as client:
        async with client.get("openapi.json") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            served = await answer.json()
        assert served == json.loads(json.dumps(document()))
        for change in (False, True):
            if change:
                async with client.post("update") as answer:
                    assert answer.status == 200
            async with client.get("status") as answer:
                found = await answer.json()
            schema = {**served["components"]["schemas"]["Status"], "components": served["components"]}
            jsonschema_rs.validator_for(schema).validate(found)


async def test_browsers_get_what_is_described(machine: Machine) -> None:
    """Whoever prefers HTML gets a status and a content type that the description names, errors included."""
    machine.put_index()
    async with machine.daemon(), machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        for path, item in document()["paths"].items():
            if "get" not in item or path == "/events":
                continue
            for number in ("1", "99"):
                url = path.lstrip("/").replace("{number}", number)
                async with client.get(url, headers={"Accept": "text/html,*/*;q=0.1"}) as answer:
                    described = item["get"]["responses"]
                    assert str(answer.status) in described, path
                    assert answer.content_type in described[str(answer.status)]["content"], path


async def test_events_are_as_described(machine: Machine) -> None:
    """GET /events is a stream of server-sent events. It has no end: generated requests leave it out."""
    machine.put_index()
    async with machine.daemon(), machine.client() as client, client.get("events") as stream:
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        async with client.post("update") as answer:
            assert answer.status == 200
        assert (await stream.content.readline()).startswith(b"id: ")


async def test_the_daemon_answers_as_described(tmp_path: Path) -> None:
    """Against a running daemon with a Navigator, generated requests get no 5xx and no undocumented answer."""
    port = free_port()
    navigator = NavigatorProcess()
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    pid_file = "/tmp/navigator.pid" if navigator.program else tmp_path / "app" / f"navigator-{port}.pid"
    machine = Machine(
        tmp_path,
        {
            "administrators": {"admin": hashed},
            "navigator": {"port": port, "pid_file": str(pid_file)},
            "trigger": {"interval": "0s", "webhook_token": PASSWORD},
        },
    )
    machine.put_index()
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        await navigator.start_async("config/navigator.yml", machine.application)
        try:
            await until(lambda: daemon.generations.last_loaded() == 1)
            report = await schemathesis(f"{daemon.server.url}/openapi.json", tmp_path)
        finally:
            await navigator.stop_async()
    if report:
        pytest.fail(report)


async def schemathesis(url: str, folder: Path) -> str:
    """What the tool found, or nothing."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", url, "--auth", f"admin:{PASSWORD}", "--checks", ",".join(CHECKS)),
        *("--exclude-path", "/events", "--phases", "examples,coverage,fuzzing", "--max-examples", "8"),
        *("--seed", "1", "--request-timeout", "20", "--no-shrink", "--no-color", "--continue-on-failure"),
        cwd=folder,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(240):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "" if process.returncode == 0 else out.decode()
