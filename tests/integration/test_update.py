"""The update, from a poke to published files: a real daemon, a real S3 server, and a network that fails."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sidecar.demo.sample import Size, add_event, add_user, remove_user, rename_studio, set_password
from sidecar.generations import LastLoaded
from sidecar.model.artifacts import NAMES
from sidecar.model.objects import StoreLook
from sidecar.model.runs import Request
from tests.conftest import Bucket
from tests.support import proxy as faults
from tests.support.cgi import UPDATE_PATH, forwarded, signed
from tests.support.machine import QUIET_START, Machine, until
from tests.support.proxy import Fault, Proxy

KEY = "db/index.sqlite3"
HASH = "{SHA}" + "A" * 27 + "="
Answer = tuple[int, dict[str, Any]]


@dataclass
class Site:
    """A machine, the bucket that holds its index, and the network between them.

    `machine.store_index` is where the index is made; `upload` puts it into the bucket.
    """

    machine: Machine
    bucket: Bucket
    proxy: Proxy

    @property
    def index(self) -> Path:
        return self.machine.store_index

    def upload(self, modified: str | None = None) -> str:
        """Put the index into the bucket; its SHA-256."""
        content = self.index.read_bytes()
        self.bucket.put(KEY, content, modified)
        return hashlib.sha256(content).hexdigest()

    def change(self) -> str:
        """Another user, uploaded."""
        with closing(sqlite3.connect(self.index)) as connection:
            (number,) = connection.execute("select count(*) from users").fetchone()
        add_user(self.index, f"new{number}", f"new{number}:{HASH}")
        return self.upload()

    def set(self, section: str, **values: Any) -> None:
        """Settings for daemons that start from now on."""
        self.machine.extra[section] = {**self.machine.extra.get(section, {}), **values}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        """A daemon, and a client on its Unix socket."""
        async with self.machine.daemon(), self.machine.client() as session:
            yield Client(session)

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file below the application: which one, when it changed, what it says."""
        files = sorted(path for path in self.machine.application.rglob("*") if path.is_file())
        stats = {path: path.stat() for path in files}
        return {str(path): (stat.st_ino, stat.st_mtime_ns, path.read_bytes()) for path, stat in stats.items()}

    def published_sha256(self) -> str:
        """Which index is in place, by its own rows: the file itself may differ in its header."""
        return content(self.machine.target("index.sqlite3"))


@dataclass
class Client:
    """Somebody on the Unix socket."""

    session: aiohttp.ClientSession

    async def poke(self, query: str = "", **headers: str) -> Answer:
        """POST /update; status and outcome."""
        accept = {"Accept": "application/json"}
        async with self.session.post(f"/update{query}", headers={**accept, **headers}) as answer:
            return answer.status, await answer.json()

    async def public(self, body: bytes = b"", *, path: str = UPDATE_PATH, **headers: str) -> Answer:
        """A signed poke through the public trigger, with a body or an expected digest."""
        proof = signed(body, path=path)
        sent = forwarded(path=path, Accept="application/json", **proof, **headers)
        async with self.session.post("/public", data=body, headers=sent) as answer:
            return answer.status, await answer.json()

    async def preview(self) -> tuple[str, dict[str, Any]]:
        """The preview's ETag and content."""
        async with self.session.get("/preview", headers={"Accept": "application/json"}) as answer:
            assert answer.status == 200
            return answer.headers["ETag"], await answer.json()

    async def status(self) -> dict[str, Any]:
        async with self.session.get("/status") as answer:
            data: dict[str, Any] = await answer.json()
            return data


def content(database: Path) -> str:
    """A digest of all rows of a database, opened as a reader would."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


@pytest.fixture
async def site(machine: Machine, bucket: Bucket) -> AsyncIterator[Site]:
    """A machine whose store is a bucket with a sample index, reached through a well-behaved network."""
    machine.put_index()
    async with Proxy(bucket.endpoint) as proxy:
        machine.extra = {
            "store": f"s3://{bucket.name}",
            "s3": {"endpoint": proxy.url, "access_key_id": "test", "secret_access_key": "test"},
            "fetch": {"attempts": 1},
            "navigator": {"pid_file": str(machine.folder / "navigator.pid")},
        }
        site = Site(machine, bucket, proxy)
        site.upload()
        yield site


# From the store to the files


async def test_the_first_update_publishes(site: Site) -> None:
    """A poke on a fresh machine puts every artifact and the index in place, and says so."""
    site.set("update", **QUIET_START)
    sha256 = site.upload()
    async with site.running() as client:
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["generation"]) == (200, "published", 1)
        assert outcome["sha256"] == sha256
        assert sorted(outcome["written"]) == sorted(NAMES)
        assert (await client.status())["index"]["sha256"] == sha256
    assert sorted(site.machine.targets()) == sorted(NAMES)
    assert site.published_sha256() == content(site.index)
    configuration = yaml.safe_load(site.machine.targets()["navigator.yml"])
    paths = [tenant["path"] for tenant in configuration["applications"]["tenants"]]
    with closing(sqlite3.connect(site.index)) as connection:
        (events,) = connection.execute("select count(*) from showcases").fetchone()
    assert len(paths) == events + 1


async def test_the_index_gets_the_objects_true_age(site: Site) -> None:
    """The installed index carries the time that the object's metadata tell."""
    site.upload("2026-05-01 12:00:00.25 UTC")
    async with site.running() as client:
        await client.poke()
        assert site.machine.target("index.sqlite3").stat().st_mtime == 1777636800.25


async def test_an_unchanged_index_writes_nothing(site: Site) -> None:
    """When nothing changed no file is touched, and the answer says so; after a restart too."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        for _ in range(2):
            status, outcome = await client.poke()
            assert (status, outcome["state"], outcome["generation"]) == (200, "unchanged", 1)
            assert "nothing changed" in outcome["log"][-1]
    async with site.running() as client:
        assert (await client.poke())[1]["state"] == "unchanged"
    assert site.snapshot() == before


async def test_the_same_content_under_another_etag_writes_nothing(site: Site) -> None:
    """An index that is uploaded again as it was changes nothing, whatever its date."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        site.upload("2026-05-01 12:00:00 UTC")
        site.proxy.then(faults.altered(lambda answer: answer.header("ETag", '"another-2"')))
        assert (await client.poke())[1]["state"] == "unchanged"
    assert site.snapshot() == before


async def test_a_changed_index_is_published(site: Site) -> None:
    """A change in the store is in the files after one poke, and named in the outcome."""
    async with site.running() as client:
        await client.poke()
        studio = first_studio(site.index)
        rename_studio(site.index, studio, "A Studio of Another Name")
        add_event(site.index, studio, 2026, "unheard-of", "Unheard Of")
        sha256 = site.upload()
        status, outcome = await client.poke()
    assert (status, outcome["state"], outcome["generation"]) == (200, "published", 2)
    assert outcome["sha256"] == sha256
    [changed] = outcome["changes"]["studios"]["changed"]["names"]
    assert changed == f"{studio}: name {studio.capitalize()} to A Studio of Another Name"
    assert outcome["changes"]["events"]["added"]["names"] == [f"2026/{studio}/unheard-of"]
    targets = site.machine.targets()
    assert b"A Studio of Another Name" in targets["showcases.yml"]
    assert f"/2026/{studio}/unheard-of/".encode() in targets["navigator.yml"]
    assert site.published_sha256() == content(site.index)


async def test_a_password_alone_moves_navigator_yml_last_of_all(site: Site) -> None:
    """A change of htpasswd only moves navigator.yml's mtime too, and nothing is newer than it."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        set_password(site.index, "user0003", f"user0003:{HASH}")
        site.upload()
        _, outcome = await client.poke()
    assert set(outcome["written"]) == {"htpasswd", "navigator.yml"}
    after = site.snapshot()
    navigator = str(site.machine.target("navigator.yml"))
    index = str(site.machine.target("index.sqlite3"))
    changed = {path for path in after if after[path] != before[path]}
    assert changed - {index} == {str(site.machine.target("htpasswd")), navigator}
    assert after[navigator][1] > before[navigator][1]
    assert after[navigator][1] == max(moment for path, (_, moment, _) in after.items() if path != index)


async def test_a_removed_file_comes_back(site: Site) -> None:
    """A published file that somebody removed is written again by the next update, which says so."""
    async with site.running() as client:
        await client.poke()
        before = site.machine.targets()
        site.machine.target("map.yml").unlink()
        status, outcome = await client.poke()
    assert (status, outcome["state"]) == (200, "published")
    assert any("by someone else" in line and "map.yml" in line for line in outcome["log"])
    assert site.machine.targets().keys() == before.keys()
    assert site.machine.targets()["map.yml"] == before["map.yml"]


def first_studio(index: Path) -> str:
    with closing(sqlite3.connect(index)) as connection:
        (key,) = connection.execute("select key from locations order by key").fetchone()
        return str(key)


# A store that fails

FAULTS = [
    pytest.param(faults.internal_error, "store_failed", id="500"),
    pytest.param(faults.unavailable, "store_failed", id="503"),
    pytest.param(faults.denied, "store_denied", id="403"),
    pytest.param(faults.no_key, "store_missing", id="404"),
    pytest.param(faults.cut, "store_torn", id="half a body"),
    pytest.param(faults.shortened, "store_torn", id="half a body, announced"),
    pytest.param(faults.wrong_etag, "store_torn", id="wrong ETag"),
    pytest.param(faults.flipped, "store_torn", id="flipped bytes"),
    pytest.param(faults.rubbish, "store_unreachable", id="not HTTP"),
    pytest.param(faults.hang, "store_timeout", id="no answer"),
    pytest.param(faults.trickle, "store_timeout", id="slow"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
async def test_a_failing_store_changes_nothing(site: Site, fault: Fault, code: str) -> None:
    """While the store fails the old files stay and the answer says why; the next good fetch recovers."""
    if fault in (faults.hang, faults.trickle):
        site.set("fetch", timeout="2s")
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        sha256 = site.change()
        site.proxy.always(fault)
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["generation"]) == (502, "failed", 1)
        assert outcome["error"]["code"] == code
        assert outcome["error"]["hint"]
        assert outcome["error"]["message"] in outcome["log"][-1]
        assert "stays" in outcome["log"][-1]
        assert site.snapshot() == before
        told = await client.status()
        assert told["sync"]["state"] == "unknown"
        assert told["error"]["code"] == code

        site.proxy.always(faults.well)
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["sha256"]) == (200, "published", sha256)
        assert (await client.status())["error"] is None
    assert site.published_sha256() == content(site.index)


async def test_a_store_that_is_down_changes_nothing(site: Site) -> None:
    """A store that takes no connections: the same, without a restart in between."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        site.change()
        await site.proxy.refuse()
        status, outcome = await client.poke()
        assert (status, outcome["error"]["code"]) == (502, "store_unreachable")
        assert site.snapshot() == before
        await site.proxy.accept()
        assert (await client.poke())[1]["state"] == "published"


async def test_a_daemon_starts_without_its_store(site: Site) -> None:
    """A daemon whose store is down from the start serves, says so, and recovers by itself."""
    await site.proxy.refuse()
    async with site.running() as client:
        status, outcome = await client.poke()
        assert (status, outcome["state"]) == (502, "failed")
        assert site.machine.targets() == {}
        await site.proxy.accept()
        assert (await client.poke())[1]["state"] == "published"


async def test_an_empty_object_is_refused(site: Site) -> None:
    """An object of no bytes is no index: the old one stays."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        site.bucket.put(KEY, b"")
        status, outcome = await client.poke()
    assert (status, outcome["state"], outcome["error"]["code"]) == (422, "rejected", "not_sqlite")
    assert site.snapshot() == before


async def test_half_a_database_is_refused(site: Site) -> None:
    """An upload that broke off leaves an object whose digests are right and whose content is not."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        whole = site.index.read_bytes()
        site.bucket.put(KEY, whole[: len(whole) // 2])
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["error"]["code"]) == (422, "rejected", "unsound")
        assert site.snapshot() == before
        site.change()
        assert (await client.poke())[1]["state"] == "published"


# Content that is refused


def veto(folder: Path, words: str) -> list[str]:
    """A check command that refuses while there are these words in map.yml, and counts its calls."""
    return ["/bin/sh", "-c", f"echo once >> {folder}/calls; ! grep '{words}' map.yml"]


def calls(folder: Path) -> int:
    path = folder / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


async def test_refused_content_is_not_tried_again_until_it_changes(site: Site) -> None:
    """What the check command refused is refused at once the next time, after a restart too; a person tries.

    The command may be at fault as well as the content, so the refusal is one for a time.
    """
    site.set("update", **QUIET_START)
    folder = site.machine.folder
    site.set("update", check_command=veto(folder, "Forbidden Name"))
    async with site.running() as client:
        assert (await client.poke())[0] == 200
        before = site.snapshot()
        rename_studio(site.index, first_studio(site.index), "Forbidden Name")
        site.upload()
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["error"]["code"]) == (422, "rejected", "veto")
        assert any("Forbidden Name" in warning for warning in outcome["warnings"])
        assert calls(folder) == 2
        status, outcome = await client.poke("?trigger=timer")
        assert (status, outcome["error"]["code"]) == (422, "veto")
        assert "is tried again in 1 min" in outcome["error"]["message"]
    async with site.running() as client:
        assert (await client.poke("?trigger=timer"))[0] == 422
        assert calls(folder) == 2
        assert (await client.poke())[0] == 422
        assert calls(folder) == 3
        assert site.snapshot() == before
        rename_studio(site.index, first_studio(site.index), "Welcome Name")
        site.upload()
        assert (await client.poke())[1]["state"] == "published"
        assert calls(folder) == 4


async def test_another_command_gets_another_chance(site: Site) -> None:
    """A refusal holds for the settings that it was made under: changed ones try again, whoever asks."""
    site.set("update", **QUIET_START)
    site.set("update", check_command=["/bin/false"])
    async with site.running() as client:
        assert (await client.poke())[0] == 422
        assert site.machine.targets() == {}
    async with site.running() as client:
        assert (await client.poke("?trigger=timer"))[0] == 422
    site.set("update", check_command=["/bin/true"])
    async with site.running() as client:
        assert (await client.poke("?trigger=timer"))[1]["state"] == "published"


@pytest.mark.parametrize("name", ["deployed.json", "regions.json"])
async def test_deployment_files_that_are_torn_are_told_of(site: Site, name: str) -> None:
    """Then the index's table says which regions there are, and so who owns an event: each run warns of it."""
    torn = site.machine.application / "tmp" / name
    torn.write_text('{"ProcessGroupRegions": [')
    async with site.running() as client:
        (warning,) = (await client.poke())[1]["warnings"]
        assert warning.startswith(f"{torn} is there and cannot be used")
        torn.unlink()
        assert "warnings" not in (await client.poke())[1]


async def test_a_large_loss_needs_force(site: Site) -> None:
    """An index that drops most tenants or users is refused with numbers; force publishes it."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        site.machine.put_index(Size(events=10, studios=20, users=12))
        site.upload()
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["error"]["code"]) == (422, "rejected", "loss")
        assert "would drop 30 of" in outcome["error"]["message"]
        assert "force" in outcome["error"]["hint"]
        assert site.snapshot() == before
        status, outcome = await client.poke("?force=1")
        assert (status, outcome["state"]) == (200, "published")


async def test_what_was_forced_is_not_refused_any_more(site: Site) -> None:
    """Content that somebody has accepted by force is in place: the next poke finds it unchanged."""
    async with site.running() as client:
        await client.poke()
        site.machine.put_index(Size(events=10, studios=20, users=12))
        site.upload()
        assert (await client.poke())[0] == 422
        assert (await client.poke("?force=1"))[0] == 200
        status, outcome = await client.poke()
    assert (status, outcome["state"]) == (200, "unchanged")


async def test_a_small_loss_passes(site: Site) -> None:
    """A loss below the configured share is an edit like any other."""
    async with site.running() as client:
        await client.poke()
        remove_user(site.index, "user0003")
        site.upload()
        assert (await client.poke())[1]["state"] == "published"
    assert b"user0003" not in site.machine.targets()["htpasswd"]


async def test_the_check_command_sees_the_whole_set(site: Site) -> None:
    """The command runs where all new files lie, with the index named in CHECK_INDEX."""
    site.set("update", **QUIET_START)
    seen = site.machine.folder / "seen"
    script = f'ls > {seen} && test "$(head -c 15 "$CHECK_INDEX")" = "SQLite format 3"'
    site.set("update", check_command=["/bin/sh", "-c", script])
    async with site.running() as client:
        assert (await client.poke())[1]["state"] == "published"
    assert set(NAMES) <= set(seen.read_text().split())


async def test_what_a_check_command_leaves_gets_nowhere(site: Site) -> None:
    """The command works on copies: what it leaves, changes or removes is in no generation and in no place."""
    site.set("update", **QUIET_START)
    machine = site.machine
    state = machine.state
    script = """
        mkdir left; echo x > left/file; echo x > more; rm map.yml; chmod 0500 left
        echo damaged > htpasswd; echo damaged > "$CHECK_INDEX"
    """
    site.set("update", check_command=["/bin/sh", "-c", script])
    for turn, mode in enumerate(("0644", "0604"), 1):
        # The second time the index is the same, and what was kept of it is what the command might damage.
        site.set("files", mode=mode)
        async with site.running() as client:
            status, outcome = await client.poke()
            assert (status, outcome["state"], outcome["generation"]) == (200, "published", turn)
        generations = state / "generations"
        for folder in generations.glob("0*"):
            assert {path.name for path in folder.iterdir()} == {*NAMES, "index.sqlite3", "manifest.json"}
            assert content(folder / "index.sqlite3") == content(site.index)
        assert site.published_sha256() == content(site.index)
        assert b"damaged" not in machine.targets()["htpasswd"]
        assert {path.name for path in generations.iterdir()} == {
            ".incoming",
            *(f"{number:08d}" for number in range(1, turn + 1)),
        }
        assert list(state.glob("check-*")) == []


async def test_a_check_command_that_takes_too_long_is_ended_with_its_children(site: Site) -> None:
    """At its limit the command is ended, children that ignore the signal too, and nothing is published."""
    child = site.machine.folder / "child"
    script = f"(trap '' TERM; exec sleep 1000) & echo $! > {child}; wait"
    site.set("update", check_command=["/bin/sh", "-c", script], check_timeout="2s")
    async with site.running() as client:
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["error"]["code"]) == (500, "failed", "command_timeout")
        assert "2 s" in outcome["error"]["message"]
        assert site.machine.targets() == {}
        pid = int(child.read_text())
        await until(lambda: not is_running(pid))


async def test_a_check_command_that_cannot_start_publishes_nothing(site: Site) -> None:
    """A veto that cannot be asked is no consent."""
    site.set("update", check_command=["/not/there"])
    async with site.running() as client:
        status, outcome = await client.poke()
    assert (status, outcome["state"]) == (500, "failed")
    assert "/not/there" in outcome["error"]["message"]
    assert site.machine.targets() == {}


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# Previews


async def test_a_preview_writes_nothing(site: Site) -> None:
    """A preview shows what would change, in names and diffs, and leaves every file and the state alone."""
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        set_password(site.index, "user0003", f"user0003:{HASH}")
        site.upload()
        etag, preview = await client.preview()
        assert preview["state"] == "previewed"
        assert preview["generation"] == 1
        assert preview["changes"]["users"]["changed"]["names"] == ["user0003"]
        assert set(preview["diffs"]) == {"htpasswd", "navigator.yml"}
        assert f"+user0003:{HASH}" in preview["diffs"]["htpasswd"]
        assert etag == f'"{preview["tag"]}"'
        assert site.snapshot() == before
        assert (await client.status())["generation"]["current"] == 1


async def test_a_preview_of_nothing_is_empty(site: Site) -> None:
    """Without a change a preview has neither diffs nor files to write."""
    async with site.running() as client:
        await client.poke()
        _, preview = await client.preview()
    assert "diffs" not in preview
    assert "written" not in preview


async def test_a_preview_is_applied_exactly(site: Site) -> None:
    """An update with the preview's ETag in If-Match publishes just that set."""
    async with site.running() as client:
        await client.poke()
        sha256 = site.change()
        etag, preview = await client.preview()
        status, outcome = await client.poke(**{"If-Match": etag})
        assert (status, outcome["state"]) == (200, "published")
        assert (outcome["tag"], outcome["sha256"]) == (preview["tag"], sha256)
        assert outcome["written"] == preview["written"]


async def test_a_preview_that_is_out_of_date_is_not_applied(site: Site) -> None:
    """When the index has changed since the preview, the update answers 412 and changes nothing."""
    async with site.running() as client:
        await client.poke()
        site.change()
        etag, _ = await client.preview()
        site.change()
        before = site.snapshot()
        status, outcome = await client.poke(**{"If-Match": etag})
        assert (status, outcome["state"], outcome["error"]["code"]) == (412, "failed", "changed")
        assert site.snapshot() == before
        assert (await client.poke(**{"If-Match": '"never-seen"'}))[0] == 412
        etag, _ = await client.preview()
        assert (await client.poke(**{"If-Match": etag}))[0] == 200


# What need not be transferred


def watched(site: Site) -> list[int]:
    """The statuses with which the store answers from now on: 200 with a body, 304 without."""
    statuses: list[int] = []

    def watch(answer: faults.Answer) -> faults.Answer:
        statuses.append(answer.status)
        return answer

    site.proxy.always(faults.altered(watch))
    return statuses


async def test_refused_content_is_transferred_once(site: Site) -> None:
    """While the store holds what was refused, a poke costs an answer without a body; force reads it anew."""
    async with site.running() as client:
        await client.poke()
        site.bucket.put(KEY, b"no database")
        statuses = watched(site)
        for expected in ([200], [200, 304], [200, 304, 304]):
            status, outcome = await client.poke()
            assert (status, outcome["state"], outcome["error"]["code"]) == (422, "rejected", "not_sqlite")
            assert outcome["sha256"] == hashlib.sha256(b"no database").hexdigest()
            assert statuses == expected
        assert "refused before" in outcome["error"]["message"]
        assert (await client.poke("?force=1"))[0] == 422
        assert statuses[3:] == [200]
        sha256 = site.change()
        status, outcome = await client.poke()
        assert (outcome["state"], outcome["sha256"]) == ("published", sha256)


async def test_refused_content_is_read_anew_under_other_inputs(site: Site) -> None:
    """A refusal counts for the machine's files too: when they change, the same object is tried again."""
    site.bucket.put(KEY, b"no database")
    statuses = watched(site)
    async with site.running() as client:
        assert [(await client.poke())[0] for _ in range(2)] == [422, 422]
        assert statuses[0] == 200
        assert set(statuses[1:]) == {304}
        regions = '{"ProcessGroupRegions": [{"Name": "app", "Regions": ["iad"]}]}'
        Path(site.machine.settings().paths.deployed).write_text(regions)
        assert (await client.poke())[0] == 422
        assert statuses[-1] == 200


async def test_the_same_content_under_another_etag_is_transferred_once(site: Site) -> None:
    """An object stored again in parts has another ETag: the store is asked by that one from then on."""
    async with site.running() as client:
        await client.poke()
        where: Any = {"Bucket": site.bucket.name, "Key": KEY}
        upload = site.bucket.client.create_multipart_upload(**where)["UploadId"]
        part = site.bucket.client.upload_part(
            **where, UploadId=upload, PartNumber=1, Body=site.index.read_bytes()
        )
        parts: Any = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        site.bucket.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)
        statuses = watched(site)
        for expected in ([200], [200, 304], [200, 304, 304]):
            status, outcome = await client.poke()
            assert (status, outcome["state"]) == (200, "unchanged")
            assert outcome["etag"].endswith("-1")
            assert statuses == expected


async def test_what_a_sent_index_has_replaced_is_transferred_once(site: Site) -> None:
    """While the store is behind, a poke costs an answer without a body, and so does waiting for a digest."""
    async with site.running() as client:
        await client.poke()
        add_user(site.index, "ahead", f"ahead:{HASH}")
        await client.public(site.index.read_bytes())
        statuses = watched(site)
        for _ in range(2):
            assert (await client.poke())[1]["state"] == "unchanged"
        assert statuses == [304, 304]
        site.change()
        poke = asyncio.create_task(client.public(path=expecting("0" * 64)))
        await until(lambda: len(statuses) >= 4)
        poke.cancel()
        assert statuses[2:4] == [200, 304]


async def test_what_the_store_held_last_is_known(site: Site) -> None:
    """Each answer of the store counts as a look at it, whatever the run makes of it; a failure leaves it."""
    site.set("fetch", expect_timeout="0s")
    first = site.upload()
    async with site.machine.daemon() as daemon, site.machine.client() as session:
        client = Client(session)
        assert daemon.updater.fetch.seen is None

        def seen() -> StoreLook:
            look = daemon.updater.fetch.seen
            assert look is not None
            return look

        await client.preview()
        assert seen().sha256 == first
        await client.poke()
        before = seen()
        await client.poke()
        assert (seen().sha256, seen().etag) == (first, before.etag)
        assert seen().at > before.at
        second = site.change()
        assert (await client.public(path=expecting("0" * 64)))[0] == 502
        assert seen().sha256 == second
        before = seen()
        site.proxy.then(faults.internal_error)
        assert (await client.poke())[0] == 502
        assert seen() == before
        await client.poke()
        before = seen()
        add_user(site.index, "sent", f"sent:{HASH}")
        await client.public(site.index.read_bytes())
        assert seen() == before
        # What was sent along is in place; the status does not take it for the store's.
        sync = daemon.status.sync()
        assert (sync.state, sync.store, sync.looked) == ("synced", before.sha256, before.at)
        assert sync.reason.endswith(f"it held the one before ({before.sha256[:12]})")
        site.upload()
        await client.poke()
        assert daemon.status.sync().reason.startswith("the store's index (")


# An index that the store does not serve yet


def expecting(sha256: str) -> str:
    return f"{UPDATE_PATH}?sha256={sha256}"


async def test_an_expected_index_is_waited_for(site: Site) -> None:
    """A poke that names a digest gets just that index, however often the store serves the old one first."""
    async with site.running() as client:
        await client.poke()
        add_user(site.index, "late", f"late:{HASH}")
        late = site.index.read_bytes()
        sha256 = hashlib.sha256(late).hexdigest()
        asked = len(site.proxy.requests)
        poke = asyncio.create_task(client.public(path=expecting(sha256)))
        await until(lambda: len(site.proxy.requests) >= asked + 2)
        assert not poke.done()
        site.bucket.put(KEY, late)
        status, outcome = await poke
    assert (status, outcome["state"], outcome["sha256"]) == (200, "published", sha256)
    assert b"late:" in site.machine.targets()["htpasswd"]


async def test_waiting_for_an_index_keeps_nobody_else_waiting(site: Site) -> None:
    """Pokes that wait for the store to serve a digest leave the others their turn, and find it in the end."""
    site.set("fetch", expect_timeout="60s")
    async with site.running() as client:
        await client.poke()
        add_user(site.index, "late", f"late:{HASH}")
        late = site.index.read_bytes()
        sha256 = hashlib.sha256(late).hexdigest()
        asked = len(site.proxy.requests)
        pokes = [asyncio.create_task(client.public(path=expecting(sha256))) for _ in range(3)]
        await until(lambda: len(site.proxy.requests) > asked)
        status, outcome = await client.poke()
        assert (status, outcome["state"]) == (200, "unchanged")
        assert not any(poke.done() for poke in pokes)
        site.bucket.put(KEY, late)
        answers = await asyncio.gather(*pokes)
    assert {(status, outcome["sha256"]) for status, outcome in answers} == {(200, sha256)}


async def test_a_poke_that_waits_is_told_of_once(site: Site) -> None:
    """However often it looks at the store, the history has one entry for what it found there."""
    site.set("update", **QUIET_START)
    async with site.running() as client:
        await client.poke()
        asked = len(site.proxy.requests)
        poke = asyncio.create_task(client.public(path=expecting("0" * 64)))
        await until(lambda: len(site.proxy.requests) >= asked + 4)
        poke.cancel()
        await client.poke()  # the history is written in order
        states: list[str] = []
        while "unchanged" not in states:
            async with client.session.get("/generations") as answer:
                states = [entry["state"] for entry in await answer.json()]
    assert states == ["unchanged", "failed", "published"]


async def test_an_expected_index_that_never_comes_is_given_up(site: Site) -> None:
    """After its time the poke fails, says what the store still serves, and nothing has changed."""
    site.set("fetch", expect_timeout="300ms")
    async with site.running() as client:
        await client.poke()
        before = site.snapshot()
        status, outcome = await client.public(path=expecting("0" * 64))
        assert (status, outcome["state"], outcome["error"]["code"]) == (502, "failed", "store_stale")
        assert "000000000000" in outcome["error"]["message"]
        site.change()  # another one than the one expected
        status, outcome = await client.public(path=expecting("1" * 64))
        assert (status, outcome["error"]["code"]) == (502, "store_stale")
    assert site.snapshot() == before


async def test_an_expected_index_that_is_in_place_already_is_no_change(site: Site) -> None:
    """A poke that names the index in place is answered at once."""
    sha256 = site.upload()
    async with site.running() as client:
        await client.poke()
        status, outcome = await client.public(path=expecting(sha256))
    assert (status, outcome["state"]) == (200, "unchanged")


async def test_a_store_that_goes_back_and_forth_leaves_a_true_index(site: Site) -> None:
    """When the store serves another index first and then the expected one, in place, that one stays.

    The daemon is a new one, which has to read the file that it takes for the index in place.
    """
    site.set("update", **QUIET_START)
    async with site.running() as client:
        await client.poke()
    before, rows = site.machine.targets(), site.published_sha256()
    expected = site.upload()
    unchanged = site.index.read_bytes()
    async with site.running() as client:
        site.change()
        asked = len(site.proxy.requests)
        poke = asyncio.create_task(client.public(path=expecting(expected)))
        await until(lambda: len(site.proxy.requests) > asked)
        site.bucket.put(KEY, unchanged)
        status, outcome = await poke
    assert (status, outcome["sha256"]) == (200, expected)
    assert outcome["state"] == "unchanged"
    assert site.machine.targets() == before
    assert site.published_sha256() == rows


async def test_a_sent_index_is_not_undone_by_a_stale_store(site: Site) -> None:
    """An index that came with a poke stays while the store still serves the one before it."""
    async with site.running() as client:
        await client.poke()
        add_user(site.index, "ahead", f"ahead:{HASH}")
        body = site.index.read_bytes()
        status, outcome = await client.public(gzip.compress(body), **{"Content-Encoding": "gzip"})
        assert (status, outcome["state"], outcome["generation"]) == (200, "published", 2)
        before = site.snapshot()
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["generation"]) == (200, "unchanged", 2)
        assert any("before the one that was sent" in line for line in outcome["log"])
    async with site.running() as client:  # nor after a restart
        assert (await client.poke())[1]["state"] == "unchanged"
        assert site.snapshot() == before
        site.upload()  # now the store has caught up, and says how old the index is
        assert (await client.poke())[1]["state"] == "unchanged"
        after, index = site.snapshot(), str(site.machine.target("index.sqlite3"))
        age = site.bucket.client.head_object(Bucket=site.bucket.name, Key="db/index.sqlite3")["LastModified"]
        assert after[index][1] == int(age.timestamp()) * 10**9
        assert {**after, index: before[index]} == before
        site.change()
        assert (await client.poke())[1]["state"] == "published"
    assert b"ahead:" in site.machine.targets()["htpasswd"]


async def test_two_sent_indexes_are_not_undone_by_a_stale_store(site: Site) -> None:
    """Nor does the second of two that were sent, while the store serves the one before both."""
    async with site.running() as client:
        await client.poke()
        for name in ("first", "second"):
            add_user(site.index, name, f"{name}:{HASH}")
            status, outcome = await client.public(site.index.read_bytes())
            assert (status, outcome["state"]) == (200, "published")
        status, outcome = await client.poke()
        assert (status, outcome["state"]) == (200, "unchanged")
    assert b"second:" in site.machine.targets()["htpasswd"]


async def sent_ahead(site: Site, client: Client) -> tuple[str, bytes]:
    """An index published from the store, and another that was sent since; the first's SHA-256, the second."""
    stored = site.upload()
    await client.poke()
    add_user(site.index, "ahead", f"ahead:{HASH}")
    body = site.index.read_bytes()
    status, outcome = await client.public(body)
    assert (status, outcome["state"]) == (200, "published")
    return stored, body


async def test_an_index_that_is_expected_counts_though_a_newer_one_was_sent(site: Site) -> None:
    """Whoever names the digest means it: an index that the sent one has replaced is published again."""
    async with site.running() as client:
        stored, _ = await sent_ahead(site, client)
        status, outcome = await client.public(path=expecting(stored))
    assert (status, outcome["state"], outcome["sha256"]) == (200, "published", stored)
    assert b"ahead:" not in site.machine.targets()["htpasswd"]


async def test_a_hint_of_before_takes_no_sent_index_back(site: Site) -> None:
    """A canary that restarts reads the last update's hint again, which names what the store still holds."""
    async with site.running() as client:
        stored, body = await sent_ahead(site, client)
    async with site.machine.daemon() as daemon:
        assert await daemon._hinted(stored, "the bus", True)
        assert daemon.status.last is not None
        assert (daemon.status.last.trigger, daemon.status.last.state) == ("bus", "unchanged")
        current = daemon.generations.current
        assert current is not None
        assert current.index.sha256 == hashlib.sha256(body).hexdigest()


async def test_a_sent_index_that_is_expected_is_in_place_already(site: Site) -> None:
    """A poke that names the sent index is content with it, though the store is still behind."""
    async with site.running() as client:
        _, body = await sent_ahead(site, client)
        sha256 = hashlib.sha256(body).hexdigest()
        status, outcome = await client.public(path=expecting(sha256))
    assert (status, outcome["state"], outcome["sha256"]) == (200, "unchanged", sha256)


@pytest.mark.parametrize("again", [False, True], ids=["same daemon", "new daemon"])
async def test_a_revert_counts_once_the_store_has_caught_up(site: Site, again: bool) -> None:
    """After the store has served the sent index once, an older one in it was stored on purpose."""
    before = site.index.read_bytes()
    async with site.running() as client:
        stored, body = await sent_ahead(site, client)
        assert (await client.poke())[1]["state"] == "unchanged"
        site.bucket.put(KEY, body)
        assert (await client.poke())[1]["state"] == "unchanged"
        if not again:
            site.bucket.put(KEY, before)
            await client.poke()
    if again:
        site.bucket.put(KEY, before)
        async with site.running() as client:
            await client.poke()
    assert b"ahead:" not in site.machine.targets()["htpasswd"]
    assert hashlib.sha256(before).hexdigest() == stored


async def test_force_takes_what_the_store_serves(site: Site) -> None:
    """An update by force believes the store, though an index was sent ahead of it."""
    async with site.running() as client:
        stored, _ = await sent_ahead(site, client)
        status, outcome = await client.poke("?force=1")
    assert (status, outcome["state"], outcome["sha256"]) == (200, "published", stored)


async def test_a_newer_index_than_the_sent_one_is_taken(site: Site) -> None:
    """A store that has never served the sent index is not held to it: what is new is published."""
    async with site.running() as client:
        await sent_ahead(site, client)
        newer = site.change()
        status, outcome = await client.poke()
    assert (status, outcome["state"], outcome["sha256"]) == (200, "published", newer)


async def test_an_index_sent_to_a_fresh_machine_is_published(site: Site) -> None:
    """The first index of all may come with a poke; the store need not even answer."""
    await site.proxy.refuse()
    async with site.running() as client:
        status, outcome = await client.public(site.index.read_bytes())
        assert (status, outcome["state"]) == (200, "published")
        assert site.published_sha256() == content(site.index)


# Many at once


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for a thousand open sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_500_pokes_cost_two_runs_and_get_the_truth(site: Site) -> None:
    """Pokes that arrive while a run is under way share the next one, which begins after they came.

    The first run is held in the middle of its fetch, with an answer that is out of date before it arrives.
    """
    site.set("update", **QUIET_START)
    old = site.upload()
    release = asyncio.Event()
    async with site.machine.daemon(), site.machine.client() as one:
        first = asyncio.create_task(Client(one).poke())
        site.proxy.then(faults.held(release))
        await until(lambda: site.proxy.requests)
        new = site.change()
        connector = aiohttp.UnixConnector(str(site.machine.socket), limit=0)
        async with aiohttp.ClientSession("http://sidecar/", connector=connector) as session:
            crowd = Client(session)
            others = [asyncio.create_task(crowd.poke()) for _ in range(499)]
            async with asyncio.timeout(30):
                while True:
                    if (await crowd.status())["waiting"] == 500:
                        break
            release.set()
            status, outcome = await first
            answers = await asyncio.gather(*others)
    assert (status, outcome["state"], outcome["sha256"]) == (200, "published", old)
    assert {(status, outcome["state"], outcome["sha256"]) for status, outcome in answers} == {
        (200, "published", new)
    }
    assert {outcome["generation"] for _, outcome in answers} == {2}
    assert sum(request.endswith("/db/index.sqlite3") for request in site.proxy.requests) == 2


async def test_a_poke_that_is_given_up_takes_nothing_from_the_others(site: Site) -> None:
    """A client that goes away while its run is under way does not take the run with it."""
    release = asyncio.Event()
    site.proxy.then(faults.held(release))
    async with site.running() as client:
        poke = asyncio.create_task(client.poke())
        await until(lambda: site.proxy.requests)
        poke.cancel()
        await asyncio.gather(poke, return_exceptions=True)
        release.set()
        status, outcome = await client.poke()
        assert (status, outcome["generation"]) == (200, 1)
    assert sorted(site.machine.targets()) == sorted(NAMES)


async def test_a_run_has_a_limit_as_a_whole(site: Site) -> None:
    """An update that takes longer than allowed is given up, and the next one works."""
    site.set("update", **QUIET_START)
    site.set("update", timeout="2s")
    site.proxy.then(faults.hang)
    async with site.running() as client:
        status, outcome = await client.poke()
        assert (status, outcome["state"], outcome["error"]["code"]) == (500, "failed", "timeout")
        assert (await client.poke())[1]["state"] == "published"


async def test_going_back_twice_takes_nothing_good_back(machine: Machine) -> None:
    """A second rollback of the same generation finds it gone, and does not take the older index for bad."""
    good = machine.put_index().read_bytes()
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request("socket"))
        add_user(machine.store_index, "new", f"new:{HASH}")
        assert (await daemon.worker.submit(Request("socket"))).generation == 2
        first = await daemon.worker.submit(
            Request("rollback", rollback=1, failed=2, reason="Navigator did not load it", code="not_loaded")
        )
        assert (first.state, first.generation) == ("published", 3)
        second = await daemon.worker.submit(
            Request("rollback", rollback=1, failed=2, reason="Navigator did not load it", code="not_loaded")
        )
        assert second.error is not None
        assert second.error.code == "not_found"
        refused = await daemon.worker.submit(Request("timer"))
        assert refused.error is not None
        assert refused.error.code == "not_loaded"
        assert daemon.status.sync().reason == refused.error.message
        machine.store_index.write_bytes(good)
        assert (await daemon.worker.submit(Request("socket"))).error is None
        # The store holds what is in place here: nothing newer is held back.
        assert daemon.status.sync().state == "synced"
        assert daemon.generations.current is not None
        assert (daemon.generations.current.source, daemon.generations.current.taken_back) == (1, "")


async def test_what_was_loaded_in_the_end_is_not_taken_back(machine: Machine) -> None:
    """A load that is noticed after all was given up, but before the rollback has run, stands."""
    machine.put_index()
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request("socket"))
        add_user(machine.store_index, "new", f"new:{HASH}")
        await daemon.worker.submit(Request("socket"))
        daemon.generations.mark_loaded(LastLoaded(2, 0.0))
        late = await daemon.worker.submit(
            Request("rollback", rollback=1, failed=2, reason="Navigator did not load it", code="not_loaded")
        )
        assert late.error is not None
        assert daemon.generations.current is not None
        assert daemon.generations.current.number == 2
