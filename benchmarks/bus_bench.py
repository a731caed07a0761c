"""A fleet told by a bus: many listeners of the project's own, in a few processes, on a real NATS server.

python benchmarks/bus_bench.py 1000      # machines; needs nats-server
python benchmarks/bus_bench.py FIRST LAST FOLDER URL SECONDS      # is them, until standard input ends
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sidecar.config.parse import parse
from sidecar.config.settings import Settings
from sidecar.fleet.bus import BusListener, announcing
from sidecar.model.machine_report import MachineReport
from sidecar.system.memory import seldom_collected

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-for-the-benchmark"
_IN_A_PROCESS = 1000
# So many open their connections at once; those of a fleet spread over their first pause.
_AT_ONCE = 100


def settings_of(folder: str, url: str) -> Settings:
    """Of a machine, and of whoever updates the fleet."""
    return parse({"store": f"file://{folder}", "fleet": {"bus": url}, "trigger": {"secret": SECRET}}, {})


class Machine:
    """A machine on the bus that serves an index so many seconds after it heard of it."""

    def __init__(self, settings: Settings, name: str, seconds: float) -> None:
        self.served = MachineReport(name, "iad", "synced", "healthy", generation=1, loaded=1, sha256="0" * 64)
        self._seconds = seconds
        self.listener = BusListener(settings, name, self.follow, lambda: self.served, lambda outcome: None)

    async def follow(self, sha256: str, who: str, fresh: bool) -> bool:
        await asyncio.sleep(self._seconds)
        self.served = msgspec.structs.replace(self.served, sha256=sha256, published=sha256)
        return True


async def be(start: int, stop: int, folder: str, url: str, seconds: float) -> None:
    """The machines with these numbers, until standard input ends; says when all are connected."""
    settings = settings_of(folder, url)
    fleet = [Machine(settings, f"m{number:05}", seconds) for number in range(start, stop)]
    tasks = []
    for first in range(0, len(fleet), _AT_ONCE):
        some = fleet[first : first + _AT_ONCE]
        tasks += [asyncio.create_task(one.listener.run()) for one in some]
        for one in some:
            await until(lambda machine=one: machine.listener.connected, 60)  # type: ignore[misc]
    print("connected", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()


async def until(condition: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are not events
            await asyncio.sleep(0.01)


async def told(machines: int, seconds: float) -> dict[str, float]:
    """Seconds from the key's change to the last statement, and megabytes of server and machines."""
    sys.path.insert(0, str(ROOT))
    from tests.support.nats import NatsServer

    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder) / "nats")
        await server.start()
        try:
            return await _told(server.url, server.pid, folder, machines, seconds)
        finally:
            server.stop()


async def _told(url: str, server: int, folder: str, machines: int, seconds: float) -> dict[str, float]:
    settings = settings_of(folder, url)
    async with announcing(settings):
        pass  # makes the buckets
    rest = [folder, url, str(seconds)]
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - servers, which are not waited for
            [sys.executable, __file__, str(first), str(min(machines, first + _IN_A_PROCESS)), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for first in range(0, machines, _IN_A_PROCESS)
    ]
    try:
        started = time.perf_counter()
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline)
        connecting = time.perf_counter() - started
        async with announcing(settings) as announcement:
            await until(lambda: len(announcement.statements) == machines, 120)
            started = time.perf_counter()
            await announcement.publish("1" * 64)
            heard = [announcement.verdict(name, "1" * 64, ready=False) for name in announcement.statements]
            verdicts = await asyncio.gather(*heard)
            took = time.perf_counter() - started
        return {
            "connected after": connecting,
            "seconds": took,
            "in time": sum(one is not None for one in verdicts),
            "server MB": _resident(server) / 1e6,
            "machines MB": sum(_resident(process.pid) for process in processes) / 1e6,
            "counting MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _resident(process: int) -> int:
    """The memory of a process in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(one.split()[1]) * 1024 for one in status.splitlines() if one.startswith("VmRSS"))


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))
    if len(sys.argv) > 2:
        with seldom_collected():
            asyncio.run(be(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5])))
    else:
        print(asyncio.run(told(int(sys.argv[1]), 0.2)))
