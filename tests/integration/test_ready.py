"""When the ready work runs: once at a time on a machine, for the newest generation, told of as it happens."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.config.settings import Duration, ReadySettings
from sidecar.demo.sample import add_user
from sidecar.errors import Busy, SidecarError
from sidecar.model.events import Loaded
from sidecar.model.runs import Request
from sidecar.model.work import Work
from sidecar.ready.facts import GenerationData
from sidecar.ready.lock import WorkLock
from sidecar.ready.report import StepReport
from sidecar.ready.runner import ReadyWork
from tests.conftest import Bucket
from tests.support.cgi import serving, sidecar
from tests.support.events import read_event, write_event
from tests.support.machine import Machine, until

QUIET = ReadySettings(retry=Duration(0))


def facts_of(generation: int) -> GenerationData:
    """Facts that only have a number."""
    from sidecar.model.index import Index

    return GenerationData(generation, f"content {generation}", Index((), (), (), ()), {}, (), (), ())


# What a renderer does: it writes the pages.
RENDERS = (
    "import pathlib\n"
    "for line in pathlib.Path('tmp/prerender.txt').read_text().splitlines():\n"
    "    file = pathlib.Path('public') / line.split(chr(9))[1]\n"
    "    file.parent.mkdir(parents=True, exist_ok=True)\n"
    "    file.write_text('page')\n"
)


@dataclass
class Bench:
    """A runner with two steps: the first one waits for `go`, item by item, where a test wants that."""

    lock: Path
    settings: ReadySettings = QUIET
    generation: int = 1
    go: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    ended: list[Work] = field(default_factory=list)
    failing: bool = False
    work_lock: WorkLock | None = None

    def __post_init__(self) -> None:
        async def facts() -> GenerationData:
            return facts_of(self.generation)

        steps = {"databases": self._first, "prerender": self._last}
        lock = self.work_lock or WorkLock(self.lock)
        self.work = ReadyWork(self.settings, lock, facts, steps, lambda event: None, self.ended.append)

    async def _first(self, facts: GenerationData, report: StepReport, *, everything: bool) -> str:
        self.began.append(facts.generation)
        report.expect(3)
        for item in ("one", "two", "three"):
            report.begin(item)
            await self.go.wait()
            report.advance()
        if self.failing:
            raise SidecarError("it went wrong", "mend it")
        return "three done"

    async def _last(self, facts: GenerationData, report: StepReport, *, everything: bool) -> str:
        self.second.append(facts.generation)
        return "done"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ReadyWork]:
        task = asyncio.create_task(self.work.run())
        try:
            yield self.work
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_requests_during_the_work_share_one_more_run(tmp_path: Path) -> None:
    """However often it is asked for meanwhile, the work runs once more, for the newest generation."""
    bench = Bench(tmp_path / "lock")
    async with bench.running() as work, asyncio.timeout(20):
        first = work.request("loaded", "one")
        await until(lambda: bench.began == [1])
        bench.generation = 2
        work.request("loaded", "two")
        bench.generation = 3
        last = work.request("loaded", "three")
        assert work.current is not None
        assert work.current.steps[0].current == "one"
        bench.go.set()
        done, newest = await first, await last
        assert done is not None
        assert newest is not None
        assert (done.generation, done.state) == (1, "done")
        assert newest.generation == 3
        assert bench.began == [1, 3]


async def test_a_failing_step_does_not_stop_the_next(tmp_path: Path) -> None:
    """The failure is told of with its reason, and tried again by itself."""
    bench = Bench(tmp_path / "lock", ReadySettings(retry=Duration(0.05)), failing=True)
    bench.go.set()
    async with bench.running() as work, asyncio.timeout(20):
        done = await work.request("loaded", "one")
        assert done is not None
        assert done.state == "failed"
        assert done.steps[0].error is not None
        assert done.steps[0].error.message == "it went wrong"
        assert done.steps[1].state == "done"
        await until(lambda: len(bench.ended) >= 2)
        bench.failing = False
        await until(lambda: bench.ended[-1].state == "done")


async def test_a_step_has_a_time_limit(tmp_path: Path) -> None:
    """A step that hangs is ended at its limit; the next one runs."""
    bench = Bench(tmp_path / "lock", ReadySettings(retry=Duration(0), step_timeout=Duration(0.2)))
    async with bench.running() as work, asyncio.timeout(20):
        done = await work.request("loaded", "one")
        assert done is not None
        assert done.steps[0].error is not None
        assert done.steps[0].error.code == "timeout"
        assert done.steps[1].state == "done"


async def test_requests_for_the_same_generation_end_nothing(tmp_path: Path) -> None:
    """Whoever asks for what is under way gets one more run; that one goes to its end."""
    bench = Bench(tmp_path / "lock", ReadySettings(retry=Duration(0)))
    async with bench.running() as work, asyncio.timeout(20):
        first = work.request("loaded", "one")
        await until(lambda: bench.began == [1])
        again = [
            work.request("resume", "waking"),
            work.request("http", "somebody", everything=True),
            work.request("loaded", "one"),
        ]
        bench.go.set()
        ended = [await first, *[await one for one in again]]
        assert [done.state for done in ended if done] == ["done"] * 4
        assert bench.began == [1, 1]


async def test_one_runner_on_a_machine(tmp_path: Path) -> None:
    """Of several runners with the same lock one works at a time. Each begins after it was asked: what was
    stored a moment ago, while another one was at it already, must not be missed.
    """
    benches = [Bench(tmp_path / "lock") for _ in range(3)]
    async with AsyncExitStack() as stack, asyncio.timeout(20):
        futures = []
        for bench in benches:
            work = await stack.enter_async_context(bench.running())
            futures.append(work.request("loaded", "at once"))
        await until(lambda: sum(len(bench.began) for bench in benches) == 1)
        await until(lambda: sum(bench.work.waits for bench in benches) == 2)
        first = next(bench for bench in benches if bench.began)
        others = [bench for bench in benches if bench is not first]
        first.go.set()
        await until(lambda: first.second)
        await until(lambda: any(bench.began for bench in others))
        assert sum(len(bench.began) for bench in others) == 1
        for bench in others:
            bench.go.set()
        ended = await asyncio.gather(*futures)
        assert [done.state for done in ended if done] == ["done"] * 3
        assert [bench.second for bench in benches] == [[1]] * 3


async def test_a_lock_is_not_waited_for_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When another process keeps the lock for too long whoever asked is told so, and it is tried again."""
    lock = WorkLock(tmp_path / "lock", timeout=0.05)
    bench = Bench(tmp_path / "lock", ReadySettings(retry=Duration(0.01)), work_lock=lock)
    bench.go.set()
    async with WorkLock(tmp_path / "lock").held(), bench.running() as work, asyncio.timeout(20):
        with pytest.raises(Busy, match="another process does the ready work, and has held"):
            await work.request("socket", "somebody")
    assert "another process does the ready work" in caplog.text
    async with bench.running(), asyncio.timeout(20):
        await until(lambda: bench.ended and bench.ended[-1].state == "done")


async def test_the_lock_of_a_killed_runner_is_free(tmp_path: Path) -> None:
    """The lock is the kernel's: the file of a dead process holds nobody up."""
    script = (
        "import fcntl, sys, time\n"
        "f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(600)\n"
    )
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, tmp_path / "lock", stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    bench = Bench(tmp_path / "lock")
    bench.go.set()
    async with bench.running() as work, asyncio.timeout(20):
        future = work.request("loaded", "one")
        await until(lambda: work.waits)
        assert bench.began == []
        holder.send_signal(signal.SIGKILL)
        await holder.communicate()
        done = await future
        assert done is not None
        assert done.state == "done"


def events_of(machine: Machine, bucket: Bucket, folder: Path) -> list[str]:
    """Store a database for each tenant that the machine will serve; their stems."""
    bucket.put("db/index.sqlite3", machine.put_index().read_bytes())
    from sidecar.generate.cache import ResultCache
    from sidecar.generate.ownership import owners, programmes, tenants
    from sidecar.inputs.index import read_index

    memo = ResultCache()
    index = read_index(machine.store_index)
    names = [
        tenant.database
        for programme in programmes(index, owners(index, memo), memo)
        for tenant in tenants(programme)
    ]
    for name in names:
        bucket.put(f"db/{name}.sqlite3", write_event(folder / "event", name))
    return names


async def test_the_work_follows_a_load_and_is_told_of(tmp_path: Path, bucket: Bucket) -> None:
    """A new generation starts the work; /status, /events, /generations and the metrics tell of it."""
    machine = Machine(tmp_path, {**bucket.settings, "ready": {"at_start": False}})
    machine.extra["databases"] = {"prepare_timeout": 0.001}
    names = events_of(machine, bucket, tmp_path)
    async with machine.daemon() as daemon, machine.client() as client:
        await daemon.worker.submit(Request(trigger="socket"))
        kinds: list[Any] = []
        async with client.get("/events") as events:
            # Nobody reloads here: that the set is loaded is said by hand.
            daemon.reconciler._tell(Loaded(1, 0.1))
            async for raw in events.content:
                line = raw.decode().strip()
                if line.startswith("data: ") and '"steps"' in line:
                    kinds.append(json.loads(line[6:]))
                    if kinds[-1]["state"] != "running":
                        break
        assert kinds[-1]["state"] == "done"
        assert any(step.get("total") == len(names) for kind in kinds for step in kind["steps"])
        async with client.get("/status", headers={"Accept": "application/json"}) as answer:
            status = await answer.json()
        assert status["generation"]["ready"] == 1
        assert status["ready"]["state"] == "done"
        assert [step["name"] for step in status["ready"]["steps"]] == [
            "databases", "migrate", "orphans", "extra", "prerender",
        ]  # fmt: skip
        await until(lambda: (entry := daemon.history.generation(1)) is not None and entry.ready is not None)
        async with client.get("/generations/1", headers={"Accept": "application/json"}) as answer:
            assert (await answer.json())["ready"]["state"] == "done"
        async with client.get("/metrics") as answer:
            text = await answer.text()
        assert 'sidecar_ready_seconds_count{outcome="done",step="databases"} 1.0' in text
        assert "sidecar_ready_running 0.0" in text
        assert 'sidecar_generation{state="ready"} 1.0' in text


async def test_an_update_does_not_wait_for_the_work(tmp_path: Path, bucket: Bucket) -> None:
    """While the work runs an update publishes, and the work runs once more for the newer generation."""
    script = f"import time\n{RENDERS}while not pathlib.Path('go').exists(): time.sleep(0.01)"
    machine = Machine(
        tmp_path,
        {
            **bucket.settings,
            "ready": {"at_start": False},
            "prerender": {"renderer": "command", "command": [sys.executable, "-c", script]},
        },
    )
    events_of(machine, bucket, tmp_path)
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request(trigger="socket"))
        daemon.reconciler._tell(Loaded(1, 0.1))
        work = daemon.ready.work
        await until(lambda: work.current is not None and work.current.steps[-1].state == "running")
        add_user(machine.store_index, "someone", "someone:plain")
        bucket.put("db/index.sqlite3", machine.store_index.read_bytes())
        outcome = await daemon.worker.submit(Request(trigger="socket"))
        assert outcome.state == "published"
        assert work.current is not None
        daemon.reconciler._tell(Loaded(2, 0.1))
        (machine.application / "go").touch()
        await until(lambda: daemon.generations.ready() == 2)


async def test_killed_at_any_moment_all_is_there_in_the_end(tmp_path: Path, bucket: Bucket) -> None:
    """After kill -9 in the middle of the work no database is unreadable, and the next work completes it."""
    machine = Machine(tmp_path, {**bucket.settings, "databases": {"parallel": 2}})
    names = events_of(machine, bucket, tmp_path)
    assert (await sidecar(machine, "update", "--once")).code == 0
    for path in (machine.application / "db").glob("20*.sqlite3"):
        path.unlink()

    def has(count: int) -> bool:
        return len(list((machine.application / "db").glob("20*.sqlite3"))) >= count

    for stop_at in (1, 7, 19):
        async with serving(machine) as daemon:
            await until(partial(has, stop_at))
            daemon.process.kill()
            await daemon.process.wait()
        for path in (machine.application / "db").glob("20*.sqlite3"):
            assert read_event(path) == path.stem
    async with serving(machine):
        done = await sidecar(machine, "ready", "--json")
        assert done.code == 0, done.err + done.out
        assert msgspec.json.decode(done.out, type=Work).state == "done"
    assert [read_event(machine.application / "db" / f"{name}.sqlite3") for name in names] == names


async def test_the_commands_work_with_and_without_a_daemon(tmp_path: Path, bucket: Bucket) -> None:
    """`sidecar ready` and `sidecar databases` ask the daemon where one runs, and else do it themselves."""
    machine = Machine(tmp_path, {**bucket.settings, "databases": {"owns": "all"}})
    names = events_of(machine, bucket, tmp_path)
    early = await sidecar(machine, "ready")
    assert early.code == 1
    assert "no generation yet" in early.err
    assert (await sidecar(machine, "update", "--once")).code == 0
    alone = await sidecar(machine, "ready")
    assert alone.code == 0, alone.err
    assert "databases: done" in alone.out
    table = await sidecar(machine, "databases", "status")
    assert table.out == f"{len(names)} databases: {len(names)} to keep.\n"
    everything = await sidecar(machine, "databases", "status", "--all")
    assert everything.out.count(" keep ") == len(names)
    assert (machine.application / "db" / f"{names[0]}.sqlite3").exists()

    write_event(machine.application / "db" / f"{names[0]}.sqlite3", "changed here")
    async with serving(machine):
        rows = (await sidecar(machine, "databases", "status", "--json")).json
        assert next(row for row in rows if row["name"] == names[0])["action"] == "push"
        told = (await sidecar(machine, "databases", "status")).out.splitlines()
        assert [line.split()[0] for line in told[:-1]] == ["NAME", names[0]]
        assert told[-1] == f"{len(names)} databases: {len(names) - 1} to keep, 1 to push."
        unsaid = await sidecar(machine, "databases", "push", names[0])
        assert unsaid.code == 1
        assert names[0] in unsaid.err
        assert "--yes" in unsaid.err
        pushed = await sidecar(machine, "databases", "push", stdin=b"y\n")
        assert pushed.code == 0, pushed.err
        assert f"{names[0]}: stored" in pushed.out
        assert "Nothing has changed" in (await sidecar(machine, "databases", "push", "--yes")).out
        live = await sidecar(machine, "ready")
        assert live.code == 0, live.err
    refused = await sidecar(machine, "databases", "push", "1999-nowhere", "--yes")
    assert refused.code == 1
    assert "1999-nowhere" in refused.err
    assert (await sidecar(machine, "databases", "push", "--overwrite")).code == 1


@pytest.mark.parametrize("path", ["/ready", "/databases/push"])
async def test_strangers_may_not_start_it(machine: Machine, path: str) -> None:
    """On TCP the endpoints need an administrator."""
    import aiohttp

    async with machine.daemon() as daemon, aiohttp.ClientSession() as session:
        async with session.post(f"{daemon.server.url}{path}") as answer:
            assert answer.status in (401, 403)
        async with session.get(f"{daemon.server.url}/databases") as answer:
            assert answer.status in (401, 403)


async def test_two_daemons_and_a_command_do_the_work_in_turn(tmp_path: Path) -> None:
    """Two daemons of one application, with states of their own, and a command: never two renderers at once,
    and each daemon's own is run.
    """
    script = (
        "import time\n"
        "open('calls', 'a').write('<')\n"
        "time.sleep(1)\n"  # long enough for all three to ask
        f"{RENDERS}"
        "open('calls', 'a').write('>')\n"
    )
    prerender = {"renderer": "command", "command": [sys.executable, "-c", script]}
    extra = {"prerender": prerender, "databases": {"fetch": False}, "ready": {"at_start": False}}
    first = Machine(tmp_path, extra)
    first.put_index()
    shared = {
        "store": f"file://{tmp_path}/store",
        "paths": {"application": str(first.application)},
        "ready": {"at_start": False, "lock": str(tmp_path / "ready.lock")},
    }
    second = Machine(tmp_path / "second", {**extra, **shared})
    for machine in (first, second):
        assert (await sidecar(machine, "update", "--once")).code == 0
    async with serving(first) as one, serving(second) as other:
        assert one.process.pid != other.process.pid
        done = await asyncio.gather(
            sidecar(first, "ready", "--everything", "--json"),
            sidecar(second, "ready", "--everything", "--json"),
            sidecar(first, "ready", "--everything", "--json"),
        )
    assert [one.code for one in done] == [0, 0, 0], done
    calls = (first.application / "calls").read_text()
    assert calls in ("<>" * 2, "<>" * 3)
    assert [one.json["state"] for one in done] == ["done"] * 3
