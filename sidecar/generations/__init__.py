"""Generations on disk, and their installation: the only place that writes what the web server reads.

The state folder holds

    lock                    held with a kernel lock by the one process that may publish
    generations/.incoming/  the next generation while it is put together
    generations/<number>/   a whole generation: manifest.json, index.sqlite3 and the artifacts
    installed.json          the number of the generation that is in place
    loaded.json             the number of the last one that the web server has loaded
    ready.json              the number of the last one whose ready work was done
    loaded/                 the markers that the web server's ready hook leaves

A publication goes through these steps, each up to the last durable before the next:

    1. stage    every file of the generation is written to .incoming (`archive`)
    2. prepare  every changed file is written beside its target, under another name (`installed`)
    3. commit   .incoming is renamed to its number: from here on the generation counts
    4. install  the index is replaced under its readers, then each file is renamed over its target,
                navigator.yml last and with a new mtime
    5. record   installed.json is replaced; should that be lost, the next start installs the set again

A failure up to 3 leaves the old set as it was, one after it brings it back. After a crash the next start
finds either an .incoming, which it empties, or a generation newer than installed.json says, which it
installs. A generation that is not whole any more is passed over.

A generation belongs to the inputs that it was made of besides the index: region, profile, settings. Under
other ones a start leaves everything in its place and installs nothing; the next update does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from sidecar.errors import Busy, NotFound, PublishError, SidecarError
from sidecar.generations.archive import Archive
from sidecar.generations.installed import Checkpoint, InstalledFiles, InstallIndex, Targets, targets
from sidecar.generations.plan import Plan, PresentFiles, is_same
from sidecar.generations.records import INDEX, IndexVersion, Installed, LastLoaded, Manifest, ReadyRecord
from sidecar.model.artifacts import MAINTENANCE, NAMES, NAVIGATOR, Artifact
from sidecar.model.changes import unified
from sidecar.system.files import explained, load, replace, sha256, sync

__all__ = ["INDEX", "Generations", "IndexVersion", "LastLoaded", "Manifest", "Targets", "targets"]

logger = logging.getLogger(__name__)


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
        self._keep = keep
        self._checkpoint = checkpoint
        self._lock = -1
        self._loaded: LastLoaded | None = None
        self.archive = Archive(state / "generations")
        self.site = InstalledFiles(where, install_index, clear_marker, self._other_indexes)
        self.current: Manifest | None = None

    @property
    def published(self) -> float:
        """When navigator.yml was put in place, in seconds since 1970."""
        return self.site.published

    @property
    def maintenance_name(self) -> str:
        """The file name of the configuration that Navigator boots with."""
        return self.site.where.files[MAINTENANCE].name

    # Start and end

    def startup(self, inputs: str | None = None, region: str | None = None) -> list[str]:
        """Take the lock, complete or discard what a crash left, and say in sentences what was done.

        `inputs` is the digest of today's inputs, None when that is not known, `region` today's region. Raises
        `Busy` when another process holds the lock.
        """
        self._open_state()
        self.archive.remove_discarded()
        self.site.clean()
        return self._recover(inputs, region)

    def shutdown(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open_state(self) -> None:
        with explained(f"the state folder {self._state}"):
            self._check_lock()
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock < 0:
                self._take_lock()
            (self._state / "loaded").mkdir(exist_ok=True)
            self.archive.open()

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

    def _check_lock(self) -> None:
        """Nothing may be written under a lock that lies in another folder than the state folder of today."""
        if self._lock < 0:
            return
        try:
            held = os.path.samestat((self._state / "lock").stat(), os.fstat(self._lock))
        except FileNotFoundError:
            held = False
        if not held:
            raise PublishError(
                f"the state folder {self._state} was removed or replaced under this process, "
                "which writes nothing any more",
                "restart the sidecar: it begins with the state folder that it then finds",
            )

    def _recover(self, inputs: str | None, region: str | None) -> list[str]:
        installed = load(self._state / "installed.json", Installed)
        if installed is not None:
            self.site.published, self.site.installed_index = installed.published, installed.index
        last, done = self.archive.newest_whole()
        if last is None:
            return done
        if inputs is not None and last.inputs != inputs:
            done.append(self._leave(last, installed))
            missing = self._missing(last)
            if self.current is last and missing and self.is_of(region):
                # Older than today's settings, but this machine's: better than nothing, until an update.
                self._install_whole(last, missing, index=False)
                done.append(f"put files of generation {last.number} back: {', '.join(missing)}")
            return done
        missing, fault = self._missing(last), self.site.index_fault()
        try:
            if installed is None or installed.generation != last.number:
                self._install_whole(last, NAMES, index=True)
                what = "went back to" if done else "completed the interrupted publication of"
                done.append(f"{what} generation {last.number}")
            elif missing or fault:
                self._install_whole(last, missing, index=bool(fault))
                names = [*missing, *([f"{INDEX} ({fault})"] if fault else [])]
                done.append(f"put files of generation {last.number} back: {', '.join(names)}")
        except PublishError:
            self.current = self._last_installed(installed)
            raise
        self.current = last
        return done

    def _missing(self, manifest: Manifest) -> list[str]:
        """The artifacts of a generation that are not in their places, or torn there."""
        found = {name for name in self.site.missing() if name in manifest.digests}
        with suppress(PublishError):  # what cannot be read is left to the next update
            present = self.site.present()
            changed = self._changed(present, manifest)
            found.update(name for name in changed if _is_torn(present.contents[name]))
        return [name for name in NAMES if name in found]

    def _leave(self, last: Manifest, installed: Installed | None) -> str:
        """Leave everything in its place, and say why the last generation is not installed."""
        other = "was made of other inputs (region, profile or settings) than today's"
        if installed is not None and installed.generation == last.number:
            self.current = last
            return f"generation {last.number}, which is in place, {other}: it stays as it is until an update"
        if installed is not None and not self.archive.fault(installed.generation):
            self.current = self._last_installed(installed)
        return (
            f"generation {last.number} {other}: it was not installed, what is in place stays until an update"
        )

    def _last_installed(self, installed: Installed | None) -> Manifest | None:
        if installed is None:
            return None
        with suppress(NotFound):
            return self.archive.manifest(installed.generation)
        return None

    # What is known of the generation in place

    def fits(self, inputs: str | None) -> bool:
        """Whether there is a generation in place that was made of these inputs; None stands for any."""
        return self.current is not None and inputs in (None, self.current.inputs)

    def is_of(self, region: str | None) -> bool:
        """Whether there is a generation in place that was made for this region."""
        return self.current is not None and self.current.region in (None, region)

    def adopt(self, inputs: str) -> None:
        """Note that the generation in place is what these inputs give as well, and the newest index.

        So nothing newer is held back any more, where one was taken back.
        """
        if self.current is None or (self.current.inputs == inputs and not self.current.taken_back):
            return
        manifest = msgspec.structs.replace(self.current, inputs=inputs, taken_back="")
        try:
            self._check_lock()
            self.archive.rewrite(manifest)
        except (OSError, PublishError) as error:
            # It fits all the same; all that follows is that a start takes it for one of other inputs.
            logger.warning("what generation %d is by now could not be noted: %s", manifest.number, error)
            return
        self.current = manifest

    def drift(self, present: PresentFiles) -> dict[str, str]:
        """What is not as it was installed, or not as the settings say, the index included.

        By name a diff of what somebody else has changed, or words where there is none.
        """
        current = self.current
        if current is None:
            return {}
        found = {name: f"{words}\n" for name, words in present.manners.items()}
        for name in self._changed(present, current):
            found[name] = found.get(name, "") + self._difference(current, name, present.contents[name])
        if present.index:
            found[INDEX] = present.index
        return {name: found[name].rstrip("\n") for name in (*NAMES, INDEX) if name in found}

    def _difference(self, current: Manifest, name: str, content: bytes | None) -> str:
        published = self.archive.artifact(current, name)
        if published is None:
            return f"changed; generation {current.number}'s own copy is gone or damaged, so there is no diff"
        return unified(name, published, content or b"") or "the bytes differ, the text is the same"

    def _changed(self, present: PresentFiles, manifest: Manifest) -> list[str]:
        """The artifacts whose content is not what the manifest says."""
        return [
            name
            for name, content in present.contents.items()
            if name in manifest.digests and not self._is_as_published(name, content, manifest)
        ]

    def _is_as_published(self, name: str, content: bytes | None, manifest: Manifest) -> bool:
        if content is None or sha256(content) == manifest.digests[name]:
            return content is not None
        published = self.archive.artifact(manifest, name)
        return published is not None and is_same(name, published, content)

    def is_whole(self, present: PresentFiles) -> bool:
        """Whether all that is in place has the content of the current generation; modes may differ."""
        return self.current is not None and not self._changed(present, self.current) and not present.index

    def last_loaded(self) -> int | None:
        """The number of the last generation that the web server is known to have loaded."""
        found = self.load_record()
        return found.generation if found else None

    def load_record(self) -> LastLoaded | None:
        """What is remembered of the last load, by whichever process of the web server."""
        if self._loaded is None:
            self._loaded = load(self._state / "loaded.json", LastLoaded)
        return self._loaded

    def mark_loaded(self, record: LastLoaded) -> None:
        """Remember that a generation was loaded: the one to go back to."""
        self._note("loaded.json", msgspec.json.encode(record))
        self._loaded = record

    def ready(self) -> int | None:
        """The number of the last generation whose ready work was done."""
        found = load(self._state / "ready.json", ReadyRecord)
        return found.generation if found else None

    def mark_ready(self, number: int) -> None:
        """Remember that a generation's ready work is done."""
        self._note("ready.json", msgspec.json.encode(ReadyRecord(number, time.time())))

    def _note(self, name: str, content: bytes) -> None:
        self._check_lock()
        with explained(f"the state folder {self._state}"):
            replace(self._state / name, content)

    # Publishing

    def open_incoming(self) -> Path:
        """An empty folder for the next generation; the fetched index goes there as `INDEX`."""
        self._open_state()
        return self.archive.incoming

    def discard_incoming(self) -> None:
        """Forget the generation that was being put together."""
        with suppress(OSError):
            self.archive.empty_incoming()

    def publish(
        self, wanted: Iterable[Artifact], todo: Plan, describe: Callable[[int, dict[str, str]], Manifest]
    ) -> Manifest:
        """Make the set that is wanted the one in place. `PublishError` leaves the old one.

        `describe` gets the new number and the artifacts' digests and gives the manifest.
        """
        self._check_lock()
        before, archive = self.current, self.archive
        number = max(archive.numbers(), default=0) + 1
        artifacts = tuple(wanted)
        names = [artifact.name for artifact in todo.artifacts]
        manifest = describe(number, {artifact.name: sha256(artifact.content) for artifact in artifacts})
        with explained("the new generation"):
            try:
                self._write(artifacts, todo, manifest)  # steps 1 and 2
                archive.commit(number)  # step 3
                self._checkpoint("renamed")
                archive.sync()
                self._checkpoint("committed")
            except BaseException:
                self.site.clean(names)
                archive.remove(number)
                self.discard_incoming()
                raise
        installed: list[str] = []
        try:
            self._install(names, manifest, index=todo.index, installed=installed)  # step 4
        except BaseException:
            self._undo(number, before, installed)
            self.site.clean(names)
            raise
        self._record(manifest)  # step 5
        archive.prune(self._keep, {self.last_loaded()})
        return manifest

    def _write(self, artifacts: Iterable[Artifact], todo: Plan, manifest: Manifest) -> None:
        """Steps 1 and 2: stage and prepare; and wait for the disk once for all of the files."""
        written: list[Path] = []
        for path in self.archive.stage(artifacts, manifest, self.current):
            written.append(path)
            self._checkpoint(f"staged {path.name}")
        for name, path in self.site.prepare(todo.artifacts):
            written.append(path)
            self._checkpoint(f"prepared {name}")
        sync(written)
        self._checkpoint("synced")

    def _install(
        self, names: Iterable[str], manifest: Manifest, *, index: bool, installed: list[str] | None = None
    ) -> None:
        """Step 4: put prepared files in place, noting in `installed` what has been put there."""
        done = [] if installed is None else installed
        if index:
            self.site.put_index(self.archive.index(manifest.number), manifest.index.modified)
            done.append(INDEX)
            self._checkpoint("installed index")
        with explained("the new generation"):
            for name in self.site.install(names, manifest.fingerprint):
                done.append(name)
                self._checkpoint(f"installed {name}")

    def _install_whole(self, manifest: Manifest, names: Iterable[str], *, index: bool) -> None:
        """Install files of a committed generation from its folder."""
        chosen = {*names, NAVIGATOR} & manifest.digests.keys()
        artifacts = [one for one in self.archive.artifacts(manifest.number) if one.name in chosen]
        try:
            with explained(f"generation {manifest.number}"):
                sync([path for _, path in self.site.prepare(artifacts)])
            self._install(chosen, manifest, index=index)
        except BaseException:
            self.site.clean(chosen)
            raise
        self._record(manifest)

    def _other_indexes(self) -> set[str]:
        """The SHA-256 of the indexes of the kept generations, but for that of the current one."""
        found = set()
        for number in self.archive.numbers():
            with suppress(OSError, SidecarError):
                found.add(self.archive.manifest(number).index.sha256)
        current = self.current or self.archive.newest_whole()[0]
        return found - {current.index.sha256} if current else found

    def date_index(self, version: IndexVersion) -> None:
        """Take the age that the store tells of the index in place: one that came with a poke had none.

        The application's tools would take an index of another age for a newer one, or for an older.
        """
        current = self.current
        if current is None or current.index.sha256 != version.sha256 or version.modified is None:
            return
        if current.index.modified != version.modified:
            manifest = msgspec.structs.replace(current, index=version)
            self.archive.rewrite(manifest)
            self.site.date_index(version.modified)
            self._record(manifest)

    def _record(self, manifest: Manifest) -> None:
        """Step 5: remember which generation is in place."""
        self.current = manifest
        record = Installed(manifest.number, self.site.published, self.site.installed_index)
        try:
            replace(self._state / "installed.json", msgspec.json.encode(record))
        except OSError as error:
            # The set is in place all the same; all that follows is that the next start installs it again.
            logger.warning("generation %d could not be recorded: %s", manifest.number, error)
        self._checkpoint("recorded")

    def _undo(self, number: int, before: Manifest | None, installed: list[str]) -> None:
        """After a failed installation: the old set again, the failed generation gone."""
        if before is not None:
            if INDEX in installed:
                with suppress(PublishError):
                    self.site.put_index(self.archive.index(before.number), before.index.modified)
                    self._record(before)  # the index as it is now
            if names := [name for name in installed if name != INDEX]:
                with suppress(PublishError, NotFound):
                    self._install_whole(before, names, index=False)
        self.archive.remove(number)


def _is_torn(content: bytes | None) -> bool:
    """Whether a power cut has left this, where the disk had not kept what it said it had; no editor does."""
    return content is not None and (not content or b"\0" in content)
