"""Keeps the living Navigator and the published generation together: observes, asks `lifecycle`, acts.

Nothing here decides. Each look gathers the facts anew, and `lifecycle.transition` names what is to be done;
the same look at the same facts does the same again, whatever was before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sidecar.errors import NotFound, PublishError, SidecarError
from sidecar.generations import Generations, LastLoaded, Manifest
from sidecar.model.events import LifecycleEvent, Loaded, NavigatorSeen, NotLoaded, Reloaded
from sidecar.model.navigator import Process
from sidecar.model.runs import Request
from sidecar.model.states import Health
from sidecar.navigator.markers import Marker
from sidecar.navigator.server import Navigator
from sidecar.system.tasks import end, happens
from sidecar.update import lifecycle
from sidecar.update.lifecycle import Action, Facts, Phase, Published, State
from sidecar.update.rejections import Rejections

logger = logging.getLogger(__name__)

# How often to look without being told, in seconds.
RECHECK = 2.0
# Until the watch on the markers has surely begun, looking often takes its place.
_WATCH_BEGINS = 0.25
_UNTIL_THEN = 0.01
# A Navigator that is being restarted comes back within this; after it, it is said to be down.
_DOWN_AFTER = 2.0
# The generation to go back to is looked for when a load has not come at once.
_FALLBACK_AFTER = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
_REMEMBERED = 50


class Asking:
    """A hook or CGI of Navigator that is being answered; `looks` when its end makes Navigator look."""

    looks = False


@dataclass(frozen=True, slots=True)
class _Sight:
    """A marker as it was first seen.

    `owner` is the process that surely touched it, `touched` when, in seconds since boot: a clock that is set
    later does not move that.
    """

    marker: Marker
    owner: Process | None
    touched: float


@dataclass(slots=True)
class _Probing:
    """The probes of one generation on one process: they never speak of another."""

    process: Process | None
    generation: int
    verdict: bool | None = None
    error: str = ""
    task: asyncio.Task[None] | None = None


class Reconciler:
    """Follows what is in place until the living Navigator serves it. Only its own loop changes its state."""

    def __init__(
        self,
        generations: Generations,
        navigator: Navigator,
        rejections: Rejections,
        region: str,
        limit: float,
        ask: Callable[[Request], None],
    ) -> None:
        """`region` is this machine's: it goes back to no other's set. `limit` is in seconds, for one
        load. `ask` has the worker run something; nobody waits for it."""
        self._generations = generations
        self._navigator = navigator
        self._rejections = rejections
        self._region = region
        self._limit = limit
        self._ask = ask
        self._subscribers: list[Callable[[LifecycleEvent], None]] = []
        self.state = State(since=time.monotonic())
        self.facts = Facts()
        self._wall = time.time()
        self._maintenance = generations.maintenance_name
        # What was seen of the outside so far
        self._sights: dict[str, _Sight] = {}
        self._serves: tuple[Process, str, float] | None = None
        self._answers: Process | None = None
        self._published: tuple[int, float, Process | None] | None = None
        self._stamp: object = None
        self._starts = 0
        self._fallback: tuple[int, int | None, int | None] | None = None
        self._numbers: dict[str, int] = {}
        self._probing: _Probing | None = None
        self._marker: Marker | None = None
        # Hooks and CGIs of Navigator
        self._asking = 0
        self._let_go: float | None = None
        # Waking and waiting
        self._changed = asyncio.Event()
        self._unsettled = asyncio.Event()
        self._news = asyncio.Event()
        self._not_loaded: dict[int, str] = {}
        self._stopping = False
        self._background: set[asyncio.Task[Any]] = set()

    # What others may know

    def subscribe(self, subscriber: Callable[[LifecycleEvent], None]) -> None:
        """Have every event told to a function, from the loop."""
        self._subscribers.append(subscriber)

    @property
    def process(self) -> Process | None:
        """Navigator's process when it was last looked at."""
        return self.facts.process

    @property
    def served(self) -> int | None:
        """The number of the generation that the living Navigator serves; None when it is none of ours."""
        return self._number(self.facts.served)

    @property
    def pending(self) -> int | None:
        """The generation that is in place and not served yet."""
        current = self._generations.current
        loaded = self.state.phase is Phase.LOADED and current and self.state.generation == current.number
        return None if current is None or loaded else current.number

    @property
    def is_loading(self) -> bool:
        """Whether a load is to be expected soon."""
        return self.pending is not None and self.state.phase in (Phase.LOADING, Phase.OVERDUE, Phase.PROBING)

    def may_publish(self) -> bool:
        """Whether Navigator would notice a publication now."""
        current = self._generations.current
        if current is not None and self.state.generation not in (None, current.number):
            return False  # it was published just now, and is looked at in a moment
        return not lifecycle.holds(self.state, self.facts, time.monotonic())

    def health(self) -> Health:
        """What the living Navigator serves, for people and machines."""
        current = self._generations.current
        word, reason = _health(self.state, self.facts, current, time.monotonic(), self._limit, self.served)
        phase = "rolled_back" if word == "degraded" and self._is_taken_back() else self.state.phase.value
        return Health(word, reason, phase, self._wall)

    def _is_taken_back(self) -> bool:
        current = self._generations.current
        return bool(self.state.phase is Phase.LOADED and current and current.taken_back)

    # What others tell

    def published(self, number: int) -> None:
        """A generation was put in place just now."""
        self._note_publication(number, self._navigator.process.find())
        self.wake()

    def wake(self) -> None:
        """Look at once."""
        self._unsettled.set()
        self._changed.set()

    @contextmanager
    def navigator_asks(self) -> Iterator[Asking]:
        """While one of Navigator's own hooks or CGIs is answered, it need not be made to look."""
        asking = Asking()
        self._asking += 1
        try:
            yield asking
        finally:
            self._asking -= 1
            if asking.looks:
                self._let_go = time.monotonic()
            self.wake()

    async def wait(self, generation: int, seconds: float) -> str:
        """How it ended for a generation: loaded, failed, superseded or down; pending after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (verdict := self._verdict(generation)) is None:
                    await happens(self._news, RECHECK / 4)
                return verdict
        return "pending"

    def release_waiters(self) -> None:
        """Whoever waits is told `pending` now: the daemon stops before it is known how it ends."""
        self._stopping = True
        self._tell_news()

    def _verdict(self, generation: int) -> str | None:
        current, state = self._generations.current, self.state
        if self._stopping:
            return "pending"
        if generation in self._not_loaded:
            return "failed"
        if current is None or current.number != generation:
            return "superseded"
        if state.generation != generation:
            return None
        if state.phase is Phase.LOADED:
            return "loaded"
        if state.given_up:
            return "failed"
        is_down = state.phase is Phase.WAITING and time.monotonic() - state.since >= _DOWN_AFTER
        return "down" if is_down else None

    # The loop

    async def run(self) -> None:
        """Look whenever something happens, until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                await happens(self._changed, self._pause())
                self._changed.clear()
                await self.look()
        finally:
            await end(watching, *self._background)

    async def look(self) -> None:
        """Observe, decide, act: once."""
        facts, before = await self._observe(), self.state
        state, action = lifecycle.transition(before, facts, time.monotonic(), self._limit)
        self.facts, self.state = facts, state
        if (before.phase, before.process, before.generation) != (
            state.phase,
            state.process,
            state.generation,
        ):
            self._wall = time.time()
            logger.debug("phase %s of generation %s", state.phase, state.generation)
        if state.phase is not Phase.LOADED:
            self._unsettled.set()
        if action is not None:
            self._act(action, state, facts)
        if state != before:
            self._tell_news()

    def _pause(self) -> float:
        """Seconds until the next look, unless something happens."""
        now, published = time.monotonic(), self.facts.published
        if (
            published is not None
            and self.state.phase is not Phase.LOADED
            and now - published.at < _WATCH_BEGINS
        ):
            return _UNTIL_THEN
        return max(_UNTIL_THEN, min(RECHECK, lifecycle.deadline(self.state, now, self._limit)))

    async def _watch(self) -> None:
        """Watch while a marker is waited for: it costs more than all else that an idle daemon does."""
        while True:
            await self._unsettled.wait()
            try:
                async with aclosing(self._navigator.markers.changes(RECHECK)) as changes:
                    async for _ in changes:
                        self._changed.set()
                        if self.state.phase is Phase.LOADED and self.pending is None:
                            self._unsettled.clear()
                            break
            except (OSError, RuntimeError) as error:
                logger.warning("the markers cannot be watched: %s; looking every %g s", error, RECHECK)
                await asyncio.sleep(RECHECK)

    # Facts

    async def _observe(self) -> Facts:
        process = self._navigator.process.find()
        if process != self.facts.process:
            self._notice(process)
        current = self._generations.current
        if current is not None and (self._published is None or self._published[0] != current.number):
            self._note_publication(current.number, None)
        record = self._generations.load_record()
        last = self._manifest(record.generation) if record else None
        published = self._describe(current, last)
        served, is_shown = self._served(process, published, record, last)
        if published is not None and served == published.fingerprint and is_shown:
            self._starts = 0
        else:
            self._count_starts(process)
        fallback = None
        if published is not None and time.monotonic() - self.state.since > _FALLBACK_AFTER:
            fallback = await self._find_fallback(published, last)
        return Facts(
            process=process,
            on_maintenance=process is not None and self._is_maintenance(process),
            answers=await self._does_answer(process),
            published=published,
            served=served,
            is_shown=is_shown,
            asking=self._asking,
            let_go=self._let_go,
            starts=self._starts,
            fallback=fallback,
            retry=bool(current and current.taken_back) and self._rejections.retry_due(process),
            **self._probe_facts(process, published),
        )

    def _describe(self, current: Manifest | None, last: Manifest | None) -> Published | None:
        if current is None or self._published is None:
            return None
        return Published(
            current.number,
            current.fingerprint,
            self._published[1],
            proven=last is not None and last.fingerprint == current.fingerprint,
            restored=bool(current.taken_back),
        )

    def _notice(self, process: Process | None) -> None:
        before = self.facts.process
        if process is not None and before is not None:
            logger.info("Navigator was restarted: %s", process)
        self._tell(NavigatorSeen(process))

    def _note_publication(self, number: int, process: Process | None) -> None:
        if self._published is None or self._published[0] != number:
            self._published = (number, time.monotonic(), process)
            self._starts, self._stamp = 0, self._navigator.process.stamp()

    def _count_starts(self, process: Process | None) -> None:
        """A start of Navigator writes its process id anew, unless it cannot parse its file."""
        stamp = self._navigator.process.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            if stamp is not None and not (process is not None and self._is_maintenance(process)):
                self._starts += 1

    def _is_maintenance(self, process: Process) -> bool:
        return process.configuration.rpartition("/")[2] == self._maintenance

    async def _does_answer(self, process: Process | None) -> bool:
        if process is not None and process != self._answers and await self._navigator.gate.answers():
            self._answers = process
        return process is not None and process == self._answers

    def _served(
        self,
        process: Process | None,
        published: Published | None,
        record: LastLoaded | None,
        last: Manifest | None,
    ) -> tuple[str | None, bool]:
        """The set whose marker this process touched last, and whether that was after the publication."""
        if process is None:
            return None, True
        if record is not None and last is not None and record.process is not None:
            marker = Marker(last.fingerprint, record.touched, record.inode)
            self._sights.setdefault(last.fingerprint, _Sight(marker, record.process, 0.0))
            if record.process == process and self._serves is None:
                self._serves = process, last.fingerprint, 0.0
        ours = [one for one in self._navigator.markers.all() if self._is_of(one, process, published)]
        # It was removed at the publication: that it is there says more than any clock.
        newest = next((one for one in ours if published and one.fingerprint == published.fingerprint), None)
        if newest is not None:
            self._notice_reload(newest)
        else:
            newest = ours[0] if ours else None
        known = self._serves if self._serves is not None and self._serves[0] == process else None
        there = newest is not None and self._sights[newest.fingerprint].touched
        shown = newest is not None and published is not None and newest.fingerprint == published.fingerprint
        if newest is not None and (shown or known is None or there > known[2]):
            known = self._serves = process, newest.fingerprint, there
        if known is None:
            return None, True
        # Its marker may be gone, because the same set was published anew: it goes on serving that.
        return known[1], shown or published is None or known[1] != published.fingerprint

    def _is_of(self, marker: Marker, process: Process, published: Published | None) -> bool:
        """Whether this process touched the marker."""
        sight = self._sights.get(marker.fingerprint)
        if sight is None or sight.marker != marker:
            here = (
                published is not None
                and marker.fingerprint == published.fingerprint
                and self._published is not None
                and self._published[2] == process
            )
            since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - (time.time() - marker.touched / 1e9)
            known_owner = sight is not None and sight.owner == process == self.facts.process
            sight = _Sight(marker, process if here or known_owner else None, since_boot)
            self._sights[marker.fingerprint] = sight
        return sight.owner == process or sight.touched >= process.started / _TICKS

    def _notice_reload(self, marker: Marker) -> None:
        """A marker that moves though nothing was published tells of a reload that somebody else asked for."""
        before, self._marker = self._marker, marker
        is_same_set = before is not None and before.fingerprint == marker.fingerprint
        if is_same_set and before != marker and self.state.phase is Phase.LOADED and self.pending is None:
            logger.info("Navigator has loaded its configuration again, though nothing was published")
            self._tell(Reloaded())

    async def _find_fallback(self, published: Published, last: Manifest | None) -> int | None:
        """The generation to go back to: the last one loaded, whole, another set, and of this region."""
        key = (published.generation, last.number if last else None)
        if self._fallback is None or self._fallback[:2] != key:
            found = None
            if last is not None and last.fingerprint != published.fingerprint and self._fits(last):
                try:
                    await asyncio.to_thread(self._generations.archive.artifacts, last.number)
                    found = last.number
                except NotFound as error:
                    logger.error("cannot go back to generation %d: %s", last.number, error)  # noqa: TRY400
            self._fallback = (*key, found)
        return self._fallback[2]

    def _fits(self, manifest: Manifest) -> bool:
        return manifest.region is None or manifest.region == self._region

    def _manifest(self, number: int) -> Manifest | None:
        current = self._generations.current
        if current is not None and current.number == number:
            return current
        try:
            return self._generations.archive.manifest(number)
        except (NotFound, OSError):
            return None

    def _number(self, fingerprint: str | None) -> int | None:
        """The newest generation with this set."""
        if fingerprint is None:
            return None
        current = self._generations.current
        if current is not None and current.fingerprint == fingerprint:
            return current.number
        if fingerprint not in self._numbers:
            with suppress(OSError):
                for number in self._generations.archive.numbers():
                    if (found := self._manifest(number)) is not None:
                        self._numbers[found.fingerprint] = number
        return self._numbers.get(fingerprint)

    def _probe_facts(self, process: Process | None, published: Published | None) -> dict[str, Any]:
        if not self._navigator.probes:
            return {"probe": True}
        probing = self._probing
        if probing is None or published is None:
            return {}
        if (probing.process, probing.generation) != (process, published.generation):
            return {}
        return {"probe": probing.verdict, "probe_error": probing.error}

    # Actions

    def _act(self, action: Action, state: State, facts: Facts) -> None:
        assert facts.published is not None  # noqa: S101 - there is nothing to do without
        number = facts.published.generation
        if action is Action.SIGNAL:
            self._signal(state, facts, number)
        elif action is Action.LOOK:
            self._soon(self._look_by_itself())
        elif action is Action.PROBE:
            self._probe(facts.process, number)
        elif action is Action.RECORD:
            self._record(facts, number)
        elif action is Action.RETRY:
            self._ask(Request(trigger="retry"))
        else:
            self._fail(state, number, facts.fallback if action is Action.ROLL_BACK else None)

    def _signal(self, state: State, facts: Facts, number: int) -> None:
        published, let_go = facts.published, facts.let_go
        was_to_look = published is not None and let_go is not None and let_go >= published.at
        if state.acts > 1 or was_to_look:
            logger.warning("no sign that generation %d was loaded; sending SIGHUP", number)
        try:
            self._navigator.process.reload()
        except SidecarError as error:
            logger.warning("%s", error)

    async def _look_by_itself(self) -> None:
        logger.info("Navigator is on its maintenance page; asking it to look at its configuration")
        try:
            await self._navigator.gate.look()
        except SidecarError as error:
            logger.warning("%s", error)

    def _probe(self, process: Process | None, number: int) -> None:
        before = self._probing
        if before is not None and before.task is not None and not before.task.done():
            if (before.process, before.generation) == (process, number):
                return
            before.task.cancel()
        probing = _Probing(process, number)
        if before is not None and (before.process, before.generation) == (process, number):
            probing.verdict, probing.error = before.verdict, before.error

        async def probe() -> None:
            try:
                await self._navigator.probes.run()
            except SidecarError as error:
                probing.verdict, probing.error = False, str(error)
            else:
                probing.verdict = True
            self.wake()

        self._probing = probing
        probing.task = self._soon(probe())

    def _record(self, facts: Facts, number: int) -> None:
        current = self._generations.current
        if current is None or current.number != number:
            return
        marker = self._marker
        touched, inode = (marker.touched, marker.inode) if marker is not None else (0, 0)
        before = self._generations.load_record()
        record = LastLoaded(number, time.time(), facts.process, touched, inode)
        try:
            self._generations.mark_loaded(record)
        except PublishError as error:
            logger.warning("%s", error)
        self._rejections.loaded(current.index.sha256, current.inputs)
        self._not_loaded.pop(number, None)
        if before is not None and (before.generation, before.process) == (number, facts.process):
            return
        # Of a load by a Navigator that came up later nothing can be said.
        seen = self._published is not None and self._published[2] == facts.process
        seconds = max(0.0, touched / 1e9 - self._generations.published) if seen and touched else None
        after = "" if seconds is None else f" {seconds * 1000:.0f} ms after its publication"
        logger.info("Navigator has loaded generation %d%s", number, after, extra={"generation": number})
        self._tell(Loaded(number, seconds))

    def _fail(self, state: State, number: int, goes_back: int | None) -> None:
        code = {Phase.PROBING: "probe", Phase.WAITING: "died"}.get(state.phase, "not_loaded")
        message = f"generation {number} is not in force: {state.reason}"
        logger.error("%s", message, extra={"generation": number})
        self._not_loaded[number] = message
        for old in list(self._not_loaded)[:-_REMEMBERED]:
            del self._not_loaded[old]
        self._tell(NotLoaded(number, code, message, goes_back))
        if goes_back is None:
            logger.error("there is nothing to go back to; somebody has to look at Navigator's log")
            return
        self._ask(
            Request(
                trigger="rollback",
                who=f"no load of generation {number}",
                rollback=goes_back,
                failed=number,
                reason=state.reason,
                code=code,
            )
        )

    def _tell(self, event: LifecycleEvent) -> None:
        for subscriber in self._subscribers:
            subscriber(event)

    def _tell_news(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _health(
    state: State, facts: Facts, current: Manifest | None, now: float, limit: float, served: int | None
) -> tuple[Any, str]:
    """The word and its reason."""
    long = now - state.since >= limit
    if current is None:
        word = "progressing" if facts.process is None or not long else "degraded"
        return ("waiting" if facts.process is None else word), "nothing has been published yet"
    number = current.number
    older = f"it serves generation {served} meanwhile" if served is not None else "it serves none of ours"
    if state.given_up or state.acts < 0:
        return "degraded", f"generation {number} is not in force: {state.reason}; {older}"
    if state.phase is Phase.WAITING:
        return (
            "waiting",
            f"Navigator is down; generation {number} is in place and will be loaded when it starts",
        )
    if state.phase is Phase.BOOTING:
        sentence = f"Navigator is on its maintenance page; generation {number} is in place for it"
        return ("degraded" if long else "progressing"), sentence
    if state.phase is Phase.FOREIGN:
        if now - state.since < lifecycle.FIRST_PAUSE * 2:
            return "progressing", f"Navigator is starting; generation {number} is in place for it"
        return (
            "degraded",
            "Navigator serves a configuration that is not ours; it is signalled again and again",
        )
    if state.phase is Phase.PROBING:
        sentence = f"Navigator serves generation {number}; the probes have not passed yet"
        return "progressing", sentence + (f": {facts.probe_error}" if facts.probe_error else "")
    if state.phase is Phase.LOADED:
        if current.taken_back:
            sentence = f"Navigator serves generation {number}, a copy of {current.source}"
            return "degraded", f"{sentence}, because the one after it was taken back: {current.taken_back}"
        return "healthy", f"Navigator serves generation {number}"
    again = ", for which it was signalled again" if state.phase is Phase.OVERDUE else ""
    return "progressing", f"Navigator is loading generation {number}{again}; {older}"
