"""The worker: one run at a time, pokes share runs, and nobody gets an outcome from before they asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Busy
from sidecar.model.runs import Outcome, Request
from sidecar.update.run import Run
from sidecar.update.worker import RunLimits, Throttle, Worker

PLAIN = Request("socket")
PUBLIC = Request("cgi", public=True)
BOOT = Request("boot")
TAKES_BACK = Request("rollback", rollback=1, failed=2)


class Script:
    """An executor that notes its runs and, while its gate is shut, does not end them."""

    def __init__(self, *, shut: bool = False) -> None:
        self.runs: list[Run] = []
        self.begun: asyncio.Queue[Run] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.most = self._now = 0
        if not shut:
            self.gate.set()

    async def __call__(self, run: Run) -> Outcome:
        """The outcome carries the run's number for its generation."""
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            self.runs.append(run)
            run.note(generation=len(self.runs))
            self.begun.put_nowait(run)
            await self.gate.wait()
            return run.outcome("unchanged")
        finally:
            self._now -= 1


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Whether the web server has loaded the generation before."""

    def __init__(self, *, open_to_all: bool = True) -> None:
        self.open_to_all = open_to_all

    def __call__(self) -> bool:
        return self.open_to_all


Execute = Callable[[Run], Awaitable[Outcome]]


@asynccontextmanager
async def working(
    execute: Execute,
    *,
    throttle: Throttle | None = None,
    door: Door | None = None,
    waiting: int = 2000,
    public: int = 2000,
    timeout: float = 60,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> AsyncIterator[Worker]:
    """A worker at work. The time limit only turns a test that would hang into one that fails."""
    worker = Worker(
        execute=execute,
        emit=lambda event: None,
        finished=finished,
        throttle=throttle or Throttle(0, 1000, Clock()),
        may_publish=door or Door(),
        limits=RunLimits(waiting, public, timeout),
    )
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(10):
            yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submitted(worker: Worker, *requests: Request) -> list[asyncio.Task[Outcome]]:
    """The requests, each as far as it gets by itself: waiting for its run."""
    tasks = [asyncio.create_task(worker.submit(request)) for request in requests]
    await asyncio.sleep(0)  # the loop runs every task that was made before it comes back here
    return tasks


def numbers(outcomes: Iterable[Outcome]) -> list[int | None]:
    return [outcome.generation for outcome in outcomes]


# Sharing


async def test_simultaneous_pokes_share_one_run() -> None:
    """Five hundred pokes that arrive together cost one run, and all get its outcome."""
    script = Script()
    async with working(script) as worker:
        outcomes = await asyncio.gather(*await submitted(worker, *[PLAIN] * 500))
    assert numbers(outcomes) == [1] * 500
    assert len(script.runs) == 1


async def test_pokes_during_a_run_share_the_next() -> None:
    """Four hundred and ninety-nine that arrive while a run is under way cost one more, begun after them."""
    script = Script(shut=True)
    async with working(script) as worker:
        first = await submitted(worker, PLAIN)
        await script.begun.get()
        others = await submitted(worker, *[PLAIN] * 250)
        others += await submitted(worker, *[PUBLIC] * 249)
        script.gate.set()
        assert numbers(await asyncio.gather(*first, *others)) == [1] + [2] * 499
    assert len(script.runs) == 2


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([PLAIN, PUBLIC])), max_size=20), st.integers(0, 5)
)
def test_every_outcome_is_of_a_run_that_began_later(arrivals: list[tuple[int, Request]], turns: int) -> None:
    """Whenever pokes arrive and however long runs take: what a poke gets was begun after it came."""

    async def scenario() -> None:
        begun = 0

        async def execute(run: Run) -> Outcome:
            nonlocal begun
            begun += 1
            run.note(generation=begun)
            for _ in range(turns):
                await asyncio.sleep(0)
            return run.outcome("unchanged")

        async def poke(after: int, request: Request) -> None:
            for _ in range(after):
                await asyncio.sleep(0)
            before = begun
            outcome = await worker.submit(request)
            assert outcome.generation is not None
            assert outcome.generation > before

        async with working(execute) as worker:
            await asyncio.gather(*(poke(after, request) for after, request in arrivals))
        assert begun <= len(arrivals)

    asyncio.run(scenario())


# Order

EXCLUSIVE = [
    Request("http", force=True),
    Request("http", if_match="tag"),
    Request("http", preview=True),
    Request("http", rollback=1),
]


async def test_requests_of_their_own_run_alone_and_in_order() -> None:
    """A condition, a preview or force is for one request: no sharing, no overlap, first come first served."""
    script = Script()
    requests = [EXCLUSIVE[0], PLAIN, PLAIN, *EXCLUSIVE, EXCLUSIVE[0], PLAIN]
    async with working(script) as worker:
        outcomes = await asyncio.gather(*await submitted(worker, *requests))
    assert numbers(outcomes) == [1, 2, 2, 3, 4, 5, 6, 7, 8]
    assert [run.request for run in script.runs] == [EXCLUSIVE[0], PLAIN, *EXCLUSIVE, EXCLUSIVE[0], PLAIN]
    assert script.most == 1


@pytest.mark.parametrize("request_", EXCLUSIVE, ids=["force", "if_match", "preview", "rollback"])
def test_what_is_not_plain(request_: Request) -> None:
    """Whoever asks for something of their own gets a run of their own."""
    assert not request_.plain
    assert PLAIN.plain
    assert PUBLIC.plain


def expecting(digit: str, trigger: str = "cgi") -> Request:
    """A signed poke that names the index it expects."""
    return Request(trigger, who=f"key {digit}", expect=digit * 64)


async def test_what_expects_the_same_shares_a_run() -> None:
    """Pokes that name the same digest share a run, those that name another or none get their own."""
    script = Script()
    requests = [expecting("a"), expecting("a"), expecting("b"), PLAIN, PLAIN, expecting("b")]
    async with working(script) as worker:
        outcomes = await asyncio.gather(*await submitted(worker, *requests))
    assert numbers(outcomes) == [1, 1, 2, 3, 3, 4]
    assert [run.request.expect for run in script.runs] == ["a" * 64, "b" * 64, None, "b" * 64]


async def test_a_shared_run_means_what_its_strongest_member_means() -> None:
    """A person who joins is named and ends a pin; a run is the public's only if all of it is."""
    script = Script(shut=True)
    person = Request("http", who="ann")
    timer, stranger = Request("timer", who="the poll"), Request("cgi", who="1.2.3.4", public=True)
    async with working(script) as worker:
        first = await submitted(worker, timer)
        await script.begun.get()
        tasks = await submitted(worker, timer, stranger, person, timer)
        script.gate.set()
        await asyncio.gather(*first, *tasks)
        shared = script.runs[1].request
        assert (shared.who, shared.person, shared.public) == ("ann", True, False)
        await asyncio.gather(*await submitted(worker, stranger, stranger))
        assert (script.runs[2].request.person, script.runs[2].request.public) == (False, True)


async def test_a_boot_joins_the_run_under_way() -> None:
    """Everybody waits for a boot: what is being fetched already is new enough for it."""
    script = Script(shut=True)
    async with working(script) as worker:
        first = await submitted(worker, Request("start"))
        await script.begun.get()
        joined = await submitted(worker, BOOT)
        later = await submitted(worker, PLAIN)
        script.gate.set()
        assert numbers(await asyncio.gather(*first, *joined, *later)) == [1, 1, 2]


@pytest.mark.parametrize("running", EXCLUSIVE, ids=["force", "if_match", "preview", "rollback"])
async def test_a_boot_joins_no_run_of_its_own(running: Request) -> None:
    """A preview puts nothing in place, and what has a condition is no answer for a boot: it gets the next."""
    script = Script(shut=True)
    async with working(script) as worker:
        first = await submitted(worker, running)
        await script.begun.get()
        booting = await submitted(worker, BOOT)
        script.gate.set()
        assert numbers(await asyncio.gather(*first, *booting)) == [1, 2]


async def test_what_takes_back_goes_first() -> None:
    """A generation that is not loaded is taken back before anything that waits is run."""
    script = Script(shut=True)
    async with working(script) as worker:
        first = await submitted(worker, PLAIN)
        await script.begun.get()
        tasks = await submitted(worker, EXCLUSIVE[0], PLAIN, TAKES_BACK)
        script.gate.set()
        assert numbers(await asyncio.gather(*first, *tasks)) == [1, 3, 4, 2]


# Throttle


def test_throttle() -> None:
    """A burst at once, then one in an interval; after a quiet time a burst again, and no more."""
    clock = Clock()
    throttle = Throttle(2, 3, clock)
    for _ in range(2):
        for _ in range(3):
            assert throttle.delay() == 0
            throttle.take()
        assert throttle.delay() == 2
        clock.now += 1.5
        assert throttle.delay() == 0.5
        clock.now += 0.5
        assert throttle.delay() == 0
        throttle.take()
        assert throttle.delay() == 2
        clock.now += 1000


def throttled() -> tuple[Clock, Throttle]:
    """A throttle that lets one run through while its clock stands; the worker looks again soon."""
    clock = Clock()
    return clock, Throttle(0.01, 1, clock)


async def test_public_runs_are_put_off_and_not_dropped() -> None:
    """While the throttle says so a public poke waits, others go ahead; afterwards it is run."""
    clock, throttle = throttled()
    script = Script()
    async with working(script, throttle=throttle) as worker:
        assert (await worker.submit(PUBLIC)).generation == 1
        put_off = await submitted(worker, PUBLIC, PUBLIC)
        assert (await worker.submit(EXCLUSIVE[0])).generation == 2
        assert (await worker.submit(EXCLUSIVE[2])).generation == 3
        assert not any(task.done() for task in put_off)
        clock.now += 1
        assert numbers(await asyncio.gather(*put_off)) == [4, 4]


async def test_a_trusted_poke_is_not_delayed() -> None:
    """It joins the public ones that wait, and all of them are run at once."""
    _, throttle = throttled()
    script = Script()
    async with working(script, throttle=throttle) as worker:
        await worker.submit(PUBLIC)
        put_off = await submitted(worker, PUBLIC)
        assert (await worker.submit(PLAIN)).generation == 2
        assert numbers(await asyncio.gather(*put_off)) == [2]
    assert script.runs[-1].request == PLAIN


async def test_trusted_runs_do_not_use_up_the_throttle() -> None:
    """However many there were, a public poke is run at once."""
    _, throttle = throttled()
    async with working(Script(), throttle=throttle) as worker:
        for _ in range(5):
            await worker.submit(PLAIN)
        assert (await worker.submit(PUBLIC)).generation == 6


# Waiting for the web server


async def test_nothing_is_published_while_a_reload_is_pending() -> None:
    """Until the generation before is loaded only previews are run; then the others are, in order."""
    door, script = Door(open_to_all=False), Script()
    async with working(script, door=door) as worker:
        waiting = await submitted(worker, PLAIN, EXCLUSIVE[0], PUBLIC)
        assert (await worker.submit(EXCLUSIVE[2])).generation == 1
        assert not any(task.done() for task in waiting)
        door.open_to_all = True
        worker.wake()
        assert numbers(await asyncio.gather(*waiting)) == [2, 3, 4]


@pytest.mark.parametrize("request_", [TAKES_BACK, BOOT, Request("resume")], ids=["back", "boot", "resume"])
async def test_what_ends_the_waiting_need_not_wait(request_: Request) -> None:
    """What takes back, and a hook that Navigator itself waits for, are run while all others are held."""
    door, script = Door(open_to_all=False), Script()
    async with working(script, door=door) as worker:
        waiting = await submitted(worker, EXCLUSIVE[0])
        assert (await worker.submit(request_)).generation == 1
        assert not waiting[0].done()
    with pytest.raises(Busy):
        await waiting[0]


async def test_a_hook_takes_along_what_it_shares_a_run_with() -> None:
    """Pokes that are held run at once when a boot joins them: it must not wait behind them."""
    door, script = Door(open_to_all=False), Script()
    async with working(script, door=door) as worker:
        waiting = await submitted(worker, PLAIN)
        assert (await worker.submit(BOOT)).generation == 1
        assert numbers(await asyncio.gather(*waiting)) == [1]


# Limits


async def test_too_many_are_refused() -> None:
    """Beyond the limit a poke is told to come back; whoever waits is not concerned."""
    script = Script(shut=True)
    async with working(script, waiting=3) as worker:
        tasks = await submitted(worker, PLAIN, PLAIN, EXCLUSIVE[0])
        with pytest.raises(Busy) as caught:
            await worker.submit(PLAIN)
        assert caught.value.status == 503
        script.gate.set()
        assert numbers(await asyncio.gather(*tasks)) == [1, 1, 2]
        assert (await worker.submit(PLAIN)).generation == 3
        assert worker.waiting == 0


@pytest.mark.parametrize("request_", [TAKES_BACK, BOOT, Request("resume")], ids=["back", "boot", "resume"])
async def test_what_cannot_come_back_passes_the_limit(request_: Request) -> None:
    """However many wait: what takes back, and Navigator's hooks, always find room."""
    script = Script(shut=True)
    async with working(script, waiting=2, public=1) as worker:
        tasks = await submitted(worker, PLAIN, PUBLIC)
        with pytest.raises(Busy):
            await worker.submit(PLAIN)
        tasks += await submitted(worker, request_)
        script.gate.set()
        assert all(outcome.good for outcome in await asyncio.gather(*tasks))


async def test_strangers_leave_room_for_others() -> None:
    """Only so many of the public's requests may wait; whoever is trusted is still taken."""
    script = Script(shut=True)
    async with working(script, waiting=10, public=2) as worker:
        tasks = await submitted(worker, PUBLIC, PUBLIC)
        with pytest.raises(Busy) as caught:
            await worker.submit(PUBLIC)
        assert caught.value.status == 503
        tasks += await submitted(worker, *[PLAIN] * 8)
        script.gate.set()
        assert all(outcome.good for outcome in await asyncio.gather(*tasks))
        assert (await worker.submit(PUBLIC)).good


async def test_the_limits_count_who_waits_now() -> None:
    """A caller that goes away makes room for the next."""
    script = Script(shut=True)
    async with working(script, public=1) as worker:
        (gone,) = await submitted(worker, PUBLIC)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        tasks = await submitted(worker, PUBLIC)
        script.gate.set()
        assert all(outcome.good for outcome in await asyncio.gather(*tasks))


async def test_a_run_that_takes_too_long_is_given_up() -> None:
    """Its callers get a failed outcome that names the limit, and the next run is not concerned."""
    script = Script(shut=True)
    async with working(script, timeout=0.01) as worker:
        outcome = await worker.submit(PLAIN)
        assert (outcome.state, outcome.generation) == ("failed", 1)
        assert outcome.error is not None
        assert outcome.error.code == "timeout"
        assert "0.01" in outcome.error.message
        script.gate.set()
        assert (await worker.submit(PLAIN)).good
        assert worker.running is None


# Failures


def failing(error: BaseException) -> tuple[Script, Execute]:
    """An executor whose first run ends with an error."""
    script = Script()

    async def execute(run: Run) -> Outcome:
        outcome = await script(run)
        if len(script.runs) == 1:
            raise error
        return outcome

    return script, execute


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        OSError(28, "No space left"),
        TimeoutError("of its own"),
        asyncio.CancelledError(),
    ],
    ids=["bug", "disk", "a time limit of its own", "something it waited for was cancelled"],
)
async def test_a_crash_is_an_outcome_and_the_loop_lives_on(error: BaseException) -> None:
    """Whatever the executor ends with, callers get a failed outcome without a traceback, and work goes on."""
    _, execute = failing(error)
    async with working(execute) as worker:
        (task,) = await submitted(worker, PLAIN)
        outcome = await task
        assert outcome.state == "failed"
        assert outcome.error is not None
        assert outcome.error.code == "internal"
        assert "secret" not in outcome.error.message
        assert (await worker.submit(PLAIN)).good


async def test_every_run_is_reported() -> None:
    """Good or bad, each outcome is told once, before its callers get it."""
    told: list[Outcome] = []
    _, execute = failing(ValueError())
    async with working(execute, finished=told.append) as worker:
        for _ in range(2):
            outcome = await worker.submit(PLAIN)
            assert told[-1] is outcome
    assert [outcome.state for outcome in told] == ["failed", "unchanged"]


# Leaving


async def test_a_caller_that_leaves_does_not_take_the_run_along() -> None:
    """Whether it waits for a run under way or one to come: the others get theirs."""
    script = Script(shut=True)
    async with working(script) as worker:
        running = await submitted(worker, PLAIN, PLAIN)
        await script.begun.get()
        queued = await submitted(worker, PLAIN, PLAIN)
        for task in (running[0], queued[0]):
            task.cancel()
        await asyncio.gather(running[0], queued[0], return_exceptions=True)
        assert worker.waiting == 2
        script.gate.set()
        assert numbers(await asyncio.gather(running[1], queued[1])) == [1, 2]


async def test_a_run_goes_on_when_all_callers_left() -> None:
    """A poke is a request to do the work, not only to hear of it."""
    told: asyncio.Queue[Outcome] = asyncio.Queue()
    script = Script(shut=True)
    async with working(script, finished=told.put_nowait) as worker:
        (task,) = await submitted(worker, PLAIN)
        await script.begun.get()
        task.cancel()
        script.gate.set()
        assert (await told.get()).good
        assert task.cancelled()


async def test_closing_lets_the_run_finish() -> None:
    """The run under way ends well; whoever waits for another is told that the sidecar stops."""
    script = Script(shut=True)
    async with working(script) as worker:
        (running,) = await submitted(worker, PLAIN)
        await script.begun.get()
        queued = await submitted(worker, PLAIN, EXCLUSIVE[0])
        closing = asyncio.create_task(worker.close(10))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="stopping"):
            await worker.submit(PLAIN)
        script.gate.set()
        await closing
        assert (await running).good
        for task in queued:
            with pytest.raises(Busy, match="stopping"):
                await task
    assert len(script.runs) == 1


async def test_closing_has_a_time_limit() -> None:
    """A run that does not end is left behind, and is told so when the loop is cancelled."""
    script = Script(shut=True)
    async with working(script) as worker:
        (task,) = await submitted(worker, PLAIN)
        await script.begun.get()
        await worker.close(0.01)
        assert not task.done()
    with pytest.raises(Busy, match="stopping"):
        await task


async def test_a_cancelled_loop_leaves_nobody_waiting() -> None:
    """Neither the callers of the run under way nor those in the queue."""
    script = Script(shut=True)
    async with working(script) as worker:
        tasks = await submitted(worker, PLAIN)
        await script.begun.get()
        tasks += await submitted(worker, PLAIN, EXCLUSIVE[0])
    for task in tasks:
        with pytest.raises(Busy, match="stopping"):
            await task


async def test_what_runs_and_waits_can_be_seen() -> None:
    """For the status: the run under way, and how many wait."""
    script = Script(shut=True)
    async with working(script) as worker:
        tasks = await submitted(worker, PLAIN, PLAIN)
        run = await script.begun.get()
        assert worker.running is run
        assert worker.waiting == 2
        script.gate.set()
        await asyncio.gather(*tasks)
        assert worker.waiting == 0
        assert worker.alive


async def test_an_idle_worker_runs_nothing() -> None:
    """Before the first poke nothing is under way and nobody waits."""
    async with working(Script()) as worker:
        await asyncio.sleep(0)
        assert worker.running is None
        assert worker.waiting == 0
