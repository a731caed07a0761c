"""What a machine does when it wakes up."""

from __future__ import annotations

from pathlib import Path

from sidecar.demo.sample import add_user, write_index
from tests.conftest import Bucket
from tests.support.machine import SMALL, Machine


async def test_waking_up_fetches_with_new_connections(tmp_path: Path, bucket: Bucket) -> None:
    """After a suspension the store's newer index is fetched at once, over connections opened since."""
    index = tmp_path / "index.sqlite3"
    write_index(index, SMALL)
    bucket.put("db/index.sqlite3", index.read_bytes())
    machine = Machine(tmp_path, dict(bucket.settings))
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        add_user(index, "newcomer", "newcomer:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
        bucket.put("db/index.sqlite3", index.read_bytes())
        before = daemon.store._opened  # type: ignore[attr-defined]
        await daemon._resumed(3600.0)
        assert daemon.store._opened is not before  # type: ignore[attr-defined]
        assert b"newcomer:" in machine.targets()["htpasswd"]
        assert daemon.status.last is not None
        assert daemon.status.last.trigger == "wake"
