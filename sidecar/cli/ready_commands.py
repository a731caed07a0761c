"""`sidecar ready` and `sidecar databases`: by the daemon where one runs, else in this process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from sidecar.cli.client import Client, NoDaemon
from sidecar.cli.output import say, say_json, say_lines
from sidecar.config.settings import Settings
from sidecar.errors import NotFound, SidecarError
from sidecar.model.work import Pushed, Work, work_text

if TYPE_CHECKING:
    # These load what only a daemon needs.
    from sidecar.ready.assembly import Parts
    from sidecar.ready.facts import Facts
    from sidecar.ready.table import Line

_LONGEST_PUSH = 3600.0

Result = TypeVar("Result")
Command = Callable[[argparse.Namespace, Settings], int]
AddParser = Callable[[Any, str, Command, str, str], argparse.ArgumentParser]


class Alone(Protocol):
    """Does something with the parts of this machine, where no daemon runs."""

    def __call__(self, do: Callable[[Parts], Awaitable[Result]], /) -> Result: ...


def add(commands: Any, add_parser: AddParser, alone: Callable[[Settings], Alone]) -> None:
    """Register `ready`, and below `databases` its own commands."""

    def run_ready(options: argparse.Namespace, settings: Settings) -> int:
        return _ready(options, Client(settings.listen.socket), alone(settings))

    def run_status(options: argparse.Namespace, settings: Settings) -> int:
        return _status(options, Client(settings.listen.socket), alone(settings))

    def run_push(options: argparse.Namespace, settings: Settings) -> int:
        return _push(options, Client(settings.listen.socket, timeout=_LONGEST_PUSH), alone(settings))

    work = add_parser(
        commands,
        "ready",
        run_ready,
        "run the ready work: event databases and prerendered pages",
        "sidecar ready --everything",
    )
    work.add_argument(
        "--everything", action="store_true", help="render also the pages that cannot have changed"
    )
    below = commands.add_parser(
        "databases",
        help="the databases of the events: look at them, push them to the store",
        description="The databases of the events.",
    ).add_subparsers(required=True, metavar="COMMAND")
    status = add_parser(
        below,
        "status",
        run_status,
        "list the databases that anything would happen to: here, in the store, whose, and what",
        "sidecar databases status --all",
    )
    status.add_argument("--all", action="store_true", help="also those that are as they should be")
    upload = add_parser(
        below, "push", run_push, "upload databases that are written here", "sidecar databases push"
    )
    upload.add_argument(
        "names", nargs="*", metavar="NAME", help="which ones (default: all with something new)"
    )
    upload.add_argument(
        "--overwrite", action="store_true", help="replace what the store holds of them, whatever it is"
    )
    upload.add_argument("--yes", action="store_true", help="do not ask first")


def _ready(options: argparse.Namespace, client: Client, alone: Alone) -> int:
    def tell(kind: str, data: dict[str, Any]) -> None:
        if kind == "ready_log" and not options.json:
            say(f"{data['step']}: {data['line']}")

    work = ready(client, alone, everything=options.everything, tell=tell)
    _print(work if options.json else work_text(work))
    return 0 if work.good else 1


def _status(options: argparse.Namespace, client: Client, alone: Alone) -> int:
    from sidecar.ready.table import differing, table

    rows = databases(client, alone)
    _print(rows if options.json else table(rows) if options.all else differing(rows))
    return 0


def _push(options: argparse.Namespace, client: Client, alone: Alone) -> int:
    if options.overwrite and not options.names:
        raise SidecarError("--overwrite needs names", "name the databases whose objects are to be replaced")
    nothing = "Nothing has changed here since it was stored."
    names = options.names
    if not options.yes:
        names = _chosen(databases(client, alone), names)
        if not names:
            _print(Pushed((), ()) if options.json else nothing)
            return 0
        _confirm(names)
    pushed = push(client, alone, names, overwrite=options.overwrite)
    _print(pushed if options.json else "\n".join(pushed.said) or nothing)
    return 1 if pushed.failed else 0


def _chosen(rows: Sequence[Line], names: Sequence[str]) -> list[str]:
    """Show on standard error what a push would do, and give the names of the databases."""
    from sidecar.ready.plan import SUFFIX
    from sidecar.ready.table import table

    wanted = {name.removesuffix(SUFFIX) for name in names}
    chosen = [row for row in rows if (row.name in wanted if names else row.action == "push")]
    if chosen:
        for line in table(chosen).splitlines():
            say(line, file=sys.stderr)
    # What this machine does not know is for the daemon to refuse.
    return [row.name for row in chosen] if not names else list(names)


def _confirm(names: Sequence[str]) -> None:
    say(f"Push {len(names)} to the store? [y/N]", file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SidecarError("nothing was pushed: nobody said yes", "--yes pushes without asking")


def _print(data: Any) -> None:
    """Text as it is, anything else as JSON."""
    if isinstance(data, str):
        say_lines(data)
    else:
        say_json(data)


def ready(
    client: Client, alone: Alone, *, everything: bool, tell: Callable[[str, dict[str, Any]], None]
) -> Work:
    """Run the ready work to its end; `tell` gets the events meanwhile."""
    try:
        for kind, data in client.events("POST", f"/ready?everything={int(everything)}"):
            if kind == "outcome":
                return msgspec.convert(data, Work)
            if kind == "error":
                raise _refused(data)
            tell(kind, data)
    except NoDaemon as error:
        _unless_absent(error)

        async def work(parts: Parts) -> Work:
            import asyncio

            running = asyncio.create_task(parts.work.run())
            try:
                done = await parts.work.request("command", "a command", everything=everything)
            finally:
                running.cancel()
                await asyncio.wait({running})
            if done is None:
                raise NotFound("there is no generation yet", "run `sidecar update` first")
            return done

        return alone(work)
    raise SidecarError("the sidecar broke off before the end", "look at `sidecar status`")


def databases(client: Client, alone: Alone) -> list[Line]:
    """Every database that belongs here."""
    try:
        status, body = client.request("GET", "/databases")
    except NoDaemon as error:
        _unless_absent(error)

        async def survey(parts: Parts) -> list[Line]:
            from sidecar.ready.table import lines

            return lines(await parts.databases.survey(await _facts(parts)))

        return alone(survey)
    if status != 200:
        raise _refused(body)
    from sidecar.ready.table import Line

    return msgspec.convert(body, list[Line])


def push(client: Client, alone: Alone, names: Sequence[str], *, overwrite: bool) -> Pushed:
    """Upload databases that are written here."""
    asked = msgspec.json.encode({"names": list(names), "overwrite": overwrite})
    try:
        _, body = client.request("POST", "/databases/push", asked)
    except NoDaemon as error:
        _unless_absent(error)

        async def upload(parts: Parts) -> Pushed:
            return await parts.push.push(await _facts(parts), names, overwrite=overwrite)

        return alone(upload)
    if "failed" not in body:
        raise _refused(body)
    return msgspec.convert(body, Pushed)


def _unless_absent(error: NoDaemon) -> None:
    """A daemon that is there, but slow, is at the work itself: nobody else may be."""
    if error.code != NoDaemon.code:
        raise error


async def _facts(parts: Parts) -> Facts:
    facts = await parts.facts()
    if facts is None:
        raise NotFound("there is no generation yet", "run `sidecar update` first")
    return facts


def _refused(body: Any) -> SidecarError:
    problem = body.get("error", {}) if isinstance(body, dict) else {}
    return SidecarError(problem.get("message", "the sidecar refused"), problem.get("hint", ""))
