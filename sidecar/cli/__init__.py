"""The command line. Exit status: 0 done, 1 failed or refused, 2 wrong usage or configuration.

What only some commands need is imported by these: Navigator's hooks wait for `sidecar update`.
"""

from __future__ import annotations

import argparse
import ctypes
import getpass
import hashlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import bcrypt
import msgspec
import yaml

from sidecar import __version__
from sidecar.cli import compare as compare_command
from sidecar.cli import demo_command
from sidecar.cli import fleet_commands as fleet_command
from sidecar.cli import ready_commands as ready_command
from sidecar.cli.client import Client, NoDaemon
from sidecar.cli.output import say, say_json, say_lines
from sidecar.cli.texts import entry_text, history_text, preview_text, status_text
from sidecar.config.environment_file import variables
from sidecar.config.parse import masked, parse, unknown_variables, usable
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.generate import yaml_writer
from sidecar.model import signing
from sidecar.model.runs import PREVIEW, Outcome, Request
from sidecar.observe.logs import JOURNAL_ERROR, is_journal, set_up
from sidecar.system.privileges import become_owner, guard_process

if TYPE_CHECKING:
    from sidecar.ready.assembly import Parts

logger = logging.getLogger(__name__)

_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1  # malloc.h
_MOST_FILES = 65536
DEFAULT_FILE = "/etc/sidecar/sidecar.yml"
_ENVIRONMENT = "environment"

Result = TypeVar("Result")
Command = Callable[[argparse.Namespace, Settings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Whoever started this may ignore its children's ends; then no command's exit status could be known.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    options = _parser().parse_args(arguments)
    try:
        try:
            settings = load_settings(options.config)
            command: Command = options.command
            return command(options, settings)
        except SidecarError as error:
            if _goes_on(options, error):
                return 0
            raise
    except SettingsError as error:
        _complain(options, error)
        return 2
    except SidecarError as error:
        _complain(options, error)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PermissionError as error:
        what = error.filename or "what it needs"
        _complain(
            options,
            SidecarError(
                f"this user may not use {what}: {error.strerror}",
                "run the command as root, or as the user that runs the sidecar",
            ),
        )
        return 1


def load_settings(
    file: str | None, read: Callable[[Any, Mapping[str, str], str], Settings] = parse
) -> Settings:
    """Settings from the file that is named, or the usual one where it exists, and the environment.

    The file `environment` beside it, which systemd gives the service, counts for what the environment does
    not say, where this user may read it.
    """
    named = file or os.environ.get("SIDECAR_CONFIG")
    path = Path(named or DEFAULT_FILE)
    with suppress(OSError):
        for name, value in variables(path.with_name(_ENVIRONMENT).read_text(errors="replace")).items():
            os.environ.setdefault(name, value)
    if not named and not path.exists():
        return read({}, os.environ, "")
    try:
        return read(yaml_writer.load(path.read_bytes()), os.environ, str(path))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}", "check --config and SIDECAR_CONFIG"
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    _spare_memory()
    _raise_limit_of_files()
    import asyncio

    from sidecar.daemon import Daemon

    become_owner(Path(settings.paths.state))
    guard_process()
    set_up(settings.logging)

    async def serve() -> None:
        daemon = Daemon(settings)
        for sentence in unknown_variables(os.environ):
            logger.warning(sentence)
            daemon.status.problems.append(partial(str, sentence))
        await daemon.run()

    try:
        asyncio.run(serve())
    except (SidecarError, PermissionError):
        raise  # a sentence says it all
    except Exception:
        logger.critical("the daemon has ended", exc_info=True)
        return 1
    return 0


def _spare_memory() -> None:
    """One heap for all threads, whose free end goes back to the system: that is a tenth less."""
    with suppress(OSError, AttributeError):  # another C library than glibc has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)


def _raise_limit_of_files() -> None:
    """As many open files as the system allows, within reason: connections must not use up all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _update(options: argparse.Namespace, settings: Settings) -> int:
    force = "&force=1" if options.force else ""
    if options.once:
        return _finish(
            options, _once(settings, Request(trigger="once", who=getpass.getuser(), force=options.force))
        )
    client = Client(settings.listen.socket)
    client.wait_for_daemon(options.patience)
    trigger = options.trigger or "command"
    return _follow(options, client, f"/update?trigger={trigger}&wait={options.wait}{force}")


def _follow(options: argparse.Namespace, client: Client, path: str, body: bytes = b"") -> int:
    """Make something happen, show it live, and give the exit status."""
    if options.json:
        status, answer = client.request("POST", path, body=body)
        say_json(answer)
        return 0 if status == 200 or _boots(options, isinstance(answer, dict) and answer.get("stands")) else 1
    for kind, data in client.events("POST", path, body):
        if kind == "log":
            say(data["line"])
        elif kind == "error":
            return _refused(data)
        elif kind == "outcome":
            return _finish(options, msgspec.convert(data, Outcome), log=False)
    raise SidecarError("the sidecar broke off before the end", "look at `sidecar status`")


def _rollback(options: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings.listen.socket)
    number = options.generation
    if number is None:
        _, status = client.request("GET", "/status")
        current = status["generation"]["current"] or 0
        _, entries = client.request("GET", "/generations?limit=500")
        loaded = (entry["outcome"]["generation"] for entry in entries if entry["state"] == "loaded")
        number = next((older for older in loaded if older < current), None)
        if number is None:
            raise SidecarError(
                "no older generation was ever loaded", "name one: `sidecar history` lists them"
            )
    body = msgspec.json.encode({"generation": number, "index": not options.keep_index})
    return _follow(options, client, f"/rollback?wait={options.wait}", body)


def _history(options: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings.listen.socket)
    path = (
        f"/generations/{options.generation}" if options.generation else f"/generations?limit={options.limit}"
    )
    status, body = client.request("GET", path)
    if status != 200:
        return _refused(body)
    if options.json:
        say_json(body)
    else:
        say_lines(entry_text(body) if options.generation else history_text(body))
    return 0


def _once(settings: Settings, request: Request) -> Outcome:
    import asyncio

    from sidecar.daemon import Daemon

    become_owner(Path(settings.paths.state))
    set_up(msgspec.structs.replace(settings.logging, level="error"))

    async def once() -> Outcome:
        async with Daemon(settings).without_server() as daemon:
            outcome = await daemon.worker.submit(request)
            if outcome.state == "published":
                line = await daemon.follow_once()
                outcome = msgspec.structs.replace(
                    outcome, log=(*outcome.log, f"{line[0].upper()}{line[1:]}.")
                )
            return outcome

    return asyncio.run(once())


def _preview(options: argparse.Namespace, settings: Settings) -> int:
    if options.once:
        outcome = _once(settings, Request(trigger=PREVIEW, who=getpass.getuser(), preview=True))
    else:
        status, body = Client(settings.listen.socket).request("GET", "/preview")
        if status != 200 and "error" in body and "state" not in body:
            return _refused(body)
        outcome = msgspec.convert(body, Outcome)
    if options.json:
        say_json(outcome)
        return 0 if outcome.good else 1
    if outcome.good:
        say_lines(preview_text(outcome, diffs=options.diff))
    return _finish(options, outcome, log=not outcome.good)


def _status(options: argparse.Namespace, settings: Settings) -> int:
    if options.alive:
        status, body = Client(settings.listen.socket, timeout=10).request("GET", "/healthz")
        return 0 if status == 200 else _refused(body)
    _, body = Client(settings.listen.socket, timeout=10).request("GET", "/status")
    if options.json:
        say_json(body)
    else:
        say_lines(status_text(body, time.time()))
    good = (body["sync"]["state"], body["health"]["state"]) == ("synced", "healthy")
    return 0 if good else 1


def _alone(settings: Settings) -> ready_command.Alone:
    """Where no daemon runs, this process does the work instead, and holds the daemon's lock meanwhile."""

    def alone(do: Callable[[Parts], Awaitable[Result]]) -> Result:
        import asyncio

        from sidecar.daemon import Daemon

        become_owner(Path(settings.paths.state))
        set_up(msgspec.structs.replace(settings.logging, level="error"))

        async def work() -> Result:
            async with Daemon(settings).without_server() as daemon:
                return await do(daemon.ready)

        return asyncio.run(work())

    return alone


def _config(options: argparse.Namespace, settings: Settings) -> int:
    from sidecar.generations import targets
    from sidecar.inputs.machine import maintenance_text, parse_profile, placeholder_values, profile_text

    for sentence in unknown_variables(os.environ):
        say(f"sidecar: warning: {sentence}", file=sys.stderr)
    targets(settings)
    parse_profile(profile_text(settings.profile), settings.profile)
    if options.check:
        say("The configuration is sound.")
        return 0
    if options.maintenance:
        say_lines(maintenance_text(settings))
        return 0
    shown = masked(settings)
    shown["placeholders"] = placeholder_values(settings, Path(settings.paths.state) / "loaded")
    if options.json:
        say_json(shown)
    else:
        say_lines(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
    return 0


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    import asyncio

    from sidecar.cli.doctor import examine

    become_owner(Path(settings.paths.state))
    findings = asyncio.run(examine(settings))
    if options.json:
        say_json(findings)
    else:
        for finding in findings:
            say(f"{'ok  ' if finding.good else 'FAIL'} {finding.subject}: {finding.message}")
            if finding.hint and not finding.good:
                say(f"     what to do: {finding.hint}")
    return 0 if all(finding.good for finding in findings) else 1


def _hash_password(options: argparse.Namespace, settings: Settings) -> int:
    if sys.stdin.isatty():
        password = getpass.getpass()
        if getpass.getpass("Again: ") != password:
            raise SidecarError("the two passwords differ", "try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not 8 <= len(password.encode()) <= 72:
        raise SidecarError("a password has 8 to 72 bytes", "choose another")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(options.cost)).decode()
    if options.json:
        say_json({"hash": hashed})
    else:
        say(hashed)
    return 0


def _sign(options: argparse.Namespace, settings: Settings) -> int:
    secret = settings.trigger.secret
    if not secret:
        raise SettingsError(
            "trigger.secret is not set", "set it, or SIDECAR_TRIGGER_SECRET, to the fleet's secret"
        )
    body = b""
    if options.body:
        try:
            body = Path(options.body).read_bytes()
        except OSError as error:
            raise SidecarError(f"{options.body} cannot be read: {error.strerror}") from None
    path = f"{options.path}?sha256={options.expect}" if options.expect else options.path
    poke = signing.Poke("POST", path, f"{time.time():.6f}", options.machine, hashlib.sha256(body).hexdigest())
    headers = signing.headers(poke, secret)
    if body[:2] == b"\x1f\x8b":
        headers["Content-Encoding"] = "gzip"
    if options.json:
        say_json({"path": path, "headers": headers})
    else:
        for name, value in headers.items():
            say(f"{name}: {value}")
    return 0


def _refused(body: Any) -> int:
    error = body.get("error", {}) if isinstance(body, dict) else {}
    raise SidecarError(error.get("message", "the sidecar refused"), error.get("hint", ""))


def _finish(options: argparse.Namespace, outcome: Outcome, *, log: bool = True) -> int:
    """Print how a run ended, and give the exit status."""
    done = outcome.good or _boots(options, outcome.stands)
    if options.json:
        say_json(outcome)
        return 0 if done else 1
    if log:
        for line in outcome.log:
            say(line)
    milliseconds = outcome.seconds * 1000
    say(f"{outcome.state.capitalize()} in {milliseconds:.0f} ms; generation in place: {outcome.generation}")
    if outcome.error is not None:
        hint = f" ({outcome.error.hint})" if outcome.error.hint else ""
        say(f"sidecar: {outcome.error.message}{hint}", file=sys.stderr)
    if done and not outcome.good:
        say(
            f"sidecar: warning: generation {outcome.generation} from before is in place and whole; "
            "Navigator can start with it, though the index may have changed since",
            file=sys.stderr,
        )
    return 0 if done else 1


def _boots(options: argparse.Namespace, stands: object) -> bool:
    """Whether a machine that boots can go on with what is in place.

    Navigator looks at its configuration only after a hook that succeeded; otherwise it would stay in
    maintenance for as long as the store is out of reach.
    """
    return bool(stands) and getattr(options, "trigger", None) == "boot"


def _goes_on(options: argparse.Namespace, error: SidecarError) -> bool:
    """Whether a machine that boots goes on, though no daemon answers or a variable is unusable."""
    if getattr(options, "trigger", None) != "boot" or not isinstance(error, NoDaemon | SettingsError):
        return False
    from sidecar.cli.boot import put_in_place

    try:
        number = put_in_place(load_settings(options.config, usable))
    except SidecarError:
        return False
    if number is None:
        return False
    say(f"sidecar: {error}", file=sys.stderr)
    say(
        f"sidecar: warning: generation {number} from before is in place and whole; "
        "Navigator can start with it, but nothing new comes until this is put right",
        file=sys.stderr,
    )
    return True


def _complain(options: argparse.Namespace, error: SidecarError) -> None:
    if getattr(options, "json", False):
        say_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    prefix = JOURNAL_ERROR if is_journal(sys.stderr) else ""
    say(f"{prefix}sidecar: {error}", file=sys.stderr)


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        choices=["published", "loaded", "ready"],
        default="published",
        help="return when the files are in place, when Navigator has loaded them, or when the ready work"
        " is done too (default %(default)s)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar", description="Keeps this machine's web server configuration in step."
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration file (default {DEFAULT_FILE}, where it exists)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, summary: str, example: str) -> argparse.ArgumentParser:
        return add_to(commands, name, run, summary, example)

    def add_to(below: Any, name: str, run: Command, summary: str, example: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = below.add_parser(
            name,
            help=summary,
            description=f"{summary[:1].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    command("serve", _serve, "run the daemon", "sidecar --config /etc/sidecar/sidecar.yml serve")

    update = command(
        "update",
        _update,
        "fetch the index and publish what follows from it",
        "sidecar update --wait published",
    )
    update.add_argument("--once", action="store_true", help="run here, without a daemon (refused beside one)")
    _add_wait(update)
    update.add_argument(
        "--force",
        action="store_true",
        help="accept a large loss of users or tenants, and retry what was refused",
    )
    update.add_argument(
        "--trigger",
        choices=["boot", "resume"],
        help="what asks, for the records (used by hooks); "
        "boot makes do with what is in place, whatever fails",
    )
    update.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to wait for a daemon that is starting",
    )

    preview = command("preview", _preview, "show what an update would change now", "sidecar preview --diff")
    preview.add_argument("--diff", action="store_true", help="with unified diffs of the files")
    preview.add_argument("--once", action="store_true", help="run here, without a daemon")

    compare_command.add(command)

    status = command("status", _status, "show the state of the running daemon", "sidecar status --json")
    status.add_argument(
        "--alive", action="store_true", help="print nothing; only tell by the exit status whether it works"
    )

    history = command("history", _history, "list what ran and how it ended", "sidecar history --limit 10")
    history.add_argument(
        "generation", type=int, nargs="?", metavar="N", help="everything about one generation"
    )
    history.add_argument("--limit", type=int, default=20, metavar="COUNT", help="how many runs (default 20)")

    rollback = command(
        "rollback", _rollback, "restore an older generation and keep it", "sidecar rollback 12"
    )
    rollback.add_argument(
        "generation", type=int, nargs="?", metavar="N", help="which one (default: the one loaded before)"
    )
    rollback.add_argument("--keep-index", action="store_true", help="restore the files but not the index")
    _add_wait(rollback)

    ready_command.add(commands, add_to, _alone)

    config = command(
        "config", _config, "show the configuration in force, secrets masked", "sidecar config --check"
    )
    config.add_argument("--check", action="store_true", help="only say whether it is sound")
    config.add_argument(
        "--maintenance",
        action="store_true",
        help="print navigator-maintenance.yml, which a machine without any generation boots with",
    )

    command("doctor", _doctor, "examine everything that the sidecar depends on", "sidecar doctor")

    hashing = command(
        "hash-password",
        _hash_password,
        "make a bcrypt hash for `administrators`",
        "sidecar hash-password < password.txt",
    )
    hashing.add_argument(
        "--cost",
        type=int,
        choices=range(8, 16),
        default=12,
        metavar="8-15",
        help="bcrypt's cost (default 12)",
    )

    sign = command(
        "sign",
        _sign,
        "print the headers of a signed poke",
        "sidecar sign --machine 148e --path /showcase/update_config --body index.gz > headers &&\n"
        "  curl --header @headers --data-binary @index.gz https://example.com/showcase/update_config",
    )
    sign.add_argument("--machine", required=True, help="id of the machine that is meant, as its status tells")
    sign.add_argument(
        "--path", default="/showcase/update_config", help="the request's path (default %(default)s)"
    )
    sign.add_argument("--body", metavar="FILE", help="the index to send, as it is or gzipped")
    sign.add_argument(
        "--expect",
        metavar="SHA256",
        help="digest of the index that the store must serve; it becomes part of the path",
    )

    fleet = commands.add_parser("fleet", help="all machines at once", description="All machines at once.")
    fleet_command.add(fleet.add_subparsers(required=True, metavar="COMMAND"), add_to)

    demo_command.add(commands, add_to)
    return parser


if __name__ == "__main__":
    sys.exit(main())
