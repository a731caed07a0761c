"""Generations on disk, and their installation: the only place that writes what the web server reads.

The state folder holds

    lock                    held with a kernel lock by the one process that may publish
    generations/.incoming/  the next generation while it is put together
    generations/<number>/   a whole generation: manifest.json, index.sqlite3 and the artifacts
    installed.json          the number of the generation that is in place
    loaded.json             the number of the last one that the web server has loaded
    loaded/                 the markers that the web server's ready hook leaves

A publication goes through these steps, each durable before the next:

    1. stage    every file of the generation is written to .incoming
    2. prepare  every changed file is written beside its target, under another name
    3. commit   .incoming is renamed to its number: from here on the generation counts
    4. install  the index is replaced under its readers, then each file is renamed over its target,
                navigator.yml last and with a new mtime
    5. record   installed.json is replaced

A failure up to 3 leaves the old set as it was; after it, what was installed already is undone. After a crash
the next start finds either an .incoming, which it empties, or a generation newer than installed.json says,
which it installs. A generation that is not whole any more is passed over.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import hashlib
import logging
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

logger = logging.getLogger("sidecar.generations")

INDEX = "index.sqlite3"
_MANIFEST = "manifest.json"
_INCOMING = ".incoming"
_DISCARDED = ".discarded"
_SUFFIX = ".sidecar-new"

Loaded = TypeVar("Loaded")
InstallIndex = Callable[[Path, Path, float | None], None]
Checkpoint = Callable[[str], None]


class IndexVersion(Record, frozen=True):
    """Which index a generation was made of.

    `etag` as the store names it, `modified` its age in seconds since 1970. When the index came with a poke
    ahead of the store, `outdated` are the ETags that the store may still serve until `outdated_until`.
    """

    etag: str
    sha256: str
    modified: float | None
    size: int
    outdated: tuple[str, ...] = ()
    outdated_until: float = 0.0


class Manifest(Record, frozen=True):
    """What a generation holds; `digests` are the SHA-256 of its artifacts in hexadecimal.

    `inputs` tells what else besides the index it was made of. After a rollback `source` is the generation
    that was restored; a `pinned` one stays until somebody asks for an update.
    """

    number: int
    created: float
    trigger: str
    fingerprint: str
    index: IndexVersion
    digests: dict[str, str]
    counts: Counts
    inputs: str = ""
    source: int | None = None
    pinned: bool = False


class _Installed(Record, frozen=True):
    generation: int
    published: float


class _Loaded(Record, frozen=True):
    generation: int
    at: float


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
        clear_marker: Callable[[str], None] = lambda _: None,
        checkpoint: Checkpoint = lambda _: None,
    ) -> None:
        self._state = state
        self._folder = state / "generations"
        self._incoming = self._folder / _INCOMING
        self._where = where
        self._install_index = install_index
        self._keep = keep
        self._clear_marker = clear_marker
        self._checkpoint = checkpoint
        self._lock = -1
        self.current: Manifest | None = None
        self.published = 0.0
        """When navigator.yml was put in place, in seconds since 1970."""

    @property
    def markers(self) -> Path:
        """The folder of the markers that the web server's ready hook leaves."""
        return self._state / "loaded"

    # Start and end

    def startup(self) -> list[str]:
        """Take the lock, complete or discard what a crash left, and say in sentences what was done.

        Raises `Busy` when another process holds the lock.
        """
        self._open_state()
        shutil.rmtree(self._folder / _DISCARDED, ignore_errors=True)
        self._clean(self._where.files)
        with suppress(OSError):
            _temporary(self._where.index).unlink(missing_ok=True)
        return self._recover()

    def _open_state(self) -> None:
        """Make the state folder ready, and empty what will be the next generation."""
        with _explained(f"the state folder {self._state}"):
            if self._lock < 0:
                # Private: the generations hold password hashes.
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._take_lock()
            self.markers.mkdir(exist_ok=True)
            self._incoming.mkdir(exist_ok=True)
            self._empty_incoming()

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
        installed = _load(self._state / "installed.json", _Installed)
        last, done = self._newest_whole()
        if last is None:
            return done
        missing = [name for name, target in self._where.files.items() if not target.exists()]
        try:
            if installed is None or installed.generation != last.number:
                self._install_whole(last, NAMES, index=True)
                what = "went back to" if done else "completed the interrupted publication of"
                done.append(f"{what} generation {last.number}")
            elif missing or not self._where.index.exists():
                self._install_whole(last, missing, index=not self._where.index.exists())
                done.append(
                    f"put missing files of generation {last.number} back: {', '.join(missing) or INDEX}"
                )
        except PublishError:
            self.current = self._last_installed(installed)
            raise
        self.current = last
        if self.published == 0.0 and installed is not None:
            self.published = installed.published
        return done

    def _newest_whole(self) -> tuple[Manifest | None, list[str]]:
        """The newest generation whose files are all what they should be, and sentences about newer ones."""
        passed_over: list[str] = []
        for number in reversed(self.numbers()):
            try:
                self.artifacts(number)
                manifest = self.manifest(number)
                if _sha256((self.folder(number) / INDEX).read_bytes()) == manifest.index.sha256:
                    return manifest, passed_over
                problem = f"the index of generation {number} is damaged"
            except NotFound as error:
                problem = error.message
            except OSError as error:
                problem = f"generation {number} is not whole: {error}"
            passed_over.append(f"{problem}; it was passed over")
        return None, passed_over

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
        """The manifest of a generation; `NotFound` when it is not kept, or damaged."""
        found = _load(self.folder(number) / _MANIFEST, Manifest)
        if found is None or found.number != number:
            there = self.folder(number).exists()
            raise NotFound(
                f"the manifest of generation {number} is damaged"
                if there
                else f"there is no generation {number}",
                f"kept are: {', '.join(map(str, self.numbers()))}",
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

    def stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Time, size and inode of each artifact in place: cheap to compare, and moved by any change."""
        found: list[tuple[int, int, int] | None] = []
        for target in self._where.files.values():
            try:
                stat = target.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

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

    def loaded(self) -> int | None:
        """The number of the last generation that the web server is known to have loaded."""
        found = _load(self._state / "loaded.json", _Loaded)
        return found.generation if found else None

    def mark_loaded(self, number: int) -> None:
        """Remember that a generation was loaded: the one to go back to."""
        with _explained(f"the state folder {self._state}"):
            _replace(self._state / "loaded.json", msgspec.json.encode(_Loaded(number, time.time())))

    def artifacts(self, number: int) -> tuple[Artifact, ...]:
        """The artifacts of a kept generation; `NotFound` when they are not whole."""
        manifest = self.manifest(number)
        try:
            found = tuple(Artifact(name, (self.folder(number) / name).read_bytes()) for name in NAMES)
        except OSError as error:
            raise NotFound(f"generation {number} is not whole: {error}", "choose another") from error
        if any(_sha256(one.content) != manifest.digests.get(one.name) for one in found):
            raise NotFound(f"generation {number} is damaged", "choose another")
        return found

    def index_in_place(self) -> bool:
        """Whether there is an index at its target at all."""
        return self._where.index.exists()

    # Publishing

    def open_incoming(self) -> Path:
        """An empty folder for the next generation; the fetched index goes there as `INDEX`."""
        self._open_state()
        return self._incoming

    def discard_incoming(self) -> None:
        """Forget the generation that was being put together."""
        with suppress(OSError):
            self._empty_incoming()

    def _empty_incoming(self) -> None:
        # The folder itself stays, so that an update which changes nothing leaves its parent untouched.
        for path in self._incoming.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def publish(
        self, wanted: Iterable[Artifact], todo: Plan, describe: Callable[[int, dict[str, str]], Manifest]
    ) -> Manifest:
        """Make the set that is wanted the one in place. `PublishError` leaves the old one.

        `describe` gets the new number and the artifacts' digests and gives the manifest.
        """
        before = self.current
        number = max(self.numbers(), default=0) + 1
        artifacts = tuple(wanted)
        names = [artifact.name for artifact in todo.artifacts]
        manifest = describe(number, {artifact.name: _sha256(artifact.content) for artifact in artifacts})
        with _explained("the new generation"):
            try:
                self._stage(artifacts, manifest)
                self._checkpoint("staged")
                self._prepare(todo.artifacts)
                self._commit(number)
            except BaseException:
                self._clean(names)
                self._remove(number)
                with suppress(OSError):
                    self._empty_incoming()
                raise
        installed: list[str] = []
        try:
            self._install(names, manifest, index=todo.index, installed=installed)
        except BaseException:
            self._undo(number, before, installed)
            self._clean(names)
            raise
        self._record(manifest)
        self._prune()
        return manifest

    def _stage(self, artifacts: Iterable[Artifact], manifest: Manifest) -> None:
        before = self.folder(self.current.number) if self.current else None
        for artifact in artifacts:
            target = self._incoming / artifact.name
            same = self.current and self.current.digests.get(artifact.name) == manifest.digests[artifact.name]
            if not (before and same and _share(before / artifact.name, artifact.content, target)):
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
            temporary = _temporary(target)
            mode = where.htpasswd_mode if artifact.name == HTPASSWD else where.mode
            _write(temporary, artifact.content, mode, (where.owner, where.group))
            self._checkpoint(f"prepared {artifact.name}")

    def _commit(self, number: int) -> None:
        self._incoming.rename(self.folder(number))
        self._checkpoint("renamed")
        _sync(self._folder)
        self._checkpoint("committed")

    def _install(
        self, names: Iterable[str], manifest: Manifest, *, index: bool, installed: list[str] | None = None
    ) -> None:
        """Put prepared files in place, noting in `installed` what has been put there."""
        installed = [] if installed is None else installed
        if index:
            self._put_index(manifest)
            installed.append(INDEX)
            self._checkpoint("installed index")
        folders: dict[Path, None] = {}
        with _explained("the new generation"):
            for name in sorted(names, key=NAMES.index):
                target = self._where.files[name]
                temporary = _temporary(target)
                if name == NAVIGATOR:
                    # Everything that navigator.yml refers to is durable before Navigator can see it.
                    for folder in folders:
                        _sync(folder)
                    self._clear_marker(manifest.fingerprint)
                    self.published = time.time()
                    _touch(temporary)
                temporary.rename(target)
                installed.append(name)
                if name == NAVIGATOR:
                    # Once more: a load between the touch and the rename would have been of the old file.
                    _touch(target)
                folders[target.parent] = None
                self._checkpoint(f"installed {name}")
            if folders:
                _sync(next(reversed(folders)))

    def _put_index(self, manifest: Manifest) -> None:
        where = self._where
        with _explained("the index"):
            where.index.parent.mkdir(parents=True, exist_ok=True)
            fresh = not where.index.exists()
            self._install_index(self.folder(manifest.number) / INDEX, where.index, manifest.index.modified)
            if fresh and where.index.exists():
                # One that was there before keeps its owner and mode: the application may write to it.
                os.chown(where.index, where.owner, where.group)
                where.index.chmod(where.mode)

    def _install_whole(self, manifest: Manifest, names: Iterable[str], *, index: bool) -> None:
        """Install the files of a committed generation from its folder."""
        folder = self.folder(manifest.number)
        chosen = {*names, NAVIGATOR}
        try:
            with _explained(f"generation {manifest.number}"):
                self._prepare(
                    Artifact(name, (folder / name).read_bytes()) for name in NAMES if name in chosen
                )
            self._install(chosen, manifest, index=index)
        except BaseException:
            self._clean(chosen)
            raise
        self._record(manifest)

    def _record(self, manifest: Manifest) -> None:
        self.current = manifest
        try:
            _replace(
                self._state / "installed.json",
                msgspec.json.encode(_Installed(manifest.number, self.published)),
            )
        except OSError as error:
            # The set is in place all the same; all that follows is that the next start installs it again.
            logger.warning("generation %d could not be recorded: %s", manifest.number, error)
        self._checkpoint("recorded")

    def _undo(self, number: int, before: Manifest | None, installed: list[str]) -> None:
        """After a failed installation: the old set again, the failed generation gone."""
        if before is not None:
            if names := [name for name in installed if name != INDEX]:
                with suppress(PublishError):
                    self._install_whole(before, names, index=False)
            if INDEX in installed:
                with suppress(PublishError):
                    self._put_index(before)
        self._remove(number)

    def _clean(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(OSError):
                _temporary(self._where.files[name]).unlink(missing_ok=True)

    def _remove(self, number: int) -> None:
        # By a rename first: a crash must not leave half of it under its number.
        discarded = self._folder / _DISCARDED
        shutil.rmtree(discarded, ignore_errors=True)
        with suppress(OSError):
            self.folder(number).rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)

    def _prune(self) -> None:
        for number in set(self.numbers()[: -self._keep]) - {self.loaded()}:
            self._remove(number)
        with suppress(OSError):
            self._incoming.mkdir(exist_ok=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}{_SUFFIX}")


def _share(source: Path, content: bytes, target: Path) -> bool:
    """Let one copy serve two generations, where it is sound: nobody but us writes there."""
    try:
        if source.read_bytes() != content:
            return False
        os.link(source, target)
    except OSError:
        return False
    return True


def _write(path: Path, content: bytes, mode: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file anew, durably."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            if owner != (-1, -1):
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)  # on which disk there is no room
        raise


def _replace(path: Path, content: bytes) -> None:
    temporary = _temporary(path)
    try:
        _write(temporary, content, 0o600)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
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
    errno.EEXIST: "a file is in the folder's place: remove it",
    errno.ENOTDIR: "a file is in the folder's place: remove it",
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
