"""Extra files: what the store holds for the application besides the index and the events' databases."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from sidecar.config.settings import ExtraFile, Settings


class ExtraEntry:
    """One entry of `files.extra`: a key and its file, or with `*` in its name several and their folder."""

    def __init__(self, entry: ExtraFile, application: Path) -> None:
        self.mode = entry.mode
        folder, slash, self._name = entry.key.rpartition("/")
        self._folder = f"{folder}{slash}"
        self.several = "*" in self._name
        self.key = f"{self._folder}{self._name.partition('*')[0]}"
        """The object's key, or what the keys of several begin with."""
        self._path = application / entry.path

    def fits(self, key: str) -> bool:
        """Whether an object is one of the several."""
        name = key.removeprefix(self._folder)
        return "/" not in name and not name.startswith(".") and fnmatchcase(name, self._name)

    def target(self, key: str) -> Path:
        """The file of an object."""
        return self._path / key.removeprefix(self._folder) if self.several else self._path

    def here(self) -> Iterator[tuple[str, Path]]:
        """The files that are in place, by their keys. It blocks."""
        return self._found(self._path)

    def below(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """The files that lie in a folder under their keys. It blocks."""
        return self._found(folder / self._folder if self.several else folder / self.key)

    def _found(self, path: Path) -> Iterator[tuple[str, Path]]:
        if self.several:
            found = ((f"{self._folder}{one.name}", one) for one in sorted(path.glob(self._name)))
            yield from ((key, one) for key, one in found if self.fits(key) and one.is_file())
        elif path.is_file():
            yield self.key, path


def extras(settings: Settings) -> tuple[ExtraEntry, ...]:
    """The entries of the settings."""
    application = Path(settings.paths.application)
    return tuple(ExtraEntry(entry, application) for entry in settings.files.extra)
