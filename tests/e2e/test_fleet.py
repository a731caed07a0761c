"""A whole fleet on one computer, updated by the installed command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from sidecar.demo.sample import remove_user
from tests.conftest import Bucket, free_port
from tests.support.cgi import SIDECAR, sidecar
from tests.support.fleet import (
    APP,
    KEY,
    TOKEN,
    OldStore,
    answers,
    document,
    fleet,
    hang,
    index,
    unreachable_host,
)
from tests.support.machine import SECRET, Machine, until
from tests.support.terminal import on_terminal

EIGHT = [f"m{number}" for number in range(1, 9)]


def states(report: dict[str, Any]) -> dict[str, str]:
    return {one["machine"]: one["state"] for one in report["machines"]}


def own_index(machine: Machine, password: str) -> None:
    """Another index on the machine that owns it."""
    index(machine.application / "db" / "index.sqlite3", password)


def saw(machine: Machine, bucket: Bucket) -> None:
    """Let the machine have seen what the store holds."""
    text = json.dumps({"etag": stored(bucket)["ETag"].strip('"'), "sha256": digest(bucket)})
    (machine.state / "fleet-seen.json").write_text(text)


def digest(bucket: Bucket) -> str:
    """The SHA-256 of what the store holds."""
    body = bucket.client.get_object(Bucket=bucket.name, Key=KEY)["Body"].read()
    return hashlib.sha256(body).hexdigest()


def objects(bucket: Bucket) -> dict[str, str]:
    """All that the store holds: ETags by key."""
    listed = bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    return {one["Key"]: one["ETag"] for one in listed}


def stored(bucket: Bucket) -> dict[str, Any]:
    return dict(bucket.client.head_object(Bucket=bucket.name, Key=KEY))


async def test_one_command_brings_eight_machines_up_to_date(tmp_path: Path, bucket: Bucket) -> None:
    """The index is uploaded with its age, all eight load it, left-out machines are named, status agrees."""
    async with fleet(tmp_path, bucket, EIGHT) as whole:
        whole.api.documents += [
            document("asleep", state="suspended"),
            document("gone", state="destroyed"),
            document("release", group="fly_app_release_command"),
            unreachable_host("console", group="fly_app_console"),
        ]
        admin = whole.admin()
        own_index(admin, "second")
        saw(admin, bucket)
        before = await sidecar(admin, "fleet", "status", "--json")
        assert before.code == 0, before.err
        dry = await sidecar(admin, "fleet", "update", "--dry-run")
        assert dry.code == 0, dry.err
        assert "would be uploaded" in dry.out
        assert "8 machines would be poked" in dry.out
        assert whole.router.seen["m1", "POST"] == 0
        done = await sidecar(admin, "fleet", "update")
        assert done.code == 0, done.out + done.err
        assert "8 machines: 8 loaded" in done.out
        for name, reason in [("asleep", "suspended"), ("gone", "destroyed"), ("release", "process group")]:
            assert any(
                line.startswith(f"left out: {name}") and reason in line for line in done.out.splitlines()
            )
        assert {whole.serves(name) for name in EIGHT} == {digest(bucket)}
        assert all(whole.router.seen[name, "POST"] == 1 for name in EIGHT)
        assert "last-modified" in stored(bucket)["Metadata"]
        after = await sidecar(admin, "fleet", "status", "--json")
        assert after.code == 0, after.err
        assert {row["sha256"] for row in after.json["machines"]} == {digest(bucket)}
        assert {row["state"] for row in after.json["machines"]} == {"in_sync"}
        again = await sidecar(admin, "fleet", "update", "--only", "m2", "--only", "m3", "--json")
        assert again.code == 0, again.err
        assert (again.json["upload"], states(again.json)) == ("unchanged", {"m2": "loaded", "m3": "loaded"})


async def test_each_failure_is_told_apart(tmp_path: Path, bucket: Bucket) -> None:
    """Whatever goes wrong with one machine is named as what it is, and the healthy ones load all the same."""
    probe = {"url": "/showcase/", "user": "user0003", "password": "first"}
    refusing = {"navigator": {"probes": [probe], "reload_timeout": "1s"}}
    async with fleet(tmp_path, bucket, EIGHT, m6=refusing) as whole:
        whole.api.then += [(429, {"error": "rate limited"}, {"Retry-After": "0"}), (200, [], {})]
        whole.router.faults |= {
            "m2": answers(500, 2),
            "m3": hang,
            "m5": stops(whole),
        }
        whole.router.machines["m4"] = whole.router.machines["m1"]
        admin = whole.admin(answer_timeout="4s", timeout="9s", attempts=4)
        own_index(admin, "second")
        saw(admin, bucket)
        done = await sidecar(admin, "fleet", "update")
        assert done.code == 1, done.out + done.err
        assert "the Machines API answers 429; asking again" in done.out
        assert "the list of machines is empty; asking again" in done.out
        rows = {line.split()[0]: line for line in done.out.splitlines()[-9:-1]}
        expected = {
            **dict.fromkeys(("m1", "m2", "m7", "m8"), "loaded"),
            "m3": "hanging",
            "m4": "wrong machine",
            "m5": "stopped",
            "m6": "refused",
        }
        assert rows.keys() == expected.keys(), done.out
        for name, state in expected.items():
            assert state in rows[name], done.out
        assert "m1 answered instead of m4" in rows["m4"]
        assert "it was refused (probe), and the machine went back" in rows["m6"], done.out
        assert {whole.serves(name) for name in ("m1", "m2", "m7", "m8")} == {digest(bucket)}
        assert whole.serves("m6") != digest(bucket)
        assert whole.router.seen["m2", "POST"] == 3
        assert whole.router.seen["m1", "POST"] == 1
        enough = await sidecar(
            admin, "fleet", "update", "--only", "m1", "--only", "m6", "--quorum", "1", "--json"
        )
        assert enough.code == 0, enough.err
        assert states(enough.json) == {"m1": "loaded", "m6": "refused"}
        status = await sidecar(admin, "fleet", "status", "--json")
        assert status.code == 1
        told = {row["machine"]: row["state"] for row in status.json["machines"]}
        assert told == {
            "m1": "in_sync", "m2": "in_sync", "m3": "hanging", "m4": "wrong_machine", "m6": "behind",
            "m7": "in_sync", "m8": "in_sync",
        }  # fmt: skip


def stops(whole: Any) -> Any:
    """A machine that stops when it is poked: the proxy finds nobody, and the API tells so from then on."""
    gone = answers(502)

    async def fault(request: Any) -> Any:
        whole.api.state("m5", "stopped")
        return await gone(request)

    return fault


async def test_a_store_that_stays_behind_makes_no_false_success(tmp_path: Path, bucket: Bucket) -> None:
    """While the machines' store serves the old index, none reports success; once it catches up, all load."""
    async with OldStore(bucket.endpoint).running() as old:
        slow = {"fetch": {"expect_timeout": "1s"}}
        async with fleet(tmp_path, bucket, ["m1", "m2"], store=old.url, m1=slow, m2=slow) as whole:
            admin = whole.admin(attempts=2)
            own_index(admin, "second")
            saw(admin, bucket)
            before = {whole.serves(name) for name in whole.machines}
            old.behind = True
            late = await sidecar(admin, "fleet", "update", "--json")
            assert late.code == 1, late.err
            assert states(late.json) == {"m1": "stale", "m2": "stale"}
            assert "still serves another index" in late.json["machines"][0]["note"]
            assert {whole.serves(name) for name in whole.machines} == before
            assert old.old_answers >= 4
            waiting = asyncio.create_task(sidecar(admin, "fleet", "update", "--json"))
            await until(lambda: whole.router.seen["m1", "POST"] > 2)
            old.behind = False
            done = await waiting
            assert done.code == 0, done.out
            assert states(done.json) == {"m1": "loaded", "m2": "loaded"}
            assert {whole.serves(name) for name in whole.machines} == {digest(bucket)}


async def test_the_index_itself_can_go_along(tmp_path: Path, bucket: Bucket) -> None:
    """Sent with the poke it is loaded at once, even where the store is still behind."""
    async with (
        OldStore(bucket.endpoint).running() as old,
        fleet(tmp_path, bucket, ["m1"], store=old.url) as whole,
    ):
        admin = whole.admin(send="index")
        own_index(admin, "second")
        saw(admin, bucket)
        old.behind = True
        done = await sidecar(admin, "fleet", "update", "--json")
        assert done.code == 0, done.out + done.err
        assert whole.serves("m1") == digest(bucket) == done.json["sha256"]


async def test_of_two_administrators_the_second_is_told(tmp_path: Path, bucket: Bucket) -> None:
    """Both have changed the index they saw: one uploads, the other is refused, and no change is lost."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admins = [whole.admin(name) for name in ("one", "two")]
        for number, admin in enumerate(admins):
            own_index(admin, f"password-{number}")
            saw(admin, bucket)
        both = await asyncio.gather(*(sidecar(admin, "fleet", "update", "--json") for admin in admins))
        assert sorted(done.code for done in both) == [0, 1]
        first, second = sorted(both, key=lambda done: done.code)
        assert second.json["error"]["code"] == "store_changed"
        assert "has not seen" in second.err
        assert digest(bucket) == first.json["sha256"] == whole.serves("m1")
        loser = admins[both.index(second)]
        again = await sidecar(loser, "fleet", "update")
        assert again.code == 1
        assert digest(bucket) == first.json["sha256"]
        meant = await sidecar(loser, "fleet", "update", "--replace", "--json")
        assert meant.code == 0, meant.err
        assert digest(bucket) == meant.json["sha256"] == whole.serves("m1") != first.json["sha256"]


async def test_what_nobody_here_has_seen_is_not_replaced(tmp_path: Path, bucket: Bucket) -> None:
    """A machine that remembers nothing does not upload over what there is; an equal index needs no upload."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = whole.admin()
        own_index(admin, "second")
        refused = await sidecar(admin, "fleet", "update")
        assert refused.code == 1
        assert "use --replace" in refused.err
        same = await sidecar(admin, "fleet", "update", "--index", str(tmp_path / "first.sqlite3"), "--json")
        assert same.code == 0, same.err
        assert (same.json["upload"], states(same.json)) == ("unchanged", {"m1": "loaded"})
        other = await sidecar(admin, "fleet", "update", "--no-upload", "--json")
        assert (other.code, other.json["upload"]) == (0, "none")


async def test_ready_is_more_than_loaded(tmp_path: Path, bucket: Bucket) -> None:
    """With `--wait ready` a machine is done when its pages are rendered, and failed when that failed."""
    nobody = {"prerender": {"renderer": "http", "origin": f"http://127.0.0.1:{free_port()}"}}
    async with fleet(tmp_path, bucket, ["m1", "m2"], m2=nobody) as whole:
        admin = whole.admin()
        own_index(admin, "second")
        saw(admin, bucket)
        done = await sidecar(admin, "fleet", "update", "--wait", "ready", "--json")
        assert done.code == 1, done.err
        assert states(done.json) == {"m1": "ready", "m2": "failing"}
        (note,) = (one["note"] for one in done.json["machines"] if one["machine"] == "m2")
        assert note == "it has loaded it, but its ready work failed"
        loaded = await sidecar(admin, "fleet", "update", "--json")
        assert loaded.code == 0, loaded.err


async def test_a_list_of_machines_needs_no_platform(tmp_path: Path, bucket: Bucket) -> None:
    """Plain hosts are poked at their own URLs; a name that is none, and too large a quorum, are errors, which
    leave the store as it is."""
    async with fleet(tmp_path, bucket, ["m1", "m2"]) as whole:
        listed = [
            {"id": name, "url": whole.navigators[name].url, "region": f"r-{name}"} for name in whole.machines
        ]
        admin = whole.admin(machines=listed)
        own_index(admin, "second")
        saw(admin, bucket)
        done = await sidecar(admin, "fleet", "update", "--json")
        assert done.code == 0, done.err
        assert states(done.json) == {"m1": "loaded", "m2": "loaded"}
        assert (whole.api.asked, whole.router.seen.total()) == (0, 0)
        own_index(admin, "third")
        held = objects(bucket)
        nobody = await sidecar(admin, "fleet", "update", "--only", "elsewhere")
        assert nobody.code == 1
        assert "r-m1, r-m2" in nobody.err
        assert (await sidecar(admin, "fleet", "update", "--quorum", "3")).code == 1
        assert objects(bucket) == held
        whole.navigators["m2"].kill()
        down = await sidecar(admin, "fleet", "status")
        assert down.code == 1
        assert "unreachable" in down.out
        assert "connection refused" in down.out


async def test_a_terminal_shows_a_line_a_machine(tmp_path: Path, bucket: Bucket) -> None:
    """Redrawn in place while it lasts, and then the table, like everywhere else."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = whole.admin()
        settings = admin.write_settings()
        status, shown = await on_terminal(SIDECAR, "--config", settings, "fleet", "update", "--no-upload")
        assert status == 0, shown
        assert "m1 (iad): " in shown
        assert "\x1b[1A" in shown
        last = shown.rpartition("\x1b")[2]
        assert "m1 (iad)" not in last
        assert "1 machine: 1 loaded" in last


async def test_a_fleet_without_machines_is_an_error(tmp_path: Path, bucket: Bucket) -> None:
    """An empty list is asked for again, and in the end it is an error and not a success."""
    async with fleet(tmp_path, bucket, []) as whole:
        admin = whole.admin(pause="10ms")
        empty = await sidecar(admin, "fleet", "update", "--no-upload")
        assert empty.code == 1
        assert "the list of machines is empty, 6 times in a row" in empty.err
        assert whole.api.asked == 6
        whole.api.documents = [document("asleep", state="suspended")]
        asleep = await sidecar(admin, "fleet", "update", "--no-upload")
        assert asleep.code == 0, asleep.err
        assert "No machine is active" in asleep.out


async def test_a_daemon_updates_the_fleet(tmp_path: Path, bucket: Bucket) -> None:
    """POST /fleet/update does the same: one at a time, as events, with an entry in the history."""
    async with fleet(tmp_path, bucket, ["m1", "m2"]) as whole:
        admin = whole.admin()
        own_index(admin, "second")
        saw(admin, bucket)
        held = asyncio.Event()

        async def wait(request: Any) -> None:
            await held.wait()

        whole.router.faults["m1"] = wait
        json_wanted = {"Accept": "application/json"}
        async with admin.daemon() as daemon, admin.client() as client:
            async with client.get("fleet") as answer:
                assert (await answer.json())["state"] == "idle"
            first = asyncio.create_task(events(client))
            await until(lambda: whole.router.seen["m1", "POST"])
            async with client.post("fleet/update", headers=json_wanted) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (409, "fleet_busy")
            async with client.get("fleet") as answer:
                assert (await answer.json())["running"] is True
            held.set()
            told = await first
            assert told[-1][0] == "outcome"
            assert told[-1][1]["good"] is True
            seen = {
                data.get("state") for kind, data in told if kind == "fleet" and data.get("machine") == "m1"
            }
            assert seen >= {"poking", "loaded"}
            async with client.get("fleet") as answer:
                data = await answer.json()
                assert (data["state"], data["running"]) == ("done", False)
                assert {one["state"] for one in data["machines"]} == {"loaded"}
            # The history is written behind the answer.
            await until(lambda: daemon.history.entries()[0].state == "fleet_updated")
            async with client.get("generations", headers=json_wanted) as answer:
                newest = (await answer.json())[0]
            assert (newest["state"], newest["outcome"]["trigger"]) == ("fleet_updated", "fleet")
            assert newest["outcome"]["sha256"] == digest(bucket)
            async with client.post("fleet/update?only=nobody") as answer:
                assert answer.status == 502
                assert "no machine has the id" in (await answer.text()).lower()
            async with client.post("fleet/update?quorum=none") as answer:
                assert answer.status == 400


async def events(client: aiohttp.ClientSession) -> list[tuple[str, Any]]:
    """All events of a fleet update, up to its end."""
    told, kind = [], ""
    async with client.post("fleet/update", headers={"Accept": "text/event-stream"}) as stream:
        async for line in stream.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            kind = value if name == "event" else kind
            if name == "data":
                told.append((kind, json.loads(value)))
    return told


async def test_a_changed_local_index_starts_it(tmp_path: Path, bucket: Bucket) -> None:
    """Where that is set, a change that has rested is uploaded and loaded everywhere, unasked.

    So is one that was made while no daemon ran; where the fleet is there already, a start changes nothing.
    """
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = whole.admin(follow_local_index=True, quiet="200ms", longest="5s")
        own_index(admin, "second")
        saw(admin, bucket)
        async with admin.daemon():
            own_index(admin, "third")
            await until(lambda: whole.router.seen["m1", "POST"])
            await until(lambda: whole.serves("m1") == digest(bucket))
        own_index(admin, "fourth")
        before = digest(bucket)
        async with admin.daemon() as daemon:
            await until(lambda: daemon.fleet.ended is not None and daemon.fleet.ended.state == "done")
            assert whole.serves("m1") == digest(bucket) != before
        async with admin.daemon() as daemon:
            assert await daemon.fleet.follow()
            assert daemon.fleet.ended is None


async def test_a_webhook_is_passed_on_once(tmp_path: Path, bucket: Bucket) -> None:
    """The machine that it reaches pokes all others; those poke nobody, though they would relay too."""
    async with fleet(tmp_path, bucket, []) as whole:
        relaying = {
            "trigger": {"interval": "0s", "secret": SECRET, "webhook_token": "a-token-for-tests"},
            "fleet": {
                "app": APP, "url": whole.router.url, "api": whole.api.url, "token": TOKEN, "pause": "100ms",
                "relay_webhook": True,
            },
        }  # fmt: skip
        async with AsyncExitStack() as stack:
            for name in ("m1", "m2", "m3"):
                await whole.start(stack, name, **relaying)
                whole.api.documents.append(document(name))
            index(tmp_path / "second.sqlite3", "second")
            bucket.put(KEY, (tmp_path / "second.sqlite3").read_bytes())
            token = {"Authorization": "Bearer a-token-for-tests"}
            async with whole.machines["m1"].client() as client:
                async with client.post("webhook", headers=token) as answer:
                    assert answer.status == 202
                for name in whole.machines:
                    await until(lambda name=name: whole.serves(name) == digest(bucket))
                await until(lambda: whole.daemons["m1"].fleet.state().state == "done")
            assert {name for name, method in whole.router.seen if method == "POST"} == {"m2", "m3"}
            assert {whole.daemons[name].fleet.state().state for name in ("m2", "m3")} == {"idle"}


async def test_the_page_has_a_button(tmp_path: Path, bucket: Bucket) -> None:
    """It asks first, then shows each machine; the page that is open to all shows none of it."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = whole.admin()
        own_index(admin, "second")
        remove_user(admin.application / "db" / "index.sqlite3", "user0004")
        saw(admin, bucket)
        browser = {"Accept": "text/html"}
        async with admin.daemon() as daemon, admin.client() as client:
            async with client.get("fleet", headers=browser) as answer:
                shown = await answer.text()
            assert 'href="./page/fleet"' in shown
            assert "Not looked at" in shown
            async with client.get("page/fleet", headers=browser) as answer:
                asked = await answer.text()
                token = re.search(r'name="token" value="([^"]+)"', asked)
                assert token
            assert "will no longer be able to sign in: user0004." in asked
            assert "Nothing is taken away" not in asked
            async with client.post("page/fleet", data={"token": "another"}, headers=browser) as answer:
                assert answer.status == 403
            assert whole.router.seen["m1", "POST"] == 0
            form = {"token": token[1]}
            async with client.post("page/fleet", data=form, headers=browser, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "../fleet")
            await until(lambda: daemon.fleet.state().state == "done")
            # After an update it is looked at by itself.
            await until(lambda: daemon.fleet.overview is not None)
            async with client.get("fleet", headers=browser) as answer:
                shown = await answer.text()
                assert ">m1<" in shown
                assert "1 machine, all with the store" in shown
                assert "Last update" in shown
            look = re.search(r'name="token" value="([^"]+)"', shown)
            assert look
            seen = daemon.fleet.overview
            assert seen is not None
            form = {"token": look[1]}
            async with client.post("page/look", data=form, headers=browser, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "../fleet")
            assert daemon.fleet.overview is not seen
            async with client.post("fleet/look") as answer:
                assert [one["state"] for one in (await answer.json())["machines"]] == ["in_sync"]
            async with client.get("metrics") as answer:
                told = await answer.text()
            assert 'sidecar_fleet_machines{health="healthy",sync="synced"} 1.0' in told
            assert "sidecar_fleet_update_good 1.0" in told
            async with client.get("generations", headers=browser) as answer:
                assert "Fleet updated" in await answer.text()
            async with client.get("status", headers=browser) as answer:
                assert ">m1<" not in await answer.text()
