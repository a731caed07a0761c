"""Generations on disk, and their installation: the only place that writes what the web server reads.

The state folder holds

    lock                    held with a kernel lock by the one process that may publish
    generations/.incoming/  the next generation while it is put together
    generations/<number>/   a whole generation: manifest.json, index.sqlite3 and the artifacts
    installed.json          the number of the generation that is in place
    loaded/                 the markers that the web server's ready hook leaves

A publication goes through these steps, each durable before the next:

    1. stage    every file of the generation is written to .incoming
    2. prepare  every changed file is written beside its target, under another name
    3. commit   .incoming is renamed to its number: from here on the generation counts
    4. install  the index is replaced under its readers, then each file is renamed over its target,
                navigator.yml last and with a new mtime
    5. record   installed.json is replaced

A failure up to 3 leaves the old set as it was. After a crash the next start finds either an .incoming,
which it removes, or a generation newer than installed.json says, which it installs.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import hashlib
import os
import pwd
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.check import Counts
from sidecar.errors import Busy, NotFound, PublishError, SettingsError
from sidecar.generate import HTPASSWD, MAINTENANCE, MAP, NAMES, NAVIGATOR, PRERENDER, SHOWCASES, TENANTS
from sidecar.model import Artifact, Record
from sidecar.plan import Plan
from sidecar.settings import Settings

INDEX = "index.sqlite3"
_MANIFEST = "manifest.json"
_INCOMING = ".incoming"
_SUFFIX = ".sidecar-new"

Loaded = TypeVar("Loaded")
InstallIndex = Callable[[Path, Path, float | None], None]
Checkpoint = Callable[[str], None]


class IndexVersion(Record, frozen=True):
    """Which index a generation was made of.

    `etag` as the store names it, `modified` its age in seconds since 1970. When the index came with a poke
    ahead of the store, `outdated_etag` is what the store may still serve until `outdated_until`.
    """

    etag: str
    sha256: str
    modified: float | None
    size: int
    outdated_etag: str = ""
    outdated_until: float = 0.0


class Manifest(Record, frozen=True):
    """What a generation holds; `digests` are the SHA-256 of its artifacts in hexadecimal."""

    number: int
    created: float
    trigger: str
    fingerprint: str
    index: IndexVersion
    digests: dict[str, str]
    counts: Counts


class _Installed(Record, frozen=True):
    generation: int
    published: float


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
    paths = settings.paths
    databases, configuration, temporary = (
        Path(paths.databases),
        Path(paths.configuration),
        Path(paths.temporary),
    )
    files = settings.files
    try:
        owner = pwd.getpwnam(files.owner).pw_uid if files.owner else -1
        group = grp.getgrnam(files.group).gr_gid if files.group else -1
    except KeyError as error:
        raise SettingsError(f"files: {error.args[0]}", "create it, or name another") from None
    return Targets(
        files={
            HTPASSWD: databases / HTPASSWD,
            MAP: databases / MAP,
            SHOWCASES: databases / SHOWCASES,
            TENANTS: temporary / TENANTS,
            PRERENDER: temporary / PRERENDER,
            MAINTENANCE: configuration / MAINTENANCE,
            NAVIGATOR: configuration / NAVIGATOR,
        },
        index=databases / INDEX,
        mode=files.mode,
        htpasswd_mode=files.htpasswd_mode,
        owner=owner,
        group=group,
    )


class Generations:
    """The generations of one machine. All methods block; one thread at a time may publish."""

    def __init__(
        self,
        state: Path,
        where: Targets,
        install_index: InstallIndex,
        keep: int,
        checkpoint: Checkpoint = lambda _: None,
    ) -> None:
        self._state = state
        self._folder = state / "generations"
        self._incoming = self._folder / _INCOMING
        self._where = where
        self._install_index = install_index
        self._keep = keep
        self._checkpoint = checkpoint
        self._lock = -1
        self.current: Manifest | None = None

    @property
    def markers(self) -> Path:
        """The folder of the markers that the web server's ready hook leaves."""
        return self._state / "loaded"

    # Start and end

    def startup(self) -> list[str]:
        """Take the lock, complete or discard what a crash left, and say in sentences what was done.

        Raises `Busy` when another process holds the lock.
        """
        with _explained(f"the state folder {self._state}"):
            # Private: the generations hold password hashes.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        with _explained(f"the state folder {self._state}"):
            self.markers.mkdir(exist_ok=True)
            shutil.rmtree(self._incoming, ignore_errors=True)
            for target in self._where.files.values():
                target.with_name(f".{target.name}{_SUFFIX}").unlink(missing_ok=True)
        return self._recover()

    def shutdown(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        path = self._state / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = path.read_text().strip() or "another process"
            self.shutdown()
            raise Busy(
                f"{holder} holds {path}", "talk to the running daemon with `sidecar update`, or stop it first"
            ) from None
        os.truncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()}\n".encode())

    def _recover(self) -> list[str]:
        numbers = self.numbers()
        installed = _load(self._state / "installed.json", _Installed)
        if not numbers:
            return []
        last = self.manifest(numbers[-1])
        done: list[str] = []
        missing = [name for name, target in self._where.files.items() if not target.exists()]
        try:
            if installed is None or installed.generation != last.number:
                self._install_whole(last, NAMES, index=True)
                done.append(f"completed the interrupted publication of generation {last.number}")
            elif missing or not self._where.index.exists():
                self._install_whole(last, missing, index=not self._where.index.exists())
                done.append(
                    f"put missing files of generation {last.number} back: {', '.join(missing) or INDEX}"
                )
        except PublishError:
            self.current = self._last_installed(installed)
            raise
        self.current = last
        return done

    def _last_installed(self, installed: _Installed | None) -> Manifest | None:
        if installed is None:
            return None
        with suppress(NotFound):
            return self.manifest(installed.generation)
        return None

    # Reading

    def numbers(self) -> list[int]:
        """The numbers of the generations that are kept, ascending."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def manifest(self, number: int) -> Manifest:
        """The manifest of a generation; `NotFound` when it is not kept."""
        found = _load(self.folder(number) / _MANIFEST, Manifest)
        if found is None:
            raise NotFound(
                f"there is no generation {number}", f"kept are: {', '.join(map(str, self.numbers()))}"
            )
        return found

    def folder(self, number: int) -> Path:
        """The folder of a generation."""
        return self._folder / f"{number:08d}"

    def present(self) -> dict[str, bytes | None]:
        """What lies at each artifact's target now; None where nothing does."""
        found: dict[str, bytes | None] = {}
        for name, target in self._where.files.items():
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

    def drift(self, present: Mapping[str, bytes | None]) -> list[str]:
        """The artifacts that somebody else has changed or removed since they were installed."""
        if self.current is None:
            return []
        digests = self.current.digests
        return [
            name
            for name, content in present.items()
            if content is None or _sha256(content) != digests.get(name)
        ]

    def index_in_place(self) -> bool:
        """Whether there is an index at its target at all."""
        return self._where.index.exists()

    # Publishing

    def open_incoming(self) -> Path:
        """A fresh folder for the next generation; the fetched index goes there as `INDEX`."""
        with _explained(f"the state folder {self._state}"):
            shutil.rmtree(self._incoming, ignore_errors=True)
            self._incoming.mkdir()
        return self._incoming

    def discard_incoming(self) -> None:
        """Forget the generation that was being put together."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def publish(
        self, wanted: Iterable[Artifact], todo: Plan, describe: Callable[[int, dict[str, str]], Manifest]
    ) -> Manifest:
        """Make the set that is wanted the one in place. `PublishError` leaves the old one.

        `describe` gets the new number and the artifacts' digests and gives the manifest.
        """
        before = self.current
        number = max(self.numbers(), default=0) + 1
        artifacts = tuple(wanted)
        manifest = describe(number, {artifact.name: _sha256(artifact.content) for artifact in artifacts})
        with _explained("the new generation"):
            try:
                self._stage(artifacts, manifest)
                self._checkpoint("staged")
                self._prepare(todo.artifacts)
                self._commit(number)
            except BaseException:
                self._clean(todo.artifacts)
                self.discard_incoming()
                raise
        try:
            self._install([artifact.name for artifact in todo.artifacts], manifest, index=todo.index)
        except BaseException:
            self._undo(number, before, todo)
            raise
        self._record(manifest)
        self._prune()
        return manifest

    def _stage(self, artifacts: Iterable[Artifact], manifest: Manifest) -> None:
        before = self.folder(self.current.number) if self.current else None
        for artifact in artifacts:
            target = self._incoming / artifact.name
            same = self.current and self.current.digests.get(artifact.name) == manifest.digests[artifact.name]
            if before and same and (before / artifact.name).exists():
                os.link(before / artifact.name, target)  # nobody but us writes there, so one copy serves both
            else:
                _write(target, artifact.content, 0o600)
            self._checkpoint(f"staged {artifact.name}")
        if before and not (self._incoming / INDEX).exists():
            os.link(before / INDEX, self._incoming / INDEX)
        _sync(self._incoming / INDEX)
        _write(self._incoming / _MANIFEST, msgspec.json.encode(manifest), 0o600)
        _sync(self._incoming)

    def _prepare(self, artifacts: Iterable[Artifact]) -> None:
        where = self._where
        for artifact in artifacts:
            target = where.files[artifact.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            temporary = target.with_name(f".{target.name}{_SUFFIX}")
            mode = where.htpasswd_mode if artifact.name == HTPASSWD else where.mode
            _write(temporary, artifact.content, mode, (where.owner, where.group))
            self._checkpoint(f"prepared {artifact.name}")

    def _commit(self, number: int) -> None:
        self._incoming.rename(self.folder(number))
        self._checkpoint("renamed")
        _sync(self._folder)
        self._checkpoint("committed")

    def _install(self, names: Iterable[str], manifest: Manifest, *, index: bool) -> None:
        if index:
            self._where.index.parent.mkdir(parents=True, exist_ok=True)
            self._install_index(
                self.folder(manifest.number) / INDEX, self._where.index, manifest.index.modified
            )
            self._checkpoint("installed index")
        folders: dict[Path, None] = {}
        with _explained("the new generation"):
            for name in sorted(names, key=NAMES.index):
                target = self._where.files[name]
                temporary = target.with_name(f".{target.name}{_SUFFIX}")
                if name == NAVIGATOR:
                    # Everything that navigator.yml refers to is durable before Navigator can see it.
                    for folder in folders:
                        _sync(folder)
                    _touch(temporary)
                temporary.rename(target)
                if name == NAVIGATOR:
                    # Once more: a load between the touch and the rename would have been of the old file.
                    _touch(target)
                folders[target.parent] = None
                self._checkpoint(f"installed {name}")
            if folders:
                _sync(next(reversed(folders)))

    def _install_whole(self, manifest: Manifest, names: Iterable[str], *, index: bool) -> None:
        """Install the files of a committed generation from its folder."""
        folder = self.folder(manifest.number)
        chosen = {*names, NAVIGATOR}
        with _explained(f"generation {manifest.number}"):
            self._prepare(Artifact(name, (folder / name).read_bytes()) for name in NAMES if name in chosen)
        self._install(chosen, manifest, index=index)
        self._record(manifest)

    def _record(self, manifest: Manifest) -> None:
        with _explained(f"the state folder {self._state}"):
            _replace(
                self._state / "installed.json", msgspec.json.encode(_Installed(manifest.number, time.time()))
            )
        self.current = manifest
        self._checkpoint("recorded")

    def _undo(self, number: int, before: Manifest | None, todo: Plan) -> None:
        """After a failed installation: the old set again, the failed generation gone."""
        if before is not None:
            with suppress(PublishError, OSError):
                self._install_whole(before, [artifact.name for artifact in todo.artifacts], index=False)
        self._clean(todo.artifacts)
        shutil.rmtree(self.folder(number), ignore_errors=True)

    def _clean(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            target = self._where.files[artifact.name]
            with suppress(OSError):
                target.with_name(f".{target.name}{_SUFFIX}").unlink(missing_ok=True)

    def _prune(self) -> None:
        for number in self.numbers()[: -self._keep]:
            shutil.rmtree(self.folder(number), ignore_errors=True)


def _write(path: Path, content: bytes, mode: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file anew, durably."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        if owner != (-1, -1):
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}{_SUFFIX}")
    _write(temporary, content, 0o600)
    temporary.rename(path)
    _sync(path.parent)


def _touch(path: Path) -> None:
    # The kernel's own idea of now lags by some milliseconds, and Navigator compares with the exact time.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _load(path: Path, kind: type[Loaded]) -> Loaded | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


_HINTS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "the file system is read-only: check its mount and the disk's health",
    errno.EACCES: "check the owner and mode of the folder",
    errno.EPERM: "check the owner and mode of the folder",
    errno.EISDIR: "a folder is in the file's place: remove it",
}


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or ""
        raise PublishError(
            f"{what} could not be written: {error.strerror}{f' ({where})' if where else ''}",
            _HINTS.get(error.errno or 0, "the old set is still in place"),
        ) from error
