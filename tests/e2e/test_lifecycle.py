"""From power on to the set that is served, with the settings as shipped: what a visitor sees and is told.

Every case boots the machine of `tests.support.boot` with `fly/start.sh`, `fly/sidecar.yml` and the profile
for Fly, or runs the daemon alone where Navigator comes and goes by itself. A setting that a case makes
shorter than shipped is named below, with the reason. `pytest -s` prints a table: seconds of maintenance page,
what is served at the end, what is said. No test judges a duration; what takes longer than the bound does not
come.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.conftest import Bucket
from tests.support.boot import USER, Booted, Machine, holds
from tests.support.cgi import forwarded
from tests.support.navigator import NavigatorProcess
from tests.support.proxy import Proxy, hang, held

# How long a load may take, where a case is about that running out; shipped are 35 s, twice that to go back.
SHORT = {"SIDECAR_NAVIGATOR_RELOAD_TIMEOUT": "1500ms"}
# The same for one whole update; shipped are 60 s.
LIMITED = {"SIDECAR_UPDATE_TIMEOUT": "2s"}
HOOK_FAILED = re.compile(r"hook.*(failed|error)", re.IGNORECASE)


@dataclass
class Proof:
    """A machine that once booted with the password `old`, or never, and the table's row of the case."""

    machine: Machine
    request: pytest.FixtureRequest
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    async def ends(
        self, booted: Booted, serves: str, sync: str, health: str, seconds: float | None = None
    ) -> dict[str, Any]:
        """The status, once it says this; then the user gets in with the one password and with no other."""
        status = await booted.status(
            lambda found: (found["sync"]["state"], found["health"]["state"]) == (sync, health)
        )
        for password in ("old", "new", "newer"):
            assert await booted.lets_in(password) == (password == serves), f"{password}, not {serves}"
        shown = booted.visitor.maintenance if seconds is None else seconds
        said = f"{sync}: {status['sync']['reason']}; {health}: {status['health']['reason']}"
        case = self.request.node.name.removeprefix("test_")
        self.rows.append((case, f"{shown:.2f}", serves, said))
        self.request.node.user_properties.append(("maintenance_seconds", f"{shown:.2f}"))
        return status

    def empty(self) -> Machine:
        """The same machine with an empty volume."""
        shutil.rmtree(self.machine.data)
        self.machine.data.mkdir()
        return self.machine


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, list[Any]]]:
    """A machine that booted once, and the table."""
    machine, rows = Machine(tmp_path_factory.mktemp("fly")), list[Any]()
    machine.build()
    machine.put("old")

    async def first() -> None:
        async with machine.boot() as booted:
            await booted.status(lambda found: found["health"]["state"] == "healthy")

    with asyncio.Runner() as runner:
        runner.run(first())
    # What was published lies at the same place in every case: it names its folders.
    shutil.copytree(machine.data, machine.folder / "volume")
    yield machine, rows
    if rows:
        print("\n\n| case | seconds of maintenance page | served | said |\n| --- | --- | --- | --- |")
        for row in rows:
            print(f"| {' | '.join(row)} |")


@pytest.fixture
def proof(built: tuple[Machine, list[Any]], request: pytest.FixtureRequest) -> Proof:
    """The machine as it was after its first boot."""
    machine, rows = built
    shutil.rmtree(machine.data)
    shutil.copytree(machine.folder / "volume", machine.data)
    (machine.folder / "clock").unlink(missing_ok=True)
    machine.reset_profile()
    machine.put("old")
    return Proof(machine, request, rows)


async def by_poke(booted: Booted) -> None:
    """An operator's script."""
    await booted.poke()


async def by_poll(booted: Booted) -> None:
    """Nobody says anything."""


async def by_webhook(booted: Booted) -> None:
    """The store says it."""
    await booted.webhook()


async def by_command(booted: Booted) -> None:
    """Somebody on the machine."""
    await booted.command("update")


Way = Callable[[Booted], Awaitable[None]]
WAYS = pytest.mark.parametrize("way", [by_poke, by_poll, by_webhook, by_command])


def polls(way: Way) -> dict[str, str]:
    """Shipped are 10 minutes between two looks; nobody else may be the one that brings the index."""
    return {"SIDECAR_UPDATE_POLL": "1s"} if way is by_poll else {}


# Booting


async def test_boot_with_a_mistyped_variable(proof: Proof) -> None:
    """A variable that names no setting keeps nothing from coming up; status and log name it."""
    async with proof.machine.boot(SIDECAR_TRIGER_SECRET="mistyped") as booted:
        await booted.up()
        status = await proof.ends(booted, "old", "synced", "healthy")
        assert any("SIDECAR_TRIGER_SECRET" in problem for problem in status["problems"])
        assert "SIDECAR_TRIGER_SECRET" in proof.machine.log
        doctor = await booted.command("doctor")
        assert "SIDECAR_TRIGER_SECRET" in doctor.out


async def test_boot_with_an_unusable_variable(proof: Proof) -> None:
    """No daemon starts, and still the machine serves what was published; the hook says what is wrong."""
    async with proof.machine.boot(SIDECAR_TRIGGER_SECRET="short") as booted:
        await booted.up()
        assert await booted.lets_in("old")
        assert "trigger.secret: shorter than" in proof.machine.log


async def test_first_boot_with_an_unusable_variable(proof: Proof) -> None:
    """Where nothing was ever published, the boot hook fails, and says what is wrong."""
    async with proof.empty().boot(SIDECAR_TRIGGER_SECRET="short") as booted:
        finished = await booted.command("update", "--trigger", "boot")
        assert finished.code == 2
        assert "trigger.secret" in finished.err


async def test_first_boot(proof: Proof) -> None:
    """On an empty volume the machine comes up by itself with the store's index."""
    async with proof.empty().boot() as booted:
        await booted.up()
        status = await proof.ends(booted, "old", "synced", "healthy")
        assert status["generation"]["current"] == status["generation"]["loaded"] == 1


async def test_reboot(proof: Proof) -> None:
    """With nothing new the set in place is served, and nothing is published."""
    async with proof.machine.boot() as booted:
        await booted.up()
        status = await proof.ends(booted, "old", "synced", "healthy")
        assert status["generation"]["loaded"] == 1


async def test_reboot_with_a_newer_index(proof: Proof) -> None:
    """The index that came while the machine was off is what the first visitor meets; no revoked password."""
    proof.machine.put("new")
    async with proof.machine.boot() as booted:
        await booted.up()
        status = await proof.ends(booted, "new", "synced", "healthy")
        assert status["generation"]["loaded"] == 2
        assert "not loaded" not in booted.machine.log


async def test_deployment_with_another_profile(proof: Proof) -> None:
    """A deployment's profile is in force from the first answer that is not the maintenance page."""
    proof.machine.change_profile("realm: Showcase", "realm: Ballroom")
    async with proof.machine.boot() as booted:
        await booted.up()
        await proof.ends(booted, "old", "synced", "healthy")
        assert "Ballroom" in booted.visitor.realm


async def test_deployment_with_another_value(proof: Proof) -> None:
    """The same for a value under `values:`."""
    proof.machine.change_profile("realm: Showcase", 'realm: "{{hall}}"')
    async with proof.machine.boot(SIDECAR_VALUES='{"hall": "Ballroom"}') as booted:
        await booted.up()
        await proof.ends(booted, "old", "synced", "healthy")
        assert "Ballroom" in booted.visitor.realm


async def test_crash_between_commit_and_load(proof: Proof) -> None:
    """What was committed just before everything was killed is loaded by the next boot, and not taken back."""
    machine = proof.machine
    async with machine.boot() as booted:
        await booted.up()
        await booted.status(lambda found: found["health"]["state"] == "healthy")
        with machine.reloads_held():
            machine.put("new")
            update = asyncio.create_task(booted.command("update"))
            await holds((machine.state / "generations" / f"{2:08}").exists, "generation 2 is there")
            await booted.off()
        await asyncio.gather(update, return_exceptions=True)
    async with machine.boot() as booted:
        await booted.up()
        status = await proof.ends(booted, "new", "synced", "healthy")
        assert status["generation"]["current"] == status["generation"]["loaded"]
        assert status["generation"]["source"] is None


async def test_published_while_nothing_ran(proof: Proof) -> None:
    """`sidecar update --once` on a machine without daemon and Navigator, then the boot: its set is served."""
    machine = proof.machine
    async with machine.serve() as booted:
        pass
    machine.put("new")
    done = await booted.command("update", "--once")
    assert done.code == 0, done.err
    async with machine.boot() as booted:
        await booted.up()
        status = await proof.ends(booted, "new", "synced", "healthy")
        assert status["generation"]["loaded"] == 2


# A bad index


@WAYS
async def test_bad_index_at_boot(proof: Proof, way: Way) -> None:
    """The set in place is served meanwhile, with the reason; whatever announces the good index brings it."""
    proof.machine.spoil()
    async with proof.machine.boot(**polls(way)) as booted:
        seconds = await booted.up()
        found = await booted.status(lambda found: found["health"]["state"] == "healthy")
        assert found["sync"]["state"] == "out_of_sync"
        assert await booted.lets_in("old")
        proof.machine.put("new")
        await way(booted)
        await booted.status(lambda found: found["index"]["sha256"] == proof.machine.digest)
        await proof.ends(booted, "new", "synced", "healthy", seconds)


@pytest.mark.parametrize("way", [by_poke, by_poll])
async def test_bad_index_at_first_boot(proof: Proof, way: Way) -> None:
    """Without any set the maintenance page stays, until whatever announces the good index brings it."""
    machine = proof.empty()
    machine.spoil()
    async with machine.boot(**polls(way)) as booted:
        found = await booted.status(lambda found: found["sync"]["state"] == "out_of_sync")
        assert found["generation"]["current"] is None
        # From here on nothing but the sidecar, or a poke, can bring Navigator to look.
        await holds(lambda: HOOK_FAILED.search(machine.log), "the hook fails", booted.log_tail)
        assert not booted.visitor.is_in
        machine.put("new")
        await way(booted)
        await booted.up()
        await proof.ends(booted, "new", "synced", "healthy")


# The store


@asynccontextmanager
async def store(bucket: Bucket, content: bytes) -> AsyncIterator[tuple[Proxy, dict[str, str]]]:
    """The bucket behind a network with faults, and the variables by which Fly names it."""
    bucket.put("db/index.sqlite3", content)
    async with Proxy(bucket.endpoint) as proxy:
        yield (
            proxy,
            {
                "SIDECAR_STORE": "",
                "BUCKET_NAME": bucket.name,
                "AWS_ENDPOINT_URL_S3": proxy.url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            },
        )


async def test_store_down_at_boot(proof: Proof, bucket: Bucket) -> None:
    """The set in place is served, and nothing is said to be in sync; the store's return brings the rest."""
    async with store(bucket, proof.machine.put("new")) as (proxy, variables):
        await proxy.refuse()
        async with proof.machine.boot(**variables) as booted:
            seconds = await booted.up()
            await booted.status(lambda found: found["health"]["state"] == "healthy")
            assert await booted.lets_in("old")
            await booted.status(lambda found: found["sync"]["state"] == "unknown")
            await proxy.accept()
            done = await booted.command("update")
            assert done.code == 0, done.err
            await proof.ends(booted, "new", "synced", "healthy", seconds)


async def test_store_down_at_first_boot(proof: Proof, bucket: Bucket) -> None:
    """Without any set the maintenance page stays; when the store is back the next update ends it."""
    async with store(bucket, proof.machine.put("new")) as (proxy, variables):
        await proxy.refuse()
        async with proof.empty().boot(**variables) as booted:
            await booted.status(lambda found: found["sync"]["state"] == "unknown" and found["last"])
            assert not booted.visitor.is_in
            await proxy.accept()
            await booted.command("update")
            await booted.up()
            await proof.ends(booted, "new", "synced", "healthy")


async def test_store_hangs_at_boot(proof: Proof, bucket: Bucket) -> None:
    """A store that does not answer keeps nobody on the maintenance page; what it says later is served."""
    answers = asyncio.Event()
    async with store(bucket, proof.machine.put("new")) as (proxy, variables):
        proxy.always(held(answers))
        async with proof.machine.boot(**variables) as booted:
            seconds = await booted.up()
            status = await booted.status(lambda found: found["health"]["state"] == "healthy")
            assert status["running"] is not None
            assert status["sync"]["state"] == "unknown"
            assert await booted.lets_in("old")
            answers.set()
            await proof.ends(booted, "new", "synced", "healthy", seconds)


@pytest.mark.parametrize("trouble", ["down", "bad"])
async def test_deployment_with_another_profile_and_no_index(
    proof: Proof, bucket: Bucket, trouble: str
) -> None:
    """A deployment is in force, too, when the store is down just then, or holds no sound index."""
    machine = proof.machine
    machine.change_profile("realm: Showcase", "realm: Ballroom")
    async with store(bucket, b"no database" if trouble == "bad" else b"") as (proxy, variables):
        if trouble == "down":
            await proxy.refuse()
        async with machine.boot(**variables) as booted:
            seconds = await booted.up()
            sync = "unknown" if trouble == "down" else "out_of_sync"
            # Where the store takes its time, it is served a moment after the older set.
            await booted.status(lambda found: found["generation"]["loaded"] == 2)
            await booted.visitor.begin()
            await holds(lambda: booted.visitor.is_done, "a visitor is answered")
            assert "Ballroom" in booted.visitor.realm
            await proof.ends(booted, "old", sync, "healthy", seconds)


# Waking up

IDLE = ("timeout: 15m", "timeout: 1s")  # nobody waits a quarter of an hour for a machine to fall asleep


@asynccontextmanager
async def asleep(proof: Proof, **variables: str) -> AsyncIterator[Booted]:
    """A machine that is suspended, and so long that the wall clock has moved on when it wakes."""
    machine = proof.machine
    machine.change_profile(*IDLE)
    machine.set_clock(0)
    async with machine.boot(**variables) as booted:
        await booted.up()
        await booted.status(lambda found: found["health"]["state"] == "healthy")
        await booted.visitor.leave()
        await holds((machine.folder / "idle").exists, "Navigator finds that nobody asks any more")
        yield booted


async def test_resume_seen_first_by_the_daemon(proof: Proof) -> None:
    """Navigator's hook is answered though a load of the daemon's own is under way; nobody waits for that."""
    machine = proof.machine
    async with asleep(proof) as booted:
        with machine.reloads_held():
            machine.put("new")
            machine.set_clock(3600)
            await booted.status(lambda found: found["generation"]["current"] == 3)
            await booted.visitor.begin()
            answered = await booted.status(lambda found: found["last"]["trigger"] == "resume")
            assert answered["generation"]["loaded"] == 2, "the hook was kept until the load"
        await holds(lambda: booted.visitor.is_done, "everybody is answered")
        await proof.ends(booted, "new", "synced", "healthy", booted.visitor.longest)


async def test_resume_seen_first_by_the_hook(proof: Proof, bucket: Bucket) -> None:
    """The daemon that notices the gap later leaves the hook's fetch alone, and the newer index is served."""
    machine, answer = proof.machine, asyncio.Event()
    async with store(bucket, machine.put("old")) as (proxy, variables), asleep(proof, **variables) as booted:
        bucket.put("db/index.sqlite3", machine.put("new"))
        proxy.then(held(answer))
        await booted.visitor.begin()
        await booted.status(lambda found: (found["running"] or {}).get("trigger") == "resume")
        machine.set_clock(3600)
        await holds(lambda: "the machine was suspended" in machine.log, "the daemon notices the gap")
        answer.set()
        await booted.status(lambda found: found["index"]["sha256"] == machine.digest)
        await holds(lambda: booted.visitor.is_done, "everybody is answered")
        assert "took longer" not in machine.log
        await proof.ends(booted, "new", "synced", "healthy", booted.visitor.longest)


# A set that Navigator cannot use

UNPARSABLE = ("max_size: '{{pool_size}}'", "max_size: many")
UNUSABLE = pytest.mark.parametrize(
    ("sound", "unusable"),
    [
        pytest.param(*UNPARSABLE, id="pool"),
        pytest.param("htpasswd: '{{htpasswd}}'", "htpasswd: /nowhere/htpasswd", id="logins"),
    ],
)


async def keeps_running(navigator: NavigatorProcess, machine: Machine, environ: dict[str, str]) -> None:
    """What a service manager does: it starts Navigator whenever it has ended."""
    while True:
        if navigator.status is not None:
            navigator.launch("config/navigator.yml", machine.application, **environ)
        await asyncio.sleep(0.3)


@UNUSABLE
async def test_navigator_dies_at_start(proof: Proof, sound: str, unusable: str) -> None:
    """The older set comes back, it is said, and the good index is served once the profile is mended.

    Of a file that it cannot parse Navigator dies without any trace, so that only the limit tells; its deaths
    for want of the logins are counted.
    """
    machine = proof.machine
    async with machine.serve(**({} if "htpasswd" in sound else SHORT)) as booted:
        with booted.navigator() as navigator:
            navigator.launch("config/navigator.yml", machine.application, **booted.environ)
            await booted.up()
            await booted.status(lambda found: found["health"]["state"] == "healthy")
            navigator.kill()
            machine.change_profile(sound, unusable)
            machine.put("new")
            await booted.command("update")
            await booted.status(lambda found: found["generation"]["current"] == 2)
            await booted.visitor.begin()
            service = asyncio.create_task(keeps_running(navigator, machine, booted.environ))
            try:
                await booted.up()
                status = await proof.ends(booted, "old", "out_of_sync", "degraded", booted.visitor.down)
                assert status["generation"]["source"] == 1
                machine.reset_profile()
                done = await booted.command("update")
                assert done.code == 0, done.out + done.err
                await proof.ends(booted, "new", "synced", "healthy", booted.visitor.down)
            finally:
                service.cancel()
                await asyncio.gather(service, return_exceptions=True)


async def test_boot_with_an_unusable_set(proof: Proof) -> None:
    """Navigator stays on its maintenance page with such a set; after the limit the older one comes back."""
    machine = proof.machine
    machine.change_profile(*UNPARSABLE)
    machine.put("new")
    async with machine.boot(**SHORT) as booted:
        seconds = await booted.up()
        status = await proof.ends(booted, "old", "out_of_sync", "degraded", seconds)
        assert status["generation"]["source"] == 1
        machine.reset_profile()
        done = await booted.command("update")
        assert done.code == 0, done.out + done.err
        await proof.ends(booted, "new", "synced", "healthy", seconds)


@pytest.mark.parametrize("newer", [False, True], ids=["same", "newer"])
async def test_navigator_restarted_on_the_maintenance_page(proof: Proof, newer: bool) -> None:
    """While the daemon goes on: the set in place, or the newer one that came meanwhile, is proven anew."""
    machine, maintenance = proof.machine, "config/navigator-maintenance.yml"
    async with machine.serve() as booted:
        with booted.navigator() as navigator:
            navigator.launch(maintenance, machine.application, **booted.environ)
            await booted.up()
            before = await booted.status(lambda found: found["health"]["state"] == "healthy")
            navigator.kill()
            await booted.status(lambda found: found["navigator"]["state"] == "down")
            if newer:
                machine.put("new")
            await booted.visitor.begin()
            navigator.launch(maintenance, machine.application, **booted.environ)
            await booted.up()
            status = await proof.ends(booted, "new" if newer else "old", "synced", "healthy")
            assert status["navigator"]["process"] != before["navigator"]["process"]


async def test_pokes_during_a_rollback(proof: Proof) -> None:
    """2,000 strangers neither keep the older set from coming back nor an administrator from mending it.

    So that the machine need not start 2,000 CGIs they talk to the daemon as the forwarder does, and a good
    answer makes Navigator look by a signal.
    """
    machine = proof.machine
    connector = aiohttp.UnixConnector(str(machine.socket), limit=0)
    async with machine.boot(**SHORT) as booted, aiohttp.ClientSession(connector=connector) as session:
        await booted.up()
        await booted.status(lambda found: found["health"]["state"] == "healthy")
        machine.change_profile(*UNPARSABLE)

        async def poke() -> int:
            async with session.post("http://sidecar/public", headers=forwarded()) as answer:
                if answer.status < 300:
                    booted.process.send_signal(signal.SIGHUP)
                return answer.status

        await booted.command("update")
        strangers = [asyncio.create_task(poke()) for _ in range(2000)]
        found = await booted.status(lambda found: found["generation"]["source"] == 1)
        assert found["generation"]["current"] == 3
        machine.reset_profile()
        machine.put("new")
        strangers += [asyncio.create_task(poke()) for _ in range(1000)]
        done = await booted.command("update")
        assert done.code == 0, done.out + done.err
        answers = Counter(await asyncio.gather(*strangers))
        assert answers[503] >= 1000, answers
        assert "on its maintenance page" not in machine.log, "it went on serving"
        await proof.ends(booted, "new", "synced", "healthy")


# Clocks


@pytest.mark.parametrize("seconds", [600, -600], ids=["forward", "back"])
async def test_clock_steps_between_commit_and_load(proof: Proof, seconds: int) -> None:
    """A set that was published before the clock was set, and loaded after it, counts as loaded.

    The step is in what the daemon reads of the clock, and in the time that Navigator's first hook gives the
    marker; the kernel's own clock, by which Navigator compares files, stays.
    """
    machine = proof.machine
    machine.set_clock(0)
    async with machine.boot() as booted:
        shown = await booted.up()
        await booted.status(lambda found: found["health"]["state"] == "healthy")
        with machine.reloads_held():
            machine.put("new")
            await booted.command("update")
            await booted.status(lambda found: found["generation"]["current"] == 2)
            machine.set_clock(seconds)
        await booted.status(lambda found: found["generation"]["loaded"] == 2)
        await proof.ends(booted, "new", "synced", "healthy", shown)
        machine.put("newer")
        status, text = await booted.poke()
        assert status == 200, text
        await booted.status(lambda found: found["generation"]["loaded"] == 3)
        await proof.ends(booted, "newer", "synced", "healthy", shown)


@pytest.mark.parametrize("seconds", [600, -600], ids=["forward", "back"])
async def test_boot_with_another_clock(proof: Proof, seconds: int) -> None:
    """Markers of another boot, from what is now the future or the past, prove nothing of this Navigator."""
    machine = proof.machine
    machine.set_clock(0)
    async with machine.boot() as booted:
        await booted.up()
        machine.put("newer")
        await booted.command("update", "--wait", "loaded")
    machine.put("new")
    machine.set_clock(seconds)
    async with machine.boot() as booted:
        await booted.up()
        await proof.ends(booted, "new", "synced", "healthy")
        assert "sending SIGHUP" not in machine.log


# Probes


async def test_probe_that_fails_once(proof: Proof) -> None:
    """A probe is repeated until the limit: one wrong answer takes nothing back."""
    asked = Counter[str]()

    async def answer(request: web.Request) -> web.Response:
        asked["times"] += 1
        return web.Response(status=500 if asked["times"] == 1 else 200)

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    proof.machine.put("new")
    try:
        async with proof.machine.boot(SIDECAR_NAVIGATOR_PROBES=f'[{{"url": "{site.name}/"}}]') as booted:
            await booted.up()
            status = await proof.ends(booted, "new", "synced", "healthy")
            assert status["generation"]["loaded"] == 2
            assert asked["times"] >= 2
    finally:
        await runner.cleanup()


# Time limits, stage by stage


async def test_timeout_while_fetching(proof: Proof, bucket: Bucket) -> None:
    """An update that is given up while it fetches leaves the set in place, which is served."""
    async with store(bucket, proof.machine.put("new")) as (proxy, variables):
        proxy.always(hang)
        async with proof.machine.boot(**variables, **LIMITED) as booted:
            await booted.up()
            found = await booted.status(lambda found: found["error"])
            assert found["error"]["code"] == "timeout"
            assert found["generation"]["current"] == 1
            await proof.ends(booted, "old", "unknown", "healthy")


async def test_timeout_while_checking(proof: Proof) -> None:
    """The same while the operator's command looks at the set; the next update is not refused for it."""
    proof.machine.put("new")
    think = proof.machine.folder / "think"
    think.touch()
    checks = {"SIDECAR_UPDATE_CHECK_COMMAND": f'["sh", "-c", "[ ! -e {think} ] || sleep 60"]'}
    async with proof.machine.boot(**checks, **LIMITED) as booted:
        seconds = await booted.up()
        found = await booted.status(lambda found: found["health"]["state"] == "healthy" and found["error"])
        assert found["error"]["code"] == "timeout"
        assert found["generation"]["current"] == 1
        assert await booted.lets_in("old")
        think.unlink()
        done = await booted.command("update")
        assert done.code == 0, done.out + done.err
        await proof.ends(booted, "new", "synced", "healthy", seconds)


async def test_timeout_while_publishing(proof: Proof) -> None:
    """What is told of an update whose time ends while it publishes is what is on the disk."""
    machine = proof.machine
    machine.put("new")
    with closing(sqlite3.connect(machine.data / "db" / "index.sqlite3", isolation_level=None)) as tenant:
        tenant.execute("begin exclusive")  # an application keeps the database locked
        async with machine.boot(**LIMITED) as booted:
            await booted.status(
                lambda found: found["running"] and time.time() - found["running"]["since"] > 3
            )
            tenant.execute("rollback")
            await booted.up()
            status = await proof.ends(booted, "new", "synced", "healthy")
            assert status["last"]["error"] is None
            select = "select password from users where userid = ?"
            with closing(sqlite3.connect(machine.index)) as wanted:
                [line] = wanted.execute(select, (USER,)).fetchone()
            assert tenant.execute(select, (USER,)).fetchone() == (line,)
            assert line.encode() in (machine.data / "db" / "htpasswd").read_bytes()
            _, entry = booted.client.request("GET", "/generations/2")
            assert entry["state"] == "loaded"
