"""`sidecar compare`: this machine's set against files that something else made."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sidecar.cli.compare import COMPARED, Compared, Difference, compared
from sidecar.cli.output import show
from sidecar.cli.parser import define
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError
from sidecar.generate import generate
from sidecar.generate.cache import ResultCache
from sidecar.generations.archive import Archive
from sidecar.inputs.index import read_index
from sidecar.inputs.machine import Machine
from sidecar.inputs.store import open_store, own_index
from sidecar.system.privileges import become_owner

# Where they may lie in a folder: in itself, or as in the application's.
_PLACES = ("", "db", "config", "tmp")
_MAX_SHOWN = 20


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _compare, "sidecar compare /data/db /rails")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="where the other files are: the folder itself and its db, config and tmp are looked at, "
        f"for {', '.join(COMPARED)}",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="compare what this machine published last, not what an update would publish now",
    )


def _compare(options: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 where all that is there is equal, 1 where it is not."""
    others = _found([Path(folder) for folder in options.folders])
    if not others:
        raise SidecarError(
            f"none of {', '.join(COMPARED)} is in {', '.join(options.folders)}",
            "name the folders that hold what the other way wrote",
        )
    try:
        contents = {name: path.read_bytes() for name, path in others.items()}
    except OSError as error:
        raise SidecarError(
            f"{error.filename} cannot be read: {error.strerror}", "compare as a user who may read it"
        ) from error
    become_owner(Path(settings.paths.state))
    ours = _published(settings) if options.published else asyncio.run(generated(settings))
    files = [
        Compared(name, str(others[name]), compared(name, ours[name], content))
        for name, content in contents.items()
    ]
    absent = [name for name in COMPARED if name not in others]
    good = all(one.equal for one in files)
    show(options.json, {"files": files, "absent": absent, "equal": good}, _report(files, absent))
    return 0 if good else 1


def _found(folders: list[Path]) -> dict[str, Path]:
    """The first file of each name, in the order of the folders."""
    places = [folder / below for folder in folders for below in _PLACES]
    found: dict[str, Path] = {}
    for name in COMPARED:
        if path := next((place / name for place in places if (place / name).is_file()), None):
            found[name] = path
    return found


def _published(settings: Settings) -> dict[str, bytes]:

    archive = Archive(Path(settings.paths.state) / "generations")
    newest, _ = archive.newest_whole()
    if newest is None:
        raise SidecarError("nothing was published here yet", "leave out --published")
    return {artifact.name: artifact.content for artifact in archive.artifacts(newest.number)}


async def generated(settings: Settings) -> dict[str, bytes]:
    """What an update would make of the store's index, or of the machine's own. Nothing is published."""

    inputs = Machine(settings, Path(settings.paths.state) / "loaded").inputs()
    with tempfile.TemporaryDirectory(prefix="sidecar-compare-") as folder:
        path = Path(folder) / "index.sqlite3"
        if own := own_index(settings, lambda *_: None):
            await own.fetch(settings.index_key, path, None)
        else:
            store = open_store(settings, lambda *_: None)
            await store.startup()
            try:
                await store.fetch(settings.index_key, path, None)
            finally:
                await store.shutdown()
        made = generate(read_index(path, inputs.deployed), inputs.deployment, ResultCache())
    return {artifact.name: artifact.content for artifact in made.artifacts}


def _report(files: list[Compared], absent: list[str]) -> Iterator[str]:
    for one in files:
        real = [found for found in one.differences if not found.meant]
        meant = [found for found in one.differences if found.meant]
        word = f"{len(real)} differences" if real else "equal as data"
        yield f"{one.name}: {word}, against {one.other}"
        yield from (f"  differs: {found.place}: {found.what}" for found in real[:_MAX_SHOWN])
        if len(real) > _MAX_SHOWN:
            yield f"  and {len(real) - _MAX_SHOWN} more; --json names all"
        for what, places in _by_reason(meant).items():
            yield f"  as meant: {what}: {places[0]}{f' and {len(places) - 1} more' if places[1:] else ''}"
    if absent:
        yield f"not there, so not compared: {', '.join(absent)}"
    total = sum(not found.meant for one in files for found in one.differences)
    yield f"{len(files)} files compared, {total} differences"


def _by_reason(meant: list[Difference]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for one in meant:
        reasons.setdefault(one.what, []).append(one.place)
    return reasons
