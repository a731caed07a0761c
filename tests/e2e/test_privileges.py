"""Root's commands become the user whose files they touch; the daemon shows and lends its powers to nobody."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.cli.client import Client
from tests.support.cgi import Finished, environment, run
from tests.support.machine import Machine
from tests.support.users import command_for_all

FOR_ALL = command_for_all()
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
    pytest.mark.skipif(
        shutil.which("setpriv") is None, reason="setpriv is not installed (Debian: util-linux)"
    ),
]

OTHER = pwd.getpwnam("daemon")
SEEN = "fleet-seen.json"
SIDECAR, VARIABLES = FOR_ALL or ([], {})


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine whose folders, all but the store, belong to another user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to others
        machine = Machine(
            Path(folder),
            {
                "navigator": {"pid_file": f"{folder}/navigator.pid"},
                "fleet": {"machines": [{"id": "a", "url": "http://127.0.0.1:9"}], "attempts": 1},
            },
        )
        machine.put_index()
        machine.write_settings()
        machine.state.mkdir()
        for path in (machine.folder, machine.state, *machine.application.rglob("*"), machine.application):
            os.chown(path, OTHER.pw_uid, OTHER.pw_gid)
        yield machine


async def as_root(machine: Machine, *arguments: str) -> Finished:
    return await run(*SIDECAR, "--config", machine.folder / "sidecar.yml", *arguments, stdin=b"", **VARIABLES)


def as_other(*command: str | Path) -> list[str]:
    user = ["setpriv", "--reuid", OTHER.pw_name, "--regid", str(OTHER.pw_gid), "--init-groups"]
    return [*user, *map(str, command)]


def strangers(machine: Machine) -> list[Path]:
    """What is in the machine's folders and not its user's."""
    folders = (machine.state, machine.application)
    return [path for folder in folders for path in folder.rglob("*") if path.stat().st_uid != OTHER.pw_uid]


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "--once"],
        ["preview", "--once"],
        ["ready"],
        ["databases", "status"],
        ["fleet", "update"],
        ["fleet", "status"],
        ["doctor"],
    ],
    ids=" ".join,
)
async def test_root_leaves_nothing_of_its_own(machine: Machine, arguments: list[str]) -> None:
    """Every command that works on the state folder itself writes as the folder's owner."""
    index = machine.folder / "index.sqlite3"
    shutil.copy(machine.store_index, index)
    for path in (machine.folder / "store").rglob("*"):
        os.chown(path, OTHER.pw_uid, OTHER.pw_gid)
    more = ["--index", str(index)] if arguments == ["fleet", "update"] else []
    finished = await as_root(machine, *arguments, *more)
    assert "Traceback" not in finished.err
    assert strangers(machine) == []
    if more:
        assert (machine.state / SEEN).exists(), finished.err
    if arguments == ["update", "--once"]:
        assert finished.code == 0, finished.err
        # Root asked for it all the same.
        assert machine.target("navigator.yml").exists()


async def test_what_root_has_left_is_named(machine: Machine) -> None:
    """A file that cannot be read is not taken for one that is not there, and the error names it."""
    (machine.state / SEEN).write_text("{}")
    (machine.state / SEEN).chmod(0o600)
    finished = await as_root(machine, "fleet", "update", "--index", str(machine.store_index))
    assert finished.code == 1
    assert f"{machine.state / SEEN} cannot be read: Permission denied" in finished.err
    assert "has not seen" not in finished.err


async def test_an_unreadable_state_folder_is_a_sentence(machine: Machine) -> None:
    """Another user who runs such a command is told whose it is to run, without a traceback."""
    machine.state.chmod(0o700)
    command = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", *SIDECAR]
    for arguments in (["update", "--once"], ["serve"], ["databases", "status"]):
        finished = await run(
            *command, "--config", machine.folder / "sidecar.yml", *arguments, stdin=b"", **VARIABLES
        )
        assert finished.code == 1, finished.err
        assert "Traceback" not in finished.err
        assert "Permission denied" in finished.err


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@asynccontextmanager
async def daemon(machine: Machine, *before: str, **environ: str) -> AsyncIterator[Process]:
    """The daemon, started by root, or with what comes before the command, from when it answers."""
    process = await asyncio.create_subprocess_exec(
        *(*before, *SIDECAR, "--config", str(machine.folder / "sidecar.yml"), "serve"),
        env=environment(**VARIABLES, **environ),
        stderr=DEVNULL,
    )
    try:
        await asyncio.to_thread(Client(str(machine.socket), timeout=20).wait_for_daemon, 20)
        yield process
    finally:
        process.terminate()
        await process.wait()


async def test_the_daemon_keeps_its_environment_and_powers(machine: Machine) -> None:
    """A process of the same user cannot read its environment; no capability of its own is passed on."""
    kill = ["--bounding-set=-all,+kill", "--inh-caps=-all,+kill", "--ambient-caps=-all,+kill"]
    secret = "a-secret-that-is-read-by-nobody"
    async with daemon(machine, *as_other(), *kill, SIDECAR_TRIGGER_SECRET=secret) as process:
        # With the same power as the daemon: for want of that the kernel refuses it anyway.
        looked = await run(*as_other(*kill, "cat", f"/proc/{process.pid}/environ"))
        assert (looked.code, looked.out) == (1, "")
        assert "Permission denied" in looked.err
        found = facts(process.pid)
        assert int(found["CapEff"], 16) == 1 << 5, "it may signal Navigator itself"
        assert int(found["CapAmb"], 16) == 0


async def test_root_keeps_the_power_to_signal_and_no_other(machine: Machine) -> None:
    """A daemon that root starts by hand becomes the owner, and may still signal a Navigator of root's."""
    async with daemon(machine) as process:
        found = facts(process.pid)
        assert set(found["Uid"].split()) == {str(OTHER.pw_uid)}
        assert set(found["Gid"].split()) == {str(OTHER.pw_gid)}
        assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 1 << 5


async def test_commands_know_what_the_service_knows(machine: Machine) -> None:
    """The file `environment` beside sidecar.yml counts for who may read it, below the real environment."""
    path = machine.folder / "environment"
    path.write_text("SIDECAR_LISTEN_HOST=127.0.0.2\nSIDECAR_MACHINE_ID='from the file'\n")
    path.chmod(0o600)
    finished = await run(
        *(*SIDECAR, "--config", str(machine.folder / "sidecar.yml"), "config", "--json"),
        stdin=b"",
        **VARIABLES,
        SIDECAR_MACHINE_ID="from the environment",
    )
    shown = json.loads(finished.out)
    assert shown["listen"]["host"] == "127.0.0.2"
    assert shown["machine"]["id"] == "from the environment"
    config = ["--config", str(machine.folder / "sidecar.yml"), "config", "--json"]
    finished = await run(*as_other(*SIDECAR, *config), stdin=b"", **VARIABLES)
    assert json.loads(finished.out)["listen"]["host"] == "127.0.0.1"
