"""What belongs to a fleet update besides the index: commands before and after it, and who is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import CommandError, SettingsError
from sidecar.fleet.machines import FleetError
from sidecar.fleet.verdicts import pause, seconds_of
from sidecar.model.record import Record
from sidecar.system.commands import run_command

_ATTEMPTS = 3
_TIMEOUT_SECONDS = 15.0


class Notice(Record, frozen=True):
    """What a notified URL gets: the index's SHA-256, what was done with it, and how many machines have it."""

    sha256: str
    upload: str
    machines: int


class FleetHooks:
    """The commands and the notices of one machine's settings; `say` gets every line as it comes."""

    def __init__(
        self, settings: Settings, session: aiohttp.ClientSession, say: Callable[[str], None]
    ) -> None:
        self._settings = settings.fleet
        self._folder = Path(settings.paths.application)
        self._session = session
        self._say = say
        if (self._settings.before or self._settings.after) and not self._folder.is_dir():
            raise SettingsError(
                f"paths.application: there is no folder {self._folder}, in which the fleet's commands run",
                "set it to the application's folder on this machine",
            )

    async def before(self) -> None:
        """Run what prepares the index; `FleetError` `fleet_before` for the first that fails."""
        for command in self._settings.before:
            if failure := await self._run(command):
                raise FleetError(
                    f"fleet.before: {failure}; nothing was uploaded and no machine was poked",
                    "its output says why; mend that, and run it again",
                    code="fleet_before",
                )

    async def after(self) -> tuple[str, ...]:
        """Run what follows a good update, all of it; a sentence for each that fails."""
        failures = [await self._run(command) for command in self._settings.after]
        told = tuple(f"fleet.after: {failure}" for failure in failures if failure)
        for sentence in told:
            self._say(sentence)
        return told

    async def notify(self, notice: Notice) -> tuple[str, ...]:
        """Tell all who are to be told, at once; a sentence for each who could not be reached."""
        told = await asyncio.gather(
            *(self._post(str.__str__(url), msgspec.json.encode(notice)) for url in self._settings.notify)
        )
        return tuple(sentence for sentence in told if sentence)

    async def _run(self, command: list[str]) -> str:
        """Run one; how it failed, or nothing."""
        self._say(f"$ {' '.join(command)}")
        try:
            finished = await run_command(
                command,
                self._folder,
                self._settings.command_timeout,
                tell=lambda line: self._say(f"  {line}"),
            )
        except CommandError as error:
            return error.message
        return f"{command[0]} ended with exit status {finished.status}" if finished.status else ""

    async def _post(self, url: str, body: bytes) -> str:
        # Only the host is shown: the rest of the URL may be what proves the caller.
        host = urlsplit(url).hostname or "?"
        for attempt in range(1, _ATTEMPTS + 1):
            problem, wait = await self._attempt(url, body)
            if not problem:
                self._say(f"told {host}")
                return ""
            if wait is None or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(pause(attempt, self._settings.pause, wait))
        failure = f"fleet.notify: {host} was not told: {problem}"
        self._say(failure)
        return failure

    async def _attempt(self, url: str, body: bytes) -> tuple[str, float | None]:
        """The problem, and after how many seconds at least it is worth another attempt; None: never."""
        try:
            async with self._session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                allow_redirects=False,
            ) as answer:
                if 200 <= answer.status < 300:
                    return "", None
                again = answer.status == 429 or answer.status >= 500
                wait = (seconds_of(answer.headers) or 0.0) if again else None
                return f"it answers {answer.status}", wait
        except TimeoutError:
            return f"no answer within {_TIMEOUT_SECONDS:g} s", 0.0
        except aiohttp.ClientConnectorError as error:
            return f"it cannot be reached: {error.strerror}", 0.0
        except (aiohttp.ClientError, OSError) as error:
            return f"no answer: {type(error).__name__}", 0.0
