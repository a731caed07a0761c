"""Binds the application to its addresses: a Unix socket with a mode from its first moment, and TCP.

Sockets that the service manager passed take the place of the own ones. They are not ours to remove, and who
connects while no daemon accepts waits in them for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from sidecar.config.settings import ListenSettings
from sidecar.errors import Busy, SettingsError
from sidecar.web.connections import BoundedRunner, ConnectionLimits

logger = logging.getLogger(__name__)

# On the Unix socket pokes wait while the daemon restarts. On TCP so many are accepted in one go at most.
_BACKLOG, _TCP_BACKLOG = 1024, 128
_SHUTDOWN_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_LAST_WORDS_SECONDS = 0.05


class Server:
    """Serves one application on every address of the settings."""

    def __init__(
        self, application: web.Application, settings: ListenSettings, bounds: ConnectionLimits | None = None
    ) -> None:
        # Bodies stay as they were sent: their digest is signed, and their inflation is bounded elsewhere.
        self._runner = BoundedRunner(
            application,
            bounds or ConnectionLimits(),
            auto_decompress=False,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            handle_signals=False,
        )
        self._settings = settings
        self._passed: list[web.SockSite] = []
        self._owns_socket = False
        self.url: str | None = None
        self.problem: str | None = None
        """Why it does not listen on TCP, though it should."""

    async def startup(self, passed: Sequence[socket.socket] = ()) -> None:
        """Listen, on what was passed where it was; `Busy` when a live process owns the socket."""
        settings = self._settings
        unix = [one for one in passed if one.family == socket.AF_UNIX]
        tcp = [one for one in passed if one.family != socket.AF_UNIX]
        self._owns_socket = not unix
        if not unix:
            unix = [unix_socket(Path(settings.socket), settings.socket_mode)]
        elif settings.socket not in [one.getsockname() for one in unix]:
            logger.warning(
                "the socket that was passed is not listen.socket (%s), where the commands look for it",
                settings.socket,
            )
        await self._runner.setup()
        for one in (*unix, *tcp):
            backlog = _BACKLOG if one in unix else _TCP_BACKLOG
            listener = web.SockSite(self._runner, one, backlog=backlog)
            await listener.start()
            if one in passed:
                self._passed.append(listener)
        if settings.tcp and not tcp:
            await self._listen_on_tcp()
        elif tcp:
            self._note_url()

    async def run(self) -> None:
        """Try again to listen on TCP, for as long as that failed: what it takes may be gone meanwhile."""
        while self.problem is not None:
            await asyncio.sleep(_RETRY_SECONDS)
            await self._listen_on_tcp()

    async def _listen_on_tcp(self) -> None:
        """Listen on the TCP address, or say why that is not possible; the Unix socket does without it."""
        settings = self._settings
        site = web.TCPSite(self._runner, settings.host, settings.port, backlog=_TCP_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            await site.stop()
            problem = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            if problem != self.problem:
                logger.error(  # noqa: TRY400 - the sentence is enough
                    "%s; page and metrics are not there, it is tried again (set listen.port to another one, "
                    "or listen.tcp to false)",
                    problem,
                )
            self.problem = problem
            return
        if self.problem is not None:
            logger.info("listening on %s:%d after all", settings.host, settings.port)
        self.problem = None
        self._note_url()

    def _note_url(self) -> None:
        host, port = self._runner.addresses[-1][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def leave_to_successor(self) -> None:
        """Accept nothing more on passed sockets: whoever connects from now on waits for the next daemon."""
        if self._passed:
            while self._passed:
                await self._passed.pop().stop()
            # Who was accepted just now has yet to send what it wants.
            await asyncio.sleep(_LAST_WORDS_SECONDS)

    async def shutdown(self) -> None:
        """Stop listening and end what is open."""
        await self._runner.cleanup()
        if self._owns_socket:
            with suppress(FileNotFoundError):
                Path(self._settings.socket).unlink()


def unix_socket(path: Path, mode: int) -> socket.socket:
    """A bound Unix socket; `Busy` when a live process listens there, a dead one's is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            if _is_alive(path):
                raise Busy(f"another process listens on {path}", "is the sidecar running already?")
            path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        # The mode holds from the first moment: between bind and chmod anyone could connect.
        before = os.umask(0o777 & ~mode)
        try:
            bound.bind(str(path))
        except OSError:
            bound.close()
            raise
        finally:
            os.umask(before)
    except OSError as error:
        # A path that is too long has no errno: the library refuses it.
        raise SettingsError(
            f"listen.socket: {path}: {error.strerror or error}",
            "name a path in a folder that the daemon may write to",
        ) from None
    bound.setblocking(False)
    return bound


def _is_alive(path: Path) -> bool:
    """Whether a process listens there: one that is too busy to accept lives, too."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
