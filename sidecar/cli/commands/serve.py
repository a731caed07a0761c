"""`sidecar serve`."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import resource
from contextlib import suppress
from functools import partial
from pathlib import Path

from sidecar.cli.parser import define
from sidecar.config.parse import unknown_variables
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError
from sidecar.observe.logs import set_up
from sidecar.system.privileges import become_owner, guard_process

logger = logging.getLogger(__name__)

_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1  # malloc.h
_MAX_OPEN_FILES = 65536


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _serve, "sidecar --config /etc/sidecar/sidecar.yml serve")


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    _spare_memory()
    _raise_limit_of_files()
    # Loaded with the heap's settings in force.
    from sidecar.daemon import Daemon

    become_owner(Path(settings.paths.state))
    guard_process()
    set_up(settings.logging)

    async def serve() -> None:
        daemon = Daemon(settings)
        for sentence in unknown_variables(os.environ):
            logger.warning(sentence)
            daemon.status.problems.append(partial(str, sentence))
        await daemon.run()

    try:
        asyncio.run(serve())
    except (SidecarError, PermissionError):
        raise  # a sentence says it all
    except Exception:
        logger.critical("the daemon has ended", exc_info=True)
        return 1
    return 0


def _spare_memory() -> None:
    """One heap for all threads, whose free end goes back to the system: that is a tenth less."""
    with suppress(OSError, AttributeError):  # another C library than glibc has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)


def _raise_limit_of_files() -> None:
    """As many open files as the system allows, within reason: connections must not use up all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
