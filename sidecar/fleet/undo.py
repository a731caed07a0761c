"""Undo: an index that the store held before is put back, and every machine followed until it has it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.errors import ReadError, Rejected, StoreError
from sidecar.fleet import index_history
from sidecar.fleet.context import Context, open_context, require_secret
from sidecar.fleet.coordinator import Coordinator, driver_name
from sidecar.fleet.index_history import PastIndex
from sidecar.fleet.index_history_writer import compare, how
from sidecar.fleet.machine_client import PokePayload
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import FleetError, Skipped
from sidecar.fleet.report import FleetReport, MachineResult, enough, waiting
from sidecar.fleet.table import rough_span, table
from sidecar.fleet.upload import CurrentIndex, UploadPlan
from sidecar.inputs.store import Store
from sidecar.model.changes import Changes
from sidecar.model.objects import Stored
from sidecar.model.record import Record
from sidecar.model.words import short
from sidecar.system.background import in_thread


class IndexHistory(Record, frozen=True):
    """The history, newest first, and the SHA-256 of what the store holds (None: nothing)."""

    held: str | None
    entries: tuple[PastIndex, ...]


class RollbackPlan(Record, frozen=True):
    """What a rollback would do: to which entry, from which object of the store, and what that changes.

    `changes` is None where that cannot be known, `problem` says why.
    """

    to: PastIndex
    held: str
    stored: Stored
    changes: Changes | None
    problem: str = ""


class Undo:
    """The store's past, and the way back, with one machine's settings."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        """`store` is one that is open already."""
        self._settings = settings
        self._store = store

    async def history(self, listener: ProgressListener) -> IndexHistory:
        """What the store has held."""
        async with open_context(self._settings, self._store, listener) as context:
            stored = await context.store.head(self._settings.index_key)
            held = (await context.uploader.look(content=False)).sha256 if stored is not None else None
            return IndexHistory(held, tuple(await context.records.entries()))

    async def plan(self, digest: str, moment: float | None, listener: ProgressListener) -> RollbackPlan:
        """What a rollback to an index by its digest, to a moment, or by one step would change."""
        async with open_context(self._settings, self._store, listener) as context:
            stored = await context.store.head(self._settings.index_key)
            if stored is None:
                raise StoreError("the store holds no index to go back from", code="store_missing")
            now = context.folder / "now"
            fetched = await context.store.fetch(self._settings.index_key, now, None)
            if fetched is None or fetched.etag != stored.etag:
                raise _changed()
            entries = await context.records.entries()
            if digest:
                to = index_history.named(entries, digest)
            elif moment is not None:
                to = index_history.before(entries, moment, fetched.sha256)
            else:
                to = index_history.previous(entries, fetched.sha256)
            if to.sha256 == fetched.sha256:
                raise FleetError(
                    f"the store holds the index {digest or short(to.sha256)} already",
                    "`sidecar fleet history` lists the others",
                    code="fleet_history",
                )
            if all(one.state in index_history.TAKEN_BACK for one in entries if one.sha256 == to.sha256):
                raise FleetError(
                    f"the index {short(to.sha256)} was taken back, and a rollback goes to all at "
                    f"once{f': {to.note}' if to.note else ''}",
                    "name another one, or roll it out anew with `sidecar fleet update --canary 1`",
                    code="fleet_history",
                )
            found, problem = await self._changes(now, await context.records.content(to.sha256))
            return RollbackPlan(to, fetched.sha256, stored, found, problem)

    async def roll_back(self, plan: RollbackPlan, who: str, listener: ProgressListener) -> FleetReport:
        """Put it back, if the store still holds what the plan was compared with, and follow every machine."""
        require_secret(self._settings)
        started, clock = time.time(), time.monotonic()
        async with open_context(self._settings, self._store, listener) as context:
            left = await Coordinator(context, listener, who).must_be_free()
            if left is not None:
                raise FleetError(
                    f"{left[0].driver} left a rollout behind ({left[0].phase})",
                    "`sidecar fleet abort` takes it back",
                    code="fleet_unfinished",
                )
            listener.step("upload")
            content = await context.records.content(plan.to.sha256)
            current = CurrentIndex(plan.to.sha256, plan.to.modified, "planned", content)
            proposal = UploadPlan(current, plan.stored, plan.held)
            try:
                replacement = await context.history.compared(proposal)
                entry = await context.history.begin(proposal, replacement, driver_name(who), "rollback")
            except StoreError as error:
                raise (_changed() if error.code == "store_changed" else error) from error
            await context.uploader.store(proposal)
            listener.say(f"the store holds {short(plan.to.sha256)} again")
            results, skipped = await self._follow(context, plan.to.sha256, listener)
            state, note = how(results)
            await context.history.end(entry, state, results, listener.say, note)
        return FleetReport(
            started=started,
            seconds=time.monotonic() - clock,
            sha256=plan.to.sha256,
            upload="uploaded",
            wait="loaded",
            quorum=None,
            dry_run=False,
            machines=results,
            skipped=skipped,
            good=enough(results, None),
        )

    async def _follow(
        self, context: Context, sha256: str, listener: ProgressListener
    ) -> tuple[tuple[MachineResult, ...], tuple[Skipped, ...]]:
        listener.step("find")
        found = await context.discovery.find()
        listener.expect(waiting(found.targets))
        listener.step("update")
        async with context.announced(sha256, listener) as client:
            updates = context.updates(PokePayload(sha256), listener, client=client)
            return await updates.update(found.targets), found.skipped

    async def _changes(self, before: Path, after: Path) -> tuple[Changes | None, str]:
        try:
            return await in_thread(compare, before, after, self._settings.paths), ""
        except (Rejected, ReadError) as error:
            return None, error.message


def _changed() -> FleetError:
    return FleetError(
        "the store holds another index by now; nothing was put back",
        "look at `sidecar fleet history`, and try again",
        code="store_changed",
    )


_HEADINGS = {
    ("users", "added"): "can sign in again",
    ("users", "removed"): "can no longer sign in",
    ("users", "changed"): "get the password and rights of then",
}


def plan_lines(plan: RollbackPlan, now: float) -> list[str]:
    """What a rollback changes, in words; with the names of all whom it concerns."""
    way = f"from {short(plan.held)} to {short(plan.to.sha256)}"
    lines = [f"The store goes {way}, stored {rough_span(now - plan.to.at)} ago by {plan.to.who}."]
    if plan.changes is None:
        return [*lines, f"What that changes cannot be known: {plan.problem}."]
    for kind, what, names in plan.changes.each():
        heading = _HEADINGS.get((kind, what), f"{kind} {what}")
        more = f" and {names.count - len(names.names)} more" if names.count > len(names.names) else ""
        lines.append(f"  {names.count} {heading}: {', '.join(names.names)}{more}")
    return lines if lines[1:] else [*lines, "No event, studio, user or region changes."]


def past_lines(known: IndexHistory, now: float) -> list[str]:
    """The history as a table; a star is at what the store holds."""
    return _rows(known.entries, known.held, now) or [
        "There is no history yet: it begins with the next `sidecar fleet update` that uploads."
    ]


def _rows(entries: Iterable[PastIndex], held: str | None, now: float) -> list[str]:
    rows = [
        (
            "*" if one.sha256 == held else "",
            short(one.sha256),
            time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(one.at)),
            f"{rough_span(now - one.at)} ago",
            one.kind,
            f"{one.state.replace('_', ' ')}{f' ({one.loaded} of {one.machines})' if one.machines else ''}",
            one.who,
            "; ".join([*one.changes, *([one.note] if one.note else [])]),
        )
        for one in entries
    ]
    return table(("", "INDEX", "STORED", "", "KIND", "HOW FAR", "WHO", "CHANGES"), rows) if rows else []
