"""The administrator's machine may be no Linux: what runs there uses nothing that only Linux has."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Bucket
from tests.support.cgi import Finished, run
from tests.support.elsewhere import LINUX_ONLY
from tests.support.fleet import fleet
from tests.support.machine import Machine


async def elsewhere(machine: Machine, *arguments: str) -> Finished:
    """Run the command line as on another system."""
    module = ("-m", "tests.support.elsewhere", "--config", str(machine.write_settings()))
    return await run(sys.executable, *module, *arguments, PYTHONPATH=str(ROOT))


@pytest.fixture
def admin(tmp_path: Path, bucket: Bucket) -> Machine:
    """A machine that owns its index and every event's database."""
    own = {"update": {"own_index": True}, "databases": {"owns": "all"}}
    machine = Machine(tmp_path, {**bucket.settings, **own})
    shutil.copy(machine.put_index(), machine.application / "db" / "index.sqlite3")
    return machine


async def test_preview_and_databases_run_elsewhere(admin: Machine, bucket: Bucket) -> None:
    """`preview`, `update --once`, `compare`, `databases push` and `status`, without a daemon."""
    for words in (
        ("preview", "--once", "--diff"),
        ("update", "--once"),
        ("preview", "--once"),
        ("compare", str(admin.application)),
        ("databases", "push", "--yes"),
        ("databases", "status"),
    ):
        done = await elsewhere(admin, *words)
        assert done.code == 0, (words, done.out, done.err)


async def test_the_fleet_is_updated_from_elsewhere(tmp_path: Path, bucket: Bucket) -> None:
    """`fleet update` with commands around it, and `fleet status`."""
    async with fleet(tmp_path, bucket, ["m1"]) as whole:
        admin = whole.admin(before=[["echo", "the maps"]], after=[["true"]])
        shutil.copy(whole.folder / "first.sqlite3", admin.application / "db" / "index.sqlite3")
        done = await elsewhere(admin, "fleet", "update", "--progress", "json")
        assert done.code == 0, done.out + done.err
        assert json.loads(done.out.splitlines()[-1])["report"]["good"]
        status = await elsewhere(admin, "fleet", "status")
        assert status.code == 0, status.out + status.err


def test_linux_is_asked_for_in_few_places() -> None:
    """Names that only Linux has stand where a daemon needs them, and nowhere else."""
    known = {(module, name) for module, names in LINUX_ONLY.items() for name in names}
    found = {
        (str(path.relative_to(ROOT / "sidecar")), f"{node.value.id}.{node.attr}")
        for path in (ROOT / "sidecar").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if (node.value.id, node.attr) in known
    }
    assert found == {
        # A daemon's alone: Navigator's process, its clients, systemd.
        ("navigator/process.py", "os.pidfd_open"),
        ("navigator/process.py", "os.listxattr"),
        ("system/commands.py", "os.sched_setscheduler"),
        ("navigator/process.py", "signal.pidfd_send_signal"),
        ("system/systemd.py", "socket.SOCK_CLOEXEC"),
        ("web/access.py", "socket.SO_PEERCRED"),
    }
