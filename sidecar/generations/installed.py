"""The files in their places: what lies there, and how new ones get there under their readers."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.errors import PublishError, SettingsError
from sidecar.generate import HTPASSWD, MAINTENANCE, MAP, NAMES, NAVIGATOR, PRERENDER, SHOWCASES, TENANTS
from sidecar.generations.records import INDEX
from sidecar.model.artifacts import Artifact
from sidecar.system.files import explained, give, sync, temporary, touch, write

InstallIndex = Callable[[Path, Path, float | None], None]
Checkpoint = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the files go, and whom they belong to. `owner` and `group` are -1 for the daemon's own."""

    files: Mapping[str, Path]
    index: Path
    mode: int
    htpasswd_mode: int
    owner: int
    group: int


def targets(settings: Settings) -> Targets:
    """The targets that the settings name; `SettingsError` for an unknown user or group."""
    paths, files = settings.paths, settings.files
    folders = {
        HTPASSWD: paths.databases,
        MAP: paths.databases,
        SHOWCASES: paths.databases,
        TENANTS: paths.temporary,
        PRERENDER: paths.temporary,
        MAINTENANCE: paths.configuration,
        NAVIGATOR: paths.configuration,
    }
    owner, group = ids("files", files.owner, files.group)
    return Targets(
        files={name: Path(folder) / name for name, folder in folders.items()},
        index=Path(paths.databases) / INDEX,
        mode=files.mode,
        htpasswd_mode=files.htpasswd_mode,
        owner=owner,
        group=group,
    )


def ids(section: str, user: str, group: str) -> tuple[int, int]:
    """The numbers of a user and a group, -1 where none is named; `SettingsError` for unknown ones."""
    try:
        return (
            pwd.getpwnam(user).pw_uid if user else -1,
            grp.getgrnam(group).gr_gid if group else -1,
        )
    except KeyError as error:
        raise SettingsError(f"{section}: {error.args[0]}", "create it, or name another") from None


class Site:
    """The targets of one machine."""

    def __init__(
        self, where: Targets, install_index: InstallIndex, clear_marker: Callable[[str], None]
    ) -> None:
        self.where = where
        self.install_index = install_index
        self._clear_marker = clear_marker
        self.published = 0.0
        """When navigator.yml was put in place, in seconds since 1970."""

    # What lies there

    def present(self) -> dict[str, bytes | None]:
        """The content at each artifact's target; None where nothing is."""
        found: dict[str, bytes | None] = {}
        for name, target in self.where.files.items():
            try:
                found[name] = target.read_bytes()
            except FileNotFoundError:
                found[name] = None
            except OSError as error:
                raise PublishError(
                    f"{target} cannot be read: {error.strerror}",
                    "check its owner and mode, and that it is a file",
                ) from error
        return found

    def stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Time, size and inode of each artifact in place: cheap to compare, and moved by any change."""
        return tuple(map(_stamp, self.where.files.values()))

    def missing(self) -> list[str]:
        """The artifacts that are not there."""
        return [name for name, target in self.where.files.items() if not target.exists()]

    def has_index(self) -> bool:
        """Whether there is an index at its target at all."""
        return self.where.index.exists()

    # How it gets there

    def prepare(self, artifacts: Iterable[Artifact]) -> Iterator[tuple[str, Path]]:
        """Write files beside their targets, telling name and path of each; they are not synced yet."""
        where = self.where
        for artifact in artifacts:
            target = where.files[artifact.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            mode = where.htpasswd_mode if artifact.name == HTPASSWD else where.mode
            write(temporary(target), artifact.content, mode, (where.owner, where.group))
            yield artifact.name, temporary(target)

    def install(self, names: Iterable[str], fingerprint: str) -> Iterator[str]:
        """Rename prepared files over their targets, navigator.yml last, telling the name of each."""
        folders: dict[Path, None] = {}
        for name in sorted(names, key=NAMES.index):
            target = self.where.files[name]
            if name == NAVIGATOR:
                self._clear_marker(fingerprint)
                self.published = time.time()
                touch(temporary(target))
            temporary(target).rename(target)
            if name == NAVIGATOR:
                # Once more: a load between the touch and the rename would have been of the old file.
                touch(target)
            folders[target.parent] = None
            yield name
        sync(folders)

    def put_index(self, source: Path, modified: float | None) -> None:
        """Replace the index under its readers; `modified` is its age in seconds since 1970."""
        where = self.where
        with explained("the index"):
            where.index.parent.mkdir(parents=True, exist_ok=True)
            fresh = not where.index.exists()
            self.install_index(source, where.index, modified)
            if fresh and where.index.exists():
                # One that was there before keeps its owner and mode: the application may write to it.
                give(where.index, where.owner, where.group)
                where.index.chmod(where.mode)

    def clean(self, names: Iterable[str] | None = None) -> None:
        """Remove what was prepared and will not be installed; everything when no names are given."""
        for name in self.where.files if names is None else names:
            with suppress(OSError):
                temporary(self.where.files[name]).unlink(missing_ok=True)
        if names is None:
            with suppress(OSError):
                temporary(self.where.index).unlink(missing_ok=True)


def _stamp(target: Path) -> tuple[int, int, int] | None:
    try:
        stat = target.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
