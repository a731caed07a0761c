"""Requests through Navigator: do they answer as they should, and a look at its configuration."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
import yaml

from sidecar.config.settings import Probe
from sidecar.navigator.process import NavigatorError

# Navigator holds requests while its resume hooks run, and while a tenant boots.
_LOOK_SECONDS = 30.0
_CONNECT_SECONDS = 0.5
_MAX_ANSWER_BYTES = 65536
_LOGIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OwnLogin:
    """The sidecar's own account: what is asked for with it, and `login`, its name and password of now."""

    path: str
    login: Callable[[], tuple[str, str] | None]


class Probes:
    """Requests through Navigator that tell whether what was loaded works."""

    def __init__(self, port: int, probes: Sequence[Probe], own_login: OwnLogin | None = None) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._probes = tuple(probes)
        self._own_login = own_login

    def __bool__(self) -> bool:
        return bool(self._probes or self._own_login)

    async def run(self) -> None:
        """Make every probe; `NavigatorError` names the first that fails."""
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            if self._own_login is not None:
                await self._sign_in(session, self._own_login)
            for probe in self._probes:
                await self._one(session, probe)

    async def _one(self, session: aiohttp.ClientSession, probe: Probe) -> None:
        url = probe.url if probe.url.startswith("http") else self._base + probe.url
        login = (probe.user, probe.password) if probe.user else None
        status = await _status(session, url, login, probe.timeout)
        if status != probe.status:
            raise NavigatorError(
                f"the probe of {url} answered {status} instead of {probe.status}", code="probe"
            )

    async def _sign_in(self, session: aiohttp.ClientSession, own: OwnLogin) -> None:
        login = await asyncio.to_thread(own.login)
        if login is None:
            return  # the set in place has no such account, or somebody has changed the file: drift tells
        status = await _status(session, self._base + own.path, login, _LOGIN_SECONDS)
        # Whatever else is there: who is asked for no login, or got further than that, was not refused.
        if status == HTTPStatus.UNAUTHORIZED:
            raise NavigatorError(
                "Navigator does not know the sidecar's own account: it has not read the htpasswd in place",
                "may its user read that file (files.htpasswd_mode, files.owner, files.group)?",
                code="probe",
            )


async def _status(
    session: aiohttp.ClientSession, url: str, login: tuple[str, str] | None, limit: float
) -> int:
    """The status of an answer, asked for with a name and password; `limit` is in seconds."""
    headers = {}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    try:
        async with asyncio.timeout(limit), session.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NavigatorError(
            f"the probe of {url} failed: {str(error) or 'no answer in time'}", code="probe"
        ) from None


class NavigatorPort:
    """Navigator's own port: whether it answers, and a request that makes it look at its configuration."""

    def __init__(self, port: int, maintenance: Path) -> None:
        """`maintenance` is the file that Navigator boots with: it tells the CGI by which it looks."""
        self._port = port
        self._maintenance = maintenance

    async def answers(self) -> bool:
        """Whether it takes connections; before that a signal would end it."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def look(self) -> None:
        """Have Navigator run its CGI, and so look at its configuration; `NavigatorError` when it cannot."""
        url = f"http://127.0.0.1:{self._port}{self._path()}"
        timeout = aiohttp.ClientTimeout(total=_LOOK_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url) as answer:
                await answer.content.read(_MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NavigatorError(
                f"{url} did not answer: {str(error) or 'no answer in time'}",
                "check navigator.port and Navigator's log",
            ) from None

    def _path(self) -> str:
        """The path of the first CGI with `reload_config` in the maintenance file."""
        try:
            document = yaml.safe_load(self._maintenance.read_bytes())
            scripts = document["server"]["cgi_scripts"]
            return next(str(script["path"]) for script in scripts if script.get("reload_config"))
        except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise NavigatorError(
                f"{self._maintenance} names no CGI by which Navigator could look: {error!r}",
                "the profile's maintenance part needs a CGI with reload_config",
            ) from None
