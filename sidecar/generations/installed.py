"""The files in their places: what lies there, and how new ones get there under their readers.

A target that is a symbolic link is followed: the file it leads to is replaced, the link stays. The index is
looked after as the artifacts are, but for its content, mode and owner: the application may write to it. An
index that the machine owns itself is never touched.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.errors import PublishError, SettingsError
from sidecar.generations.plan import PresentFiles
from sidecar.generations.records import INDEX, Stamp
from sidecar.model.artifacts import (
    HTPASSWD,
    MAINTENANCE,
    MAP,
    NAMES,
    NAVIGATOR,
    PRERENDER,
    SHOWCASES,
    TENANTS,
    Artifact,
)
from sidecar.system.files import explained, give, is_link, led_to, read_plain, sync, temporary, touch, write
from sidecar.system.sqlite import plain_fault

InstallIndex = Callable[[Path, Path, float | None], None]
Checkpoint = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the files go, and whom they belong to. `owner` and `group` are -1 for the daemon's own.

    `index_mode` is that of an index that is new. With `own_index` the one in its place is this machine's own.
    """

    files: Mapping[str, Path]
    index: Path
    mode: int
    htpasswd_mode: int
    owner: int
    group: int
    own_index: bool = False
    index_mode: int = 0o660


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
        own_index=settings.update.own_index,
        index_mode=settings.databases.mode,
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


class InstalledFiles:
    """The targets of one machine."""

    def __init__(
        self,
        where: Targets,
        install_index: InstallIndex,
        clear_marker: Callable[[str], None],
        others: Callable[[], Collection[str]],
    ) -> None:
        """`others` gives the SHA-256 of the indexes that are known and should not be in place."""
        self.where = where
        self.install_index = install_index
        self._clear_marker = clear_marker
        self._others = others
        self._judged: tuple[Stamp, bool] | None = None
        # What the file system makes of modes and owners, where that is not what was asked of it.
        self._granted: dict[str, tuple[int, int, int]] = {}
        self.published = 0.0
        """When navigator.yml was put in place, in seconds since 1970."""
        self.installed_index: Stamp | None = None
        """The index as it was right after its installation; None when that is not known."""

    # What lies there

    def present(self) -> PresentFiles:
        """What is at the targets; `PublishError` for one that cannot be read."""
        contents: dict[str, bytes | None] = {}
        manners: dict[str, str] = {}
        for name, target in self.where.files.items():
            try:
                found = read_plain(self._place(name))
                contents[name] = found and found[0]
                if found and (wrong := self._manners(name, found[1])):
                    manners[name] = wrong
            except OSError as error:
                raise PublishError(
                    f"{target} cannot be read: {error.strerror}",
                    "check its owner and mode, and that it is a file",
                ) from error
        return PresentFiles(contents, manners, self.index_fault())

    def _manners(self, name: str, there: os.stat_result) -> str:
        """In words: what of a file's mode and owner is not as the settings say."""
        where, wrong = self.where, []
        mode = stat.S_IMODE(there.st_mode)
        if self._granted.get(name) == _rights(there):
            return ""
        if mode != self._mode(name):
            wrong.append(f"mode is {mode:04o} instead of {self._mode(name):04o}")
        if where.owner not in (-1, there.st_uid):
            wrong.append(f"owner is {_user(there.st_uid)} instead of {_user(where.owner)}")
        if where.group not in (-1, there.st_gid):
            wrong.append(f"group is {_group(there.st_gid)} instead of {_group(where.group)}")
        return ", ".join(wrong)

    def _mode(self, name: str) -> int:
        return self.where.htpasswd_mode if name == HTPASSWD else self.where.mode

    def stamps(self) -> tuple[object, ...]:
        """What is cheap to compare, and moved by any change of the artifacts or damage to the index."""
        return (self.index_fault(), *map(_stamp_and_rights, self.where.files.values()))

    def missing(self) -> list[str]:
        """The artifacts that are not there."""
        places = {name: self._place(name) for name in self.where.files}
        return [name for name, place in places.items() if is_link(place) or not place.is_file()]

    def index_fault(self) -> str:
        """What is wrong with the index in place, in words; empty for nothing.

        The application may write to the index, so its content may be any but that of another generation.
        Another file in its place is a fault, unless time and size say that it is a copy of the one that was
        installed.
        """
        if self.where.own_index:
            return ""
        target = self._index_place()
        if is_link(target):
            return "a link is in its place that neither root nor the sidecar made"
        if fault := plain_fault(target):
            return fault
        there, installed = _stamp(target), self.installed_index
        if there and installed and there[2] != installed[2] and there[:2] != installed[:2]:
            return "another file is in its place"
        if there and installed and there != installed and self._is_another(target, there):
            return "the index of another generation is in its place"
        return ""

    def _is_another(self, target: Path, there: Stamp) -> bool:
        """Whether it has become a known index, to the byte: nobody who writes to it comes to that."""
        if self._judged is None or self._judged[0] != there:
            try:
                with target.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError:
                return False
            self._judged = there, digest in self._others()
        return self._judged[1]

    def unwritable(self) -> str | None:
        """In a sentence: a folder of the targets that this process may not write to; None for none."""
        for folder in sorted({self._place(name).parent for name in self.where.files}):
            there = next(parent for parent in (folder, *folder.parents) if parent.exists())
            if os.access(there, os.W_OK | os.X_OK):
                continue
            if there != folder:
                return f"there is no folder {folder}, and none can be made: make it, and restart the sidecar"
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                return f"{folder} is read-only for the sidecar: under systemd add it to ReadWritePaths="
            return f"the sidecar may not write to {folder}: give it to the user that runs the sidecar"
        return None

    # How it gets there

    def prepare(self, artifacts: Iterable[Artifact]) -> Iterator[tuple[str, Path]]:
        """Write files beside their targets, telling name and path of each; they are not synced yet."""
        where = self.where
        for artifact in artifacts:
            target = self._place(artifact.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            path, mode = temporary(target), self._mode(artifact.name)
            write(path, artifact.content, mode, (where.owner, where.group))
            self._granted.pop(artifact.name, None)
            if self._manners(artifact.name, there := path.stat()):
                # Asked for again, it would give the same: such a file system must not cause update on update.
                self._granted[artifact.name] = _rights(there)
            yield artifact.name, path

    def install(self, names: Iterable[str], fingerprint: str) -> Iterator[str]:
        """Rename prepared files over their targets, navigator.yml last, telling the name of each."""
        folders: dict[Path, None] = {}
        for name in sorted(names, key=NAMES.index):
            target = self._place(name)
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
        if where.own_index:
            return
        with explained("the index"):
            target = self._index_place()
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_link(target) or (target.exists() and not target.is_file() and not target.is_dir()):
                target.unlink()  # SQLite would follow it, or wait for it
            fresh = not target.exists()
            self.install_index(source, target, modified)
            if fresh:
                # One that was there before keeps its owner and mode: the application may write to it.
                give(target, where.owner, where.group)
                target.chmod(where.index_mode)
            self.installed_index = _stamp(target)

    def date_index(self, modified: float) -> None:
        """Let the index be as old as the store says of the content, where nobody has changed it since."""
        target = self._index_place()
        if not self.where.own_index and self.installed_index == _stamp(target) is not None:
            with explained("the index"):
                os.utime(target, (modified, modified))
                self.installed_index = _stamp(target)

    def clean(self, names: Iterable[str] | None = None) -> None:
        """Remove what was prepared and will not be installed; everything when no names are given."""
        for name in self.where.files if names is None else names:
            with suppress(OSError):
                temporary(self._place(name)).unlink(missing_ok=True)
        if names is None:
            with suppress(OSError):
                temporary(self._index_place()).unlink(missing_ok=True)

    def _index_place(self) -> Path:
        """The index's file: SQLite keeps its logs beside the one that a link leads to."""
        return led_to(self.where.index)

    def _place(self, name: str) -> Path:
        """The file that an artifact's target is, or leads to."""
        return led_to(self.where.files[name])


def _stat(target: Path) -> os.stat_result | None:
    try:
        return target.stat()
    except OSError:
        return None


def _stamp(target: Path) -> Stamp | None:
    there = _stat(target)
    return None if there is None else (there.st_mtime_ns, there.st_size, there.st_ino)


def _rights(there: os.stat_result) -> tuple[int, int, int]:
    return there.st_mode, there.st_uid, there.st_gid


def _stamp_and_rights(target: Path) -> object:
    there = _stat(target)
    return None if there is None else (there.st_mtime_ns, there.st_size, there.st_ino, *_rights(there))


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
