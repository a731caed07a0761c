"""Asks for the fleet's machines: the Machines API, the command flyctl, DNS, or the configuration's own list.

Every question is bounded. What may pass is asked again: too many requests, a failure of the server, and an
empty list, which is no proof that there are no machines. In the end it is an error all the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from sidecar.config.settings import Settings
from sidecar.errors import CommandError, SettingsError
from sidecar.fleet.machines import DiscoveredFleet, FleetError, Target, from_dns, from_fly, from_list
from sidecar.fleet.verdicts import pause, seconds_of
from sidecar.system.commands import run_command

_ATTEMPTS = 6
_TIMEOUT_SECONDS = 20.0
_MAX_LIST_BYTES = 32 << 20
_FRESH_SECONDS = 2.0
# Where flyctl's own installer and people put it, which the PATH of a service does not have.
_FLYCTL_FOLDERS = ("~/bin", "~/.fly/bin")

# It is asked when nothing else is set up, which is the likelier cause.
_DNS_HINT = "only machines on Fly can ask it; elsewhere install flyctl, or set fleet.token or fleet.machines"

Say = Callable[[str], None]


class _Again(Exception):
    """What was asked may be answered the next time; with Retry-After in seconds, where that was said."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Discovery:
    """Who belongs to the fleet. `say` is told in a sentence why something is asked again."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, say: Say) -> None:
        self._settings = settings.fleet
        self._app = settings.fleet.app or settings.machine.app
        self._session = session
        self._say = say
        self._lock = asyncio.Lock()
        self._looked = float("-inf")
        self._active: frozenset[str] | None = None
        self._flyctl = _find_command(settings.fleet.flyctl)
        self.source = self._source()

    def _source(self) -> str:
        fleet = self._settings
        source = fleet.source
        if source == "auto":
            source = (
                "machines"
                if fleet.machines
                else "api"
                if fleet.token
                else "flyctl"
                if self._flyctl
                else "dns"
            )
        if source == "machines" and not fleet.machines:
            raise SettingsError("fleet.machines: none are listed", "list each with id and url")
        if source == "api" and not fleet.token:
            raise SettingsError("fleet.token is not set", "set it, or FLY_API_TOKEN")
        if source != "machines" and not self._app:
            raise SettingsError(
                "there is no fleet", "set fleet.app to the Fly application, or list fleet.machines"
            )
        return source

    @property
    def url(self) -> str:
        """The base URL of the Fly application."""
        return self._settings.url.rstrip("/") or f"https://{self._app}.fly.dev"

    async def find(self) -> DiscoveredFleet:
        """The machines; `FleetError` when nobody tells, or when there are none for sure."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                found = await self._ask()
                if len(found):
                    return found
                problem = _Again("the list of machines is empty")
            except _Again as again:
                problem = again
            if attempt < _ATTEMPTS:
                self._say(f"{problem}; asking again")
                await asyncio.sleep(pause(attempt, self._settings.pause, problem.retry_after))
        raise FleetError(
            f"{problem}, {_ATTEMPTS} times in a row",
            _DNS_HINT if self.source == "dns" else "check fleet.app, the token, and the service's health",
            code="fleet_machines",
        )

    async def stopped(self, target: Target) -> bool:
        """Whether a machine that failed is not active any more; False when nobody knows."""
        if self.source == "machines":
            return False
        async with self._lock:
            # All who failed meanwhile share an answer: Fly limits how often one may ask.
            if time.monotonic() - self._looked > _FRESH_SECONDS:
                self._active = await self._active_now()
                self._looked = time.monotonic()
        return self._active is not None and target.id not in self._active

    async def _active_now(self) -> frozenset[str] | None:
        try:
            found = await self._ask()
        except (_Again, FleetError) as error:
            self._say(f"whether it stopped is not known: {error}")
            return None
        return frozenset(one.id for one in found.targets) if len(found) else None

    async def _ask(self) -> DiscoveredFleet:
        if self.source == "machines":
            return from_list(self._settings.machines)
        if self.source == "dns":
            return from_dns(await self._names(), self.url)
        body = await (self._from_api() if self.source == "api" else self._from_command())
        return from_fly(body, self.url, self._settings.groups)

    async def _from_api(self) -> bytes:
        url = f"{self._settings.api.rstrip('/')}/v1/apps/{self._app}/machines"
        headers = {"Authorization": f"Bearer {str.__str__(self._settings.token).strip()}"}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        try:
            async with self._session.get(
                url, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status == 429 or answer.status >= 500:
                    raise _Again(f"the Machines API answers {answer.status}", seconds_of(answer.headers))
                if answer.status != 200:
                    raise FleetError(
                        f"the Machines API answers {answer.status} for the application {self._app}",
                        "check fleet.app, fleet.api and the token",
                        code="fleet_machines",
                    )
                return await read(answer, _MAX_LIST_BYTES)
        except TimeoutError:
            raise _Again(f"the Machines API did not answer within {_TIMEOUT_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(f"the Machines API cannot be reached: {error}") from None

    async def _from_command(self) -> bytes:
        command = [self._flyctl or self._settings.flyctl, "machines", "list", "--app", self._app, "--json"]
        token = str.__str__(self._settings.token)
        # In its environment, and not in its arguments, which everyone can read.
        environ = {"FLY_API_TOKEN": token} if token else None
        with tempfile.TemporaryDirectory(prefix="sidecar-fleet-") as folder:
            output = Path(folder) / "machines.json"
            try:
                finished = await run_command(command, Path(folder), _TIMEOUT_SECONDS, environ, output=output)
            except CommandError as error:
                raise FleetError(error.message, error.hint, code="fleet_machines") from error
            if finished.status != 0:
                raise _Again(f"{command[0]} ended with {finished.status}: {finished.output.strip()[-200:]}")
            return output.read_bytes()

    async def _names(self) -> list[str]:
        """What Fly's DNS says of the application; nothing when it does not know it."""
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
        from dns.rdtypes.ANY.TXT import TXT
        from dns.resolver import NXDOMAIN

        try:
            resolver = Resolver(configure=not self._settings.resolver)
            if self._settings.resolver:
                resolver.nameservers = [self._resolver[0]]
                resolver.port = self._resolver[1]
            answer = await resolver.resolve(
                f"vms.{self._app}.internal.", "TXT", raise_on_no_answer=False, lifetime=_TIMEOUT_SECONDS
            )
        except NXDOMAIN:
            return []
        except (DNSException, OSError) as error:
            raise _Again(f"DNS does not tell the machines: {error}") from None
        records = [record for record in answer if isinstance(record, TXT)]
        return [b"".join(record.strings).decode("utf-8", "replace") for record in records]

    @property
    def _resolver(self) -> tuple[str, int]:
        """Address and port of the DNS server that the configuration names."""
        named = self._settings.resolver
        host, port = named, "53"
        if named.startswith("[") or named.count(":") == 1:
            host, _, port = named.rpartition(":")
        try:
            return str(ipaddress.ip_address(host.strip("[]"))), int(port)
        except ValueError:
            raise SettingsError(
                f"fleet.resolver: {named!r} is no address", "such as [fdaa::3]:53 or 127.0.0.1:53"
            ) from None


def _find_command(name: str) -> str | None:
    """The path of flyctl; None where it is not installed."""
    folders = [os.environ.get("PATH", os.defpath), *map(os.path.expanduser, _FLYCTL_FOLDERS)]
    return shutil.which(name, path=os.pathsep.join(folders))


async def read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """An answer's body up to a limit; what is longer is cut off there."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            answer.close()
            return bytes(body[:limit])
    return bytes(body)
