"""Rollouts by canary from one place: begins them, goes on with those of dead drivers, tells living ones."""

from __future__ import annotations

import asyncio
import getpass
import gzip
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from sidecar.errors import StoreError
from sidecar.fleet import rollout as rules
from sidecar.fleet.context import Context
from sidecar.fleet.driver import Driver, NotBegun
from sidecar.fleet.index_history import How
from sidecar.fleet.index_history_writer import Replacement, how
from sidecar.fleet.machine_client import PokePayload
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import DiscoveredFleet, FleetError, Target, only
from sidecar.fleet.report import MachineResult, waiting
from sidecar.fleet.rollout import Rollout, Wish
from sidecar.fleet.upload import UploadPlan
from sidecar.fleet.verdicts import Verdict, of_status
from sidecar.model.words import short

_SENT_SECONDS = 60.0
_BACK_ATTEMPTS = 2
_FOLLOW_SECONDS = 1.0
# A driver that was told to stop does it at its next look, and then takes back within a machine's own limit.
_TOLD_SECONDS = 300.0
_ATTEMPTS = 5
_RENEWED_SECONDS = 1.5 * rules.RENEW_SECONDS
_MAX_DIGITS = 3


def driver_name(who: str = "") -> str:
    """Who drives, for people: a user and a host."""
    if who:
        return who
    user = "somebody"
    with suppress(OSError, KeyError):  # a container's user may have no name
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


class Coordinator:
    """Rollouts of one command."""

    def __init__(self, context: Context, listener: ProgressListener, who: str) -> None:
        self._context = context
        self._listener = listener
        self._who = driver_name(who)
        self.results: tuple[MachineResult, ...] = ()
        self.found = DiscoveredFleet()

    async def record(self) -> tuple[Rollout, str] | None:
        """The rollout that the store tells of, with its record's ETag."""
        return await self._context.records.get(self._context.records.rollout_key, Rollout)

    async def must_be_free(self) -> tuple[Rollout, str] | None:
        """The rollout that a driver left behind, if any; `FleetError` `fleet_driven` while one drives."""
        known = await self.record()
        if known is None or known[0].ended:
            return None
        if await self.is_driven(*known):
            raise driven(known[0])
        return known

    async def frozen(self) -> tuple[Rollout, str] | None:
        """The last rollout, where it could not be taken back."""
        known = await self.record()
        return known if known is not None and known[0].phase == "frozen" else None

    async def is_driven(self, rollout: Rollout, etag: str) -> bool:
        """Whether its driver lives; where no clock can tell, it is seen whether the lease is renewed."""
        driven = rules.is_driven(rollout, time.time())
        if driven is None:
            await asyncio.sleep(_RENEWED_SECONDS)
            known = await self.record()
            driven = known is not None and known[1] != etag and not known[0].ended
        return driven

    async def begin(self, proposal: UploadPlan, replacement: Replacement | None, canary: str) -> Rollout:
        """Roll an index out, from the canary to the last machine or back."""
        context, current = self._context, proposal.current
        await self._find()
        first = chosen(self.found, canary)
        known = await self.record()
        if known is not None and not known[0].ended:
            raise driven(known[0])
        entry = await context.history.begin(proposal, replacement, self._who, "update")
        stored = proposal.stored
        names = [one.id for one in self.found.targets]
        rollout = Rollout(
            token=secrets.token_hex(8),
            driver=self._who,
            lease=time.time() + rules.LEASE_SECONDS,
            started=entry.at,
            target=current.sha256,
            base=entry.replaced or "",
            base_etag=stored.etag if stored else "",
            base_modified=stored.modified if stored else 0.0,
            modified=entry.modified,
            waves=rules.waves(names, [one.id for one in first]),
            machines=len(names),
        )
        try:
            return await self._drive(rollout, known[1] if known else None)
        except NotBegun:
            with suppress(StoreError):  # then it stays as one that nobody saw through
                await context.records.drop(entry)
            raise

    async def go_on(self, rollout: Rollout, etag: str, *, back: str = "") -> Rollout:
        """Drive what another driver left behind: to its end, or back for the reason given."""
        self._listener.say(
            f"{rollout.driver} left a rollout of {short(rollout.target)} behind ({rollout.phase})"
        )
        ours = rules.taken_over(rollout, secrets.token_hex(8), self._who, time.time())
        if back:
            ours = rules.halted(ours, back)
        await self._find()
        return await self._drive(ours, etag)

    async def wish(self, wish: Wish) -> Rollout:
        """Tell the rollout's driver what is wanted, and give the record; `FleetError` when there is none."""
        records = self._context.records
        for attempt in range(1, _ATTEMPTS + 1):
            known = await self.record()
            if known is None or known[0].ended:
                raise idle()
            told = replace(known[0], wish=wish)
            try:
                await records.put(records.rollout_key, told, known[1])
            except StoreError as error:
                if error.code != "store_changed" or attempt == _ATTEMPTS:
                    raise
            else:
                return told
        raise AssertionError("unreachable")

    async def ended(self, token: str) -> Rollout:
        """Wait for the end of a rollout that another one drives; `FleetError` when that takes too long."""
        try:
            async with asyncio.timeout(_TOLD_SECONDS):
                while (known := await self.record()) is not None:
                    if known[0].token != token or not await self.is_driven(*known):
                        break
                    await asyncio.sleep(_FOLLOW_SECONDS)
        except TimeoutError:
            known = None
        if known is None or known[0].token != token:
            raise FleetError("it is not known how the rollout ended", "look at `sidecar fleet status`")
        return known[0] if known[0].ended else await self.go_on(*known, back="a person has aborted it")

    # what the driver does with machines

    async def active(self) -> tuple[Target, ...]:
        """All that were active at the beginning: who woke since has looked at the store by itself."""
        return self.found.targets

    async def bring(
        self, targets: Iterable[Target], sha256: str, body: Path | None
    ) -> tuple[MachineResult, ...]:
        """Have all of them serve an index, which goes along, or is in the store."""
        packed = b""
        if body is not None:
            packed = await asyncio.to_thread(lambda: gzip.compress(body.read_bytes(), 6, mtime=0))
        fleet = self._context.settings.fleet
        if body is not None or self._back == sha256:
            # Ahead of the store nobody waits for long, and for the way back neither.
            limits = replace(fleet, timeout=min(fleet.timeout, _SENT_SECONDS), attempts=_BACK_ATTEMPTS)
        else:
            limits = fleet
        return await self._context.updates(PokePayload(sha256, packed), self._listener, limits=limits).update(
            tuple(targets)
        )

    async def look(self, target: Target, sha256: str) -> Verdict | None:
        """How one is; None when there is nothing to say yet."""
        answer = await self._context.client(signed=False).ask(target)
        if isinstance(answer, Verdict):
            return answer
        return of_status(answer, target.id, sha256, ready=False)

    _back = ""

    async def _find(self) -> None:
        self._listener.step("find")
        self.found = await self._context.discovery.find()

    async def _drive(self, rollout: Rollout, etag: str | None) -> Rollout:
        context = self._context
        self._back = rollout.base
        everyone = {one.machine: one for one in waiting(self.found.targets)}
        self._listener.expect(list(everyone.values()))
        self._listener.step("update")
        driver = Driver(
            context.store,
            context.settings.index_key,
            context.records,
            self,
            context.memory.remember,
            self._listener,
            context.folder,
            context.settings.fleet.canary_soak,
        )
        end = await driver.drive(rollout, etag)
        # What a driver before this one has brought about is in the record only.
        before = {
            name: replace(one, state="loaded" if name in end.proven else "untouched")
            for name, one in everyone.items()
        }
        self.results = tuple((before | driver.results).values())
        await self._remember(end)
        await self._announce(end)
        return end

    async def _announce(self, end: Rollout) -> None:
        """Tell the bus: whoever connects later hears of no older one, and whoever woke meanwhile follows."""
        context = self._context
        if not context.settings.fleet.bus or end.phase == "frozen":
            return
        try:
            held = end.target if end.phase == "done" else (await context.uploader.look(content=False)).sha256
        except StoreError as error:
            self._listener.say(f"the bus is not told how it ended: {error.message}")
            return
        async with context.announced(held, self._listener):
            pass

    async def _remember(self, end: Rollout) -> None:
        """The history's entry of this rollout gets its end."""
        say = self._listener.say
        try:
            entries = await self._context.records.entries()
        except StoreError as error:
            say(f"the history does not tell how it ended: {error.message}")
            return
        entry = next((one for one in entries if (one.at, one.sha256) == (end.started, end.target)), None)
        if entry is not None:
            state, note = _how(end, self.results)
            await self._context.history.end(entry, state, self.results, say, note)


def _how(end: Rollout, results: tuple[MachineResult, ...]) -> tuple[How, str]:
    if end.phase == "done":
        return how(results)
    return ("taken_back" if end.phase == "taken_back" else "frozen"), end.reason


def chosen(found: DiscoveredFleet, word: str) -> tuple[Target, ...]:
    """The canary: the first so many machines, or those with this id, name or region."""
    if not found.targets:
        raise FleetError("no machine is active, so none can be the canary", "wake one, or use --immediate")
    if word.isdecimal() and len(word) <= _MAX_DIGITS and not any(one.id == word for one in found.targets):
        return found.targets[: max(1, int(word))]
    first = only(found, [word]).targets
    if not first:
        raise FleetError(f"none of the machines that are {word} is active", "name another canary")
    return first


def idle() -> FleetError:
    """The error where there is nothing to pause, to go on with, or to abort."""
    error = FleetError(
        "no rollout is under way", "`sidecar fleet history` tells how the last ended", code="fleet_idle"
    )
    error.status = 409
    return error


def driven(rollout: Rollout) -> FleetError:
    """The error for whoever comes second."""
    error = FleetError(
        f"{rollout.driver} drives a rollout of {short(rollout.target)} ({rollout.phase})",
        "wait for its end, or stop it with `sidecar fleet pause` or `abort`",
        code="fleet_driven",
    )
    error.status = 409
    return error
