"""`sidecar fleet`: updates, status, history and rollouts, without a daemon on this machine."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from sidecar.cli.output import agreed, is_terminal, say, say_json, show
from sidecar.cli.parser import subcommand
from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, SidecarError
from sidecar.fleet.control import control
from sidecar.fleet.preview import preview, preview_lines
from sidecar.fleet.progress import JsonProgress, LineProgress, LiveProgress, NoProgress
from sidecar.fleet.report import FleetReport, lines, overview_lines
from sidecar.fleet.run import FleetRequest, FleetUpdates
from sidecar.fleet.undo import Undo, past_lines, plan_lines
from sidecar.model.record import Problem
from sidecar.model.words import short
from sidecar.system.privileges import become_owner

_EXIT_TAKEN_BACK = 3
_EXIT_FROZEN = 4


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the commands below it."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    update = subcommand(
        commands,
        "update",
        _update,
        "bring all machines to the newest index, and see that they load it",
        "sidecar fleet update --only iad",
    )
    update.add_argument("--dry-run", action="store_true", help="only say what would be uploaded and poked")
    update.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="MACHINE|REGION",
        help="only machines with this id, name or region; may be repeated",
    )
    update.add_argument(
        "--quorum",
        type=_number,
        metavar="N",
        help="exit status 0 when at least N machines are done, not only when all are",
    )
    update.add_argument(
        "--wait",
        choices=["loaded", "ready"],
        default="loaded",
        help="until the web server has loaded it, or the background work is done too (default %(default)s)",
    )
    source = update.add_mutually_exclusive_group()
    source.add_argument(
        "--index",
        metavar="FILE",
        help="the index to upload (default: the machine's own where update.own_index is set, else none)",
    )
    source.add_argument(
        "--no-upload",
        action="store_true",
        help="poke with what the store holds, and run no commands before or after it",
    )
    update.add_argument(
        "--replace",
        action="store_true",
        help="upload even though the store holds an index that this machine has not seen",
    )
    update.add_argument(
        "--force",
        action="store_true",
        help="upload even though one region loses many events; the machines still judge for themselves",
    )
    update.add_argument(
        "--progress",
        choices=["auto", "lines", "json"],
        default="auto",
        help="how to tell of what happens: redrawn on a terminal, a line for each fact, or a JSON object a "
        "line for programs, the last of which is the report (default %(default)s)",
    )
    canary = update.add_mutually_exclusive_group()
    canary.add_argument(
        "--canary",
        metavar="N|REGION|ID",
        help="so many machines, or these, have a new index before the store and all others "
        "(default: as fleet.strategy says)",
    )
    canary.add_argument(
        "--immediate", action="store_true", help="all machines at once, whatever fleet.strategy says"
    )
    _add_undo(commands)
    for name, function, text in (
        ("pause", _pause, "let the rollout under way rest where it is"),
        ("resume", _resume, "go on with a rollout that was paused, or that its driver left behind"),
        ("abort", _abort, "take the rollout under way back"),
    ):
        subcommand(commands, name, function, text, f"sidecar fleet {name}")
    status = subcommand(
        commands,
        "status",
        _status,
        "show which machine serves which index, and how far behind it is",
        "sidecar fleet status --json",
    )
    status.add_argument(
        "--bus",
        action="store_true",
        help="from what the machines stated on fleet.bus within half an hour, without listing or asking any",
    )


def _add_undo(commands: Any) -> None:
    preview = subcommand(
        commands,
        "preview",
        _preview,
        "show what an index would change, region by region; nothing is touched",
        "sidecar fleet preview index.sqlite3",
    )
    preview.add_argument(
        "index",
        nargs="?",
        default="",
        metavar="INDEX",
        help="a file, or the first digits of an index in the history (default: the machine's own)",
    )
    subcommand(
        commands,
        "history",
        _history,
        "list the indexes that the store has held",
        "sidecar fleet history --json",
    )
    rollback = subcommand(
        commands,
        "rollback",
        _rollback,
        "put an index of the history back into the store, and see that all machines load it",
        "sidecar fleet rollback --before 2026-05-01T12:00",
    )
    to = rollback.add_mutually_exclusive_group()
    to.add_argument(
        "digest",
        nargs="?",
        default="",
        metavar="DIGEST",
        help="the first digits of the index's SHA-256 (default: the one before what the store holds)",
    )
    to.add_argument(
        "--before",
        type=_moment,
        metavar="TIME",
        help="what the store held then: 2026-05-01T12:00 in UTC, or with an offset",
    )
    rollback.add_argument("--yes", action="store_true", help="do not ask")


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _update(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    wanted = FleetRequest(
        index=_index(options, settings),
        replace=options.replace,
        force=options.force,
        only=tuple(options.only),
        quorum=options.quorum,
        wait=options.wait,
        dry_run=options.dry_run,
        around=not options.no_upload,
        canary="" if options.immediate else options.canary,
    )
    updates = FleetUpdates(settings)
    if options.progress == "json":
        return _recorded(updates, wanted, JsonProgress(_write))
    if options.progress == "auto" and not options.json and is_terminal():
        report = _shown(updates, wanted)
    else:
        report = asyncio.run(updates.update(wanted, NoProgress() if options.json else LineProgress(_write)))
    show(options.json, report, lines(report))
    return _status_of(report)


def _status_of(report: FleetReport) -> int:
    """0 when all is done; 3 when it was taken back, 4 when that could not be done wholly, else 1."""
    if report.good or report.dry_run:
        return 0
    return {"taken_back": _EXIT_TAKEN_BACK, "frozen": _EXIT_FROZEN}.get(report.rollout or "", 1)


def _recorded(updates: FleetUpdates, wanted: FleetRequest, records: JsonProgress) -> int:
    """Run it with a record for everything, the end included."""
    try:
        report = asyncio.run(updates.update(wanted, records))
    except SidecarError as error:
        records.end(Problem(error.code, error.message, error.hint, error.status))
        raise
    records.end(report)
    return _status_of(report)


def _shown(updates: FleetUpdates, wanted: FleetRequest) -> FleetReport:
    """Run it with a picture of the machines, which is gone at the end."""
    from sidecar.cli.terminal import picture

    progress = LiveProgress(_write)
    with picture(progress.picture):
        return asyncio.run(updates.update(wanted, progress))


def _index(options: argparse.Namespace, settings: Settings) -> Path | None:
    if options.index:
        path = Path(options.index)
        try:
            if not path.is_file():
                raise SettingsError(f"--index: there is no {path}", "name the database file")
            return path.resolve()
        except OSError as error:
            raise SettingsError(
                f"--index: {path} cannot be read: {error.strerror}",
                "the user that runs the sidecar has to be able to read it",
            ) from None
    if settings.update.own_index and not options.no_upload:
        return Path(settings.paths.databases) / "index.sqlite3"
    return None


def _history(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    known = asyncio.run(Undo(settings).history(NoProgress()))
    show(options.json, known, past_lines(known, time.time()))
    return 0


def _preview(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    told = asyncio.run(preview(settings, options.index, NoProgress()))
    show(options.json, {**msgspec.to_builtins(told), "good": told.good}, preview_lines(told))
    return 0 if told.good else 1


def _rollback(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    undo, listener = Undo(settings), NoProgress() if options.json else LineProgress(_write)
    plan = asyncio.run(undo.plan(options.digest, options.before, listener))
    for line in plan_lines(plan, time.time()):
        say(line, file=sys.stderr)
    if not options.yes and not agreed("Put it back into the store, and on all machines?"):
        raise SidecarError("nothing was put back: nobody said yes", "--yes does it without asking")
    report = asyncio.run(undo.roll_back(plan, "", listener))
    show(options.json, report, lines(report))
    if settings.update.own_index and not options.json:
        say("The local index stays as it is; the next fleet update puts it into the store again.")
    return _status_of(report)


def _pause(options: argparse.Namespace, settings: Settings) -> int:
    return _control(options, settings, "pause")


def _resume(options: argparse.Namespace, settings: Settings) -> int:
    return _control(options, settings, "resume")


def _abort(options: argparse.Namespace, settings: Settings) -> int:
    return _control(options, settings, "abort")


def _control(options: argparse.Namespace, settings: Settings, word: str) -> int:
    """Tell the rollout's driver, or do it where that has died."""
    become_owner(Path(settings.paths.state))
    rollout = asyncio.run(control(settings, word, NoProgress() if options.json else LineProgress(_write)))
    if options.json:
        say_json(rollout)
    else:
        paused = rollout.wish == "pause" and not rollout.ended
        state = "paused" if paused else rollout.phase.replace("_", " ")
        why = f", {rollout.reason}" if rollout.reason else ""
        say(f"The rollout of {short(rollout.target)} by {rollout.driver}: {state}{why}.")
    if rollout.phase == "frozen":
        return _EXIT_FROZEN
    # Whoever aborts wants it taken back.
    return _EXIT_TAKEN_BACK if rollout.phase == "taken_back" and word != "abort" else 0


def _status(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    updates = FleetUpdates(settings)
    overview = asyncio.run(
        updates.overview_by_bus(NoProgress()) if options.bus else updates.overview(NoProgress())
    )
    show(options.json, {**msgspec.to_builtins(overview), "good": overview.good}, overview_lines(overview))
    return 0 if overview.good else 1


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
