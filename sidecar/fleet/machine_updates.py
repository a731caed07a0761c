"""The machines of a fleet update, each on its way: poked, followed, tried again.

A machine goes its own way from the poke to its last try: one that hangs keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from sidecar.config.settings import FleetSettings
from sidecar.errors import SidecarError
from sidecar.fleet.machine_client import PokePayload
from sidecar.fleet.machines import Target
from sidecar.fleet.report import MachineResult
from sidecar.fleet.verdicts import MachineAnswer, Verdict, of_poke, of_status, pause
from sidecar.system.memory import seldom_collected

_FIRST_LOOK_SECONDS = 0.03
_MAX_LOOK_SECONDS = 1.0
_LOOK_FACTOR = 1.5
_SPREAD_SHARE = 0.2


class ProgressListener(Protocol):
    """Who wants to know how it goes."""

    def step(self, step: str) -> None:
        """One of `progress.STEPS` begins."""

    def say(self, sentence: str) -> None:
        """Something about the whole."""

    def expect(self, results: list[MachineResult]) -> None:
        """These are the machines that will be poked."""

    def tell(self, result: MachineResult) -> None:
        """Where a machine stands now."""


class MachineClient(Protocol):
    """Speaks with machines."""

    async def poke(self, target: Target, payload: PokePayload) -> MachineAnswer | Verdict:
        """Poke one."""

    async def ask(self, target: Target) -> MachineAnswer | Verdict:
        """Ask one how it is."""


class MachineUpdates:
    """All machines of an update, each on its way; at most `parallel` requests at once."""

    def __init__(
        self,
        settings: FleetSettings,
        client: MachineClient,
        stopped: Callable[[Target], Awaitable[bool]],
        payload: PokePayload,
        listener: ProgressListener,
        *,
        ready: bool,
    ) -> None:
        self._settings = settings
        self._client = client
        self._stopped = stopped
        self._payload = payload
        self._listener = listener
        self._ready = ready
        self._slots = asyncio.Semaphore(settings.parallel)

    async def update(self, targets: tuple[Target, ...]) -> tuple[MachineResult, ...]:
        """Bring all of them up to date; every failure is a result."""
        with seldom_collected():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_Machine(self, target).update()) for target in targets]
        return tuple(task.result() for task in tasks)

    async def poke(self, target: Target, begin: Callable[[], None]) -> Verdict:
        """What a machine makes of a poke; `begin` is called when it has its turn."""
        async with self._slots:
            begin()
            answer = await self._client.poke(target, self._payload)
        return answer if isinstance(answer, Verdict) else of_poke(answer, target.id, self._payload.sha256)

    async def follow(self, target: Target) -> Verdict:
        """Ask until there is something to say."""
        wait = _FIRST_LOOK_SECONDS
        while True:
            async with self._slots:
                answer = await self._client.ask(target)
            verdict = (
                answer
                if isinstance(answer, Verdict)
                else of_status(answer, target.id, self._payload.sha256, ready=self._ready)
            )
            if verdict is not None:
                return verdict
            await asyncio.sleep(wait)
            wait = min(_MAX_LOOK_SECONDS, wait * _LOOK_FACTOR)

    async def stopped(self, target: Target) -> bool:
        """Whether a machine that failed has stopped meanwhile."""
        return await self._stopped(target)

    @property
    def limit(self) -> float:
        """How long one machine may take, in seconds."""
        return self._settings.timeout + (self._settings.ready_timeout if self._ready else 0.0)

    @property
    def goal(self) -> str:
        """What is waited for: loaded or ready."""
        return "ready" if self._ready else "loaded"

    @property
    def attempts(self) -> int:
        """How often one machine is poked."""
        return self._settings.attempts

    def pause(self, attempt: int, retry_after: float | None) -> float:
        """Seconds after an attempt that failed; all who failed together do not come back together."""
        spread = random.uniform(1.0, 1.0 + _SPREAD_SHARE)  # noqa: S311 - not a secret
        return pause(attempt, self._settings.pause, retry_after) * spread

    def tell(self, result: MachineResult) -> None:
        """Pass on where a machine stands."""
        self._listener.tell(result)


class _Machine:
    """One machine on its way."""

    def __init__(self, updates: MachineUpdates, target: Target) -> None:
        self._updates = updates
        self._target = target
        self._attempts = 0
        self._started: float | None = None
        self._last = Verdict("hanging", "it never had its turn")

    async def update(self) -> MachineResult:
        try:
            async with asyncio.timeout(None) as limit:
                verdict = await self._work(limit)
        except TimeoutError:
            verdict = self._late()
        except SidecarError as error:
            verdict = Verdict("failing", str(error))
        result = self._result(verdict)
        self._updates.tell(result)
        return result

    async def _work(self, limit: asyncio.Timeout) -> Verdict:
        updates, target = self._updates, self._target
        while True:
            verdict = self._last = await updates.poke(target, lambda: self._begin(limit))
            if verdict.accepted:
                updates.tell(self._result(verdict))
                verdict = await updates.follow(target)
            if verdict.final:
                return verdict
            self._last = verdict
            if await updates.stopped(target):
                return Verdict("stopped", "it stopped meanwhile, and fetches when it wakes")
            if self._attempts >= updates.attempts:
                return verdict
            updates.tell(self._result(Verdict("retrying", verdict.reason)))
            await asyncio.sleep(updates.pause(self._attempts, verdict.retry_after))

    def _begin(self, limit: asyncio.Timeout) -> None:
        """A turn begins: the time that a machine may take counts from its first one."""
        self._attempts += 1
        if self._started is None:
            self._started = time.monotonic()
            limit.reschedule(asyncio.get_running_loop().time() + self._updates.limit)
        self._updates.tell(self._result(Verdict("poking")))

    def _late(self) -> Verdict:
        last = self._last
        if last.accepted:
            what = f"is not {self._updates.goal} after {self._updates.limit:g} s"
            return Verdict("hanging", f"it has taken the index, but {what}")
        return Verdict(last.state, f"{last.reason}; given up after {self._updates.limit:g} s")

    def _result(self, verdict: Verdict) -> MachineResult:
        served = verdict.served
        return MachineResult(
            self._target.id,
            self._target.name,
            self._target.region or (served.region if served else None) or "",
            verdict.state,
            served.loaded if served else None,
            served.sha256 if served else None,
            self._attempts,
            0.0 if self._started is None else time.monotonic() - self._started,
            verdict.reason,
        )
