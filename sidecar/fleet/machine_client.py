"""Speaks with one machine: a signed poke, and the question how it is doing. Bounded in time and size."""

from __future__ import annotations

import hashlib
import os
import time

import aiohttp
from yarl import URL

from sidecar.config.settings import FleetSettings
from sidecar.fleet.discovery import read
from sidecar.fleet.machines import Target
from sidecar.fleet.verdicts import MachineAnswer, Verdict, seconds_of
from sidecar.model import signing

_MAX_ANSWER_BYTES = 256 << 10
_STATUS_TIMEOUT_SECONDS = 15.0
_INSTANCE = "Fly-Force-Instance-Id"


class PokePayload:
    """What the machines are poked for: the index's digest, and its gzipped content where that goes along."""

    def __init__(self, sha256: str, body: bytes = b"") -> None:
        self.sha256 = sha256
        self.body = body
        self.digest = hashlib.sha256(body).hexdigest()


class HttpMachineClient:
    """Requests to machines. What brings no answer at all is a `Verdict` already."""

    def __init__(self, settings: FleetSettings, secret: str, session: aiohttp.ClientSession) -> None:
        self._root = settings.root
        self._timeout = settings.answer_timeout
        self._secret = secret
        self._session = session

    async def poke(self, target: Target, payload: PokePayload) -> MachineAnswer | Verdict:
        """Ask a machine to fetch the index until it is the one expected, or to take it."""
        url = self._url(target, f"update_config?sha256={payload.sha256}")
        poke = signing.Poke("POST", url.raw_path_qs, f"{time.time():.6f}", target.id, payload.digest)
        headers = signing.headers(poke, self._secret)
        if payload.body:
            headers |= {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
        return await self._request("POST", target, url, headers, payload.body, self._timeout)

    async def ask(self, target: Target) -> MachineAnswer | Verdict:
        """Ask a machine how it is."""
        url = self._url(target, "update_status")
        return await self._request("GET", target, url, {}, b"", min(self._timeout, _STATUS_TIMEOUT_SECONDS))

    def _url(self, target: Target, rest: str) -> URL:
        return URL(f"{target.url}{self._root}/{rest}", encoded=True)

    async def _request(
        self, method: str, target: Target, url: URL, headers: dict[str, str], body: bytes, timeout: float
    ) -> MachineAnswer | Verdict:
        headers = {"Accept": "application/json", **headers}
        if target.instance is not None:
            headers[_INSTANCE] = target.instance
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body or None,  # an empty one would cost a writer of its own
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
            ) as answer:
                machine = answer.headers.get(signing.MACHINE)
                content = await read(answer, _MAX_ANSWER_BYTES)
                return MachineAnswer(answer.status, machine, content, seconds_of(answer.headers))
        except TimeoutError:
            return Verdict("hanging", f"no answer within {timeout:g} s")
        except ValueError as error:
            # A line break in an id, for instance: no request can be made of what somebody listed.
            return Verdict("failing", f"it cannot be asked: {error}", final=True)
        except (aiohttp.ClientError, OSError) as error:
            return Verdict("unreachable", _reason(error))


def _reason(error: Exception) -> str:
    """Why there is no connection, as the operating system says it."""
    number = getattr(error, "errno", None) or 0
    if number > 0:  # those of the resolver are negative, and have texts of their own
        return os.strerror(number).lower()
    return getattr(error, "strerror", None) or str(error) or "the connection broke"
