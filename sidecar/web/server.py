"""Binds the application to its addresses: a Unix socket with a mode from its first moment, and TCP."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from sidecar.errors import Busy, SettingsError
from sidecar.settings import Listen

_BACKLOG = 1024
_SHUTDOWN = 1.0


class Server:
    """Serves one application on every address of the settings."""

    def __init__(self, application: web.Application, settings: Listen) -> None:
        # Bodies stay as they were sent: their digest is signed, and their inflation is bounded elsewhere.
        self._runner = web.AppRunner(
            application,
            auto_decompress=False,
            access_log=None,
            shutdown_timeout=_SHUTDOWN,
            handle_signals=False,
        )
        self._settings = settings
        self.url: str | None = None

    async def startup(self) -> None:
        """Listen; `Busy` when a live process owns the socket or the port."""
        settings = self._settings
        unix = unix_socket(Path(settings.socket), settings.socket_mode)
        await self._runner.setup()
        await web.SockSite(self._runner, unix, backlog=_BACKLOG).start()
        if settings.tcp:
            site = web.TCPSite(self._runner, settings.host, settings.port, backlog=_BACKLOG)
            try:
                await site.start()
            except OSError as error:
                await self.shutdown()
                raise Busy(
                    f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                    "set listen.port to another one, or listen.tcp to false",
                ) from None
            host, port = self._runner.addresses[-1][:2]
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def shutdown(self) -> None:
        """Stop listening and end what is open."""
        await self._runner.cleanup()
        with suppress(FileNotFoundError):
            Path(self._settings.socket).unlink()


def unix_socket(path: Path, mode: int) -> socket.socket:
    """A bound Unix socket; `Busy` when a live process listens there, a dead one's is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink()
                else:
                    raise Busy(f"another process listens on {path}", "is the sidecar running already?")
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
