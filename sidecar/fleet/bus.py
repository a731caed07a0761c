"""The bus: it makes a change known sooner, and how far the machines are. The store remains the truth.

A daemon listens for its index's hint (`BusListener`), has its machine look at the store, as a signed poke
that names a digest would, and states what the machine serves. A fleet update publishes the hint
(`Announcement`), and pokes only those who have not stated soon afterwards that they serve it. Whatever goes
wrong on the bus is said, and nothing waits for it: pokes and the regular look go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import SidecarError
from sidecar.fleet.machine_client import HttpMachineClient, PokePayload
from sidecar.fleet.machines import Target
from sidecar.fleet.nats_link import BusError, NatsLink, connected
from sidecar.fleet.verdicts import GOOD, MachineAnswer, Verdict, of_served
from sidecar.model.bus import (
    HINTS,
    MAX_SPREAD_SECONDS,
    STATEMENTS,
    Hint,
    Statement,
    fleet_key,
    later,
    machine_key,
    opened,
    seal,
)
from sidecar.model.machine_report import MachineReport
from sidecar.system.tasks import end, happens

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 1800.0
"""How long a machine's statement lasts; it is repeated three times as often."""
_REPEAT_SECONDS = STATEMENT_SECONDS / 3
_LOOK_SECONDS = 60.0  # a subscription may fall silent without a word: the key is looked at as often as this
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 30.0
_JITTER_SHARE = 0.5
_LOG_SECONDS = 600.0
_ANSWER_SECONDS = 5.0
_SNAPSHOT_SECONDS = 15.0
# S3 promises 5,500 GET requests a second for a prefix; a fleet beyond that looks one after the other.
_LOOKS_PER_SECOND = 5000


_UNTRUSTED = "fleet.bus is set, but trigger.secret is not: nothing on a bus could be trusted"

Follow = Callable[[str, str, bool], Awaitable[bool]]
"""Takes a digest, who gave the hint, and whether just now; gives whether that is dealt with."""


def secrets_of(settings: Settings) -> list[str]:
    """The secrets with which something on the bus may be signed, if any; the first one signs."""
    both = settings.trigger.secret, settings.trigger.previous_secret
    return [str.__str__(secret) for secret in both if secret]


class BusListener:
    """A machine's end of the bus."""

    def __init__(
        self,
        settings: Settings,
        machine: str,
        follow: Follow,
        served: Callable[[], MachineReport],
        count: Callable[[str], None],
        look: float = _LOOK_SECONDS,
        pause: float = _FIRST_PAUSE_SECONDS,
    ) -> None:
        """`count` is told what became of each hint: followed, failed, old or forged.

        `look` and `pause` are seconds: between two looks at the key, and after a first lost connection.
        """
        self._look = look
        self._pause = pause
        self._urls = str.__str__(settings.fleet.bus)
        self._key = fleet_key(settings.store, settings.index_key)
        self._own_key = machine_key(self._key, machine)
        self._machine = machine
        self._secrets = secrets_of(settings)
        self._window = settings.trigger.window
        self._follow = follow
        self._served = served
        self._count = count
        self._link: NatsLink | None = None
        self._problem: str | None = None
        self._doubt: str | None = None
        self._logged: dict[str, float] = {}
        self._value: bytes | None = None
        self._arrived = asyncio.Event()
        self._moved = asyncio.Event()
        self._newest = 0.0
        self._followed = 0.0
        self._stated: Statement | None = None

    @property
    def connected(self) -> bool:
        """Whether the bus is there."""
        return self._link is not None

    def problem(self) -> str | None:
        """What is wrong with the bus, in a sentence; None while nothing is, and where there is none."""
        return self._problem or self._doubt

    def moved(self) -> None:
        """What the machine serves may have changed."""
        self._moved.set()

    def reset(self) -> None:
        """Connect anew: whoever was asleep cannot trust a connection."""
        if self._link is not None:
            self._link.end("the machine was asleep")

    async def run(self) -> None:
        """Listen and state until cancelled, whatever the bus does."""
        if not self._secrets:
            self._say(_UNTRUSTED)
            return
        failures = 0
        while True:
            since = math.inf
            try:
                async with connected(self._urls, self._machine) as link:
                    await self._prepare(link)
                    self._link, self._problem, since = link, None, time.monotonic()
                    logger.info("the bus is there")
                    await self._stay(link)
            except SidecarError as error:
                self._say(str(error))
            except Exception as error:
                self._problem = f"the bus cannot be used: {error}"
                if self._is_due("unexpected"):
                    logger.exception("the bus is given up for a moment, because of an unexpected error")
            finally:
                self._link = None
            if time.monotonic() - since > _MAX_PAUSE_SECONDS:
                failures = 0
            # A fleet that lost its bus at once does not come back at once.
            pause = min(_MAX_PAUSE_SECONDS, self._pause * 2.0 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(pause * random.uniform(1 - _JITTER_SHARE, 1 + _JITTER_SHARE))  # noqa: S311 - not a secret

    def _say(self, sentence: str) -> None:
        self._problem = sentence
        self._warn("connection", sentence)

    def _warn(self, kind: str, sentence: str) -> None:
        if self._is_due(kind):
            logger.warning("%s", sentence)

    def _is_due(self, kind: str) -> bool:
        """Whether such a thing may be logged again: not over and over."""
        now = time.monotonic()
        if now - self._logged.get(kind, -_LOG_SECONDS) < _LOG_SECONDS:
            return False
        self._logged[kind] = now
        return True

    async def _prepare(self, link: NatsLink) -> None:
        # First the subscription: what comes between the two is heard twice rather than never.
        await link.listen(HINTS, self._key, self._hear)
        self._value = await link.get(HINTS, self._key)
        self._stated = None
        self._arrived.set()
        self._moved.set()

    def _hear(self, value: bytes) -> None:
        # Only the newest counts, so there is no queue that could fill.
        self._value = value
        self._arrived.set()

    async def _stay(self, link: NatsLink) -> None:
        """Until the connection ends, with the error that says why."""
        await link.held(self._listen(link), self._state(link))

    # Hints

    async def _listen(self, link: NatsLink) -> None:
        while True:
            if await happens(self._arrived, self._look):
                self._arrived.clear()
            else:
                self._value = await link.get(HINTS, self._key)
            if self._value is not None:
                await self._heed(self._value)
                self._moved.set()

    async def _heed(self, value: bytes) -> None:
        try:
            hint, stamp, key = opened(Hint, self._key, value, self._secrets)
        except SidecarError as error:
            self._doubt = f"a hint on the bus was ignored: {error.message}"
            self._warn("forged", self._doubt)
            self._count("forged")
            return
        now = time.time()
        if stamp > now + self._window:
            self._doubt = f"a hint on the bus was ignored: its time is {stamp - now:.0f} s ahead"
            self._warn("ahead", self._doubt)
            self._count("forged")
            return
        self._doubt = None
        if stamp < self._newest:
            self._count("old")
            return
        if stamp == self._followed:
            return
        self._newest = stamp
        if not await self._spread(hint.spread, stamp):
            return
        fresh = now - stamp <= self._window
        done = await self._follow(hint.sha256, f"the bus, key {key}", fresh)
        self._count("followed" if done else "failed")
        if done:
            self._followed = stamp
        # What was not done is tried again at the next look.

    async def _spread(self, seconds: float, stamp: float) -> bool:
        """Wait for a moment within these seconds; False as soon as there is a newer hint to heed."""
        until = time.monotonic() + random.uniform(0, seconds)  # noqa: S311 - not a secret
        came = False
        while (left := until - time.monotonic()) > 0 and await happens(self._arrived, left):
            self._arrived.clear()
            came = True
            with suppress(SidecarError):
                other = opened(Hint, self._key, self._value or b"", self._secrets)[1]
                if stamp < other <= time.time() + self._window:
                    self._arrived.set()
                    return False
        if came:
            self._arrived.set()  # whatever it was, it has its turn
        return True

    # Statements

    async def _state(self, link: NatsLink) -> None:
        while True:
            repeat = _REPEAT_SECONDS * random.uniform(1 - _JITTER_SHARE, 1)  # noqa: S311 - not a secret
            changed = await happens(self._moved, repeat)
            self._moved.clear()
            statement = Statement(msgspec.structs.replace(self._served(), busy=False), self._followed)
            if changed and statement == self._stated:
                continue
            try:
                value = seal(statement, self._own_key, time.time(), self._secrets[0])
                await link.put(STATEMENTS, self._own_key, value)
            except BusError as error:
                if error.code != "bus_no_bucket":
                    raise
                continue  # the first fleet update makes the bucket, and then gives a hint
            self._stated = statement


class Announcement:
    """What the machines state, and the hint that is given to them."""

    def __init__(self, settings: Settings, link: NatsLink) -> None:
        self._link = link
        self._key = fleet_key(settings.store, settings.index_key)
        self._secrets = secrets_of(settings)
        self._window = settings.trigger.window
        self._stamp = 0.0
        self._deadline = 0.0
        self._waiting: dict[str, asyncio.Event] = {}
        self._stamps: dict[str, float] = {}
        self.statements: dict[str, Statement] = {}

    def take(self, key: str, value: bytes) -> None:
        """Note a statement, if it is one, and newer than the one that is known."""
        try:
            statement, stamp, _ = opened(Statement, key, value, self._secrets)
        except SidecarError:
            return  # whoever it is about is poked
        machine = statement.served.machine
        # A bucket that somebody made may keep it for ever, and whoever may write there may repeat it.
        oldest = time.time() - STATEMENT_SECONDS - self._window
        if machine_key(self._key, machine) == key and stamp >= max(oldest, self._stamps.get(machine, 0.0)):
            self.statements[machine], self._stamps[machine] = statement, stamp
            if machine in self._waiting:
                self._waiting[machine].set()

    async def publish(self, sha256: str) -> None:
        """Give the hint to everyone."""
        known = len(self.statements)
        spread = min(MAX_SPREAD_SECONDS, known / _LOOKS_PER_SECOND) if known > _LOOKS_PER_SECOND else 0.0
        before, now = await self._link.get(HINTS, self._key), time.time()
        newest = 0.0
        if before is not None:
            with suppress(SidecarError):  # whatever it is, it is replaced
                _, newest, _ = opened(Hint, self._key, before, self._secrets)
        self._stamp = later(now, newest if newest <= now + self._window else 0.0)
        hint = seal(Hint(sha256, spread), self._key, self._stamp, self._secrets[0])
        await self._link.put(HINTS, self._key, hint)
        self._deadline = time.monotonic() + _ANSWER_SECONDS + spread

    async def verdict(self, machine: str, sha256: str, *, ready: bool) -> Verdict | None:
        """That a machine is done, as soon as it states so; None when it is to be poked after all."""
        if machine not in self.statements:
            return None
        moved = self._waiting.setdefault(machine, asyncio.Event())
        while True:
            moved.clear()
            statement = self.statements[machine]
            # What it stated before it followed this hint says nothing of now.
            if statement.hint >= self._stamp:
                verdict = of_served(statement.served, sha256, ready=ready)
                if verdict is not None:
                    return verdict if verdict.state in GOOD else None
            if not await happens(moved, max(0.0, self._deadline - time.monotonic())):
                return None


class BusMachineClient:
    """Speaks with machines, after they had the time to state by themselves that they are done."""

    def __init__(self, announcement: Announcement, client: HttpMachineClient, *, ready: bool) -> None:
        self._announcement = announcement
        self._client = client
        self._ready = ready

    async def poke(self, target: Target, payload: PokePayload) -> MachineAnswer | Verdict:
        """What it states, else what it makes of a poke."""
        stated = await self._announcement.verdict(target.id, payload.sha256, ready=self._ready)
        return stated or await self._client.poke(target, payload)

    async def ask(self, target: Target) -> MachineAnswer | Verdict:
        """Ask one how it is."""
        return await self._client.ask(target)


@asynccontextmanager
async def announcing(settings: Settings) -> AsyncIterator[Announcement]:
    """The bus with what all machines have stated of late; `BusError` when it cannot be used."""
    if not secrets_of(settings):
        raise BusError(_UNTRUSTED, "set trigger.secret, or SIDECAR_TRIGGER_SECRET, to the fleet's secret")
    async with connected(str.__str__(settings.fleet.bus), "fleet") as link:
        announcement = Announcement(settings, link)
        await link.make(HINTS)
        await link.make(STATEMENTS, STATEMENT_SECONDS)
        stated = link.all(STATEMENTS, fleet_key(settings.store, settings.index_key))
        try:
            async with asyncio.timeout(_SNAPSHOT_SECONDS):
                await _take(link, stated, announcement)
        except TimeoutError:
            raise BusError(
                f"the bus did not tell within {_SNAPSHOT_SECONDS:g} s what the machines state"
            ) from None
        going_on = asyncio.create_task(_take(link, stated, announcement))
        try:
            yield announcement
        finally:
            await end(going_on)


async def _take(
    link: NatsLink, stated: AsyncIterator[tuple[str, bytes] | None], announcement: Announcement
) -> None:
    """Note every statement up to the mark that all of before were told; there is one, so then without end."""

    async def work() -> None:
        async for entry in stated:
            if entry is None:
                return
            announcement.take(*entry)

    await link.held(work())
