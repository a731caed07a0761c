"""The life of a generation on disk, as long as nothing goes wrong."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sidecar.daemon import Daemon
from sidecar.demo.sample import Size, rename_studio, set_password
from sidecar.errors import Busy, NotFound
from sidecar.generations import INDEX, Generations, LastLoaded
from sidecar.inputs.machine import Machine as Inputs
from sidecar.model.artifacts import NAMES
from sidecar.model.runs import Outcome, Request
from tests.support.machine import Machine
from tests.support.publisher import (
    Press,
    check_whole,
    leftovers,
    open_generations,
    sha256,
    stamps,
    update,
)

SIZE = Size(events=12, studios=8, users=8)
NAVIGATOR = "navigator.yml"


@pytest.fixture
def published(machine: Machine) -> Machine:
    """A machine with one generation in place."""
    machine.put_index(SIZE)
    assert update(machine).state == "published"
    return machine


def current(machine: Machine) -> Generations:
    """The generations after a start that found nothing to do."""
    generations = open_generations(machine)
    try:
        assert generations.startup() == []
    finally:
        generations.shutdown()
    return generations


def one_password(machine: Machine, turn: int = 0) -> None:
    set_password(machine.store_index, "user0001", f"user0001:{{SHA}}{chr(ord('a') + turn) * 27}=")


def mtimes(machine: Machine) -> dict[str, int]:
    return {name: stamp[1] for name, stamp in stamps(machine).items()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def poke(daemon: Daemon) -> Outcome:
    return await daemon.worker.submit(Request(trigger="socket"))


def test_a_publication_is_whole(published: Machine) -> None:
    """Each file in place has the digest that the manifest says, and the index is the store's."""
    generations = current(published)
    check_whole(published, generations.current, published.store_index)
    assert generations.archive.numbers() == [1]
    assert generations.current is not None
    assert list(generations.current.digests) == list(NAMES)
    kept = {path.name for path in generations.archive.folder(1).iterdir()}
    assert kept == {*NAMES, INDEX, "manifest.json"}


def test_the_order_of_a_publication(machine: Machine) -> None:
    """All is staged, then prepared, then committed; the index is installed first, navigator.yml last."""
    machine.put_index(SIZE)
    points: list[str] = []
    update(machine, points.append)
    names = list(NAMES)
    assert points == [
        *(f"staged {name}" for name in (*names, INDEX, "manifest.json", ".incoming")),
        *(f"prepared {name}" for name in names),
        "synced",
        "renamed",
        "committed",
        "installed index",
        *(f"installed {name}" for name in names),
        "recorded",
    ]
    assert names[-1] == NAVIGATOR


def test_targets_are_old_until_the_commit(published: Machine) -> None:
    """Up to the commit nothing that the web server reads is touched; then the index changes first."""
    published.put_index(SIZE, seed=2)
    before = stamps(published)
    changed: dict[str, set[str]] = {}

    def look(name: str) -> None:
        now = stamps(published)
        changed[name] = {name for name in before if now[name] != before[name]}

    update(published, look)
    for name, touched in changed.items():
        assert touched == set(), name
        if name == "committed":
            break
    assert changed["installed index"] == {INDEX}
    assert NAVIGATOR not in changed["installed prerender.txt"]
    assert NAVIGATOR in changed["installed navigator.yml"]


async def test_an_unchanged_index_writes_nothing(machine: Machine) -> None:
    """With the same index no target and no folder of generations is touched: inode, mtime and ctime stay."""
    machine.put_index(SIZE)

    def seen() -> dict[str, tuple[int, int, int]]:
        folders = (machine.state / "generations", *(machine.application / part for part in ("db", "config")))
        stats = {str(path): path.stat() for path in (*folders, machine.state / "generations" / "00000001")}
        return {
            **stamps(machine),
            **{path: (one.st_ino, one.st_mtime_ns, one.st_ctime_ns) for path, one in stats.items()},
        }

    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        before = seen()
        for _ in range(3):
            outcome = await poke(daemon)
            assert (outcome.state, outcome.written, outcome.generation) == ("unchanged", (), 1)
            assert seen() == before
        # The same bytes under a new ETag have to be fetched; only the index's age follows, and no fault.
        os.utime(machine.store_index, (1.7e9, 1.7e9))
        assert (await poke(daemon)).state == "unchanged"
        here = stamps(machine)
        assert here.pop(INDEX)[1] == 1_700_000_000 * 10**9
        assert here == {name: stamp for name, stamp in before.items() if "/" not in name and name != INDEX}
        assert daemon.generations.site.index_fault() == ""
    async with machine.daemon() as daemon:  # nor after a restart
        assert daemon.generations.site.index_fault() == ""
        assert (await poke(daemon)).state == "unchanged"
        assert stamps(machine)[INDEX][1] == 1_700_000_000 * 10**9


def test_an_unchanged_index_writes_nothing_after_a_restart(published: Machine) -> None:
    """A new process, too, touches nothing when nothing changed."""
    before = stamps(published)
    outcome = update(published)
    assert (outcome.state, outcome.generation) == ("unchanged", 1)
    assert stamps(published) == before


def test_a_new_password_moves_navigator_yml_last(published: Machine) -> None:
    """When only htpasswd changed, it and navigator.yml are replaced, navigator.yml with the newest mtime."""
    before = stamps(published)
    one_password(published)
    outcome = update(published)
    after = stamps(published)
    assert set(outcome.written) == {"htpasswd", NAVIGATOR}
    assert {name for name in after if after[name] != before[name]} == {"htpasswd", NAVIGATOR, INDEX}
    times = mtimes(published)
    assert max(times, key=lambda name: times[name]) == NAVIGATOR
    assert list(times.values()).count(times[NAVIGATOR]) == 1
    assert times[NAVIGATOR] > before[NAVIGATOR][1]
    check_whole(published, current(published).current, published.store_index)


def test_any_change_moves_navigator_yml_last(published: Machine) -> None:
    """A change in any artifact gives navigator.yml a new mtime, the newest of all."""
    with closing(sqlite3.connect(published.store_index)) as connection:
        (key,) = connection.execute("select key from locations order by id limit 1").fetchone()
    rename_studio(published.store_index, key, "Another Name")
    before = mtimes(published)
    outcome = update(published)
    after = mtimes(published)
    assert "map.yml" in outcome.written
    assert after[NAVIGATOR] > before[NAVIGATOR]
    assert all(after[NAVIGATOR] > after[name] for name in outcome.written if name != NAVIGATOR)


def test_navigator_yml_is_touched_after_it_was_renamed(published: Machine) -> None:
    """Between a touch and the rename Navigator could load the old file: only a later mtime makes it look."""
    published.put_index(SIZE, seed=2)
    with Press(published) as press:
        calls = [point.name for point in press.run("call", 0).points]
    rename = calls.index("os.rename app/config/.navigator.yml.sidecar-new")
    assert "os.utime app/config/.navigator.yml.sidecar-new" in calls[:rename]
    assert "os.utime app/config/navigator.yml" in calls[rename:]
    assert not [call for call in calls[rename + 1 :] if call.startswith("os.rename app")]


def test_an_index_that_changes_no_artifact(published: Machine) -> None:
    """When the index changes where nothing is generated from, it alone is replaced, and nothing reloads."""
    with closing(sqlite3.connect(published.store_index)) as connection, connection:
        connection.execute("update users set email = 'other@example.com'")
    before = stamps(published)
    outcome = update(published)
    after = stamps(published)
    assert (outcome.state, outcome.written, outcome.generation) == ("published", (), 2)
    assert {name for name in after if after[name] != before[name]} == {INDEX}
    check_whole(published, current(published).current, published.store_index)


def test_the_index_gets_the_age_of_its_object(published: Machine) -> None:
    """The mtime of the index in place is the true age of the object, as often as it is replaced."""
    for seed, age in ((2, 1_700_000_000.25), (3, 1_600_000_000.0)):
        published.put_index(SIZE, seed)
        os.utime(published.store_index, (age, age))
        update(published)
        assert published.target(INDEX).stat().st_mtime == age


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("umask", [0, 0o077], indirect=True)
def test_modes_are_explicit(tmp_path: Path) -> None:
    """Files have the modes that the settings name, whatever the umask; the generations are private."""
    # The index is a database, to which the application may write.
    modes_of = {"files": {"mode": "0664", "htpasswd_mode": "0604"}, "databases": {"mode": "0620"}}
    machine = Machine(tmp_path, modes_of)
    machine.put_index(SIZE)
    for turn in range(2):
        update(machine)
        modes = {name: mode(machine.target(name)) for name in NAMES}
        assert modes == {name: 0o604 if name == "htpasswd" else 0o664 for name in NAMES}
        one_password(machine, turn)
    assert mode(machine.target(INDEX)) == 0o620
    assert mode(machine.state) == 0o700
    assert mode(machine.state / "generations") == 0o700
    assert mode(machine.state / "generations" / "00000001" / "htpasswd") == 0o600


def test_a_generation_of_a_version_that_made_less_stays_usable(published: Machine) -> None:
    """Its manifest says what it holds: it is whole, is put in place again, and can be gone back to."""
    machine = published
    one_password(machine, 1)
    assert update(machine).state == "published"
    archive = open_generations(machine).archive
    for number in (1, 2):
        manifest = archive.manifest(number)
        kept = {name: digest for name, digest in manifest.digests.items() if name != "prerender.txt"}
        (archive.folder(number) / "prerender.txt").unlink()
        archive.rewrite(msgspec.structs.replace(manifest, digests=kept))
    machine.target("prerender.txt").unlink()
    machine.target("map.yml").unlink()
    generations = open_generations(machine)
    said = generations.startup()
    generations.shutdown()
    assert said == ["put files of generation 2 back: map.yml"]
    assert "prerender.txt" not in {one.name for one in archive.artifacts(1)}
    outcome = update(machine, rollback=1)
    assert outcome.state == "published", outcome.error
    one_password(machine, 2)
    assert update(machine).state == "published"
    assert "prerender.txt" in machine.targets()


def test_the_default_mode_of_what_holds_passwords(published: Machine) -> None:
    """Without a setting, neither htpasswd nor the index, with the same hashes, is a file for everybody."""
    assert mode(published.target("htpasswd")) == 0o640
    assert mode(published.target(INDEX)) == 0o660


def test_an_existing_index_keeps_its_mode(published: Machine) -> None:
    """The application may write to the index: its mode and owner are left alone when it is replaced."""
    published.target(INDEX).chmod(0o666)
    published.put_index(SIZE, seed=2)
    update(published)
    assert mode(published.target(INDEX)) == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_belong_to_the_owner_in_the_settings(tmp_path: Path) -> None:
    """Everything that is published, a new index included, belongs to the user who is named."""
    machine = Machine(tmp_path, {"files": {"owner": "nobody"}})
    machine.put_index(SIZE)
    update(machine)
    owner = pwd.getpwnam("nobody").pw_uid
    assert {machine.target(name).stat().st_uid for name in (*NAMES, INDEX)} == {owner}


def test_few_generations_are_kept(tmp_path: Path) -> None:
    """The last N generations are kept, each whole; older ones are gone from the disk."""
    machine = Machine(tmp_path, {"update": {"keep": 3}})
    for seed in range(1, 7):
        machine.put_index(SIZE, seed)
        assert update(machine).generation == seed
    generations = current(machine)
    assert generations.archive.numbers() == [4, 5, 6]
    for number in generations.archive.numbers():
        artifacts = generations.archive.artifacts(number)
        assert [one.name for one in artifacts] == list(NAMES)
        assert (
            sha256(generations.archive.folder(number) / INDEX)
            == generations.archive.manifest(number).index.sha256
        )
    names = sorted(path.name for path in (machine.state / "generations").iterdir())
    assert names == [".incoming", "00000004", "00000005", "00000006"]
    with pytest.raises(NotFound, match="no generation 3"):
        generations.archive.manifest(3)


def test_the_loaded_generation_is_kept(tmp_path: Path) -> None:
    """The last generation that was loaded is what a rollback needs: it outlasts the others."""
    machine = Machine(tmp_path, {"update": {"keep": 2}})
    machine.put_index(SIZE)
    update(machine)
    generations = current(machine)
    loaded = generations.last_loaded()
    generations.mark_loaded(LastLoaded(1, 0.0))
    for seed in range(2, 6):
        machine.put_index(SIZE, seed)
        update(machine)
    assert loaded is None
    assert current(machine).archive.numbers() == [1, 4, 5]


def test_equal_files_of_two_generations_are_one(published: Machine) -> None:
    """What did not change takes no room again."""
    one_password(published)
    update(published)
    folder = published.state / "generations"
    first, second = folder / "00000001", folder / "00000002"
    same = {name for name in NAMES if (first / name).samefile(second / name)}
    assert same == set(NAMES) - {"htpasswd", NAVIGATOR}


async def test_a_damaged_copy_is_not_passed_on(machine: Machine) -> None:
    """A file of a kept generation that somebody has changed does not get into the next generation."""
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        await poke(daemon)
        (machine.state / "generations" / "00000001" / "map.yml").write_text("damaged")
        one_password(machine)
        assert (await poke(daemon)).state == "published"
    check_whole(machine, current(machine).current, machine.store_index)


def test_drift_is_warned_about_and_repaired(published: Machine) -> None:
    """A file that was edited by hand is named with a diff, and put right by the next update."""
    good = published.targets()
    published.target("showcases.yml").write_bytes(b"edited: by hand\n")
    published.target("tenants.list").unlink()
    (published.target("htpasswd")).write_bytes(
        good["htpasswd"] + b"user3:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\n"
    )
    before = mtimes(published)
    generations = open_generations(published)
    generations.current = generations.archive.manifest(1)
    drift = generations.drift(generations.site.present())
    assert list(drift) == ["htpasswd", "showcases.yml", "tenants.list"]
    outcome = update(published)
    assert outcome.state == "published"
    # The file that was removed is back since the start before the update.
    assert set(outcome.drift) == {"htpasswd", "showcases.yml"}
    assert "+user3:" in outcome.drift["htpasswd"]
    assert any("changed by someone else" in line for line in outcome.log)
    assert {name: content for name, content in published.targets().items() if name != NAVIGATOR} == {
        name: content for name, content in good.items() if name != NAVIGATOR
    }
    assert mtimes(published)[NAVIGATOR] > before[NAVIGATOR]
    check_whole(published, current(published).current, published.store_index)
    assert update(published).drift == {}


@pytest.mark.parametrize("mode_of_it", [0o600, 0o666])
def test_a_file_whose_mode_was_changed_is_put_right(published: Machine, mode_of_it: int) -> None:
    """A wrong mode is told of as it is, no obstacle to a boot, and put right by the next update; so that
    Navigator looks again, the file is written anew and navigator.yml moves, as with any change.
    """
    before, good = mtimes(published), published.targets()
    published.target("htpasswd").chmod(mode_of_it)
    generations = current(published)
    present = generations.site.present()
    assert generations.drift(present) == {"htpasswd": f"mode is {mode_of_it:04o} instead of 0640"}
    assert generations.is_whole(present)
    outcome = update(published)
    assert (outcome.state, set(outcome.written)) == ("published", {"htpasswd", NAVIGATOR})
    assert outcome.drift == generations.drift(present)
    assert any("mode or owner is not what the settings say: htpasswd" in line for line in outcome.log)
    assert not any("someone else" in line for line in outcome.log)
    assert mode(published.target("htpasswd")) == 0o640
    assert published.targets() == good
    assert mtimes(published)[NAVIGATOR] > max(before[NAVIGATOR], mtimes(published)["htpasswd"])
    assert update(published).state == "unchanged"


def test_changed_settings_of_modes_are_applied(published: Machine) -> None:
    """The next update gives every file the mode that the settings now say."""
    published.extra["files"] = {"mode": "0664", "htpasswd_mode": "0600"}
    assert current(published).drift(current(published).site.present()).keys() == set(NAMES)
    assert update(published).written == NAMES
    modes = {name: mode(published.target(name)) for name in NAMES}
    assert modes == {name: 0o600 if name == "htpasswd" else 0o664 for name in NAMES}
    assert update(published).state == "unchanged"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_changed_settings_of_owners_are_applied(published: Machine) -> None:
    """The next update gives every file the owner and the group that the settings now say."""
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    published.extra["files"] = {"owner": "nobody", "group": group}
    drift = current(published).drift(current(published).site.present())
    assert drift["map.yml"] == f"owner is root instead of nobody, group is root instead of {group}"
    assert update(published).written == NAMES
    owners = {(published.target(name).owner(), published.target(name).group()) for name in NAMES}
    assert owners == {("nobody", group)}
    assert update(published).state == "unchanged"


async def test_a_file_system_without_modes_causes_no_update_after_update(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files do not get the modes that they are given, what they get counts as right."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        assert (await poke(daemon)).state == "published"
        assert (await poke(daemon)).state == "unchanged"
        machine.target("htpasswd").chmod(0o644)
        assert (await poke(daemon)).state == "published"


def test_a_target_that_is_a_symbolic_link_is_followed(machine: Machine) -> None:
    """The file that a link leads to is replaced, at the first publication and later; the link stays."""
    elsewhere = machine.folder / "elsewhere"
    links = {name: elsewhere / f"real-{name}" for name in ("htpasswd", NAVIGATOR, INDEX)}
    for name, real in links.items():
        machine.target(name).symlink_to(real)
    for seed in (1, 2):
        machine.put_index(SIZE, seed)
        assert update(machine).state == "published"
        generations = current(machine)
        check_whole(machine, generations.current, machine.store_index)
        for name, real in links.items():
            assert machine.target(name).readlink() == real
            assert real.is_file()
        assert {path.name for path in elsewhere.iterdir()} == {real.name for real in links.values()}
    links["htpasswd"].unlink()
    links[INDEX].write_bytes(b"")
    (elsewhere / f".real-{NAVIGATOR}.sidecar-new").write_bytes(b"left by a crash")
    assert update(machine).state == "unchanged"
    check_whole(machine, current(machine).current, machine.store_index)
    assert {path.name for path in elsewhere.iterdir()} == {real.name for real in links.values()}


def pipe(path: Path) -> None:
    """Whoever opens it waits for somebody who writes to it."""
    path.unlink()
    os.mkfifo(path)


def stranger_link(path: Path) -> None:
    """A link that a tenant made, to a file of the sidecar's."""
    path.unlink()
    path.symlink_to(path.parents[2] / "precious")
    os.lchown(path, 65534, 65534)


@pytest.mark.parametrize("name", ["map.yml", "showcases.yml", INDEX])
@pytest.mark.parametrize(
    "place",
    [
        pipe,
        pytest.param(
            stranger_link,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link"),
        ),
    ],
)
def test_what_a_tenant_puts_in_a_targets_place_is_replaced(
    machine: Machine, place: Callable[[Path], None], name: str
) -> None:
    """In a folder that tenants may write to, a link is not followed, and nobody waits for a pipe."""
    precious = machine.target(name).parents[2] / "precious"
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("of the sidecar's own")
    machine.put_index(SIZE)
    assert update(machine).state == "published"
    place(machine.target(name))
    machine.put_index(SIZE, seed=2)
    assert update(machine).state == "published"
    check_whole(machine, current(machine).current, machine.store_index)
    assert machine.target(name).is_file()
    assert not machine.target(name).is_symlink()
    assert precious.read_text() == "of the sidecar's own"


# A set belongs to the inputs that it was made of


def in_region(folder: Path, region: str) -> Machine:
    return Machine(folder, {"profile": "fly", "machine": {"id": "m", "region": region, "app": "app"}})


def digest(machine: Machine) -> str:
    return Inputs(machine.settings(), machine.state / "loaded").inputs().digest


def started(machine: Machine, inputs: str | None) -> tuple[Generations, list[str]]:
    generations = open_generations(machine)
    try:
        return generations, generations.startup(inputs)
    finally:
        generations.shutdown()


def test_a_set_of_another_region_is_not_installed(tmp_path: Path) -> None:
    """On a volume that wakes up in another region nothing of the old region is put back, and a start says
    so; the set still counts as what is in place. In its own region it is put back.
    """
    machine = in_region(tmp_path, "iad")
    machine.put_index(SIZE)
    update(machine)
    home, away = digest(machine), digest(in_region(tmp_path, "syd"))
    machine.target("htpasswd").unlink()
    before = stamps(machine)
    generations, said = started(machine, away)
    assert stamps(machine) == before
    assert "".join(said) == (
        "generation 1, which is in place, was made of other inputs (region, profile or settings) "
        "than today's: it stays as it is until an update"
    )
    assert generations.current == generations.archive.manifest(1)
    assert generations.published
    assert (generations.fits(away), generations.fits(home), generations.fits(None)) == (False, True, True)
    generations, said = started(machine, home)
    assert said == ["put files of generation 1 back: htpasswd"]


def test_an_interrupted_publication_for_another_region_is_not_completed(tmp_path: Path) -> None:
    """What was committed and not installed is left alone in another region; what is in place stays."""
    machine = in_region(tmp_path, "iad")
    machine.put_index(SIZE)
    update(machine)
    away = digest(in_region(tmp_path, "syd"))
    machine.put_index(SIZE, seed=2)
    with Press(machine) as press:
        names = [point.name for point in press.run("checkpoint", 0).points]
        machine.put_index(SIZE, seed=3)
        assert press.run("checkpoint", names.index("committed") + 1).killed
    before = stamps(machine)
    generations, said = started(machine, away)
    assert "".join(said) == (
        "generation 3 was made of other inputs (region, profile or settings) than today's: it was not "
        "installed, what is in place stays until an update"
    )
    assert {name: stamps(machine)[name] for name in before if name[0] != "."} == {
        name: stamp for name, stamp in before.items() if name[0] != "."
    }
    assert generations.current == generations.archive.manifest(2)
    assert started(machine, None)[1] == ["completed the interrupted publication of generation 3"]


@pytest.mark.parametrize("restored", [False, True], ids=["as it was", "restored by hand"])
def test_in_another_region_the_set_is_made_anew_of_the_index_in_place(tmp_path: Path, restored: bool) -> None:
    """With the store out of reach a set stands for its own region only, pinned or not: a volume that wakes up
    elsewhere gets a set of its own, made of the index that it has. The failure is told all the same.
    """
    machine = in_region(tmp_path, "iad")
    for seed in (1, 2):
        machine.put_index(SIZE, seed)
        update(machine)
    if restored:
        assert update(machine, rollback=1).state == "published"
    before = current(machine).current
    assert before is not None
    aside = machine.store_index.rename(machine.folder / "aside")
    assert stands(machine)
    moved = in_region(tmp_path, "syd")
    assert not stands(moved)
    outcome = update(moved, trigger="start")  # which no person asked for: it ends no pin
    assert (outcome.state, outcome.good) == ("published", False)
    assert outcome.error is not None
    assert outcome.error.code == "store_missing"
    after = current(moved).current
    assert after is not None
    assert (after.region, after.index.sha256, after.inputs) == ("syd", before.index.sha256, digest(moved))
    assert b"regions/syd" in moved.targets()["navigator.yml"]
    assert stands(moved)
    # Once it is made anew the store's failure is a failure again, and nothing is written.
    again = update(moved)
    assert (again.state, again.generation) == ("failed", after.number)
    aside.rename(machine.store_index)
    assert update(moved).state == ("published" if restored else "unchanged")


def stands(machine: Machine) -> bool:
    """Whether a boot could go on with what is in place."""
    daemon = Daemon(machine.settings())

    async def ask() -> bool:
        async with daemon.without_server():
            return await daemon.updater.is_intact()

    return asyncio.run(ask())


def test_a_set_that_comes_out_the_same_fits_from_then_on(published: Machine) -> None:
    """When other settings give the same files, an update writes none of them, and the set is theirs; a
    preview only looks.
    """
    before, old = stamps(published), digest(published)
    published.extra["update"] = {"max_lost_users": 0.25}
    new = digest(published)
    assert new != old
    update(published, preview=True)
    assert current(published).fits(old)
    assert update(published).state == "unchanged"
    assert stamps(published) == before
    generations, said = started(published, new)
    assert said == []
    assert generations.fits(new)


def test_another_region_is_no_loss(tmp_path: Path) -> None:
    """A move to a region that owns fewer events is no loss of them; an index that lost most of them is."""
    machine, moved = in_region(tmp_path, "iad"), in_region(tmp_path, "zzz")
    machine.put_index(Size(events=60, studios=20, users=12))
    update(machine)
    counts = current(machine).archive.manifest(1).counts
    assert counts.tenants >= 10
    outcome = update(moved)
    assert outcome.state == "published"
    assert current(moved).archive.manifest(2).counts.tenants < counts.tenants / 2
    moved.put_index(Size(events=12, studios=8, users=1))
    lost = update(machine)
    assert lost.error is not None
    assert lost.error.code == "loss"


def test_a_missing_index_is_put_back(published: Machine) -> None:
    """An index that is gone from its place is published again, although the store's did not change."""
    generations = current(published)
    assert generations.site.index_fault() == ""
    published.target(INDEX).unlink()
    assert generations.site.index_fault() == "it is not there"
    update(published)
    assert generations.site.index_fault() == ""
    check_whole(published, current(published).current, published.store_index)


async def test_a_second_process_is_refused(machine: Machine) -> None:
    """While one process may publish, another gets `Busy`, which names the first and does not disturb it."""
    machine.put_index(SIZE)
    async with machine.daemon() as daemon:
        await poke(daemon)
        second = open_generations(machine)
        with pytest.raises(Busy, match=f"process {os.getpid()} holds"):
            second.startup()
        before = stamps(machine)
        command = [sys.executable, "-m", "sidecar", "--config", str(machine.write_settings())]
        once = await asyncio.to_thread(
            lambda: subprocess.run([*command, "update", "--once"], capture_output=True, text=True, timeout=60)
        )
        assert once.returncode == 1
        assert f"process {os.getpid()} holds" in once.stderr
        assert "Traceback" not in once.stderr
        assert stamps(machine) == before
        one_password(machine)
        assert (await poke(daemon)).state == "published"
    assert leftovers(machine) == []


def test_the_lock_ends_with_its_holder(published: Machine) -> None:
    """A lock whose holder is gone, in order or killed, is no lock."""
    first = open_generations(published)
    first.startup()
    first.shutdown()
    first.shutdown()
    assert (published.state / "lock").read_text().startswith("process ")
    current(published)
