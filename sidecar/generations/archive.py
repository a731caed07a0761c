"""The generations that are kept, each in a folder of its number, and the one that is put together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sidecar.errors import NotFound, PublishError
from sidecar.generations.records import INDEX, Manifest
from sidecar.model.artifacts import NAMES, Artifact
from sidecar.system.files import load, replace, sha256, share, sync, write

_MANIFEST = "manifest.json"
_INCOMING = ".incoming"
_DISCARDED = ".discarded"


class Archive:
    """One folder of generations, private to the sidecar."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.incoming = folder / _INCOMING
        """Where the next generation is put together; the fetched index goes there as `INDEX`."""

    # Reading

    def numbers(self) -> list[int]:
        """The numbers of the generations that are kept, ascending."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def folder(self, number: int) -> Path:
        """The folder of a generation."""
        return self._folder / f"{number:08d}"

    def index(self, number: int) -> Path:
        """The index database of a generation."""
        return self.folder(number) / INDEX

    def manifest(self, number: int) -> Manifest:
        """The manifest of a generation; `NotFound` when it is not kept, or damaged."""
        found = load(self.folder(number) / _MANIFEST, Manifest)
        if found is None or found.number != number:
            there = self.folder(number).exists()
            raise NotFound(
                f"the manifest of generation {number} is damaged"
                if there
                else f"there is no generation {number}",
                f"kept are: {', '.join(map(str, self.numbers()))}",
            )
        return found

    def artifacts(self, number: int) -> tuple[Artifact, ...]:
        """The artifacts of a kept generation; `NotFound` when they are not whole.

        Its manifest says which there are: one of an older version may lack what is made today.
        """
        manifest = self.manifest(number)
        names = [name for name in NAMES if name in manifest.digests]
        try:
            found = tuple(Artifact(name, (self.folder(number) / name).read_bytes()) for name in names)
        except OSError as error:
            raise NotFound(f"generation {number} is not whole: {error}", "choose another") from error
        if any(sha256(one.content) != manifest.digests.get(one.name) for one in found):
            raise NotFound(f"generation {number} is damaged", "choose another")
        return found

    def artifact(self, manifest: Manifest, name: str) -> bytes | None:
        """One artifact as it was published; None when the copy that was kept is gone or damaged."""
        try:
            content = (self.folder(manifest.number) / name).read_bytes()
        except OSError:
            return None
        return content if sha256(content) == manifest.digests.get(name) else None

    def newest_whole(self) -> tuple[Manifest | None, list[str]]:
        """The newest generation whose files are all what they should be, and sentences about newer ones."""
        passed_over: list[str] = []
        for number in reversed(self.numbers()):
            if not (fault := self.fault(number)):
                return self.manifest(number), passed_over
            passed_over.append(f"{fault}; it was passed over")
        return None, passed_over

    def fault(self, number: int) -> str:
        """Why a generation is not whole, in words; empty when it is."""
        try:
            self.artifacts(number)
            if sha256(self.index(number).read_bytes()) == self.manifest(number).index.sha256:
                return ""
        except NotFound as error:
            return error.message
        except OSError as error:
            return f"generation {number} is not whole: {error}"
        return f"the index of generation {number} is damaged"

    # Writing

    def open(self) -> None:
        """Make the folders, and empty the one for the next generation."""
        # Private: the generations hold password hashes.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.incoming.mkdir(exist_ok=True)
        self.empty_incoming()

    def empty_incoming(self) -> None:
        """Forget what was put together."""
        # The folder itself stays, so that an update which changes nothing leaves its parent untouched.
        for path in self.incoming.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def stage(
        self, artifacts: Iterable[Artifact], manifest: Manifest, before: Manifest | None
    ) -> Iterator[Path]:
        """Put a generation together, telling the path of each file; they are not synced yet.

        Where no index came in, it is the one of the generation `before`, if that is what it should be.
        """
        older = None if before is None else self.folder(before.number)
        for artifact in artifacts:
            target = self.incoming / artifact.name
            same = before and before.digests.get(artifact.name) == manifest.digests[artifact.name]
            if not (older and same and share(older / artifact.name, artifact.content, target)):
                write(target, artifact.content, 0o600)
            yield target
        if before and older and not (self.incoming / INDEX).exists():
            if sha256((older / INDEX).read_bytes()) != before.index.sha256:
                (older / INDEX).unlink()
                raise PublishError(
                    f"the index that was kept of generation {before.number} was damaged, and was removed",
                    "update again: the index is then fetched anew",
                )
            os.link(older / INDEX, self.incoming / INDEX)
        yield self.incoming / INDEX
        write(self.incoming / _MANIFEST, msgspec.json.encode(manifest), 0o600)
        yield self.incoming / _MANIFEST
        yield self.incoming

    def rewrite(self, manifest: Manifest) -> None:
        """Replace the manifest of a kept generation."""
        replace(self.folder(manifest.number) / _MANIFEST, msgspec.json.encode(manifest), synced=True)

    def commit(self, number: int) -> None:
        """From here on the generation counts."""
        self.incoming.rename(self.folder(number))

    def sync(self) -> None:
        """Make the commit durable."""
        sync([self._folder])

    def remove(self, number: int) -> None:
        """Remove a generation as a whole."""
        # By a rename first: a crash must not leave half of it under its number.
        self.remove_discarded()
        with suppress(OSError):
            self.folder(number).rename(self._folder / _DISCARDED)
        self.remove_discarded()

    def remove_discarded(self) -> None:
        """Finish a removal that a crash interrupted."""
        shutil.rmtree(self._folder / _DISCARDED, ignore_errors=True)

    def prune(self, keep: int, spare: Collection[int | None]) -> None:
        """Remove the oldest generations until so many are left, sparing some."""
        for number in self.numbers()[:-keep]:
            if number not in spare:
                self.remove(number)
        with suppress(OSError):
            self.incoming.mkdir(exist_ok=True)
