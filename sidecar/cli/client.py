"""Talks to the running daemon over its Unix socket, for the command line."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from sidecar.errors import SidecarError


class NoDaemon(SidecarError):
    """Nothing answers on the socket."""

    code = "no_daemon"
    status = 503


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("sidecar", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Requests to one daemon. `timeout` in seconds bounds every wait for an answer."""

    def __init__(self, path: str, timeout: float = 120.0) -> None:
        self._path = path
        self._timeout = timeout

    def wait_for_daemon(self, seconds: float) -> None:
        """Return as soon as the daemon answers; `NoDaemon` after the given time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.request("GET", "/healthz")
            except NoDaemon:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """Status and decoded JSON of an answer."""
        connection, response = self._send(method, path, "application/json", body)
        try:
            return response.status, _decode(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def events(self, method: str, path: str, body: bytes = b"") -> Iterator[tuple[str, Any]]:
        """Kind and data of server-sent events as they come. An error comes as one event `error`."""
        accept = "text/event-stream, application/json;q=0.5"
        connection, response = self._send(method, path, accept, body)
        try:
            if response.status != 200:
                yield "error", _decode(response.read())
                return
            kind = "message"
            for raw in response:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, _decode(value.encode())
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, accept: str, body: bytes
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = _Connection(self._path, self._timeout)
        try:
            connection.request(method, path, body or None, {"Accept": accept})
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> NoDaemon:
        if isinstance(error, TimeoutError):
            return NoDaemon(
                f"the sidecar on {self._path} did not answer within {self._timeout:g} s", code="timeout"
            )
        return NoDaemon(
            f"no sidecar answers on {self._path}: {getattr(error, 'strerror', None) or error}",
            "start it with `sidecar serve`, or name the configuration that it runs with by --config",
        )


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace")
