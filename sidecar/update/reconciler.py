"""Keeps the living Navigator and the published generation together: observes, asks `lifecycle`, acts.

Nothing here decides. Each look gathers the facts anew, and `lifecycle.transition` names what is to be done;
the same look at the same facts does the same again, whatever was before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from sidecar.errors import PublishError, SidecarError
from sidecar.generations import Generations, LastLoaded, Manifest
from sidecar.model.events import LifecycleEvent, Loaded, NavigatorSeen, NotLoaded, Reloaded
from sidecar.model.navigator import Process
from sidecar.model.runs import LoadVerdict, Request
from sidecar.model.states import Health
from sidecar.navigator.markers import Marker
from sidecar.navigator.server import Navigator
from sidecar.system.tasks import Tasks, end, happens
from sidecar.update import lifecycle
from sidecar.update.lifecycle import Action, Facts, LoadState, Phase, Published
from sidecar.update.observer import Observer
from sidecar.update.rejections import Rejections

logger = logging.getLogger(__name__)

# How often to look without being told, in seconds.
RECHECK_SECONDS = 2.0
# Until the watch on the markers has surely begun, looking often takes its place.
_WATCH_BEGINS_SECONDS = 0.25
_UNTIL_THEN_SECONDS = 0.01
# A Navigator that is being restarted comes back within this; after it, it is said to be down.
_DOWN_SECONDS = 2.0
_MAX_REMEMBERED = 50


class NavigatorRequest:
    """A hook or CGI of Navigator that is being answered; `looks` when its end makes Navigator look."""

    looks = False


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
        ask: Callable[[Request], object],
    ) -> None:
        """`region` is this machine's: it goes back to no other's set. `limit` is in seconds, for one
        load. `ask` has the worker run something; nobody waits for it."""
        self._generations = generations
        self._navigator = navigator
        self._rejections = rejections
        self._observer = Observer(generations, navigator, region)
        self._limit = limit
        self._ask = ask
        self._subscribers: list[Callable[[LifecycleEvent], None]] = []
        self.state = LoadState(since=time.monotonic())
        self.facts = Facts()
        self._wall = time.time()
        self._probing: _Probing | None = None
        # Hooks and CGIs of Navigator
        self._asking = 0
        self._let_go: float | None = None
        # Waking and waiting
        self._changed = asyncio.Event()
        self._unsettled = asyncio.Event()
        self._news = asyncio.Event()
        self._not_loaded: dict[int, str] = {}
        self._stopping = False
        self._tasks = Tasks()

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
        return self._observer.number(self.facts.served)

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
        self._observer.note_publication(number, self._navigator.process.find())
        self.wake()

    def wake(self) -> None:
        """Look at once."""
        self._unsettled.set()
        self._changed.set()

    @contextmanager
    def navigator_asks(self) -> Iterator[NavigatorRequest]:
        """While one of Navigator's own hooks or CGIs is answered, it need not be made to look."""
        asking = NavigatorRequest()
        self._asking += 1
        try:
            yield asking
        finally:
            self._asking -= 1
            if asking.looks:
                self._let_go = time.monotonic()
            self.wake()

    async def wait(self, generation: int, seconds: float) -> LoadVerdict:
        """How it ended for a generation: loaded, failed, superseded or down; pending after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (verdict := self._verdict(generation)) is None:
                    await happens(self._news, RECHECK_SECONDS / 4)
                return verdict
        return "pending"

    def release_waiters(self) -> None:
        """Whoever waits is told `pending` now: the daemon stops before it is known how it ends."""
        self._stopping = True
        self._tell_news()

    def _verdict(self, generation: int) -> LoadVerdict | None:
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
        is_down = state.phase is Phase.WAITING and time.monotonic() - state.since >= _DOWN_SECONDS
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
            await end(watching)
            await self._tasks.end()

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
        if self._awaits_marker:
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
            and now - published.at < _WATCH_BEGINS_SECONDS
        ):
            return _UNTIL_THEN_SECONDS
        return max(
            _UNTIL_THEN_SECONDS, min(RECHECK_SECONDS, lifecycle.deadline(self.state, now, self._limit))
        )

    @property
    def _awaits_marker(self) -> bool:
        """Whether a living Navigator may touch one; without any, looking now and then finds the next."""
        is_settled = self.state.phase is Phase.LOADED and self.pending is None
        return self.facts.process is not None and not is_settled

    async def _watch(self) -> None:
        """Watch while a marker is waited for: it costs more than all else that an idle daemon does."""
        while True:
            await self._unsettled.wait()
            try:
                async with aclosing(self._navigator.markers.changes(RECHECK_SECONDS)) as changes:
                    async for _ in changes:
                        self._changed.set()
                        if not self._awaits_marker:
                            self._unsettled.clear()
                            break
            except (OSError, RuntimeError) as error:
                logger.warning(
                    "the markers cannot be watched: %s; looking every %g s", error, RECHECK_SECONDS
                )
                await asyncio.sleep(RECHECK_SECONDS)

    # Facts

    async def _observe(self) -> Facts:
        marker = self._observer.marker
        seen = await self._observer.observe(self.state.since)
        if seen.process != self.facts.process:
            self._notice(seen.process)
        self._notice_reload(marker, self._observer.marker)
        current = self._generations.current
        return replace(
            seen,
            asking=self._asking,
            let_go=self._let_go,
            retry=bool(current and current.taken_back) and self._rejections.retry_due(seen.process),
            **self._probe_facts(seen.process, seen.published),
        )

    def _notice(self, process: Process | None) -> None:
        if process is not None and self.facts.process is not None:
            logger.info("Navigator was restarted: %s", process)
        self._tell(NavigatorSeen(process))

    def _notice_reload(self, before: Marker | None, now: Marker | None) -> None:
        """A marker that moves though nothing was published tells of a reload that somebody else asked for."""
        if before is None or now is None or before == now or before.fingerprint != now.fingerprint:
            return
        if self.state.phase is Phase.LOADED and self.pending is None:
            logger.info("Navigator has loaded its configuration again, though nothing was published")
            self._tell(Reloaded())

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

    def _act(self, action: Action, state: LoadState, facts: Facts) -> None:
        assert facts.published is not None  # noqa: S101 - there is nothing to do without
        number = facts.published.generation
        if action is Action.SIGNAL:
            self._signal(state, facts, number)
        elif action is Action.LOOK:
            self._tasks.start(self._look_by_itself())
        elif action is Action.PROBE:
            self._probe(facts.process, number)
        elif action is Action.RECORD:
            self._record(facts, number)
        elif action is Action.RETRY:
            self._ask(Request(trigger="retry"))
        else:
            self._fail(state, number, facts.fallback if action is Action.ROLL_BACK else None)

    def _signal(self, state: LoadState, facts: Facts, number: int) -> None:
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
        probing.task = self._tasks.start(probe())

    def _record(self, facts: Facts, number: int) -> None:
        current = self._generations.current
        if current is None or current.number != number:
            return
        marker = self._observer.marker
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
        seen = self._observer.published_under(facts.process)
        seconds = max(0.0, touched / 1e9 - self._generations.published) if seen and touched else None
        after = "" if seconds is None else f" {seconds * 1000:.0f} ms after its publication"
        logger.info("Navigator has loaded generation %d%s", number, after, extra={"generation": number})
        self._tell(Loaded(number, seconds))

    def _fail(self, state: LoadState, number: int, goes_back: int | None) -> None:
        code = {Phase.PROBING: "probe", Phase.WAITING: "died"}.get(state.phase, "not_loaded")
        message = f"generation {number} is not in force: {state.reason}"
        logger.error("%s", message, extra={"generation": number})
        self._not_loaded[number] = message
        for old in list(self._not_loaded)[:-_MAX_REMEMBERED]:
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


def _health(
    state: LoadState, facts: Facts, current: Manifest | None, now: float, limit: float, served: int | None
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
        if now - state.since < lifecycle.FIRST_PAUSE_SECONDS * 2:
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
