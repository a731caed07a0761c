"""What can go wrong with disks, folders and files: a clear error, the old set intact, later all is well."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sidecar.daemon import Daemon
from sidecar.demo.sample import Size, set_password, write_index
from sidecar.errors import PublishError
from sidecar.generations import INDEX, Generations, LastLoaded, Manifest
from sidecar.model.artifacts import NAMES
from sidecar.model.runs import Outcome, Request
from sidecar.observe.drift import Drift
from sidecar.system.sqlite import install_database
from tests.support.machine import Machine
from tests.support.publisher import (
    Press,
    check_whole,
    leftovers,
    machine_in_memory,
    once,
    open_generations,
    stamps,
    update,
)

SIZE = Size(events=12, studios=8, users=8)
NAVIGATOR = "navigator.yml"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_in_memory(tmp_path) as machine:
        yield machine


@pytest.fixture
def published(machine: Machine) -> Machine:
    """A machine with two generations, the second in place."""
    for seed in (1, 2):
        machine.put_index(SIZE, seed)
        assert update(machine).state == "published"
    return machine


def start(machine: Machine) -> tuple[Manifest | None, list[str]]:
    """What is in place after a start, and what was said about it."""
    generations = open_generations(machine)
    try:
        said = generations.startup()
    finally:
        generations.shutdown()
    return generations.current, said


async def poke(daemon: Daemon) -> Outcome:
    return await daemon.worker.submit(Request(trigger="socket"))


def check_refused(outcome: Outcome, *words: str) -> None:
    """Assert that an update failed while publishing, with a sentence and a hint that say why."""
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "publish_failed"
    assert outcome.error.hint
    for word in words:
        assert word in outcome.error.message, outcome.error.message


# A file system of its own


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts small file systems in memory, where that is allowed."""
    mounted: list[Path] = []

    def run(*command: str | Path) -> bool:
        with suppress(FileNotFoundError):
            return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
        return False

    def mount(folder: Path, options: str) -> None:
        if folder in mounted:
            assert run("mount", "-o", f"remount,{options}", folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not run("mount", "-t", "tmpfs", "-o", options, "sidecar-test", folder):
            pytest.skip("nothing can be mounted here")
        mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        assert run("umount", "-l", folder)


def fill(folder: Path, spare: int) -> Path:
    """Fill the disk under a folder but for some bytes; returns the file that does it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        block = 1 << 20
        while block >= 512:
            try:
                stream.write(bytes(block))
            except OSError:
                block //= 2
    os.truncate(filler, max(0, filler.stat().st_size - spare))
    return filler


def test_no_room_from_any_point_on(machine: Machine) -> None:
    """From wherever in a publication on files can no longer grow: it fails, and the old set is untouched, or
    all is in place. Nothing is left lying about, and the next update with room again gets to the new set.
    """
    for seed in (1, 2):
        machine.put_index(SIZE, seed)
        update(machine)
    outcomes: list[str] = []
    with Press(machine) as press:
        for number in range(1, 100):
            machine.put_index(SIZE, 2 + number)
            before = stamps(machine)
            answer = press.run("full", number)
            assert answer.status == 0
            outcomes.append(answer.state)
            if answer.state == "failed":
                assert answer.code == "publish_failed"
                assert "could not be" in answer.message
                assert answer.hint
                assert stamps(machine) == before
                assert leftovers(machine) == []
            else:
                check = {name: stamp for name, stamp in stamps(machine).items() if stamp != before[name]}
                assert {INDEX, NAVIGATOR} < check.keys()
            expected = "published" if answer.state == "failed" else "unchanged"
            assert update(machine).state == expected, answer.points[-1]
            check_whole(machine, start(machine)[0], machine.store_index)
            if len(answer.points) < number:
                break
    assert outcomes == sorted(outcomes)
    assert outcomes.count("failed") > 10
    assert outcomes.count("published") > 5


@pytest.mark.parametrize("part", ["db", "config", "tmp"])
async def test_a_full_disk_under_the_targets(machine: Machine, mount: Callable[..., None], part: str) -> None:
    """On a full disk an update fails with a sentence that says so and where, and the old set stays untouched;
    as soon as there is room, the same daemon publishes.
    """
    folder = machine.application / part
    mount(folder, "size=2m")
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        before = stamps(machine)
        machine.put_index(SIZE, seed=2)
        for spare in (0, 4096, 8192):
            filler = fill(folder, spare)
            outcome = await poke(daemon)
            filler.unlink()
            if outcome.state == "published":  # this much was enough
                break
            check_refused(outcome)
            assert outcome.generation == 1
            assert stamps(machine) == before
            assert leftovers(machine) == []
            if spare == 0:
                assert outcome.error is not None
                assert "No space left on device" in outcome.error.message
                assert str(folder) in outcome.error.message
                assert "room" in outcome.error.hint
        else:
            assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


async def test_a_full_disk_under_the_state_folder(machine: Machine, mount: Callable[..., None]) -> None:
    """Where generations cannot be kept nothing is published, the answer says why, and later all is well."""
    mount(machine.state, "size=2m")
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        before = stamps(machine)
        machine.put_index(SIZE, seed=2)
        for spare in (0, 50_000):
            filler = fill(machine.state, spare)
            outcome = await poke(daemon)
            filler.unlink()
            assert outcome.state == "failed"
            assert outcome.error is not None
            assert "No space left on device" in outcome.error.message
            assert stamps(machine) == before
            assert leftovers(machine) == []
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


async def test_a_read_only_target_folder(machine: Machine, mount: Callable[..., None]) -> None:
    """A read-only file system under a target costs the update, not the old set; later it recovers."""
    mount(machine.application / "config", "size=2m")
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        await poke(daemon)
        before = stamps(machine)
        machine.put_index(SIZE, seed=2)
        mount(machine.application / "config", "ro")
        outcome = await poke(daemon)
        check_refused(outcome, "Read-only file system", str(machine.application / "config"))
        assert outcome.error is not None
        assert "read-only" in outcome.error.hint
        assert stamps(machine) == before
        assert leftovers(machine) == []
        mount(machine.application / "config", "rw")
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


def test_a_read_only_state_folder(published: Machine, mount: Callable[..., None]) -> None:
    """A start on a read-only state folder is a `PublishError` that says so, and no update gets past it."""
    kept = published.folder / "kept"
    shutil.copytree(published.state, kept)
    mount(published.state, "size=8m")
    shutil.copytree(kept, published.state, dirs_exist_ok=True)
    mount(published.state, "ro")
    before = stamps(published)
    generations = open_generations(published)
    with pytest.raises(PublishError, match="Read-only file system"):
        generations.startup()
    with pytest.raises(PublishError, match="Read-only file system"):
        generations.open_incoming()
    assert stamps(published) == before
    mount(published.state, "rw")
    generations.open_incoming()
    second = open_generations(published)
    with pytest.raises(Exception, match="holds"):
        second.startup()
    generations.shutdown()
    check_whole(published, start(published)[0], published.store_index)


@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_daemon_starts_on_a_disk_that_takes_nothing(
    published: Machine, mount: Callable[..., None], fault: str
) -> None:
    """With the state folder on a full or read-only disk the daemon starts, and answers."""
    (published.state / "signatures").write_text(f"{int(time.time())} v1=used\n" * 100)
    (published.state / "history.db").write_bytes(b"damaged" * 100)
    kept = published.folder / "kept"
    shutil.copytree(published.state, kept)
    mount(published.state, "size=8m")
    shutil.copytree(kept, published.state, dirs_exist_ok=True)
    if fault == "full":
        fill(published.state, 0)
    else:
        mount(published.state, "ro")
    async with published.daemon(), published.client() as client, client.get("healthz") as answer:
        assert answer.status == 200
    mount(published.state, "rw")


# Something else in the way


@pytest.mark.parametrize("part", ["db", "config", "tmp"])
async def test_a_file_in_a_folders_place(machine: Machine, part: str) -> None:
    """A target folder that is a file is an error that names it; once it is a folder again all is put back."""
    machine.put_index(SIZE)
    folder = machine.application / part
    aside = machine.folder / "aside"
    async with machine.daemon() as daemon:
        await poke(daemon)
        before = stamps(machine)
        folder.rename(aside)
        folder.write_text("in the way")
        machine.put_index(SIZE, seed=2)
        outcome = await poke(daemon)
        check_refused(outcome, str(folder))
        assert folder.read_text() == "in the way"
        folder.unlink()
        aside.rename(folder)
        assert stamps(machine) == before
        assert leftovers(machine) == []
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


@pytest.mark.parametrize("name", NAMES)
async def test_a_folder_in_a_files_place(machine: Machine, name: str) -> None:
    """A target that is a folder is an error that names it, and nothing else is changed; later it recovers."""
    machine.put_index(SIZE)
    target = machine.target(name)
    async with machine.daemon() as daemon:
        await poke(daemon)
        target.unlink()
        target.mkdir()
        before = stamps(machine)
        machine.put_index(SIZE, seed=2)
        check_refused(await poke(daemon), str(target), "Is a directory")
        assert stamps(machine) == before
        assert leftovers(machine) == []
        target.rmdir()
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


async def test_an_unreadable_old_file(machine: Machine) -> None:
    """An old file that cannot be read is an error that names it; nothing is overwritten blindly."""
    machine.put_index(SIZE)
    target = machine.target("htpasswd")
    async with machine.daemon() as daemon:
        await poke(daemon)
        target.unlink()
        target.symlink_to(target)  # a loop: not even root can read it
        before = stamps(machine)
        machine.put_index(SIZE, seed=2)
        check_refused(await poke(daemon), str(target), "cannot be read")
        assert stamps(machine) == before
        assert target.is_symlink()
        target.unlink()
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


async def test_a_daemon_that_cannot_recover_still_serves(published: Machine) -> None:
    """When a start cannot complete what a crash left, the daemon runs all the same, and recovers later."""
    interrupt(published, seed=3)
    folder = published.application / "config"
    folder.rename(published.folder / "aside")
    folder.write_text("in the way")
    async with published.daemon() as daemon:
        assert daemon.generations.current is not None
        assert daemon.generations.current.number == 3
        check_refused(await poke(daemon), str(folder))
        folder.unlink()
        (published.folder / "aside").rename(folder)
        assert (await poke(daemon)).state == "published"
        check_whole(published, daemon.generations.current, published.store_index)
    assert start(published)[1] == []


def interrupt(machine: Machine, seed: int) -> None:
    """Publish one more generation, and leave what a kill right after the commit of the next one leaves."""
    machine.put_index(SIZE, seed)
    with Press(machine) as press:
        points = press.run("checkpoint", 0).points
        machine.put_index(SIZE, seed + 1)
        assert press.run("checkpoint", [point.name for point in points].index("committed") + 1).killed


# An installation that fails after the commit


class _Failing:
    """Installs the index, or fails as often as it is told to."""

    def __init__(self) -> None:
        self.failures = 0

    def __call__(self, source: Path, target: Path, modified: float | None) -> None:
        if self.failures:
            self.failures -= 1
            raise PublishError("the index could not be replaced: it is a test", "wait")
        install_database(source, target, modified)


def test_an_index_that_cannot_be_replaced(published: Machine) -> None:
    """When the index cannot be replaced, nothing is touched, not even navigator.yml; the number is free."""
    failing = _Failing()
    daemon = Daemon(published.settings())
    daemon.generations.site.install_index = failing
    failing.failures = 1
    before = stamps(published)
    published.put_index(SIZE, seed=3)
    outcome = _once(daemon)
    check_refused(outcome, "it is a test")
    assert outcome.generation == 2
    assert stamps(published) == before
    assert leftovers(published) == []
    manifest, said = start(published)
    assert (manifest.number if manifest else 0, said) == (2, [])
    assert update(published).generation == 3


@pytest.mark.parametrize("name", ["htpasswd", "tenants.list", NAVIGATOR])
def test_a_failure_in_the_midst_is_undone(published: Machine, name: str) -> None:
    """When the installation fails half way, the old set is put in place again, the index with it."""
    (before, _), old = start(published), published.targets()
    kept = published.folder / "kept.sqlite3"
    shutil.copyfile(published.store_index, kept)
    published.put_index(SIZE, seed=3)

    def fail(point: str) -> None:
        if point == f"installed {name}" and not failed:
            failed.append(point)
            raise OSError(5, "Input/output error")

    failed: list[str] = []
    daemon = Daemon(published.settings())
    daemon.generations._checkpoint = fail
    check_refused(_once(daemon), "Input/output error")
    assert failed
    assert published.targets() == old
    check_whole(published, before, kept)
    manifest, said = start(published)
    assert (manifest, said) == (before, [])
    assert update(published).generation == 3


def test_an_uncertain_commit_is_taken_back(published: Machine) -> None:
    """When it is not certain that the commit is durable, the update fails, and the old set stays for good."""
    published.put_index(SIZE, seed=3)

    def fail(point: str) -> None:
        if point == "renamed":
            raise OSError(5, "Input/output error")

    daemon = Daemon(published.settings())
    daemon.generations._checkpoint = fail
    before = stamps(published)
    check_refused(_once(daemon), "Input/output error")
    assert stamps(published) == before
    manifest, said = start(published)
    assert (manifest.number if manifest else 0, said) == (2, [])
    assert leftovers(published) == []


def _once(daemon: Daemon) -> Outcome:
    return asyncio.run(once(daemon, Request(trigger="once")))


# What is kept is lost or damaged


def test_the_state_folder_is_lost(published: Machine) -> None:
    """With a fresh state folder and the targets as they were, files that are right are not touched."""
    before = stamps(published)
    shutil.rmtree(published.state)
    outcome = update(published)
    assert (outcome.state, outcome.generation, outcome.written) == ("published", 1, ())
    assert {name for name, stamp in stamps(published).items() if stamp != before[name]} == {INDEX}
    check_whole(published, start(published)[0], published.store_index)
    assert update(published).state == "unchanged"


def test_the_state_folder_is_lost_and_the_index_changed(published: Machine) -> None:
    """With a fresh state folder a changed index is published as ever."""
    shutil.rmtree(published.state)
    published.put_index(SIZE, seed=3)
    assert update(published).generation == 1
    check_whole(published, start(published)[0], published.store_index)


Damage = Callable[[Path], None]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbled(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def of_another_kind(path: Path) -> None:
    path.write_text('{"generation": [], "number": "two", "digests": 3}')


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [emptied, truncated, garbled, of_another_kind, removed])
def test_a_damaged_manifest(published: Machine, damage: Damage) -> None:
    """A generation whose manifest cannot be read is passed over, aloud; the one before it is put in place."""
    damage(published.state / "generations" / "00000002" / "manifest.json")
    first = open_generations(published).archive.manifest(1)
    manifest, said = start(published)
    assert manifest == first
    assert "generation 2 is damaged; it was passed over" in said[0]
    assert said[1:] == ["went back to generation 1"]
    assert {name: published.target(name).read_bytes() for name in NAMES} == {
        one.name: one.content for one in open_generations(published).archive.artifacts(1)
    }
    outcome = update(published)
    assert (outcome.state, outcome.generation) == ("published", 3)
    check_whole(published, start(published)[0], published.store_index)


@pytest.mark.parametrize("damage", [emptied, garbled, removed])
@pytest.mark.parametrize("name", ["htpasswd", NAVIGATOR, INDEX])
def test_a_generation_that_is_not_whole(published: Machine, name: str, damage: Damage) -> None:
    """A generation with a file that is missing or damaged is passed over, aloud; the one before it counts."""
    damage(published.state / "generations" / "00000002" / name)
    manifest, said = start(published)
    assert (manifest.number if manifest else 0) == 1
    assert "generation 2 is " in said[0]
    assert said[1:] == ["went back to generation 1"]
    assert update(published).generation == 3
    check_whole(published, start(published)[0], published.store_index)


def test_no_generation_is_whole(published: Machine) -> None:
    """When all that is kept is damaged, a start leaves the targets alone, and the next update heals it."""
    for number in (1, 2):
        emptied(published.state / "generations" / f"{number:08d}" / "manifest.json")
    before = stamps(published)
    manifest, said = start(published)
    assert manifest is None
    assert len(said) == 2
    assert stamps(published) == before
    outcome = update(published)
    assert (outcome.state, outcome.generation) == ("published", 3)
    assert {name for name, stamp in stamps(published).items() if stamp != before[name]} == {INDEX}
    check_whole(published, start(published)[0], published.store_index)


def test_a_start_says_what_it_passes_over(published: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon logs as a warning what its start found damaged."""
    emptied(published.state / "generations" / "00000002" / "manifest.json")
    with caplog.at_level(logging.WARNING):
        update(published)
    assert any("passed over" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("damage", [emptied, truncated, garbled, of_another_kind, removed])
def test_a_damaged_record_of_the_installation(published: Machine, damage: Damage) -> None:
    """Without knowing what was installed, a start installs the newest generation, whole."""
    damage(published.state / "installed.json")
    published.target("map.yml").write_bytes(b"of whatever generation\n")
    manifest, said = start(published)
    assert said == ["completed the interrupted publication of generation 2"]
    check_whole(published, manifest, published.store_index)
    assert start(published) == (manifest, [])
    assert update(published).state == "unchanged"


@pytest.mark.parametrize("name", [*NAMES, INDEX])
def test_a_target_that_vanished_is_put_back(published: Machine, name: str) -> None:
    """A file that was removed while the daemon was down is put back at its start, and navigator.yml moves."""
    before = stamps(published)
    published.target(name).unlink()
    manifest, said = start(published)
    assert len(said) == 1
    assert name in said[0]
    check_whole(published, manifest, published.store_index)
    after = stamps(published)
    assert {each for each in after if after[each] != before[each]} == {name, NAVIGATOR}
    assert max(after, key=lambda each: after[each][1]) == NAVIGATOR
    assert update(published).state == "unchanged"


@pytest.mark.parametrize("content", [lambda _: b"", lambda size: bytes(size)], ids=["empty", "zeros"])
def test_what_a_power_cut_has_torn_is_put_back(published: Machine, content: Callable[[int], bytes]) -> None:
    """Where syncs do nothing, renamed files can be empty or full of zeros: a start, which has whole copies,
    does not leave a machine with these, whether or not there is a store. Whatever else differs is somebody's
    own change, and stays for the next update to tell of.
    """
    for name in NAMES:
        target = published.target(name)
        before = target.stat()
        target.write_bytes(content(before.st_size))
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    published.store_index.rename(published.folder / "the store is down")
    manifest, said = start(published)
    assert len(said) == 1
    assert "put files of generation 2 back" in said[0]
    check_whole(published, manifest, published.folder / "the store is down")
    published.target("map.yml").write_text("edited: by hand\n")
    assert start(published) == (manifest, [])


@pytest.mark.parametrize("parts", [["config", "tmp"], ["db"], ["db", "config", "tmp"]])
def test_a_new_container_on_an_old_volume(published: Machine, parts: list[str]) -> None:
    """Folders that a new container begins without are made and filled from the kept generation, at once."""
    for part in parts:
        shutil.rmtree(published.application / part)
    published.store_index.rename(published.folder / "the store is down")
    manifest, said = start(published)
    assert len(said) == 1
    check_whole(published, manifest, published.folder / "the store is down")


def test_a_record_that_cannot_be_written(published: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """A set that is in place counts as published even if that cannot be noted; the next start is sure."""
    published.put_index(SIZE, seed=3)

    def fail(point: str) -> None:
        if point == f"installed {NAVIGATOR}":
            (published.state / ".installed.json.sidecar-new").mkdir()

    daemon = Daemon(published.settings())
    daemon.generations._checkpoint = fail
    outcome = _once(daemon)
    assert (outcome.state, outcome.generation) == ("published", 3)
    assert any("could not be recorded" in record.getMessage() for record in caplog.records)
    (published.state / ".installed.json.sidecar-new").rmdir()
    manifest, _ = start(published)
    check_whole(published, manifest, published.store_index)


def test_what_lies_about_is_removed(published: Machine) -> None:
    """A start removes what a kill can have left: temporary files, half a generation, half a removal."""
    generations = published.state / "generations"
    for name in NAMES:
        target = published.target(name)
        target.with_name(f".{name}.sidecar-new").write_bytes(b"half")
    published.target(INDEX).with_name(f".{INDEX}.sidecar-new").write_bytes(b"half")
    (generations / ".incoming" / "folder").mkdir(parents=True)
    (generations / ".incoming" / "htpasswd").write_bytes(b"half")
    (generations / ".discarded" / "folder").mkdir(parents=True)
    assert leftovers(published) != []
    before = {name: stamp for name, stamp in stamps(published).items() if not name.startswith(".")}
    manifest, said = start(published)
    assert said == []
    assert leftovers(published) == []
    assert stamps(published) == before
    check_whole(published, manifest, published.store_index)


# The index in place


def replaced(path: Path) -> None:
    """Another database, moved over the one that was installed."""
    other = path.with_name("other")
    write_index(other, SIZE, seed=9)
    other.replace(path)


DAMAGES = [emptied, truncated, garbled, removed, replaced]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_index_is_put_back_by_the_next_update(machine: Machine, damage: Damage) -> None:
    """An index in place that is emptied, cut off, no database, gone or another file is drift, and no set to
    boot with. The next update puts it back, although the store's is the same, and nothing else is touched.
    """
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        before, drift = stamps(machine), Drift(daemon.generations)
        assert daemon.updater._stands()
        damage(machine.target(INDEX))
        assert not daemon.updater._stands()
        drift.look()
        drift.look()
        assert drift.names == [INDEX]
        outcome = await poke(daemon)
        assert (outcome.state, outcome.written, outcome.generation) == ("published", (), 2)
        assert outcome.drift == drift.diffs
        assert any("changed by someone else" in line and INDEX in line for line in outcome.log)
        assert {name for name, stamp in stamps(machine).items() if stamp != before[name]} == {INDEX}
        check_whole(machine, daemon.generations.current, machine.store_index)
        assert daemon.updater._stands()
        drift.look()
        drift.look()
        assert drift.names == []
        assert (await poke(daemon)).state == "unchanged"


async def test_an_index_that_a_tool_has_fetched_is_drift(machine: Machine) -> None:
    """It comes into the same file, as the store held it once. What the application writes is none."""
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        older = machine.store_index.read_bytes()
        machine.put_index(SIZE, seed=2)
        assert (await poke(daemon)).state == "published"
        target = machine.target(INDEX)
        with closing(sqlite3.connect(target)) as connection:
            connection.execute("update users set userid = userid")
            connection.commit()
        assert daemon.generations.site.index_fault() == ""
        with target.open("r+b") as stream:
            stream.write(older)
            stream.truncate()
        os.utime(target, (1.7e9, 1.7e9))
        assert daemon.generations.site.index_fault() == "the index of another generation is in its place"
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)
        assert daemon.generations.site.index_fault() == ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_put_back_at_the_start(published: Machine, damage: Damage) -> None:
    """A start finds the index damaged that lay there whole, says so and puts it back, once."""
    damage(published.target(INDEX))
    manifest, said = start(published)
    assert len(said) == 1
    assert said[0].startswith(f"put files of generation 2 back: {INDEX} (")
    check_whole(published, manifest, published.store_index)
    assert start(published) == (manifest, [])


def test_an_index_that_the_application_wrote_to_is_left_alone(published: Machine) -> None:
    """Rows that the application changes, with a log or without, are neither drift nor put back."""
    target = published.target(INDEX)
    for mode in ("delete", "wal"):
        with closing(sqlite3.connect(target)) as application:
            application.execute(f"pragma journal_mode = {mode}")
            application.execute("create table if not exists notes (text)")
            application.execute("insert into notes values (zeroblob(100000))")
            application.commit()
            manifest, said = start(published)
            assert said == []
        generations = open_generations(published)
        assert start(published) == (manifest, [])
        generations.startup()
        assert generations.drift(generations.site.present()) == {}
        generations.shutdown()
    assert update(published).state == "unchanged"
    with closing(sqlite3.connect(target)) as application:
        assert application.execute("select count(*) from notes").fetchone() == (2,)


@pytest.mark.parametrize("end", ["-journal", "-wal"])
def test_a_write_under_way_is_no_damage(published: Machine, end: str) -> None:
    """While there is a log, the file may be shorter than its header says: it is being written to."""
    site, target = open_generations(published).site, published.target(INDEX)
    truncated(target)
    assert site.index_fault() == "it is cut off"
    log = target.with_name(target.name + end)
    log.touch()
    assert site.index_fault() == ""
    log.unlink()
    assert site.index_fault() == "it is cut off"


async def test_a_damaged_copy_of_the_index_is_not_installed(machine: Machine) -> None:
    """When the index in place and the copy that was kept of it are both damaged, the update says so and
    publishes nothing; the next one fetches the index anew.
    """
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        await poke(daemon)
        emptied(machine.target(INDEX))
        garbled(daemon.generations.archive.index(1))
        check_refused(await poke(daemon), "the index that was kept of generation 1 was damaged")
        assert machine.target(INDEX).read_bytes() == b""
        assert leftovers(machine) == []
        assert (await poke(daemon)).state == "published"
        check_whole(machine, daemon.generations.current, machine.store_index)


def test_an_index_that_was_copied_is_the_same(published: Machine) -> None:
    """A volume that was copied has the same files under other numbers: that is no reason to replace any."""
    target = published.target(INDEX)
    copy = target.with_name("copy")
    shutil.copy2(target, copy)
    copy.replace(target)
    before = stamps(published)
    assert start(published)[1] == []
    assert stamps(published) == before


def test_an_index_that_is_put_back_keeps_its_mode(published: Machine) -> None:
    """What the application may do with the index it may still do after a repair."""
    target = published.target(INDEX)
    target.chmod(0o666)
    emptied(target)
    start(published)
    assert target.stat().st_mode & 0o777 == 0o666
    assert target.stat().st_size


def test_a_failed_publication_leaves_an_index_that_counts(published: Machine) -> None:
    """An index that was put back after a failure is the one that is known: the next start leaves it alone."""
    emptied(published.target(INDEX))
    published.put_index(SIZE, seed=3)
    daemon = Daemon(published.settings())

    def fail(point: str) -> None:
        if point == "installed htpasswd":
            daemon.generations._checkpoint = lambda _: None
            raise OSError(5, "Input/output error")

    daemon.generations._checkpoint = fail
    daemon.generations.startup = lambda *_: []  # type: ignore[method-assign]
    daemon.generations._open_state()
    daemon.generations.current = daemon.generations.archive.manifest(2)
    check_refused(_once(daemon), "Input/output error")
    assert start(published)[1] == []


# The state folder under a running daemon


@pytest.mark.parametrize("successor", [False, True])
async def test_the_state_folder_goes_under_a_running_daemon(machine: Machine, successor: bool) -> None:
    """A daemon whose state folder was removed, or replaced by another process, publishes nothing more, makes
    no new folder, and says what to do; after a restart all is well.
    """
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        machine.state.rename(machine.folder / "gone")  # at once, whatever is being written
        if successor:
            other = open_generations(machine)
            other.startup()
        machine.put_index(SIZE, seed=2)
        before = stamps(machine)
        outcome = await poke(daemon)
        check_refused(outcome, str(machine.state), "removed or replaced")
        assert outcome.error is not None
        assert "restart" in outcome.error.hint
        assert stamps(machine) == before
        assert not list(machine.state.glob("generations/0*"))
        with pytest.raises(PublishError, match="removed or replaced"):
            daemon.generations.mark_loaded(LastLoaded(1, 0.0))
        assert machine.state.exists() is successor
        if successor:
            other.shutdown()
    assert (await asyncio.to_thread(update, machine)).state == "published"
    check_whole(machine, start(machine)[0], machine.store_index)


# Losses, and differences that cannot be shown


def test_no_generation_is_whole_and_the_index_lost_nearly_everything(published: Machine) -> None:
    """Where no generation can tell what there was, the files in place do: the limits on losses hold."""
    published.put_index(Size(events=12, studios=8, users=30), seed=2)
    update(published)
    for number in (1, 2, 3):
        emptied(published.state / "generations" / f"{number:08d}" / "manifest.json")
    published.put_index(Size(events=12, studios=8, users=4), seed=2)
    before = stamps(published)
    outcome = update(published)
    assert outcome.error is not None
    assert outcome.error.code == "loss"
    assert stamps(published) == before
    assert update(published, force=True).state == "published"


@pytest.mark.parametrize("name", ["map.yml", "htpasswd"])
async def test_drift_of_a_damaged_generation(machine: Machine, name: str) -> None:
    """When a file and the copy that was kept of a generation's file are damaged, drift is told without a
    diff, and the update goes on.
    """
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        machine.target("map.yml").write_bytes(b"edited\n")
        (machine.state / "generations" / "00000001" / name).unlink()
        drift = Drift(daemon.generations)
        drift.look()
        drift.look()
        assert drift.names == ["map.yml"]
        outcome = await poke(daemon)
        assert (outcome.state, outcome.generation) == ("published", 2)
        assert outcome.drift == drift.diffs
        assert ("no diff" in outcome.drift["map.yml"]) is (name == "map.yml")
        check_whole(machine, daemon.generations.current, machine.store_index)


# A locked index


def test_a_locked_index(published: Machine) -> None:
    """While somebody keeps the index locked an update fails, with the old set intact; afterwards it works."""

    def impatient(source: Path, target: Path, modified: float | None) -> None:
        install_database(source, target, modified, patience=0.2)

    published.put_index(SIZE, seed=3)
    set_password(published.store_index, "user0001", None)
    before = stamps(published)
    daemon = Daemon(published.settings())
    daemon.generations.site.install_index = impatient
    with closing(sqlite3.connect(published.target(INDEX), isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from users").fetchone()
        check_refused(_once(daemon), "locked")
        assert {name: stamps(published)[name] for name in before} == before
    assert start(published)[1] == []
    assert update(published).state == "published"
    check_whole(published, start(published)[0], published.store_index)


def test_generations_of_an_unused_machine(machine: Machine) -> None:
    """A start on nothing finds nothing, says nothing and makes the folders it needs."""
    generations: Generations = open_generations(machine)
    assert generations.startup() == []
    generations.shutdown()
    assert generations.current is None
    assert generations.archive.numbers() == []
    assert (machine.state / "loaded").is_dir()
    assert machine.targets() == {}
