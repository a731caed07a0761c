"""What the administrator's machine does around a fleet update: commands, notices, the inventory, progress."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.conftest import Bucket
from tests.e2e.test_fleet import own_index, stored
from tests.support.cgi import sidecar
from tests.support.fleet import Fleet, fleet, serve
from tests.support.machine import Machine

INVENTORY = "inventory/index.json"


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def newcomer(whole: Fleet, **settings: Any) -> Machine:
    """An administrator's machine on which nothing of the sidecar ran before; its index is the store's."""
    admin = whole.admin(**settings)
    shutil.rmtree(admin.state)
    shutil.copy(whole.folder / "first.sqlite3", admin.application / "db" / "index.sqlite3")
    return admin


async def test_one_command_does_the_whole_round(tmp_path: Path, bucket: Bucket) -> None:
    """The folder is made, commands run and are shown; inventory, progress bar and webhook follow."""
    told: list[dict[str, object]] = []

    async def receive(request: web.BaseRequest) -> web.Response:
        assert (request.method, request.path_qs) == ("POST", "/hook?key=do-not-show")
        told.append(json.loads(await request.read()))
        return web.Response(status=200 if len(told) > 1 else 503)

    async with fleet(tmp_path, bucket, ["m1", "m2"]) as whole, serve(receive) as receiver:
        admin = newcomer(
            whole,
            before=[shell("pwd; echo the maps are drawn >&2; cp ../next.sqlite3 db/index.sqlite3 || true")],
            after=[shell("echo the picture was sent")],
            notify=[f"{receiver}/hook?key=do-not-show"],
        )
        admin.extra["files"] = {"extra": [{"key": "views/_*map.erb", "path": "views"}]}
        (admin.application / "views").mkdir()
        (admin.application / "views" / "_usmap.erb").write_text("a map")
        (admin.application / "views" / "index.erb").write_text("the application's own")
        alone = await sidecar(admin, "fleet", "update", "--no-upload")
        assert alone.code == 0, alone.out + alone.err
        assert "the maps" not in alone.out
        assert told == []
        # The store holds what the machine has: from now on it may replace it.
        first = await sidecar(admin, "fleet", "update", "--only", "m1")
        assert first.code == 0, first.out + first.err
        assert "the store holds the local index already" in first.out
        told.clear()
        assert "uploaded views/_usmap.erb" in first.out
        assert bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="views/")["KeyCount"] == 1
        held = bucket.client.get_object(Bucket=bucket.name, Key="views/_usmap.erb")
        assert held["Body"].read() == b"a map"
        own_index(Machine(tmp_path / "next"), "second")
        shutil.copy(tmp_path / "next" / "app" / "db" / "index.sqlite3", admin.folder / "next.sqlite3")
        done = await sidecar(admin, "fleet", "update")
        assert done.code == 0, done.out + done.err
        assert f"  {admin.application}\n  the maps are drawn\n" in done.out
        assert "_usmap" not in done.out
        assert "  the picture was sent\n" in done.out
        words = (
            "Step 1: Syncing index database",
            "Will update 2 active machines",
            "Step 3: Triggering configuration update",
            "✓ Success",
        )
        assert re.findall("|".join(words), done.out) == [*words, "✓ Success"]
        assert [one["machines"] for one in told] == [2, 2]
        assert told[1]["sha256"] == whole.serves("m1") == whole.serves("m2")
        assert "do-not-show" not in done.out + done.err
        inventory = json.loads(bucket.client.get_object(Bucket=bucket.name, Key=INVENTORY)["Body"].read())
        assert inventory["index.sqlite3"]["etag"] == stored(bucket)["ETag"]
        # Equal counts as equal, though a machine tells the age of its index in whole seconds.
        ages = [one.application / "db" / "index.sqlite3" for one in (admin, *whole.machines.values())]
        assert len({path.stat().st_mtime_ns for path in ages}) == 1
        assert ages[0].stat().st_mtime_ns % 10**9 == 0
        assert inventory["index.sqlite3"]["last_modified"] == stored(bucket)["Metadata"]["last-modified"]


async def test_a_failure_around_an_update_is_told(tmp_path: Path, bucket: Bucket) -> None:
    """A failing `before` keeps everything as it is; a failing `after` changes the exit status, no more."""

    async def refuse(request: web.BaseRequest) -> web.Response:
        return web.Response(status=404)

    async with fleet(tmp_path, bucket, ["m1"]) as whole, serve(refuse) as receiver:
        admin = newcomer(whole, before=[shell("echo no maps today; exit 3"), shell("touch ran")])
        tag = stored(bucket)["ETag"]
        vetoed = await sidecar(admin, "fleet", "update")
        assert vetoed.code == 1
        assert "no maps today" in vetoed.out
        assert "fleet.before: sh ended with exit status 3; nothing was uploaded" in vetoed.err
        assert not (admin.application / "ran").exists()
        assert (stored(bucket)["ETag"], whole.router.seen["m1", "POST"]) == (tag, 0)
        recorded = await sidecar(admin, "fleet", "update", "--progress", "json")
        last = json.loads(recorded.out.splitlines()[-1])
        assert (recorded.code, last["kind"], last["error"]["code"]) == (1, "error", "fleet_before")
        slow = newcomer(whole, before=[shell("sleep 60")], command_timeout="200ms")
        late = await sidecar(slow, "fleet", "update")
        assert (late.code, "ended after its limit of 0.2 s" in late.err) == (1, True), late.err
        other = newcomer(whole, after=[shell("exit 4"), shell("touch ran")], notify=[f"{receiver}/hook"])
        done = await sidecar(other, "fleet", "update", "--progress", "json")
        records = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 1, done.out
        assert (other.application / "ran").exists()
        assert records[-1]["report"]["failures"] == ["fleet.after: sh ended with exit status 4"]
        assert [one["state"] for one in records[-1]["report"]["machines"]] == ["loaded"]
        lines = [one["line"] for one in records if one["kind"] == "line"]
        assert "fleet.notify: 127.0.0.1 was not told: it answers 404" in lines


async def test_a_state_folder_that_cannot_be_is_named(tmp_path: Path, bucket: Bucket) -> None:
    """Before anything is uploaded: what cannot be remembered would have every later update refused."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = newcomer(whole)
        own_index(admin, "second")
        admin.state.write_text("a file is in the folder's place")
        tag = stored(bucket)["ETag"]
        refused = await sidecar(admin, "fleet", "update", "--replace")
        assert refused.code == 2, refused.err
        assert f"paths.state: {admin.state} cannot be written to" in refused.err
        assert stored(bucket)["ETag"] == tag
