"""Files of the application that the store holds: fetched before the pages are rendered that show them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sidecar.config.parse import parse
from sidecar.config.settings import FetchSettings
from sidecar.inputs.extra import extras
from sidecar.inputs.store.folder import FolderStore
from sidecar.model.objects import Fetched
from sidecar.ready.extra import ExtraFiles, FetchedExtra
from sidecar.ready.facts import GenerationData
from sidecar.ready.memory import FileMemory
from sidecar.ready.report import StepReport
from sidecar.system.background import Background
from tests.integration.test_prerender import machine_with, pages, render
from tests.integration.test_ready import facts_of
from tests.support.origin import origin

MAPS = {"key": "views/event/_*map.html.erb", "path": "app/views/event"}
ONE = {"key": "notice.txt", "path": "public/notice.txt", "mode": "0640"}


class Store(FolderStore):
    """A folder that notes down what is asked of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FetchSettings(), lambda *_: None)
        self.asked: list[tuple[str, bool]] = []

    async def fetch(self, key: str, target: Path, etag: str | None) -> Fetched | None:
        self.asked.append((key, etag is not None))
        return await super().fetch(key, target, etag)

    def hold(self, folder: Path, key: str, text: str) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Bench:
    """The extra files of a machine, alone."""

    def __init__(self, folder: Path, *entries: dict[str, Any], beside: Path | None = None) -> None:
        self.application, self.held = folder / "app", folder / "store"
        self.state = folder / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.held)
        settings = parse(
            {"paths": {"application": str(self.application)}, "files": {"extra": list(entries)}}, {}
        )
        self.files = ExtraFiles(
            extras(settings),
            self.store,
            FileMemory(self.state / "extra.json", FetchedExtra),
            Background(1, 0),
            (-1, -1),
            self.state,
            beside,
        )

    async def fetch(self, *, everything: bool = False) -> tuple[str | None, list[str]]:
        """One step; what it says, and what failed."""
        facts: GenerationData = facts_of(1)
        report = StepReport(lambda: None, lambda _: None)
        self.store.asked.clear()
        return await self.files.fetch(facts, report, everything=everything), report.failures

    def put(self, key: str, text: str) -> None:
        self.store.hold(self.held, key, text)

    def text(self, path: str) -> str:
        return (self.application / path).read_text()


async def test_what_is_new_is_fetched_and_nothing_twice(tmp_path: Path) -> None:
    """By its ETag, unless somebody changed the file in place; what does not fit or is not there is left."""
    bench = Bench(tmp_path, MAPS, ONE)
    for name in (
        "_usmap.html.erb",
        "_eumap.html.erb",
        "other.html.erb",
        ".map.html.erb",
        "deep/_map.html.erb",
    ):
        bench.put(f"views/event/{name}", f"the first {name}")
    assert await bench.fetch() == ("3 looked at, 2 written", [])
    assert bench.text("app/views/event/_usmap.html.erb") == "the first _usmap.html.erb"
    assert sorted(path.name for path in (bench.application / "app/views/event").iterdir()) == [
        "_eumap.html.erb",
        "_usmap.html.erb",
    ]
    before = await bench.files.digest()
    assert await bench.fetch() == ("3 looked at, 0 written", [])
    assert bench.store.asked == [
        ("views/event/_eumap.html.erb", True),
        ("views/event/_usmap.html.erb", True),
        ("notice.txt", False),
    ]
    assert await bench.files.digest() == before
    bench.put("notice.txt", "closed today")
    (bench.application / "app/views/event/_eumap.html.erb").write_text("as the image brought it")
    assert await bench.fetch() == ("3 looked at, 2 written", [])
    assert bench.text("app/views/event/_eumap.html.erb") == "the first _eumap.html.erb"
    assert (bench.application / "public/notice.txt").stat().st_mode & 0o777 == 0o640
    assert await bench.files.digest() != before
    assert [path.name for path in bench.state.iterdir()] == ["extra.json"]


async def test_where_they_are_made_they_are_not_fetched(tmp_path: Path) -> None:
    """The machine that owns the index has the newest ones."""
    bench = Bench(tmp_path, ONE, beside=tmp_path / "db")
    bench.put("notice.txt", "an older one")
    assert await bench.fetch() == (None, [])
    assert bench.store.asked == []
    assert (await bench.files.digest()) == ""


async def test_what_came_beside_an_own_index_is_put_in_place(tmp_path: Path) -> None:
    """A host without a store gets them as it gets its index; what is newer was made there, and stays."""
    folder = tmp_path / "db"
    bench = Bench(tmp_path, MAPS, ONE, beside=folder)
    for name in ("_usmap.html.erb", "_eumap.html.erb", "other.html.erb"):
        bench.store.hold(folder, f"views/event/{name}", f"brought {name}")
    made = bench.application / "app/views/event/_eumap.html.erb"
    made.parent.mkdir(parents=True)
    made.write_text("made here")
    os.utime(folder / "views/event/_eumap.html.erb", (1, 1))
    assert await bench.fetch() == ("2 looked at, 1 written", [])
    assert bench.text("app/views/event/_usmap.html.erb") == "brought _usmap.html.erb"
    assert made.read_text() == "made here"
    assert not (made.parent / "other.html.erb").exists()
    assert await bench.fetch() == ("2 looked at, 0 written", [])
    bench.store.hold(folder, "notice.txt", "closed today")
    assert await bench.fetch() == ("3 looked at, 1 written", [])
    assert bench.store.asked == []


async def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The others are fetched all the same."""
    bench = Bench(tmp_path, {"key": "a", "path": "folder"}, ONE)
    bench.put("a", "text")
    bench.put("notice.txt", "text")
    (bench.application / "folder").mkdir(parents=True)
    said, failures = await bench.fetch()
    assert said == "2 looked at, 1 written"
    assert failures == [f"{bench.application / 'folder'} cannot be written: Is a directory"]


async def test_pages_are_rendered_again_when_they_change(tmp_path: Path) -> None:
    """All of them: which show such a file is the application's to know. Nothing else changes that."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url)
        machine.extra["files"] = {"extra": [MAPS]}
        machine.put_index()
        held = machine.folder / "store" / "views" / "event" / "_usmap.html.erb"
        held.parent.mkdir(parents=True)
        held.write_text("the first")
        async with machine.daemon() as daemon:
            assert (await render(daemon)).done == len(pages(machine))
            assert (machine.application / "app/views/event/_usmap.html.erb").read_text() == "the first"
            assert (await render(daemon)).total == 0
            held.write_text("another studio")
            assert (await render(daemon)).done == len(pages(machine))
            assert (await render(daemon)).total == 0
