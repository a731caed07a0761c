"""The installed command: what it prints, as text and as JSON, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from sidecar import __version__
from sidecar.demo.sample import Size, add_user, rename_studio, set_password
from sidecar.model import signing
from sidecar.model.artifacts import NAMES
from tests.support.cgi import SIDECAR, Finished, environment, run, serving, sidecar
from tests.support.machine import QUIET_START, SECRET, Machine, until
from tests.support.origin import origin
from tests.support.terminal import on_terminal, plain

HASH = "{SHA}" + "A" * 27 + "="
COMMANDS = (
    "serve",
    "update",
    "preview",
    "diff",
    "status",
    "config",
    "doctor",
    "alert",
    "hash-password",
    "sign",
    "demo",
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with a folder for a store, an index in it, and a Navigator that is not there."""
    machine = Machine(tmp_path, {"navigator": {"pid_file": str(tmp_path / "navigator.pid")}})
    machine.put_index()
    return machine


def check(finished: Finished, code: int) -> Finished:
    """The command ended so, and without a traceback."""
    assert finished.code == code, (finished.out, finished.err)
    assert "Traceback" not in finished.err + finished.out
    return finished


def error_of(finished: Finished) -> dict[str, Any]:
    """The error that `--json` printed; the same sentence is on standard error."""
    error: dict[str, Any] = finished.json["error"]
    assert error["message"] in finished.err
    return error


# Help and wrong usage


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_explains_itself(command: str) -> None:
    """`--help` says what the command does, and gives an example that starts with its name."""
    help_ = check(await sidecar(None, command, "--help"), 0).out
    assert f" {command}" in help_.partition("example: sidecar")[2]
    assert "--json" in help_


async def test_the_command_lists_its_commands() -> None:
    """`sidecar --help` names every command, and `--version` the version."""
    listed = check(await sidecar(None, "--help"), 0).out
    assert all(command in listed for command in COMMANDS)
    assert check(await sidecar(None, "--version"), 0).out == f"sidecar {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such-command"], ["update", "--wait", "tomorrow"], ["sign"], ["status", "--nothing"]],
)
async def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Wrong usage is explained on standard error, exit status 2."""
    finished = check(await sidecar(None, *arguments), 2)
    assert "usage: sidecar" in finished.err
    assert finished.out == ""


async def test_a_state_is_watched(machine: Machine) -> None:
    """`status --watch` says a line when the state changes, until Ctrl-C; on a terminal it is drawn anew."""
    async with serving(machine):
        process = await asyncio.create_subprocess_exec(
            *(SIDECAR, "--config", str(machine.write_settings()), "status", "--watch"),
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert b"UTC  " in await process.stdout.readline()
            machine.store_index.write_bytes(b"no database")
            assert (await sidecar(machine, "update")).code == 1
            while b"Out of sync" not in (line := await process.stdout.readline()):
                assert line
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130


async def test_a_terminal_gets_colours(machine: Machine) -> None:
    """States are coloured as on the page, unless NO_COLOR is set; the words are those of a file."""
    async with serving(machine):
        command: tuple[str | Path, ...] = (SIDECAR, "--config", machine.write_settings(), "status")
        _, coloured = await on_terminal(*command)
        _, plainly = await on_terminal(*command, NO_COLOR="1")
        assert "\x1b[" in coloured
        assert "\x1b[3" not in plainly
        headline = (await sidecar(machine, "status")).out.partition("\n")[0]
        assert plain(coloured).startswith(headline)
        assert plain(plainly).startswith(headline)


# Configuration


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("listen: {port: 99999}", ["listen.port"]),
        ("listen: {prot: 1}", ["listen", "prot", "port"]),
        ("fetch: {timeout: soon}", ["fetch.timeout", "30s"]),
        ("store: ftp://bucket", ["store", "s3://bucket"]),
        ("nonsense: 1", ["nonsense", "store"]),
        ("- a list", ["mapping"]),
        ("a: [", ["YAML"]),
        ("profile: fly", ["machine.region", "FLY_REGION"]),
        ("profile: /not/there.yml", ["profile", "/not/there.yml"]),
        ("administrators: {admin: secret}", ["administrators.admin", "hash-password"]),
        ("trigger: {secret: short}", ["trigger.secret"]),
        ("files: {owner: nobody-of-that-name}", ["nobody-of-that-name"]),
    ],
)
async def test_a_wrong_setting_names_its_place(tmp_path: Path, content: str, words: list[str]) -> None:
    """A wrong configuration is told with file, key and what would be right; exit status 2."""
    file = tmp_path / "sidecar.yml"
    file.write_text(content)
    for more in ([], ["--json"]):
        finished = check(await run(SIDECAR, "--config", file, "config", "--check", *more), 2)
        assert all(word in finished.err for word in words), finished.err
        if more:
            assert error_of(finished)["code"] == "settings"


async def test_a_wrong_variable_names_itself(machine: Machine) -> None:
    """The environment's part of a wrong configuration is told by the variable's name."""
    finished = check(await sidecar(machine, "config", SIDECAR_LISTEN_PORT="many"), 2)
    assert "SIDECAR_LISTEN_PORT" in finished.err
    finished = check(await sidecar(machine, "config", SIDECAR_LISTEN_PROT="1"), 0)
    assert "SIDECAR_LISTEN_PROT" in finished.err


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A configuration that is named and not there is an error, not a silent default."""
    missing = tmp_path / "missing.yml"
    assert str(missing) in check(await run(SIDECAR, "--config", missing, "config"), 2).err
    assert str(missing) in check(await run(SIDECAR, "config", SIDECAR_CONFIG=str(missing)), 2).err


@pytest.mark.parametrize("command", ["serve", "update", "status", "doctor", "preview"])
async def test_every_command_refuses_a_wrong_configuration(tmp_path: Path, command: str) -> None:
    """No command works with settings that it cannot trust."""
    file = tmp_path / "sidecar.yml"
    file.write_text("listen: {port: 99999}")
    assert "listen.port" in check(await run(SIDECAR, "--config", file, command), 2).err


async def test_config_shows_what_is_in_force(machine: Machine) -> None:
    """`config` prints the settings with defaults and overrides, as YAML or JSON, secrets masked."""
    machine.extra |= {"s3": {"access_key_id": "id", "secret_access_key": "very-secret-key"}}
    assert "sound" in check(await sidecar(machine, "config", "--check"), 0).out
    shown = check(await sidecar(machine, "config", SIDECAR_FETCH_ATTEMPTS="7"), 0).out
    data = check(await sidecar(machine, "config", "--json", SIDECAR_FETCH_ATTEMPTS="7"), 0).json
    assert yaml.safe_load(shown) == data
    assert data["fetch"]["attempts"] == 7
    assert data["paths"]["databases"] == str(machine.application / "db")
    for secret in (SECRET, "very-secret-key"):
        assert secret not in shown
    assert data["trigger"]["secret"] == "********"


# Update without a daemon


async def test_update_once_needs_no_daemon(machine: Machine) -> None:
    """`update --once` publishes by itself, says so, and finds nothing to do the second time."""
    finished = check(await sidecar(machine, "update", "--once"), 0)
    assert "published generation 1" in finished.out
    assert finished.out.splitlines()[-1].startswith("Published in ")
    assert sorted(machine.targets()) == sorted(NAMES)
    outcome = check(await sidecar(machine, "update", "--once", "--json"), 0).json
    assert (outcome["state"], outcome["generation"]) == ("unchanged", 1)


async def test_a_refused_update_ends_with_1(machine: Machine) -> None:
    """A refusal is told with its reason and what to do; `--force` overrides a loss."""
    check(await sidecar(machine, "update", "--once"), 0)
    before = machine.targets()
    machine.put_index(Size(events=10, studios=20, users=12))
    finished = check(await sidecar(machine, "update", "--once"), 1)
    assert "would drop 30 of" in finished.err
    assert "--force" in finished.err
    outcome = check(await sidecar(machine, "update", "--once", "--json"), 1).json
    assert (outcome["state"], outcome["error"]["code"]) == ("rejected", "loss")
    assert machine.targets() == before
    check(await sidecar(machine, "update", "--once", "--force"), 0)
    assert machine.targets() != before


async def test_a_failed_update_ends_with_1(machine: Machine) -> None:
    """A store without the index is an error with the place to look at."""
    machine.store_index.unlink()
    finished = check(await sidecar(machine, "update", "--once"), 1)
    assert str(machine.store_index) in finished.err
    assert machine.targets() == {}


async def test_started_by_somebody_who_ignores_children(machine: Machine) -> None:
    """Whoever starts the sidecar may ignore the ends of children: exit statuses are known all the same."""
    machine.put_index()
    machine.extra["update"] = {"check_command": ["true"]}
    script = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    settings = machine.write_settings()
    finished = await run(sys.executable, "-c", script, SIDECAR, "--config", settings, "update", "--once")
    assert finished.code == 0, finished.out + finished.err
    assert "Published" in finished.out


async def test_preview_once_shows_and_writes_nothing(machine: Machine) -> None:
    """`preview --once` names what an update would change, with diffs when asked, and changes nothing."""
    check(await sidecar(machine, "update", "--once"), 0)
    before = machine.targets()
    set_password(machine.store_index, "user0003", f"user0003:{HASH}")
    short = check(await sidecar(machine, "preview", "--once"), 0).out
    assert "users changed: user0003" in short
    assert "files to write: htpasswd, navigator.yml" in short
    assert "+++" not in short
    long = check(await sidecar(machine, "preview", "--once", "--diff"), 0).out
    assert "+user0003:••••" in long
    assert HASH not in long
    data = check(await sidecar(machine, "preview", "--once", "--json"), 0).json
    assert data["state"] == "previewed"
    assert set(data["diffs"]) == {"htpasswd", "navigator.yml"}
    assert machine.targets() == before
    check(await sidecar(machine, "update", "--once"), 0)
    assert "files to write: none" in check(await sidecar(machine, "preview", "--once"), 0).out


async def test_what_the_index_holds_is_printed_as_text(machine: Machine) -> None:
    """A user's name, and the name of a table, neither rule the terminal nor pass for a line of the log."""
    name = "\x1b]0;pwned\x07\x1b[2J\n[07:00:00] forged line\x9b"
    check(await sidecar(machine, "update", "--once"), 0)
    add_user(machine.store_index, name, f"{name}:{HASH}")
    finished = await sidecar(machine, "preview", "--once", "--diff")
    with closing(sqlite3.connect(machine.store_index)) as connection:
        connection.execute(f'create view "{name}" as select * from nowhere')
    refused = await sidecar(machine, "update", "--once")
    for text in (finished.out, finished.err, refused.out, refused.err):
        assert all(line.isprintable() for line in text.split("\n")), text
        assert not [line for line in text.split("\n") if line.startswith("[07:00:00]")]


async def test_a_preview_of_nothing_says_so(machine: Machine) -> None:
    """When an update would change nothing, the preview says that in a sentence."""
    check(await sidecar(machine, "update", "--once"), 0)
    assert "change nothing" in check(await sidecar(machine, "preview", "--once"), 0).out


@pytest.mark.parametrize("command", [["update"], ["preview"], ["status"]])
async def test_without_a_daemon_the_commands_say_so(machine: Machine, command: list[str]) -> None:
    """What needs the daemon names the socket and how to start it; exit status 1."""
    finished = check(await sidecar(machine, *command), 1)
    assert str(machine.socket) in finished.err
    assert "sidecar serve" in finished.err
    assert error_of(check(await sidecar(machine, *command, "--json"), 1))["code"] == "no_daemon"


# Beside a daemon


async def test_the_commands_talk_to_the_daemon(machine: Machine) -> None:
    """Beside a daemon, update, preview and status go through it, and `--once` is refused."""
    async with serving(machine) as daemon:
        await until(lambda: len(machine.targets()) == len(NAMES))  # it updates when it starts
        add_user(machine.store_index, "new", f"new:{HASH}")
        finished = check(await sidecar(machine, "update"), 0)
        assert "published generation 2" in finished.out
        assert finished.out.splitlines()[-1].startswith("Published in ")
        assert check(await sidecar(machine, "update", "--json"), 0).json["state"] == "unchanged"

        for command in (["update", "--once"], ["preview", "--once"]):
            refused = check(await sidecar(machine, *command, "--json"), 1)
            assert error_of(refused)["code"] == "busy"
            assert "running daemon" in refused.err

        assert "users added: new\n" in check(await sidecar(machine, "diff", "1"), 0).out
        files = check(await sidecar(machine, "diff", "2", "1", "--files"), 0).out
        assert "users removed: new\n" in files
        assert "-new:••••\n" in files
        data = check(await sidecar(machine, "diff", "1", "2", "--json"), 0).json
        assert data["changes"]["users"]["added"]["names"] == ["new"]
        assert set(data["files"]) == {"htpasswd", "navigator.yml"}
        assert HASH not in files + data["files"]["htpasswd"]
        assert "are the same" in check(await sidecar(machine, "diff", "2"), 0).out
        assert "no generation 7" in check(await sidecar(machine, "diff", "7"), 1).err

        rename_studio(machine.store_index, first_studio(machine), "Renamed Studio")
        text = check(await sidecar(machine, "preview", "--diff"), 0).out
        assert "studios changed:" in text
        assert "Renamed Studio" in text
        data = check(await sidecar(machine, "preview", "--json"), 0).json
        assert data["state"] == "previewed"

        status = check(await sidecar(machine, "status"), 1).out
        assert f"sidecar {__version__}" in status
        assert "generation 2" in status
        check(await sidecar(machine, "update", "--wait", "published"), 0)

        machine.store_index.write_bytes(b"no database")
        for more in ([], ["--json"]):
            refused = check(await sidecar(machine, "update", *more), 1)
            assert "not an SQLite database" in refused.err + refused.out
        check(await sidecar(machine, "preview"), 1)
        assert check(await sidecar(machine, "status", "--json"), 1).json["error"]["code"] == "not_sqlite"

        assert await daemon.stop() == 0
    assert not machine.socket.exists()
    assert "Traceback" not in daemon.log
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert any(line.get("generation") == 1 for line in lines)
    assert SECRET not in daemon.log


def first_studio(machine: Machine) -> str:
    with closing(sqlite3.connect(machine.store_index)) as connection:
        (key,) = connection.execute("select key from locations order by key").fetchone()
        return str(key)


async def test_force_passes_through_the_daemon(machine: Machine) -> None:
    """`update --force` accepts through the daemon what `update` refused."""
    async with serving(machine):
        check(await sidecar(machine, "update"), 0)
        machine.put_index(Size(events=10, studios=20, users=12))
        assert "would drop 30 of" in check(await sidecar(machine, "update"), 1).err
        assert "Published" in check(await sidecar(machine, "update", "--force"), 0).out


async def test_the_status_ends_with_0_when_all_is_well(machine: Machine) -> None:
    """Synced and healthy is 0; without a Navigator, or with a store that is ahead, it is 1."""

    async def told(code: int) -> tuple[str, str]:
        status = check(await sidecar(machine, "status", "--json"), code).json
        return status["sync"]["state"], status["health"]["state"]

    async with serving(machine), ending(machine):
        check(await sidecar(machine, "update"), 0)
        assert await told(1) == ("synced", "waiting")
        machine.load()
        check(await sidecar(machine, "update", "--wait", "loaded"), 0)
        assert await told(0) == ("synced", "healthy")
        machine.store_index.write_bytes(b"no database")
        check(await sidecar(machine, "update"), 1)
        assert await told(1) == ("out_of_sync", "healthy")


@asynccontextmanager
async def ending(machine: Machine) -> AsyncIterator[None]:
    """End what stands in for Navigator, if anything was started."""
    try:
        yield
    finally:
        machine.die()


async def test_a_hook_may_wait_for_a_daemon_that_starts(machine: Machine) -> None:
    """`update --patience` bridges the time until the daemon answers; what its start fetches is new enough."""
    waiting = asyncio.create_task(
        sidecar(machine, "update", "--patience", "30", "--trigger", "boot", "--json")
    )
    async with serving(machine):
        outcome = check(await waiting, 0).json
    assert outcome["generation"] == 1
    assert outcome["state"] in ("published", "unchanged")  # by the start's run, or after it
    assert outcome["trigger"] in ("start", "boot")


async def test_the_daemon_updates_when_it_starts(machine: Machine) -> None:
    """By default a daemon brings its machine up to date by itself, and not with `update.at_start` off."""
    machine.extra["update"] = QUIET_START
    async with serving(machine):
        check(await sidecar(machine, "preview"), 0)
        assert machine.targets() == {}
    del machine.extra["update"]
    async with serving(machine):
        await until(lambda: len(machine.targets()) == len(NAMES))


async def test_a_second_serve_is_refused(machine: Machine, tmp_path: Path) -> None:
    """A second daemon on the same state or socket says who is in its way; exit status 1."""
    async with serving(machine):
        assert "holds" in check(await sidecar(machine, "serve"), 1).err
        other = Machine(tmp_path / "other", {"listen": {"socket": str(machine.socket)}})
        assert "another process listens" in check(await sidecar(other, "serve"), 1).err
        check(await sidecar(machine, "update"), 0)


async def test_a_killed_daemon_is_no_obstacle(machine: Machine) -> None:
    """After kill -9 the next daemon starts on what the last one left behind."""
    async with serving(machine) as daemon:
        check(await sidecar(machine, "update"), 0)
        daemon.process.kill()
        await daemon.process.wait()
        assert machine.socket.exists()
    async with serving(machine):
        assert check(await sidecar(machine, "update", "--json"), 0).json["state"] == "unchanged"


# Doctor, passwords, signatures


async def test_doctor_finds_what_is_wrong(machine: Machine) -> None:
    """All is well beside a daemon; without one, or without the store, the finding says what to do."""
    async with serving(machine), ending(machine):
        check(await sidecar(machine, "update"), 0)
        finished = check(await sidecar(machine, "doctor"), 1)
        failures = [line for line in finished.out.splitlines() if line.startswith("FAIL")]
        assert [line.split()[1] for line in failures] == ["health:"]
        assert "Navigator is down" in failures[0]
        machine.load()
        check(await sidecar(machine, "update", "--wait", "loaded"), 0)
        finished = check(await sidecar(machine, "doctor"), 0)
        assert "FAIL" not in finished.out
        findings = check(await sidecar(machine, "doctor", "--json"), 0).json
        assert all(finding["good"] for finding in findings)
        assert any(finding["subject"].startswith("store file://") for finding in findings)
        assert any(" events with profile" in finding["message"] for finding in findings)
    machine.store_index.unlink()
    before = machine.targets()
    finished = check(await sidecar(machine, "doctor"), 1)
    failures = [line for line in finished.out.splitlines() if line.startswith("FAIL")]
    assert any("store" in line for line in failures)
    assert any("daemon" in line for line in failures)
    assert "what to do:" in finished.out
    findings = check(await sidecar(machine, "doctor", "--json"), 1).json
    assert {finding["subject"].partition(" ")[0] for finding in findings if not finding["good"]} >= {
        "store",
        "daemon",
    }
    assert machine.targets() == before


async def test_doctor_looks_at_what_the_ready_work_needs(machine: Machine) -> None:
    """The operator's commands must be there, and the application must answer where pages are asked for."""
    machine.put_index()
    machine.extra["databases"] = {"migrate_command": ["ruby-that-is-not-there", "x"]}
    async with origin() as application:
        machine.extra["prerender"] = {"renderer": "http", "origin": application.url}
        found = await found_by_doctor(machine)
        assert found["application"] == [True]
        assert found["databases.migrate_command"] == [False]
        application.broken = {"/showcase/"}
        assert (await found_by_doctor(machine))["application"] == [False]
    assert (await found_by_doctor(machine))["application"] == [False]
    renderer = machine.application / "bin" / "prerender"
    renderer.parent.mkdir()
    renderer.touch(0o755)
    machine.extra["prerender"] = {"renderer": "command", "command": ["bin/prerender"]}
    assert (await found_by_doctor(machine))["prerender.command"] == [True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that nobody else may open")
async def test_doctor_looks_at_the_forwarders_way_in(open_folder: Path) -> None:
    """The user that Navigator shall run the forwarder as must get to the socket, and be there."""
    for mode, user, good in (("0600", "nobody", False), ("0666", "nobody", True), ("0666", "no-one", False)):
        machine = Machine(open_folder, {"listen": {"socket_mode": mode}, "navigator": {"cgi_user": user}})
        machine.put_index()
        async with serving(machine):
            assert (await found_by_doctor(machine))["way"] == [good], (mode, user)


async def found_by_doctor(machine: Machine) -> dict[str, list[bool]]:
    """What kind of thing was found well, or not."""
    found: dict[str, list[bool]] = {}
    for finding in (await sidecar(machine, "doctor", "--json")).json:
        found.setdefault(finding["subject"].partition(" ")[0], []).append(finding["good"])
    return found


async def test_hash_password_makes_a_hash_for_administrators(machine: Machine) -> None:
    """The password comes from standard input, never from an argument; the settings take the hash."""
    finished = check(await sidecar(machine, "hash-password", "--cost", "8", stdin=b"correct horse\n"), 0)
    hashed = finished.out.strip()
    assert bcrypt.checkpw(b"correct horse", hashed.encode())
    machine.extra["administrators"] = {"admin": hashed}
    check(await sidecar(machine, "config", "--check"), 0)
    data = check(
        await sidecar(machine, "hash-password", "--cost", "8", "--json", stdin=b"correct horse\n"), 0
    ).json
    assert bcrypt.checkpw(b"correct horse", data["hash"].encode())
    for bad in (b"short\n", b"", b"x" * 73):
        assert "8 to 72 bytes" in check(await sidecar(machine, "hash-password", stdin=bad), 1).err


async def test_sign_makes_a_valid_request(machine: Machine, tmp_path: Path) -> None:
    """What `sign` prints is what the daemon verifies, as header lines or as JSON."""
    body = tmp_path / "index"
    body.write_bytes(b"some bytes")
    digest = hashlib.sha256(b"some bytes").hexdigest()
    finished = check(await sidecar(machine, "sign", "--machine", "m1", "--body", str(body)), 0)
    headers = dict(line.split(": ", 1) for line in finished.out.splitlines())
    assert headers[signing.DIGEST] == digest
    assert verified(headers, "/showcase/update_config")
    arguments = ["sign", "--machine", "m1", "--path", "/update_config", "--expect", digest, "--json"]
    data = check(await sidecar(machine, *arguments), 0).json
    assert data["path"] == f"/update_config?sha256={digest}"
    assert verified(data["headers"], data["path"])
    missing = check(await sidecar(machine, "sign", "--machine", "m1", "--body", "/not/there"), 1)
    assert "/not/there" in missing.err
    machine.extra["trigger"] = {"secret": ""}
    assert "trigger.secret" in check(await sidecar(machine, "sign", "--machine", "m1"), 2).err
    assert SECRET not in finished.out


def verified(headers: dict[str, str], path: str) -> bool:
    timestamp = headers[signing.TIMESTAMP]
    poke = signing.Poke("POST", path, timestamp, headers[signing.MACHINE], headers[signing.DIGEST])
    return bool(signing.verify(poke, headers[signing.SIGNATURE], [SECRET], "m1", float(timestamp), 300))


async def test_what_nobody_thought_of_is_a_line_too(machine: Machine) -> None:
    """A start that fails in a way of its own leaves JSON lines, the traceback inside of one."""
    (machine.state / "salt.key").mkdir(parents=True)
    finished = await sidecar(machine, "serve")
    assert finished.code == 1
    last = [json.loads(line) for line in finished.err.splitlines()][-1]
    assert (last["level"], "IsADirectoryError" in last["exception"]) == ("critical", True)
