"""The fleet's rows: eight machines with daemons and Navigators, and a thousand that only answer.

python benchmarks/fleet_bench.py SIMULATED SECONDS      # serves simulated machines: its URL, then requests
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bus_bench
import yaml

from sidecar.fleet.run import FleetRequest

ROOT = Path(__file__).parent.parent
SIDECAR = Path(sys.executable).with_name("sidecar")
SECRET = "a-secret-for-the-benchmark"


class Simulated(asyncio.Protocol):
    """Any number of machines behind one address; each answer takes its time."""

    def __init__(self, seconds: float, sha256: str) -> None:
        self.seconds = seconds
        self.sha256 = sha256
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            line, *rest = head.decode().split("\r\n")
            headers = dict(one.lower().split(": ", 1) for one in rest)
            machine = headers["fly-force-instance-id"]
            if line.startswith("POST"):
                told: dict[str, Any] = {"state": "published", "sha256": self.sha256}
            else:
                told = {
                    "machine": machine, "region": "iad", "sync": "synced", "health": "healthy",
                    "generation": 2, "loaded": 2, "published": self.sha256, "sha256": self.sha256,
                }  # fmt: skip
            asyncio.get_running_loop().call_later(self.seconds, self.answer, machine, json.dumps(told))

    def answer(self, machine: str, body: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nSidecar-Machine: {machine}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write((head + body).encode())


async def simulate(machines: int, seconds: float, sha256: str) -> None:
    """Serve the machines, and the list of them, until standard input ends."""
    listed = json.dumps(
        [
            {"id": f"m{number:04}", "name": "", "state": "started", "region": "iad", "config": None}
            for number in range(machines)
        ]
    )

    class Listing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert isinstance(self.transport, asyncio.Transport)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(listed)}\r\nConnection: close\r\n\r\n"
            self.transport.write((head + listed).encode())

    loop = asyncio.get_running_loop()
    fleet = await loop.create_server(lambda: Simulated(seconds, sha256), "127.0.0.1", 0, backlog=1024)
    api = await loop.create_server(Listing, "127.0.0.1", 0)
    print(*(server.sockets[0].getsockname()[1] for server in (fleet, api)), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def simulated(machines: int, seconds: float, sha256: str) -> Iterator[tuple[str, str]]:
    """The URLs of the machines and of their list."""
    command = [sys.executable, __file__, str(machines), str(seconds), sha256]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ports = process.stdout.readline().split()
    try:
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    finally:
        process.communicate("")


def many(endpoint: str, bucket: Any, machines: int, seconds: float) -> tuple[float, dict[str, Any], int]:
    """Seconds of the whole command, its report, and its memory in bytes, for simulated machines."""
    import hashlib

    body = os.urandom(200_000)
    bucket.put_object(Key="db/index.sqlite3", Body=body)
    with (
        tempfile.TemporaryDirectory() as folder,
        simulated(machines, seconds, hashlib.sha256(body).hexdigest()) as (url, api),
    ):
        config = Path(folder) / "sidecar.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "store": f"s3://{bucket.name}",
                    "s3": {"endpoint": endpoint, "access_key_id": "test", "secret_access_key": "test"},
                    "paths": {"state": folder},
                    "profile": "local",
                    "trigger": {"secret": SECRET},
                    "fleet": {"app": "bench", "url": url, "api": api, "token": "bench"},
                }
            )
        )
        output = Path(folder) / "report.json"
        started = time.perf_counter()
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [SIDECAR, "--config", config, "fleet", "update", "--json"], stdout=stream
            )
            memory = 0
            while process.poll() is None:
                memory = max(memory, _peak(process.pid))
                time.sleep(0.01)
        took = time.perf_counter() - started
        report: dict[str, Any] = json.loads(output.read_bytes())
        if process.returncode != 0:
            raise SystemExit(f"the fleet update failed: {report}")
        return took, report, memory


def _peak(process: int) -> int:
    """The most memory that a process had so far, in bytes; 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(one.split()[1]) * 1024 for one in status.splitlines() if one.startswith("VmHWM")), 0)


async def eight(endpoint: str, client: Any, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of an update and of its slowest machine, for eight machines with daemons and Navigators.

    Once by the command, which has to load its libraries first, and once by a daemon.
    """
    sys.path.insert(0, str(ROOT))
    from tests.conftest import Bucket
    from tests.support.cgi import sidecar
    from tests.support.fleet import fleet, index

    found: dict[str, list[tuple[float, float]]] = {"by the command": [], "by a daemon": []}
    client.create_bucket(Bucket="fleet")
    with tempfile.TemporaryDirectory() as folder:
        bucket = Bucket(endpoint, "fleet", client)
        names = [f"m{number}" for number in range(1, 9)]
        async with fleet(Path(folder), bucket, names) as whole:
            admin = whole.admin()
            for run in range(runs):
                index(admin.application / "db" / "index.sqlite3", f"password-{run}")
                started = time.perf_counter()
                done = await sidecar(admin, "fleet", "update", "--replace", "--json")
                if done.code != 0:
                    raise SystemExit(f"the fleet update failed: {done.out}{done.err}")
                found["by the command"].append((time.perf_counter() - started, slowest(done.json)))
            async with admin.daemon() as daemon:
                for run in range(runs):
                    index(admin.application / "db" / "index.sqlite3", f"another-{run}")
                    started = time.perf_counter()
                    report = await daemon.fleet.update(FleetRequest(), "the benchmark")
                    took = time.perf_counter() - started
                    found["by a daemon"].append((took, max(one.seconds for one in report.machines)))
    return found


def slowest(report: dict[str, Any]) -> float:
    """Seconds until the last machine was loaded."""
    return float(max(one["seconds"] for one in report["machines"]))


def rows(endpoint: str, bucket: Any, client: Any, *, quick: bool) -> Iterator[tuple[str, str]]:
    """The lines of the table: what, and the figure with its target."""
    for how, figures in asyncio.run(eight(endpoint, client, 2 if quick else 10)).items():
        figures.sort(key=lambda pair: pair[0] - pair[1])
        seconds, longest = figures[len(figures) // 2]
        more = f"{seconds - longest:.2f} s more than the slowest machine (target 0.2 s)"
        yield f"fleet of 8, {how}", f"{seconds:.2f} s, {more}"
    for machines, target in (
        ((100, ""),) if quick else ((1000, " (target 1.5 s)"), (10_000, " (target 10 s, 120 MB)"))
    ):
        took, report, memory = many(endpoint, bucket, machines, 0.2)
        within = f"{report['seconds']:.2f} s from the upload to the last load"
        figure = f"{took:.2f} s, {within}, {memory / 1e6:.0f} MB{target}"
        yield f"fleet of {machines} simulated machines answering in 0.2 s", figure
    if shutil.which("nats-server") is None:
        return
    machines = 100 if quick else 1000
    found = asyncio.run(bus_bench.told(machines, 0.2))
    resident = f"server {found['server MB']:.0f} MB, all machines {found['machines MB']:.0f} MB"
    figure = f"{found['seconds']:.2f} s from the key's change to the last statement, {resident}"
    yield f"fleet of {machines} simulated machines on a bus", figure


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))
    asyncio.run(simulate(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
