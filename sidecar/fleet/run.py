"""A fleet update from the upload to the last machine's load. Read this first.

before   commands that prepare the index; one that fails ends the update
upload   the local index goes into the store, if it differs and may, and if the fleet can be listed
find     who belongs to it, and who of them is active
poke     all in parallel, bounded; each with the digest that it must come to serve
follow   until the machine says that it has loaded it
retry    what failed, and only that, later and later
after    commands that follow a good update, and whoever is to be told of it
report   who has it, who has not, and why
"""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from pathlib import Path

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import SettingsError, StoreError
from sidecar.fleet.bus import announcing
from sidecar.fleet.context import Context, open_context, require_secret
from sidecar.fleet.coordinator import Coordinator, driver_name
from sidecar.fleet.extra import upload_extras
from sidecar.fleet.hooks import FleetHooks, Notice
from sidecar.fleet.index_history import TAKEN_BACK, PastIndex, ending
from sidecar.fleet.index_history_writer import Replacement, how
from sidecar.fleet.machine_client import HttpMachineClient, PokePayload
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import DiscoveredFleet, FleetError, Target, only, without
from sidecar.fleet.report import FleetOverview, FleetReport, MachineResult, MachineRow, enough, row, waiting
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.upload import CurrentIndex, UploadPlan, changed
from sidecar.fleet.verdicts import GOOD, MachineAnswer, Verdict, of_status
from sidecar.inputs.extra import extras
from sidecar.inputs.store import Store
from sidecar.inputs.store.inventory import Inventory, InventoryItem, first_date
from sidecar.inputs.store.transfer import format_age
from sidecar.model.machine_report import MachineReport, decode
from sidecar.model.record import Record
from sidecar.model.words import short
from sidecar.system import tasks


class FleetRequest(Record, frozen=True):
    """What is asked for.

    `index` is the local database to upload; None: poke with what the store holds. `replace` lets it replace
    an object that this machine has not seen, `force` accepts that one region loses many events. `only` are
    ids, names or regions, `but` the id of a machine to leave out. `quorum` machines are enough; None: all.
    `wait` is loaded or ready. `around` tells whether the commands before and after run, and the notices go
    out. `canary` names the machines that have a new index first: how many, or an id, name or region; empty:
    all at once; None: as `fleet.strategy` says. `who` asks; `unattended` when nobody does.
    """

    index: Path | None = None
    replace: bool = False
    force: bool = False
    only: tuple[str, ...] = ()
    but: str = ""
    quorum: int | None = None
    wait: str = "loaded"
    dry_run: bool = False
    around: bool = True
    canary: str | None = None
    who: str = ""
    unattended: bool = False


class FleetUpdates:
    """Fleet updates and overviews with one machine's settings."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        """`store` is one that is open already; without it there is one for each update."""
        self._settings = settings
        self._store = store

    async def update(self, wanted: FleetRequest, listener: ProgressListener) -> FleetReport:
        """One fleet update. What concerns the whole raises; what concerns one machine is in the report."""
        settings = self._settings
        require_secret(settings)
        started, clock = time.time(), time.monotonic()
        if not wanted.dry_run:
            _prepare(Path(settings.paths.state))
        async with open_context(settings, self._store, listener) as context:
            coordinator = Coordinator(context, listener, wanted.who)
            left = None if wanted.dry_run else await _left_behind(coordinator, wanted, listener)
            if left is not None and wanted.index is None:
                raise _unfinished(left[0])
            around = FleetHooks(settings, context.session, listener.say)
            if wanted.around and not wanted.dry_run and settings.fleet.before:
                listener.step("before")
                await around.before()
            listener.step("upload")
            # Before the index, which has the machines look: what they then fetch belongs to it.
            if wanted.index is not None:
                state, dry = Path(settings.paths.state), wanted.dry_run
                await upload_extras(
                    extras(settings), context.store, state, context.folder, listener.say, dry_run=dry
                )
            proposal = await self._proposal(context, wanted)
            found = end = None
            if left is not None:
                end = await _finish(coordinator, left, proposal.current.sha256)
                if end.target != proposal.current.sha256 and end.phase != "frozen":
                    # The one before is back in the store: this update begins anew.
                    end, proposal = None, await self._proposal(context, wanted)
            current = proposal.current
            entry = None
            if end is None and current.upload == "planned":
                await _may_replace(context, proposal, wanted, listener)
                replacement = await self._may_lose(context, proposal, wanted, listener)
                canary = self._canary(wanted, proposal, listener)
                if canary and not wanted.dry_run:
                    end = await coordinator.begin(proposal, replacement, canary)
                elif not wanted.dry_run:
                    # A wrong name, or a list that fails, leaves the index in the store as it is.
                    found = await self._find(context, wanted)
                    entry = await self._begin(context, proposal, replacement, wanted, listener)
                    current = await context.uploader.store(proposal)
            if end is not None:
                current = msgspec.structs.replace(
                    current, upload="uploaded" if end.phase == "done" else "taken_back"
                )
            if end is None or end.phase != "frozen":
                listener.say(_sentence(current))
            if current.upload == "uploaded":
                await self._renew_inventory(context, current, listener)
            if end is None or (end.phase == "done" and wanted.wait == "ready"):
                listener.step("find")
                found = found or await self._find(context, wanted)
                results = await self._all_at_once(context, found, current, wanted, listener)
            else:
                found, results = coordinator.found, coordinator.results
            if entry is not None:
                reached, note = how(results)
                await context.history.end(entry, reached, results, listener.say, note)
            done = enough(results, wanted.quorum) and (end is None or end.phase == "done")
            failures: tuple[str, ...] = ()
            if wanted.around and not wanted.dry_run and done:
                failures = await self._follow_up(around, current, results, listener)
        return FleetReport(
            started=started,
            seconds=time.monotonic() - clock,
            sha256=current.sha256,
            upload=current.upload,
            wait=wanted.wait,
            quorum=wanted.quorum,
            dry_run=wanted.dry_run,
            machines=results,
            skipped=found.skipped,
            failures=failures,
            good=done and not failures,
            rollout=None if end is None else end.phase,
            reason="" if end is None else end.reason,
        )

    async def _may_lose(
        self, context: Context, proposal: UploadPlan, wanted: FleetRequest, listener: ProgressListener
    ) -> Replacement | None:
        """What it would replace; `Rejected` `loss` where one region would lose many events, unless forced."""
        try:
            replacement = await context.history.compared(proposal)
        except StoreError as error:
            raise (changed(None) if error.code == "store_changed" else error) from error
        if replacement is not None and not wanted.force:
            replacement.check(self._settings.update.max_lost_tenants)
            if wanted.dry_run and replacement.changes is not None:
                listener.say("no region would lose many of its events")
        return replacement

    def _canary(self, wanted: FleetRequest, proposal: UploadPlan, listener: ProgressListener) -> str:
        """Which machines are to have it first; none: all at once."""
        canary = wanted.canary
        if canary is None:
            canary = "1" if self._settings.fleet.strategy == "canary" else ""
        if not canary:
            return ""
        if wanted.only:
            raise FleetError(
                "a rollout goes to the whole fleet, not to some machines only",
                "name the first with --canary, or use --immediate, after which the others fetch it too",
                code="fleet_only",
            )
        if proposal.stored is None:
            listener.say("the store holds nothing to go back to yet: all at once")
            return ""
        return canary

    async def _begin(
        self,
        context: Context,
        proposal: UploadPlan,
        replacement: Replacement | None,
        wanted: FleetRequest,
        listener: ProgressListener,
    ) -> PastIndex | None:
        """The history's entry of an update; None where the store takes none, which is no reason to stop."""
        try:
            return await context.history.begin(proposal, replacement, driver_name(wanted.who), "update")
        except StoreError as error:
            listener.say(f"the history is not written, so there is no undo: {error.message}")
            return None

    async def _find(self, context: Context, wanted: FleetRequest) -> DiscoveredFleet:
        """Who is to be poked."""
        found = without(only(await context.discovery.find(), wanted.only), wanted.but)
        if wanted.quorum is not None and wanted.quorum > len(found.targets):
            raise FleetError(
                f"{wanted.quorum} machines cannot load it: {len(found.targets)} are active",
                "ask for fewer with --quorum",
                code="fleet_quorum",
            )
        return found

    async def _all_at_once(
        self,
        context: Context,
        found: DiscoveredFleet,
        current: CurrentIndex,
        wanted: FleetRequest,
        listener: ProgressListener,
    ) -> tuple[MachineResult, ...]:
        """Poke and follow all of them, now that the store holds the index."""
        everyone = waiting(found.targets)
        listener.expect(everyone)
        if wanted.dry_run:
            return tuple(everyone)
        listener.step("update")
        payload, ready = PokePayload(current.sha256, await self._body(current)), wanted.wait == "ready"
        # What only some shall load is no hint for all; an index that goes along needs no look at the store.
        if wanted.only or payload.body:
            return await context.updates(payload, listener, ready=ready).update(found.targets)
        async with context.announced(current.sha256, listener, ready=ready) as client:
            return await context.updates(payload, listener, ready=ready, client=client).update(found.targets)

    async def _follow_up(
        self,
        around: FleetHooks,
        current: CurrentIndex,
        results: tuple[MachineResult, ...],
        listener: ProgressListener,
    ) -> tuple[str, ...]:
        """What a good update is followed by; the commands that failed."""
        failures: tuple[str, ...] = ()
        if self._settings.fleet.after:
            listener.step("after")
            failures = await around.after()
        if self._settings.fleet.notify:
            listener.step("notify")
            done = sum(one.state in GOOD for one in results)
            await around.notify(Notice(current.sha256, current.upload, done))
        return failures

    async def _renew_inventory(
        self, context: Context, current: CurrentIndex, listener: ProgressListener
    ) -> None:
        """Tell the application's tools, which look there first for an object's true age."""
        path = Path(self._settings.index_key)
        if current.path is None or current.modified is None:
            return
        date = await asyncio.to_thread(first_date, current.path)
        inventory = Inventory(context.store, "", context.folder)
        try:
            etag = current.etag
            if etag is None:  # a rollout has stored it
                stored = await context.store.head(self._settings.index_key)
                if stored is None or context.memory.knows(stored.etag) != current.sha256:
                    return
                etag = stored.etag
            item = InventoryItem(f'"{etag}"', date, format_age(current.modified))
            await inventory.renew({path.name: item})
        except StoreError as error:
            # Those tools ask the object itself where the inventory knows another ETag.
            listener.say(f"{inventory.key} was not renewed: {error.message}")

    async def overview(self, listener: ProgressListener) -> FleetOverview:
        """How every active machine is, against what the store holds."""
        async with open_context(self._settings, self._store, listener) as context:
            finding = asyncio.create_task(context.discovery.find())
            try:
                current = await context.uploader.look(content=False)
                found = await finding
            finally:
                await tasks.end(finding)
            rows = await self._ask_all(context.client(signed=False), found, current)
        return FleetOverview(time.time(), current.sha256, current.modified, rows, found.skipped)

    async def overview_by_bus(self, listener: ProgressListener) -> FleetOverview:
        """The same from what the machines have stated of late on the bus: none is listed, none is asked."""
        if not self._settings.fleet.bus:
            raise SettingsError("fleet.bus is not set", "set it to the URL of the fleet's NATS server")
        async with open_context(self._settings, self._store, listener) as context:
            current = await context.uploader.look(content=False)
            async with announcing(self._settings) as announcement:
                stated = sorted(announcement.statements.items())
        targets = [(MachineResult(name, "", one.served.region or "", ""), one.served) for name, one in stated]
        rows = tuple(row(target, served, current.sha256, current.modified) for target, served in targets)
        return FleetOverview(time.time(), current.sha256, current.modified, rows, ())

    async def _ask_all(
        self, client: HttpMachineClient, found: DiscoveredFleet, current: CurrentIndex
    ) -> tuple[MachineRow, ...]:
        slots = asyncio.Semaphore(self._settings.fleet.parallel)

        async def ask(target: Target) -> MachineRow:
            async with slots:
                answer = await client.ask(target)
            result = MachineResult(target.id, target.name, target.region, "")
            said = _word(answer, target)
            if isinstance(said, MachineReport):
                return row(result, said, current.sha256, current.modified)
            return MachineRow(target.id, target.name, target.region, said.state, note=said.reason)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(target)) for target in found.targets]
        return tuple(task.result() for task in asking)

    async def _proposal(self, context: Context, wanted: FleetRequest) -> UploadPlan:
        if wanted.index is not None:
            return await context.uploader.compare(
                wanted.index, replace=wanted.replace, dry_run=wanted.dry_run
            )
        current = await context.uploader.look(content=self._settings.fleet.send == "index")
        return UploadPlan(current, None, current.sha256)

    async def _body(self, current: CurrentIndex) -> bytes:
        if self._settings.fleet.send != "index" or current.path is None:
            return b""
        return await asyncio.to_thread(
            lambda path: gzip.compress(path.read_bytes(), 6, mtime=0), current.path
        )


async def _left_behind(
    coordinator: Coordinator, wanted: FleetRequest, listener: ProgressListener
) -> tuple[Rollout, str] | None:
    """The rollout that a driver left behind; `FleetError` while one drives.

    One that could not be taken back too, where another index shall come: it is nothing to go back to.
    """
    try:
        left = await coordinator.must_be_free()
        return await coordinator.frozen() if left is None and wanted.index is not None else left
    except StoreError as error:
        if error.code != "store_denied":
            raise
        # Some stores refuse to say that an object is not there.
        listener.say(f"whether a rollout is under way cannot be seen: {error.message}")
        return None


def _unfinished(left: Rollout) -> FleetError:
    return FleetError(
        f"{left.driver} left a rollout of {short(left.target)} behind ({left.phase})",
        "`sidecar fleet resume` goes on with it, `sidecar fleet abort` takes it back",
        code="fleet_unfinished",
    )


async def _finish(coordinator: Coordinator, left: tuple[Rollout, str], sha256: str) -> Rollout:
    """Go on with what was left behind where it is the same index, else take it back."""
    return await coordinator.go_on(
        *left, back="" if left[0].target == sha256 else "another index takes its place"
    )


async def _may_replace(
    context: Context, proposal: UploadPlan, wanted: FleetRequest, listener: ProgressListener
) -> None:
    """Say which rollback ends; `FleetError` `fleet_held` when nobody asks for what people took back."""
    try:
        entries = await context.records.entries()
    except StoreError as error:
        # Where no history may be read there is none, and whoever writes it says so.
        if wanted.unattended and error.code != "store_denied":
            raise
        return
    sha256 = proposal.current.sha256
    ended = ending(entries, proposal.held)
    newest = next((one for one in entries if one.sha256 == sha256), None)
    refused = newest is not None and newest.state in TAKEN_BACK
    if wanted.unattended and (refused or (ended is not None and ended.replaced == sha256)):
        raise FleetError(
            f"the index {short(sha256)} was taken back, and it has not changed since",
            "change it; or ask for it with `sidecar fleet update`",
            code="fleet_held",
        )
    if ended is not None:
        listener.say(f"this ends the rollback by {ended.who} to {short(ended.sha256)}")


def _prepare(state: Path) -> None:
    """Make the state folder: an upload that cannot be remembered would have every later one refused."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = "" if os.access(state, os.W_OK | os.X_OK) else "it belongs to somebody else"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise SettingsError(
            f"paths.state: {state} cannot be written to: {problem}",
            "set it to a folder of your own; what the store was seen to hold is remembered there",
        )


def _word(answer: MachineAnswer | Verdict, target: Target) -> MachineReport | Verdict:
    """What a machine says of itself, or why it is not known."""
    if isinstance(answer, Verdict):
        return answer
    served = decode(answer.body) if answer.status == 200 else None
    if served is not None and served.machine == target.id:
        return served
    verdict = of_status(answer, target.id, "", ready=False)
    return verdict or Verdict("failing", "its state cannot be understood")


def _sentence(current: CurrentIndex) -> str:
    what = {
        "uploaded": "uploaded the local index",
        "unchanged": "the store holds the local index already",
        "planned": "the local index would be uploaded",
        "taken_back": "the index was taken back",
        "none": "the index in the store is the one to load",
    }[current.upload]
    return f"{what}: SHA-256 {short(current.sha256)}"
