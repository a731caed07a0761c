"""Navigator from outside: its process by a pid file that anyone may write, its markers, its port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.model.navigator import Process
from sidecar.navigator.markers import Markers
from sidecar.navigator.probes import NavigatorPort
from sidecar.navigator.process import NavigatorError, NavigatorProcess, may_read
from tests.support.fleet import serve
from tests.support.navigator import free_port

# A program that says it is there, and which signal it got.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGHUP, lambda *_: print("hangup", flush=True))
BECOME
print("there", flush=True)
while True:
    signal.pause()
"""


class Program:
    """A living process that is named as Navigator is."""

    def __init__(
        self, folder: Path, *words: str, name: str = "navigator.py", user: int | None = None
    ) -> None:
        script = folder / name
        # It becomes that user itself, who may not be allowed to start the interpreter.
        become = "" if user is None else f"os.setuid({user})"
        script.write_text(PROGRAM.replace("BECOME", become))
        self._popen = subprocess.Popen(
            [sys.executable, str(script), *words], stdout=subprocess.PIPE, text=True
        )
        self.pid = self._popen.pid
        assert self.said() == "there"

    def said(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and become somebody else")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed (Debian: util-linux)")
def test_a_process_that_lives_but_cannot_be_seen_is_told_of() -> None:
    """Behind `hidepid`, as systemd's ProtectProc= sets it, "down" would be wrong: the sentence says so."""
    script = """
import os, sys
from pathlib import Path
from sidecar.navigator.process import NavigatorProcess
file = Path(sys.argv[1])
process = NavigatorProcess(file, ["navigator"])
file.write_text(str(os.getppid()))
file.chmod(0o644)
os.setgroups([])
os.setresgid(1, 1, 1)
os.setresuid(1, 1, 1)
print(process.find(), process.hidden())
"""
    hidden = 'mount -t proc -o hidepid=invisible proc /proc && "$@"; true'
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-c",
        hidden,
        "sh",
        sys.executable,
        "-c",
        script,
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to others
        file = f"{folder}/navigator.pid"
        done = subprocess.run([*command, file], capture_output=True, text=True, check=False)
    assert "None process 1 in" in done.stdout, done.stderr
    assert "hidden from the sidecar" in done.stdout


@pytest.mark.parametrize(
    ("mode", "folder", "owner", "member", "may"),
    [
        (0o600, 0o755, True, True, True),
        (0o640, 0o755, False, True, True),
        (0o644, 0o755, False, False, True),
        (0o640, 0o755, False, False, False),
        (0o600, 0o755, False, True, False),
        (0o044, 0o755, True, True, False),  # the owner's own bits count, whatever the others' are
        (0o644, 0o750, False, True, True),
        (0o644, 0o750, False, False, False),
    ],
)
def test_who_may_read_a_file(mode: int, folder: int, owner: bool, member: bool, may: bool) -> None:
    """By owner, group and mode, of the file and of each folder above it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)  # pytest's own folders are closed to others
        file = place / "htpasswd"
        file.touch()
        user, group = file.stat().st_uid + (not owner), file.stat().st_gid + (not member)
        file.chmod(mode)
        place.chmod(folder)
        assert may_read(file, user, {group}) is may


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_navigator_that_may_not_read_htpasswd_is_told_of() -> None:
    """It would keep the users that it had, and nobody who was revoked would notice."""
    script = """
import os, sys
from pathlib import Path
from sidecar.navigator.process import NavigatorProcess
folder = Path(sys.argv[1])
file, process = folder / "htpasswd", NavigatorProcess(folder / "pid", ["navigator"])
(folder / "pid").write_text(str(os.getpid()))
file.touch(mode=0o600)
print(process.unreadable(file))
os.setgroups([])
os.setresgid(1, 1, 1)
os.setresuid(1, 1, 1)
print(process.unreadable(file))
"""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        (place / "navigator.py").write_text(script)
        done = subprocess.run(
            [sys.executable, place / "navigator.py", folder], capture_output=True, text=True, check=False
        )
    as_root, as_another = done.stdout.splitlines()
    assert as_root == "None", done.stderr
    assert re.fullmatch(rf"Navigator \(process \d+, user 1\) may not read {folder}/htpasswd: .+", as_another)


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "navigator.pid"


@pytest.fixture
def living(tmp_path: Path, pid_file: Path) -> Iterator[Program]:
    """A Navigator that runs, with its pid file."""
    program = Program(tmp_path, "config/navigator.yml", "--pid-file", str(pid_file))
    pid_file.write_text(f"{program.pid}\n")
    yield program
    program.end()


def finder(pid_file: Path) -> NavigatorProcess:
    return NavigatorProcess(pid_file, ["navigator"])


# Process


def test_a_living_navigator_is_found(living: Program, pid_file: Path) -> None:
    """By id, start and boot, which no other process shares, and with the file that it was started on."""
    found = finder(pid_file).find()
    assert found is not None
    assert (found.pid, found.configuration) == (living.pid, "config/navigator.yml")
    assert found.started > 0
    assert found.boot
    assert finder(pid_file).find() == found


def test_one_that_was_started_again_is_another(tmp_path: Path, living: Program, pid_file: Path) -> None:
    """Another process, and another stamp of the pid file."""
    process = finder(pid_file)
    before, stamp = process.find(), process.stamp()
    again = Program(tmp_path, "config/navigator-maintenance.yml")
    try:
        pid_file.unlink()
        pid_file.write_text(str(again.pid))
        found = process.find()
        assert found is not None
        assert found != before
        assert found.configuration == "config/navigator-maintenance.yml"
        assert process.stamp() != stamp
    finally:
        again.end()


def test_a_program_of_another_name_is_none(tmp_path: Path, pid_file: Path) -> None:
    """A stale pid file whose number was taken over leads to nobody, and nobody is signalled."""
    other = Program(tmp_path, "config/navigator.yml", name="other.py")
    try:
        pid_file.write_text(str(other.pid))
        assert finder(pid_file).find() is None
        with pytest.raises(NavigatorError, match="is not Navigator"):
            finder(pid_file).reload()
        os.kill(other.pid, signal.SIGHUP)
        assert other.said() == "hangup"  # the only one it ever got
    finally:
        other.end()


def test_an_editor_of_its_configuration_is_none(tmp_path: Path, pid_file: Path) -> None:
    """A program whose first argument is navigator.yml reads that file; a signal would end it."""
    other = Program(tmp_path, name="navigator.yml")
    try:
        pid_file.write_text(str(other.pid))
        assert finder(pid_file).find() is None
        with pytest.raises(NavigatorError, match="is not Navigator"):
            finder(pid_file).reload()
    finally:
        other.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_users_pid_file_names_that_users_process_only(open_folder: Path) -> None:
    """Where anyone may write, somebody may name another's process: it is neither believed nor signalled."""
    theirs, ours = Program(open_folder, user=1), Program(open_folder)
    try:
        pid_file = open_folder / "navigator.pid"
        pid_file.write_text(str(ours.pid))
        assert finder(pid_file).find() is not None
        os.chown(pid_file, 1, 1)
        assert finder(pid_file).find() is None
        with pytest.raises(NavigatorError, match="user 1 has written it"):
            finder(pid_file).reload()
        # A Navigator of another user writes its own; and root may name anybody's.
        pid_file.write_text(str(theirs.pid))
        for owner in (1, 0):
            os.chown(pid_file, owner, owner)
            found = finder(pid_file).find()
            assert found is not None
            assert found.pid == theirs.pid
    finally:
        theirs.end()
        ours.end()


def test_a_signal_reaches_the_living(living: Program, pid_file: Path) -> None:
    """And the process that got it is told."""
    assert finder(pid_file).reload().pid == living.pid
    assert living.said() == "hangup"


def test_one_that_ended_is_none(living: Program, pid_file: Path) -> None:
    """Its pid file may stay behind."""
    living.end()
    assert finder(pid_file).find() is None
    with pytest.raises(NavigatorError):
        finder(pid_file).reload()


@pytest.mark.parametrize("content", ["", "x", "0", "-1", "1.5", "99999999999999999999", "\0" * 40])
def test_what_is_no_process_id_is_none(pid_file: Path, content: str) -> None:
    """Anything may stand in the pid file; 0 and -1 would signal a whole group, or everybody."""
    pid_file.write_text(content)
    assert finder(pid_file).find() is None
    with pytest.raises(NavigatorError):
        finder(pid_file).reload()


def test_a_pipe_in_place_of_the_pid_file_blocks_nobody(living: Program, pid_file: Path) -> None:
    """Whether or not somebody has it open to write, or has written: the folder is writable for others."""
    pid_file.unlink()
    os.mkfifo(pid_file)
    # Whoever waits for a writer would not come back otherwise.
    writer = threading.Timer(10, pid_file.write_text, ["x"])
    writer.daemon = True
    writer.start()
    assert finder(pid_file).find() is None
    assert writer.is_alive(), "it was waited for"
    writer.cancel()
    with open(os.open(pid_file, os.O_RDWR | os.O_NONBLOCK), "r+b", buffering=0) as pipe:
        assert finder(pid_file).find() is None
        pipe.write(str(living.pid).encode())
        assert finder(pid_file).find() is None
        with pytest.raises(NavigatorError):
            finder(pid_file).reload()


def test_a_link_in_place_of_the_pid_file_is_not_followed(
    tmp_path: Path, living: Program, pid_file: Path
) -> None:
    """Wherever it leads: even to a good one."""
    real = pid_file.rename(tmp_path / "real.pid")
    pid_file.symlink_to(real)
    assert finder(pid_file).find() is None
    pid_file.unlink()
    pid_file.symlink_to("/dev/zero")
    assert finder(pid_file).find() is None


def test_a_huge_pid_file_is_not_read_whole(living: Program, pid_file: Path) -> None:
    """A sparse file of a terabyte costs a read of some bytes, whatever it begins with."""
    os.truncate(pid_file, 1 << 40)
    assert finder(pid_file).find() is None
    pid_file.unlink()
    pid_file.write_text(f"{living.pid}".ljust(200))
    found = finder(pid_file).find()
    assert found is not None
    assert found.pid == living.pid


def test_a_folder_or_nothing_in_place_of_the_pid_file_is_none(pid_file: Path) -> None:
    """No Navigator, and no stamp where there is nothing."""
    assert finder(pid_file).find() is None
    assert finder(pid_file).stamp() is None
    pid_file.mkdir()
    assert finder(pid_file).find() is None


def test_every_start_moves_the_stamp(pid_file: Path) -> None:
    """Also a start that ended at once: each writes its pid file anew, even with the same number."""
    process = finder(pid_file)
    pid_file.write_text("1")
    first = process.stamp()
    assert process.stamp() == first
    os.utime(pid_file, ns=(1, 2))
    assert process.stamp() != first


def test_a_process_is_told_by_its_number() -> None:
    """The sentences of logs and of the status say no more."""
    assert str(Process(12, 34, "boot", "config/navigator.yml")) == "process 12"


# Markers


def touch(folder: Path, name: str, moment: int) -> None:
    (folder / name).touch()
    os.utime(folder / name, ns=(moment, moment))


def test_markers_are_told_newest_first(tmp_path: Path) -> None:
    """With the time and inode that every touch moves."""
    for name, moment in (("a", 2_000), ("b", 3_000), ("c", 1_000)):
        touch(tmp_path, name, moment)
    found = Markers(tmp_path).all()
    assert [(one.fingerprint, one.touched) for one in found] == [("b", 3_000), ("a", 2_000), ("c", 1_000)]
    assert {one.inode for one in found} == {path.stat().st_ino for path in tmp_path.iterdir()}
    before = found[1]
    touch(tmp_path, "a", 4_000)
    assert Markers(tmp_path).all()[0] != before


def test_no_folder_is_no_marker(tmp_path: Path) -> None:
    """Where nothing was ever loaded there is nothing to see, or to clear."""
    markers = Markers(tmp_path / "missing")
    assert markers.all() == []
    markers.clear("a")


def test_a_published_sets_marker_is_cleared(tmp_path: Path) -> None:
    """So that the next one proves a new load; the others stay, up to twenty."""
    for number in range(30):
        touch(tmp_path, f"m{number:02}", number + 1)
    Markers(tmp_path).clear("m29")
    assert [one.fingerprint for one in Markers(tmp_path).all()] == [f"m{n:02}" for n in range(28, 9, -1)]


async def test_a_touch_is_noticed(tmp_path: Path) -> None:
    """And without one there is a look after each pause."""
    folder = tmp_path / "loaded"
    async with asyncio.timeout(20), contextlib.aclosing(Markers(folder).changes(0.05)) as changes:
        await anext(changes)
        while not Markers(folder).all():
            touch(folder, "a", 1_000)
            await anext(changes)


# Gate

MAINTENANCE = """
server:
  cgi_scripts:
    - {path: /showcase/other, script: a}
    - {path: /showcase/update_config, script: b, reload_config: config/navigator.yml}
"""


@pytest.fixture
def maintenance(tmp_path: Path) -> Path:
    path = tmp_path / "navigator-maintenance.yml"
    path.write_text(MAINTENANCE)
    return path


async def test_a_port_that_listens_answers(maintenance: Path) -> None:
    """Before it listens a signal would end Navigator."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert await NavigatorPort(listening.getsockname()[1], maintenance).answers()
    assert not await NavigatorPort(free_port(), maintenance).answers()


async def test_a_look_is_a_request_to_the_cgi_that_reloads(maintenance: Path) -> None:
    """The maintenance file says which; its answer is no matter, since Navigator looks by the exit status."""
    asked: list[tuple[str, str]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append((request.method, request.path))
        return web.Response(status=502)

    async with serve(handle) as url:
        await NavigatorPort(int(url.rpartition(":")[2]), maintenance).look()
    assert asked == [("POST", "/showcase/update_config")]


async def test_a_look_at_nobody_says_so(maintenance: Path) -> None:
    """With the address that was asked."""
    port = free_port()
    with pytest.raises(NavigatorError, match=f"127.0.0.1:{port}/showcase/update_config did not answer"):
        await NavigatorPort(port, maintenance).look()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "server: {}",
        "server: {cgi_scripts: }",
        "server: {cgi_scripts: [{path: /a}]}",
        "server: {cgi_scripts: [text]}",
        "{",
    ],
)
async def test_a_maintenance_file_without_a_way_to_look_says_so(tmp_path: Path, content: str | None) -> None:
    """Missing, broken, or of another make: the file is named, and what it needs."""
    path = tmp_path / "navigator-maintenance.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NavigatorError, match="names no CGI") as caught:
        await NavigatorPort(1, path).look()
    assert str(path) in caught.value.message
    assert "reload_config" in caught.value.hint
