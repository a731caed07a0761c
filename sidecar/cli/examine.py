"""Examines what the sidecar depends on, one finding each: the work of `sidecar doctor`."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp

from sidecar.cli.client import Client, NoDaemon
from sidecar.config.parse import unknown_variables
from sidecar.config.settings import Settings
from sidecar.errors import SidecarError
from sidecar.fleet.bus import secrets_of
from sidecar.fleet.nats_link import connected, place
from sidecar.generate import generate
from sidecar.generate.cache import ResultCache
from sidecar.generations import targets
from sidecar.inputs.index import read_deployed, read_index
from sidecar.inputs.machine import Machine, placeholder_values
from sidecar.inputs.store import open_store, own_index
from sidecar.model.bus import HINTS, Hint, fleet_key, opened
from sidecar.model.record import Record
from sidecar.model.words import short, spoken
from sidecar.observe.logs import whereabouts
from sidecar.system.privileges import denying

_TIMEOUT_SECONDS = 5.0


class Finding(Record, frozen=True):
    """What was found about one thing."""

    subject: str
    good: bool
    message: str
    hint: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Look at folders, forwarder, commands, store, generation and daemon. Makes the salts' key at most."""
    findings = list(_folders(settings))
    findings.append(_forwarder(settings))
    findings += _way_in(settings)
    findings += _commands(settings)
    if settings.prerender.renderer == "http":
        findings.append(await _origin(settings))
    findings += [finding async for finding in _store_and_generation(settings)]
    if settings.fleet.bus:
        findings.append(await _bus(settings))
    findings += _daemon(settings)
    findings.append(Finding("log", True, whereabouts(settings)))
    said = {finding.message for finding in findings}
    for sentence in unknown_variables(os.environ):
        if sentence not in said:
            findings.append(Finding("environment", False, sentence, "`sidecar config` lists the settings"))
    return findings


def _folders(settings: Settings) -> Iterator[Finding]:
    wanted = {path.parent for path in targets(settings).files.values()} | {Path(settings.paths.state)}
    for folder in sorted(wanted):
        subject = f"folder {folder}"
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(
                subject, False, "not writable", f"give {existing} to the user that runs the sidecar"
            )
        elif existing != folder:
            yield Finding(subject, True, "not there yet; it will be made")
        else:
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize >> 20
            yield Finding(subject, free >= 50, f"writable, {free} MiB free", "make room on the disk")


def _forwarder(settings: Settings) -> Finding:
    path = Path(placeholder_values(settings, Path())["cgi"])
    subject = f"forwarder {path}"
    if not os.access(path, os.X_OK):
        return Finding(
            subject, False, "not there, or not executable", "install the package, or set paths.cgi"
        )
    interpreter = path.read_text().splitlines()[0].removeprefix("#!").split()[0]
    if not os.access(interpreter, os.X_OK):
        return Finding(
            subject,
            False,
            f"its interpreter {interpreter} is not there",
            "install Python there, or set paths.cgi",
        )
    return Finding(subject, True, f"runs with {interpreter}")


def _way_in(settings: Settings) -> Iterator[Finding]:
    """Whether the forwarder's user may open the socket, where both are known."""
    path, user = Path(settings.listen.socket), settings.navigator.cgi_user
    if not user or not os.access(path, os.F_OK):
        return
    subject = f"way from {user} to {path}"
    try:
        uid, gid = pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid
        if settings.navigator.cgi_group:
            gid = grp.getgrnam(settings.navigator.cgi_group).gr_gid
    except KeyError as error:
        yield Finding(subject, False, str(error.args[0]), "correct navigator.cgi_user, navigator.cgi_group")
        return
    if uid and (part := next(denying(path, stat.S_IWOTH, uid, {gid}), None)):
        yield Finding(
            subject,
            False,
            f"the forwarder may not pass {part}, of mode {part.stat().st_mode & 0o777:04o}",
            "set navigator.cgi_user and cgi_group, or listen.socket_mode, such that it may",
        )
        return
    yield Finding(subject, True, "open")


def _commands(settings: Settings) -> Iterator[Finding]:
    """The operator's own commands, as far as any are configured."""
    configured = {
        "update.check_command": settings.update.check_command,
        "databases.create_command": settings.databases.create_command,
        "databases.migrate_command": settings.databases.migrate_command,
        "prerender.command": settings.prerender.command if settings.prerender.renderer == "command" else [],
        "page.deployment_check": settings.page.deployment_check,
    }
    for key, command in configured.items():
        if not command:
            continue
        program = command[0]
        # With a slash in it a name is a path, from the folder that the command is started in.
        path = str(Path(settings.paths.application) / program) if "/" in program else program
        found = shutil.which(path)
        yield Finding(
            f"{key} {program}",
            found is not None,
            f"is {found}" if found else "not there, or not executable",
            f"install it, or correct {key}",
        )


async def _origin(settings: Settings) -> Finding:
    """Whether the application answers where pages are to be asked for."""
    url = f"{settings.prerender.origin.rstrip('/')}{settings.prerender.root}/"
    subject = f"application {url}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            good = answer.status == 200
            return Finding(
                subject, good, f"answers {answer.status}", "check prerender.origin and prerender.root"
            )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding(
            subject,
            False,
            f"does not answer: {str(error) or 'no answer in time'}",
            "start it, or correct prerender.origin",
        )


async def _bus(settings: Settings) -> Finding:
    """Whether the bus takes the connection, and what it holds."""
    urls = str.__str__(settings.fleet.bus)
    subject, key = f"bus {place(urls)}", fleet_key(settings.store, settings.index_key)
    try:
        async with connected(urls, "doctor") as link:
            value = await link.get(HINTS, key)
        if value is None:
            return Finding(subject, True, f"answers, and holds nothing for {key} yet")
        hint, stamp, _ = opened(Hint, key, value, secrets_of(settings))
        held = f"holds {short(hint.sha256)} of {time.strftime('%F %T', time.localtime(stamp))} for {key}"
        return Finding(subject, True, f"answers, and {held}")
    except SidecarError as error:
        return Finding(subject, False, error.message, error.hint)


async def _store_and_generation(settings: Settings) -> AsyncIterator[Finding]:
    store = open_store(settings, _unobserved)
    source = own_index(settings, _unobserved) or store
    subject = "the own index" if settings.update.own_index else f"store {settings.store}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite3"
        try:
            await store.startup()
            fetched = await source.fetch(settings.index_key, path, None)
            assert fetched is not None  # noqa: S101 - it was asked for without a condition
            yield Finding(subject, True, f"serves {settings.index_key}, {fetched.size} bytes")
        except SidecarError as error:
            yield Finding(subject, False, error.message, error.hint)
            return
        finally:
            await store.shutdown()
        yield _generation(settings, path)


def _unobserved(operation: str, outcome: str, seconds: float) -> None:
    """Nobody counts these requests."""


def _generation(settings: Settings, path: Path) -> Finding:
    try:
        index = read_index(path, read_deployed(Path(settings.paths.deployed), Path(settings.paths.regions)))
        inputs = Machine(settings, Path(settings.paths.state) / "loaded").inputs()
        generated = generate(index, inputs.deployment, ResultCache())
    except SidecarError as error:
        return Finding("generation", False, error.message, error.hint)
    skipped = f", {len(generated.skipped)} rows unfit for htpasswd" if generated.skipped else ""
    return Finding(
        "generation", True, f"{len(generated.tenants)} events with profile {settings.profile}{skipped}"
    )


def _daemon(settings: Settings) -> Iterator[Finding]:
    """Whether the daemon answers, and what it says of the store and of Navigator."""
    subject = f"daemon on {settings.listen.socket}"
    try:
        status, body = Client(settings.listen.socket, timeout=5).request("GET", "/status")
    except NoDaemon as error:
        yield Finding(subject, False, error.message, error.hint)
        return
    if status != 200 or not isinstance(body, dict):
        yield Finding(subject, False, f"answers {status}", "look at its log")
        return
    sync, health, problem = body["sync"], body["health"], body.get("error") or {}
    current = body["generation"]["current"]
    yield Finding(subject, True, f"answers, generation {current if current else 'none'}")
    for sentence in body["problems"]:
        yield Finding(subject, False, sentence, "look at its log")
    yield Finding(
        "sync",
        sync["state"] in ("synced", "pinned"),
        f"{spoken(sync['state'])}: {sync['reason']}",
        problem.get("hint") or "`sidecar update` brings in what the store holds",
    )
    yield Finding(
        "health",
        health["state"] == "healthy",
        f"{health['state']}: {health['reason']}",
        "look at Navigator and its log",
    )
