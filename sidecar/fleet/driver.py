"""Drives a rollout: does what its record says, and writes the next record before it does the next thing.

The record in the store is a lease as well. Its driver renews it, and each write is on the condition that
nobody else has written: a driver that was paused for so long that another one took over is refused its next
write, and stops. Pausing and aborting are wishes that anybody may write into the record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec.structs import replace

from sidecar.errors import StoreError
from sidecar.fleet import rollout as rules
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import FleetError, Target
from sidecar.fleet.report import MachineResult
from sidecar.fleet.rollout import LEASE_SECONDS, RENEW_SECONDS, Rollout
from sidecar.fleet.store_records import StoreRecords, store_surely
from sidecar.fleet.verdicts import Verdict
from sidecar.inputs.store import Store
from sidecar.model.runs import AHEAD_SECONDS
from sidecar.model.words import short
from sidecar.system.tasks import end

Value = TypeVar("Value")

_LOOK_SECONDS = 1.0
_RENEW_BODY_SECONDS = AHEAD_SECONDS / 3
_WRITE_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1
_RELEASE_SECONDS = 5.0
_IN_STORE = ("store", "rest", "done")
"""The phases whose driver wants the new index in the store, or to be put there."""


class LeaseLost(FleetError):
    """Another driver has the rollout now."""

    code = "fleet_driven"
    status = 409


class NotBegun(LeaseLost):
    """Another driver was faster: nothing was done."""


class RolloutMachines(Protocol):
    """What a driver does with machines."""

    async def active(self) -> tuple[Target, ...]:
        """Those that are to have it."""

    async def bring(
        self, targets: Iterable[Target], sha256: str, body: Path | None
    ) -> tuple[MachineResult, ...]:
        """Have all of them serve an index, which goes along, or is in the store."""

    async def look(self, target: Target, sha256: str) -> Verdict | None:
        """How one is; None when there is nothing to say yet."""


class Driver:
    """One driver of one rollout."""

    def __init__(
        self,
        store: Store,
        index_key: str,
        records: StoreRecords,
        machines: RolloutMachines,
        remember: Callable[[str, str], None],
        listener: ProgressListener,
        folder: Path,
        soak: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`remember` is told the ETag and SHA-256 of what this machine stores; `soak` is in seconds.

        `wall` is the clock that other machines read too: it may be set meanwhile.
        """
        self._store = store
        self._key = index_key
        self._records = records
        self._machines = machines
        self._remember = remember
        self._listener = listener
        self._folder = folder
        self._soak_seconds = soak
        self._wall = wall
        self._written = time.monotonic()
        self._lock = asyncio.Lock()
        self._etag: str | None = None
        self._stored: str | None = None
        self.results: dict[str, MachineResult] = {}

    async def drive(self, rollout: Rollout, etag: str | None) -> Rollout:
        """Take the rollout, whose record has this ETag, to its end; `LeaseLost` when another has it by now.

        `NotBegun` when another had it before this one did anything.

        Whatever else is raised, the record stays as it was last written, for whoever goes on with it.
        """
        self._rollout, self._etag = rollout, etag
        try:
            await self._write(lambda one: one)
        except (StoreError, LeaseLost) as error:
            if not isinstance(error, LeaseLost) and error.code != "store_changed":
                raise
            raise NotBegun(
                "another driver began a rollout just now", "`sidecar fleet history` tells more"
            ) from error
        tasks = {asyncio.create_task(self._phases()), asyncio.create_task(self._renew())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLost:
            await end(*tasks)
            if self._rollout.phase == "store":
                await self._undo_put(self._rollout)
            raise
        finally:
            await end(*tasks)
            if not self._rollout.ended:
                with suppress(StoreError, LeaseLost, TimeoutError):
                    async with asyncio.timeout(_RELEASE_SECONDS):
                        await self._write(lambda one: one, lease=0.0)
        return self._rollout

    async def _phases(self) -> None:
        work = {
            "wave": self._wave,
            "soak": self._soak,
            "store": self._put,
            "rest": self._rest,
            "back": self._back,
        }
        while not self._rollout.ended:
            if await self._may_go_on():
                await work[self._rollout.phase]()

    async def _wave(self) -> None:
        one = self._rollout
        names = one.waves[one.wave]
        self._listener.say(f"wave {one.wave + 1}: {', '.join(names)} get the index, ahead of the store")
        await self._told(names, one.target, await self._content(one.target))

    async def _rest(self) -> None:
        one = self._rollout
        # Those who had it ahead of the store too: where the driver rested or died meanwhile, they went back.
        names = [target.id for target in await self._machines.active()]
        self._listener.say(f"all machines: {', '.join(names)}")
        await self._told(names, one.target, None)

    async def _told(self, names: Iterable[str], sha256: str, body: Path | None) -> None:
        """Bring machines to the index, and write down what came of it."""
        names = tuple(names)
        await self._write(lambda one: rules.reaching(one, names))
        targets = [target for target in await self._machines.active() if target.id in names]
        results = await self._attended(self._machines.bring(targets, sha256, body))
        if results is None:
            return
        self.results |= {one.machine: one for one in results}
        gone = dict.fromkeys((name for name in names if name not in {one.id for one in targets}), "stopped")
        states = gone | {one.machine: one.state for one in results}
        notes = {one.machine: one.note for one in results}
        await self._write(lambda one: rules.after(one, states, notes))

    async def _soak(self) -> None:
        """Watch the canary; all who proved it must still serve it at the end."""
        one = self._rollout
        canary = [each for each in await self._machines.active() if each.id in one.waves[0]]
        self._listener.say(f"watching {', '.join(each.id for each in canary)} for {self._soak_seconds:g} s")
        until, renewed = time.monotonic() + self._soak_seconds, time.monotonic()
        while True:
            found = dict(
                zip(
                    [each.id for each in canary],
                    await asyncio.gather(*(self._machines.look(each, one.target) for each in canary)),
                    strict=True,
                )
            )
            states = {name: "hanging" if seen is None else seen.state for name, seen in found.items()}
            if "refused" in states.values() or time.monotonic() >= until:
                break
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, until - time.monotonic())))
            renewed = await self._keep(renewed)
            if not await self._may_go_on():
                return
        late = "at the end of its watch it was on its way to another state"
        notes = {name: late if seen is None else seen.reason for name, seen in found.items()}
        await self._write(lambda rollout: rules.after(rollout, states, notes))

    async def _put(self) -> None:
        """The index goes into the store, over the one that the rollout began with and over nothing else."""
        one = self._rollout
        content = await self._content(one.target)
        await self._write(rules.offering)
        try:
            etag = await self._store_index(content, one.modified, one.base_etag)
        except StoreError as error:
            if error.code != "store_changed":
                raise
            await self._write(
                lambda rollout: rules.halted(rollout, "somebody has stored another index meanwhile")
            )
            return
        self._stored = etag
        self._remember(etag, one.target)
        await self._write(rules.stored)
        self._listener.say("the store holds it now")

    async def _undo_put(self, one: Rollout) -> None:
        """Put back the index before it, unless the driver who has the rollout now wants the new one there.

        This one slept before or during its upload: the one who took over did not know of that.
        """
        try:
            found = await self._records.get(self._records.rollout_key, Rollout)
            if found is not None and found[0].target == one.target and found[0].phase in _IN_STORE:
                return
            etag = self._stored
            if etag is None:
                held = await self._store.fetch(self._key, self._path(), None)
                if held is None or held.sha256 != one.target:
                    return
                etag = held.etag
            await self._store_index(await self._content(one.base), one.base_modified, etag)
        except StoreError as error:
            if error.code != "store_changed":  # else the other driver has dealt with it
                self._listener.say(
                    f"{short(one.target)} may stay in the store, though taken back: {error.message}"
                )

    async def _back(self) -> None:
        one = self._rollout
        self._listener.say(f"taken back, {one.reason}")
        problem, goal = "", one.base
        try:
            goal = await self._put_back(one)
        except StoreError as error:
            problem = error.message
        unreached: list[str] = []
        if not problem:
            targets = [each for each in await self._machines.active() if rules.may_have(one, each.id)]
            results = await self._machines.bring(targets, goal, None)
            unreached = [each.machine for each in results if each.sha256 != goal]
            for each in results:
                state = "lagging" if each.machine in unreached else "returned"
                self.results[each.machine] = replace(each, state=state)
        await self._write(lambda rollout: rules.returned(rollout, problem, unreached))

    async def _put_back(self, one: Rollout) -> str:
        """Let the store hold the index before it, unless it holds another one by now; which it is."""
        etag = self._stored  # what this driver stored it knows, whatever a store that is behind tells
        if etag is None:
            held = await self._store.fetch(self._key, self._path(), None)
            if held is not None and held.sha256 not in (one.base, one.target):
                self._listener.say("the store holds another index by now, which stays")
                return held.sha256
            if held is None or held.sha256 == one.base:
                return one.base
            etag = held.etag
        content = await self._content(one.base)
        try:
            self._remember(await self._store_index(content, one.base_modified, etag), one.base)
        except StoreError as error:
            if error.code != "store_changed" or self._stored is None:
                raise
            self._stored = None
            return await self._put_back(one)
        self._listener.say("the store holds the index before it again")
        return one.base

    async def _may_go_on(self) -> bool:
        """Whether the phase of the record may be done; waits while a person wants a pause."""
        await self._look()
        renewed, told = time.monotonic(), False
        while self._rollout.wish == "pause" and self._rollout.phase != "back":
            if not told:
                self._listener.say("paused, until `sidecar fleet resume` or `sidecar fleet abort`")
                told = True
            await asyncio.sleep(_LOOK_SECONDS)
            renewed = await self._keep(renewed)
            await self._look()
        if self._rollout.wish == "abort" and self._rollout.phase != "back":
            await self._write(lambda one: rules.halted(one, "a person has aborted it"))
            return False
        return True

    async def _keep(self, renewed: float) -> float:
        """See to it that who has the index ahead of the store does not believe the store meanwhile."""
        one = self._rollout
        if time.monotonic() - renewed < _RENEW_BODY_SECONDS or one.phase == "rest":
            return renewed
        targets = [each for each in await self._machines.active() if each.id in one.proven]
        await self._machines.bring(targets, one.target, await self._content(one.target))
        return time.monotonic()

    async def _attended(self, work: Awaitable[Value]) -> Value | None:
        """What comes of some work; None when a person aborts meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
                await self._look()
                if self._rollout.wish == "abort":
                    return None
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._write(lambda one: one)
            except StoreError as error:
                if time.monotonic() - self._written > LEASE_SECONDS:
                    raise
                self._listener.say(f"{error.message}; trying again")

    async def _look(self) -> None:
        """See what a person wants. A store that does not answer is no reason to stop: the lease is."""
        with suppress(StoreError):
            async with self._lock:
                await self._read()

    async def _read(self) -> str | None:
        """Take over the record's wish, and give its ETag; None when the store is behind."""
        found = await self._records.get(self._records.rollout_key, Rollout)
        if found is not None and found[0].started < self._rollout.started:
            return None
        if found is None or found[0].token != self._rollout.token:
            who = f": {found[0].driver} drives it now" if found else ""
            raise LeaseLost(
                f"this rollout is somebody else's by now{who}", "`sidecar fleet history` tells more"
            )
        self._rollout = replace(self._rollout, wish=found[0].wish)
        return found[1]

    async def _write(self, change: Callable[[Rollout], Rollout], lease: float | None = None) -> None:
        async with self._lock:
            for attempt in range(1, _WRITE_ATTEMPTS + 1):
                until = self._wall() + LEASE_SECONDS if lease is None else lease
                new = replace(change(self._rollout), lease=until)
                try:
                    self._etag = await self._records.put(self._records.rollout_key, new, self._etag)
                except StoreError as error:
                    if error.code != "store_changed" or attempt == _WRITE_ATTEMPTS:
                        raise
                    self._etag = await self._read() or self._etag
                    await asyncio.sleep(_PAUSE_SECONDS * attempt)
                else:
                    self._rollout, self._written = new, time.monotonic()
                    return

    async def _content(self, sha256: str) -> Path:
        return await self._records.content(sha256)

    async def _store_index(self, content: Path, modified: float, replaces: str) -> str:
        return await store_surely(self._store, self._key, content, modified, replaces, self._path())

    def _path(self) -> Path:
        return self._folder / f"driver-{time.monotonic_ns()}"
