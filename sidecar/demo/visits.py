"""Visits to the machines of the demo over HTTP, as everybody, a studio's user, or an operator makes them."""

from __future__ import annotations

import base64
import http.client
from typing import Any

import msgspec

from sidecar.demo.prepare import DemoMachine
from sidecar.demo.sample import DEMO_PASSWORD, DEMO_USER
from sidecar.model.machine_report import MachineReport, decode

_MAX_SECONDS = 120.0


def published(machine: DemoMachine) -> bool:
    """Whether the daemon's first look at the store is over, and a generation is in place."""
    try:
        status, body = _visit(machine.page, "GET", "/status")
    except OSError:
        return False
    data = msgspec.json.decode(body) if status == 200 else {}
    return bool(data.get("last") and data["generation"]["current"])


def served(machine: DemoMachine) -> MachineReport | None:
    """What the machine tells everyone of itself, through its web server; None while that does not answer."""
    try:
        status, body = _visit(machine.web, "GET", "/showcase/update_status")
    except OSError:
        return None
    return decode(body) if status == 200 else None


def loaded(machine: DemoMachine) -> str | None:
    """The SHA-256 of the index that the machine serves, in hexadecimal; None while it is not healthy."""
    found = served(machine)
    return found.sha256 if found is not None and found.health == "healthy" else None


def signs_in(machine: DemoMachine, user: str, password: str) -> bool:
    """Whether the web server lets somebody in."""
    status, _ = _visit(machine.web, "GET", "/showcase/", f"{user}:{password}")
    return status == 200


def operate(machine: DemoMachine, method: str, path: str, body: Any = None) -> Any:
    """Ask a daemon for something as its operator, and give its answer, an error too, as plain data."""
    content = None if body is None else msgspec.json.encode(body)
    _, answer = _visit(machine.page, method, path, f"{DEMO_USER}:{DEMO_PASSWORD}", content)
    return msgspec.json.decode(answer)


def _visit(
    port: int, method: str, path: str, login: str = "", body: bytes | None = None
) -> tuple[int, bytes]:
    headers = {"Accept": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_MAX_SECONDS)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"port {port} gave no whole answer: {error}") from error
    finally:
        connection.close()
