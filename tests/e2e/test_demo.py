"""The demo: a fleet on this computer that shows the point, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.demo.prepare import STUDIO_USER, DemoMachine, existing
from sidecar.demo.visits import loaded, signs_in
from tests.conftest import ROOT
from tests.support.cgi import SIDECAR, environment, run
from tests.support.machine import until
from tests.support.navigator import free_port

ENDED = "Ended; no process is left."


def processes_of(folder: Path) -> list[str]:
    """The command lines of the living processes that name something in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/" in words:
            found.append(words)
    return found


@asynccontextmanager
async def demo(folder: Path, machines: int, port: int) -> AsyncIterator[tuple[Process, list[str]]]:
    """A demo that runs, as the leader of a process group, and what it has said until it was ready."""
    process = await asyncio.create_subprocess_exec(
        *(SIDECAR, "demo", "--folder", folder, "--machines", str(machines), "--port", str(port)),
        stdout=PIPE,
        stderr=STDOUT,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not any(line.startswith("Ctrl-C") for line in said):
                line = await process.stdout.readline()
                assert line, said
                said.append(line.decode().rstrip())
        yield process, said
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def rest(process: Process) -> str:
    """What it says until its end."""
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return out.decode()


def without_times(text: str) -> str:
    return re.sub(r"^ *\d+\.\d s", "  0.0 s", text, flags=re.MULTILINE).strip()


async def test_the_readme_shows_the_story() -> None:
    """`sidecar demo --once` ends with status 0, and its transcript is the README's, times aside."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        done = await run(SIDECAR, "demo", "--once", "--port", str(free_port()), TMPDIR=folder)
        assert done.code == 0, done.out + done.err
        assert list(Path(folder).iterdir()) == []
        assert processes_of(Path(folder)) == []
    [shown] = re.findall(
        r"^```\n\$ \S*sidecar demo --once\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.S
    )
    assert without_times(done.out) == without_times(shown)


async def test_a_change_reaches_the_fleet_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    """What it prints is there; a change comes with a fleet update; after Ctrl-C no process is left."""
    folder = tmp_path / "demo"
    async with demo(folder, 2, free_port()) as (process, said):
        machines = existing(folder).machines
        for one in machines:
            assert any(one.page_url in line and one.site_url in line for line in said), said
            assert await asyncio.to_thread(signs_in, one, STUDIO_USER, "waltz")
        again = await run(SIDECAR, "demo", "--folder", folder)
        assert again.code == 2
        assert "already" in again.err
        changed = await run(SIDECAR, "demo", "--folder", folder, "change", "password")
        assert f"--user {STUDIO_USER}:tango" in changed.out, changed.err
        updated = await run(SIDECAR, "--config", machines[1].config, "fleet", "update")
        assert updated.code == 0, updated.out
        for one in machines:
            assert await asyncio.to_thread(signs_in, one, STUDIO_USER, "tango")
            assert not await asyncio.to_thread(signs_in, one, STUDIO_USER, "waltz")
        os.killpg(process.pid, signal.SIGINT)
        assert ENDED in await rest(process)
        assert process.returncode == 0
    assert processes_of(folder) == []


async def test_a_machine_that_breaks_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    """It names the process and its log, ends with status 1, and leaves nothing behind."""
    folder = tmp_path / "demo"
    async with demo(folder, 1, free_port()) as (process, _):
        os.kill(int((folder / "iad" / "navigator.pid").read_text()), signal.SIGKILL)
        out = await rest(process)
    assert process.returncode == 1
    assert "the web server of iad has ended with status -9" in out
    assert str(folder / "iad" / "navigator.log") in out
    assert processes_of(folder) == []


async def test_a_demo_that_is_killed_leaves_nothing_either(tmp_path: Path) -> None:
    """Its daemons and web servers end with it, however it ends; the next start goes on where it was."""
    folder, port = tmp_path / "demo", free_port()
    async with demo(folder, 1, port) as (process, _):
        process.kill()
        await process.wait()
        await until(lambda: processes_of(folder) == [])
    started = time.time()
    async with demo(folder, 1, port):
        [machine] = existing(folder).machines
        assert isinstance(machine, DemoMachine)
        assert await asyncio.to_thread(loaded, machine) == existing(folder).digest()
        assert (folder / "index.sqlite3").stat().st_mtime < started
