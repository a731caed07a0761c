"""A whole fleet on one computer, updated by the installed command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.conftest import Bucket
from tests.support.cgi import sidecar
from tests.support.fleet import KEY, answers, document, fleet, hang, index, unreachable_host
from tests.support.machine import Machine

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
    refusing = {"navigator": {"probes": [probe]}}
    async with fleet(tmp_path, bucket, EIGHT, m6=refusing) as whole:
        whole.api.then += [(429, {"error": "rate limited"}, {"Retry-After": "0"}), (200, [], {})]
        whole.router.faults |= {
            "m2": answers(500, 2),
            "m3": hang,
            "m5": stops(whole),
        }
        whole.router.machines["m4"] = whole.router.machines["m1"]
        admin = whole.admin(answer_timeout="6s", timeout="15s", attempts=4)
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
        assert "went back" in rows["m6"]
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
