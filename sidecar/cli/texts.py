"""What the commands print for people: pure functions from records to text. `--json` has all of it as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from sidecar.model.changes import Changes, Differences
from sidecar.model.runs import Outcome
from sidecar.model.text import printable
from sidecar.model.words import ago, asked, brief, hide_hashes, plural, span, spoken, took

_LABEL_CHARACTERS = 10


def moment(seconds: float) -> str:
    """A moment in seconds since 1970, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def status_text(status: Mapping[str, Any], now: float) -> str:
    """How a machine is doing, from the answer to `GET /status`; `now` in seconds since 1970."""
    sync, health = status["sync"], status["health"]
    lines = [
        f"{spoken(sync['state']).capitalize()}, {spoken(health['state'])}: {_headline(sync, health)}.",
        "",
    ]
    rows: list[tuple[str, str]] = [
        ("sync", f"{spoken(sync['state'])}: {sync['reason']}"),
        ("", _looks(sync, now)),
        ("health", f"{spoken(health['state'])}: {health['reason']}"),
        ("", f"since {moment(health['since'])}, {ago(now - health['since'])}"),
        ("machine", _machine(status, now)),
        ("set", _set(status, now)),
        ("last run", _last(status["last"], now)),
        ("running", _running(status, now)),
        ("ready", _ready(status["ready"], now)),
        *(("problem", sentence) for sentence in status["problems"]),
        *(("drift", f"{name} was changed by someone else") for name in status["drift"]),
    ]
    lines += [f"{name:<{_LABEL_CHARACTERS}}{text}" for name, text in rows if text]
    error = status["error"]
    if error is not None and error.get("hint"):
        lines += ["", f"What to do: {error['hint']}"]
    return _text(lines)


def _text(lines: Iterable[str]) -> str:
    """One text; what comes from outside begins no line of its own."""
    return "\n".join(printable(line) for line in lines)


def _headline(sync: Mapping[str, Any], health: Mapping[str, Any]) -> str:
    """The reason that matters most: what is served, unless only the store is the trouble."""
    return str(
        sync["reason"] if health["state"] == "healthy" and sync["state"] != "synced" else health["reason"]
    )


def _looks(sync: Mapping[str, Any], now: float) -> str:
    looked, due = sync["looked"], sync["next"]
    last = f"was looked at {ago(now - looked)}" if looked else "has not been looked at yet"
    following = f"next look in {span(max(0.0, due - now))}" if due else "there is no regular look"
    return f"the store {last}; {following}"


def _machine(status: Mapping[str, Any], now: float) -> str:
    region = f" in {status['region']}" if status["region"] else ""
    return f"{status['machine']}{region}, sidecar {status['version']}, up for {span(now - status['started'])}"


def _set(status: Mapping[str, Any], now: float) -> str:
    number = status["generation"]["current"]
    if number is None:
        return "nothing is published yet"
    counts = f"{plural(status['tenants'], 'event')}, {plural(status['users'], 'user')}"
    published = status["published"]
    since = f", published {moment(published)}, {ago(now - published)}" if published else ""
    by_hand = f", restored by hand from {status['generation']['source']}"
    return f"generation {number}{since}; {counts}{by_hand if status['generation']['pinned'] else ''}"


def _last(last: Mapping[str, Any] | None, now: float) -> str:
    if last is None:
        return "none since the start"
    error = f": {last['error']['message']}" if last["error"] else ""
    return (
        f"{last['state']} {ago(now - last['started'])} in {took(last['seconds'])} ({last['trigger']}){error}"
    )


def _running(status: Mapping[str, Any], now: float) -> str:
    running, waiting = status["running"], status["waiting"]
    found = [f"an update ({running['trigger']}) for {span(now - running['since'])}"] if running else []
    if waiting:
        found.append(f"{plural(waiting, 'request')} waiting")
    return ", ".join(found)


def _ready(work: Mapping[str, Any], now: float) -> str:
    if work["generation"] is None:
        return f"{work['state']}: no event database was fetched, no page rendered since the start"
    failed = [f"{step['name']}: {step['error']['message']}" for step in work["steps"] if step.get("error")]
    ended = (
        f", {ago(now - work['started'])} in {took(work['seconds'])}" if work["seconds"] is not None else ""
    )
    states = ", ".join(f"{one['name']} {one.get('state', 'waiting')}" for one in work["steps"])
    steps = "; ".join(failed) or states
    return f"{work['state']} for generation {work['generation']}{ended} ({steps})"


def history_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """Runs, the newest first, a line each."""
    return _text(_entry_line(entry) for entry in entries) or "There has been no run yet."


def _entry_line(entry: Mapping[str, Any]) -> str:
    outcome = msgspec.convert(entry["outcome"], Outcome)
    number = outcome.generation if outcome.state == "published" else None
    problem = outcome.error.message if outcome.error else entry["note"] or brief(outcome.changes)
    by = asked(outcome.trigger, outcome.who)
    told = f"  {problem}" if problem else ""
    shown = number or f"run {entry['run']}"
    return f"{moment(outcome.started)}  {shown:>8}  {spoken(entry['state']):<11}  {by}{told}"


def entry_text(entry: Mapping[str, Any]) -> str:
    """One run in full."""
    outcome = msgspec.convert(entry["outcome"], Outcome)
    number = f"Generation {outcome.generation}" if outcome.state == "published" else f"Run {entry['run']}"
    lines = [
        f"{number}: {entry['state']}, {moment(outcome.started)}, {asked(outcome.trigger, outcome.who)}",
        "",
    ]
    if outcome.error is not None:
        lines.append(f"error: {outcome.error.message}")
        lines += [f"what to do: {outcome.error.hint}"] if outcome.error.hint else []
    if entry["note"]:
        lines.append(f"note: {entry['note']}")
    if entry["settled"] is not None:
        after = f", {took(entry['reload_seconds'])} after its publication" if entry["reload_seconds"] else ""
        lines.append(f"{spoken(entry['state'])}: {moment(entry['settled'])}{after}")
    if outcome.sha256:
        lines.append(f"index: SHA-256 {outcome.sha256}")
    lines += changes_lines(outcome.changes)
    if outcome.written:
        lines.append(f"files written: {', '.join(outcome.written)}")
    stages = ", ".join(f"{name} {took(seconds)}" for name, seconds in outcome.stages.items())
    lines.append(f"took {took(outcome.seconds)}{f': {stages}' if stages else ''}")
    lines += [f"warning: {warning}" for warning in outcome.warnings]
    lines += _difference_lines(outcome.drift)
    if outcome.log:
        lines += ["", *outcome.log]
    if entry.get("ready"):
        lines += ["", *_work_lines(entry["ready"])]
    return _text(lines)


def _work_lines(work: Mapping[str, Any]) -> Iterator[str]:
    yield f"Ready work: {work['state']} in {took(work['seconds'])}"
    for step in work["steps"]:
        error = (step.get("error") or {}).get("message")
        said = error or step.get("said")
        yield f"  {step['name']}: {step.get('state', 'waiting')}{f', {said}' if said else ''}"
        for line in (step.get("output") or "").splitlines():
            yield f"    {line}"


def preview_text(outcome: Outcome, *, diffs: bool) -> str:
    """What an update would change; with `diffs` file by file, without the hashes of passwords."""
    lines = changes_lines(outcome.changes)
    if not outcome.written and not lines:
        lines.append("An update would change nothing.")
    lines.append(f"files to write: {', '.join(outcome.written) or 'none'}")
    lines += [f"warning: {warning}" for warning in outcome.warnings]
    if diffs:
        lines += _difference_lines(outcome.diffs)
    return _text(lines)


def differences_text(found: Differences, *, files: bool) -> str:
    """What differs between two generations, in words; with `files` file by file."""
    lines = changes_lines(found.changes)
    if found.changes is None:
        lines.append("The index of one of them cannot be read any more, so only files can be compared.")
    elif not lines:
        lines.append("Users, studios, events and regions are the same.")
    lines.append(f"files that differ: {', '.join(found.files) or 'none'}")
    if files:
        lines += _difference_lines(found.files)
    return _text([f"From generation {found.before} to generation {found.after}:", *lines])


def changes_lines(changes: Changes | None) -> list[str]:
    """What was added, removed, moved and changed, by name."""
    lines = []
    for kind, what, names in changes.each() if changes is not None else ():
        more = names.count - len(names.names)
        lines.append(f"{kind} {what}: {', '.join(names.names)}{f' and {more} more' if more else ''}")
    return lines


def _difference_lines(differences: Mapping[str, str]) -> Iterator[str]:
    for name, text in differences.items():
        yield from hide_hashes(name, text).splitlines()
