"""A machine that boots while no daemon answers: it goes on with what was published, where that is whole."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sidecar.cli.client import NoDaemon
from sidecar.cli.configuration import load_settings
from sidecar.cli.output import say
from sidecar.config.parse import usable
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.generations import Generations, targets
from sidecar.system.privileges import become_owner
from sidecar.system.sqlite import install_database


def goes_on(options: argparse.Namespace, error: SidecarError) -> bool:
    """Whether a machine that boots goes on, though no daemon answers or a variable is unusable."""
    if not isinstance(error, NoDaemon | SettingsError):
        return False
    try:
        number = put_in_place(load_settings(options.config, usable))
    except SidecarError:
        return False
    if number is None:
        return False
    say(f"sidecar: {error}", file=sys.stderr)
    say(
        f"sidecar: warning: generation {number} from before is in place and whole; "
        "Navigator can start with it, but nothing new comes until this is put right",
        file=sys.stderr,
    )
    return True


def put_in_place(settings: Settings) -> int | None:
    """The number of the generation that lies in its place and is whole; files that are missing are put back.

    None where there is none, where it is another region's, or where a daemon is at it.
    """
    region = settings.machine.region
    become_owner(Path(settings.paths.state))
    generations = Generations(
        Path(settings.paths.state), targets(settings), install_database, settings.update.keep
    )
    try:
        generations.startup(None, region)
        whole = generations.is_of(region) and generations.is_whole(generations.site.present())
    except SidecarError:
        return None
    finally:
        generations.shutdown()
    return generations.current.number if whole and generations.current else None
