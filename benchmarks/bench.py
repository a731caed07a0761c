"""Measures the daemon as its users meet it, and prints a table with ratios.

    python benchmarks/bench.py [--quick] [--only NAME ...]

Times drift on shared machines, so every figure is also given in Y, the mean time of `python3 -ISs -c pass`
in the same run. "CGI" means: start `sidecar-cgi` as Navigator would, read its answer, see it exit; the
daemon is warm and the object store is a moto server on loopback.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.server
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import fleet_bench
import yaml

from sidecar.demo.sample import REAL, Size, rename_studio, set_password, write_events, write_index
from sidecar.model import signing

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-for-the-benchmark"
MACHINE = "bench"
PATH = "/showcase/update_config"
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


@dataclass
class Row:
    """A line of the table: seconds, and the target in Y where there is one."""

    name: str
    figures: list[float]
    target: str
    limit: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


PARTS = ("real", "ready", "scaled", "endurance", "fleet")


def yardstick(runs: int = 30) -> float:
    """Y: the mean time of an empty, isolated Python in seconds."""
    started = time.perf_counter()
    for _ in range(runs):
        subprocess.run([PYTHON, "-ISs", "-c", "pass"], check=True)
    return (time.perf_counter() - started) / runs


class Bench:
    """A store, a daemon and a forwarder in a folder."""

    def __init__(self, folder: Path, size: Size, **settings: object) -> None:
        self.folder = folder
        self.settings = settings
        self.index = folder / "index.sqlite3"
        self.changes = 0
        for part in ("db", "config", "tmp"):
            (folder / "app" / part).mkdir(parents=True)
        write_index(self.index, size)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Store and daemon, both warm after a first update."""
        with self.store() as endpoint, self._daemon(endpoint):
            self.upload()
            self.cgi()
            self.change()
            self.upload()
            self.cgi()
            yield

    @contextmanager
    def store(self) -> Iterator[str]:
        code = (
            "from moto.server import ThreadedMotoServer as S; import time\n"
            "s = S('127.0.0.1', 0, verbose=False); s.start()\n"
            "print('http://%s:%s' % s.get_host_and_port(), flush=True)\n"
            "import sys; sys.stdin.read()"
        )
        server = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        self.endpoint = server.stdout.readline().strip()
        self.bucket = boto3.resource(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).Bucket("bench")
        self.bucket.create()
        try:
            yield self.endpoint
        finally:
            server.kill()
            server.wait()
            for stream in (server.stdin, server.stdout):
                assert stream is not None
                stream.close()

    @contextmanager
    def _daemon(self, endpoint: str) -> Iterator[None]:
        settings = {
            "store": "s3://bench",
            "s3": {"endpoint": endpoint, "access_key_id": "test", "secret_access_key": "test"},
            "profile": "local",
            "paths": {"application": f"{self.folder}/app", "state": f"{self.folder}/state"},
            "listen": {"socket": f"{self.folder}/s.sock", "port": 0},
            "machine": {"id": MACHINE},
            # Pokes follow each other faster than strangers may.
            "trigger": {"secret": SECRET, "interval": "0s"},
            # The first poke is a row of its own, which an update at the start would take away.
            "update": {"at_start": False},
            "logging": {"level": "warning"},
            **self.settings,
        }
        file = self.folder / "sidecar.yml"
        file.write_text(yaml.safe_dump(settings))
        command = [str(Path(sys.executable).with_name("sidecar")), "--config", str(file), "serve"]
        self.daemon = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while not (self.folder / "s.sock").exists():
            if time.monotonic() > deadline or self.daemon.poll() is not None:
                raise SystemExit("the daemon did not start")
            time.sleep(0.02)
        try:
            yield
        finally:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(10)

    def change(self) -> None:
        """One user's password changes."""
        self.changes += 1
        digest = hashlib.sha1(str(self.changes).encode()).digest()
        import base64

        set_password(self.index, "user0005", f"user0005:{{SHA}}{base64.b64encode(digest).decode()}")

    def upload(self) -> None:
        """Put the index in the store."""
        self.bucket.put_object(Key="db/index.sqlite3", Body=self.index.read_bytes())

    def cgi(self, body: bytes | None = None) -> tuple[float, str]:
        """Seconds from starting the forwarder to its exit, and its answer."""
        script = Path(sys.executable).with_name("sidecar-cgi")
        environ = {
            "PATH": os.environ["PATH"],
            "SIDECAR_SOCKET": f"{self.folder}/s.sock",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": PATH,
            "QUERY_STRING": "",
            "REMOTE_ADDR": "127.0.0.1:5000",
            "CONTENT_LENGTH": str(len(body or b"")),
        }
        if body is not None:
            digest = hashlib.sha256(body).hexdigest()
            poke = signing.Poke("POST", PATH, str(int(time.time())), MACHINE, digest)
            for name, value in signing.headers(poke, SECRET).items():
                environ["HTTP_" + name.upper().replace("-", "_")] = value
            environ["HTTP_CONTENT_ENCODING"] = "gzip"
        started = time.perf_counter()
        done = subprocess.run(
            [script], env=environ, cwd=script.parent, input=body or b"", capture_output=True
        )
        seconds = time.perf_counter() - started
        answer = done.stdout.decode()
        if done.returncode != 0 or not answer.startswith("Status: 200"):
            raise SystemExit(f"the forwarder failed: {answer}")
        return seconds, answer

    def ready(self) -> float:
        """Seconds that the ready work takes, by command."""
        command = [str(Path(sys.executable).with_name("sidecar")), "--config", f"{self.folder}/sidecar.yml"]
        done = subprocess.run([*command, "ready", "--json"], capture_output=True, check=False)
        work = json.loads(done.stdout)
        if work["state"] != "done":
            raise SystemExit(done.stdout.decode())
        return float(work["seconds"])

    def status(self) -> dict[str, object]:
        """The daemon's own memory and CPU time, from the kernel."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return {"memory": memory, "cpu": (int(fields[11]) + int(fields[12])) / ticks}


def _expect(answer: str, word: str) -> None:
    if word not in answer.rpartition("\n[")[2] and word not in answer:
        raise SystemExit(f"expected {word!r} in {answer}")


def measure(bench: Bench, runs: int) -> Iterator[Row]:
    """The rows of real size."""
    fetched, unchanged, bodies = [], [], []
    for _ in range(runs):
        bench.change()
        bench.upload()
        seconds, answer = bench.cgi()
        _expect(answer, "Published")
        fetched.append(seconds)
        seconds, answer = bench.cgi()
        _expect(answer, "Unchanged")
        unchanged.append(seconds)
        bench.change()
        seconds, answer = bench.cgi(gzip.compress(bench.index.read_bytes(), 6, mtime=0))
        _expect(answer, "Published")
        bodies.append(seconds)
    yield Row("CGI, index changed, fetched from the store", fetched, "10 Y", 10)
    yield Row("CGI, signed body", bodies, "5 Y", 5)
    yield Row("CGI, nothing changed", unchanged, "4 Y", 4)


def scaled(factor: int, runs: int, limit: float) -> Row:
    """Signed bodies at a multiple of the real size."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), REAL.times(factor))
        with bench.running():
            figures = []
            for _ in range(runs):
                bench.change()
                seconds, answer = bench.cgi(gzip.compress(bench.index.read_bytes(), 1, mtime=0))
                _expect(answer, "Published")
                figures.append(seconds)
    return Row(f"CGI, signed body, {factor} times real size", figures, f"{limit * 1000:.0f} ms", limit)


def background(runs: int) -> Iterator[Row]:
    """Ready work: 370 event databases, the public pages, and updates while it is under way."""
    busy = "import pathlib, time\nwhile not pathlib.Path('stop').exists(): sum(range(10000))"
    prerender = {"renderer": "command", "command": [PYTHON, "-c", busy], "incremental": False}
    with tempfile.TemporaryDirectory() as name, origin() as (url, asked):
        folder = Path(name)
        pages = {"renderer": "http", "origin": url, "parallel": 8}
        bench = Bench(folder, REAL, databases={"prepare_timeout": "1ms"}, prerender=pages)
        with bench.running():
            (folder / "events").mkdir()
            write_events(bench.index, folder / "events")
            stored = list((folder / "events").iterdir())
            for path in stored:
                bench.bucket.put_object(Key=f"db/{path.name}", Body=path.read_bytes())
            yield Row(f"ready work, first: {len(stored)} databases, all pages", [bench.ready()], "")
            rendered = len(asked)
            again = [bench.ready() for _ in range(runs)]
            yield Row(f"ready work, nothing changed: {len(asked) - rendered} pages of {rendered}", again, "")
            rename_studio(bench.index, "ashbury", "Another name")
            bench.upload()
            bench.cgi()
            changed = bench.ready()
            yield Row(f"ready work, one studio changed: {len(asked) - rendered} pages", [changed], "")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), REAL, databases={"fetch": False}, prerender=prerender)
        with bench.running():
            command = [
                str(Path(sys.executable).with_name("sidecar")),
                "--config",
                f"{name}/sidecar.yml",
                "ready",
            ]
            figures: dict[bool, list[float]] = {False: [], True: []}
            for working in (False, True):
                work = subprocess.Popen(command, stdout=subprocess.DEVNULL) if working else None
                if work is not None:
                    time.sleep(1)
                for _ in range(runs):
                    bench.change()
                    seconds, answer = bench.cgi(gzip.compress(bench.index.read_bytes(), 6, mtime=0))
                    _expect(answer, "Published")
                    figures[working].append(seconds)
                if work is not None:
                    (Path(name) / "app" / "stop").touch()
                    work.wait(30)
            yield Row("CGI, signed body, no ready work", figures[False], "5 Y", 5)
            yield Row("CGI, signed body, a renderer at full load beside it", figures[True], "5 Y", 5)


@contextmanager
def origin() -> Iterator[tuple[str, list[str]]]:
    """An application that renders pages at once: its URL, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            body = f"<p>{self.path}</p>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nobody reads this."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def endurance(bench: Bench, updates: int) -> Iterator[tuple[str, str]]:
    """Memory over many updates, and CPU time when idle."""
    import http.client
    import socket

    def poke() -> None:
        connection = http.client.HTTPConnection("sidecar")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"{bench.folder}/s.sock")
        connection.request("POST", "/update", headers={"Accept": "application/json"})
        body = json.loads(connection.getresponse().read())
        connection.close()
        if body["state"] != "published":
            raise SystemExit(body)

    half = 0
    for number in range(updates):
        bench.change()
        bench.upload()
        poke()
        if number == updates // 2:
            half = int(str(bench.status()["memory"]))
    end = int(str(bench.status()["memory"]))
    yield (
        f"memory after {updates} updates",
        f"{end / 1e6:.1f} MB (half-way {half / 1e6:.1f} MB; target 80 MB, no growth)",
    )
    before = bench.status()["cpu"]
    span = 20.0
    time.sleep(span)
    used = float(str(bench.status()["cpu"])) - float(str(before))
    yield "idle CPU", f"{used / span:.2%} of a core over {span:.0f} s (target 0.5 %)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few runs, small endurance: to see that it works"
    )
    parser.add_argument("--updates", type=int, default=10_000, help="updates of the endurance row")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="only these parts")
    options = parser.parse_args()
    parts = options.only or PARTS
    runs = 3 if options.quick else 20
    y = yardstick()
    print(f"Y = {y * 1000:.2f} ms\n\n| what | median | min to max | in Y | target |")
    print("| --- | --- | --- | --- | --- |", flush=True)

    def show(row: Row) -> None:
        low, high = min(row.figures) * 1000, max(row.figures) * 1000
        print(
            f"| {row.name} | {row.median * 1000:.1f} ms | {low:.1f} to {high:.1f} ms "
            f"| {row.median / y:.1f} | {f'at most {row.target}' if row.target else ''} |",
            flush=True,
        )

    if "real" in parts or "endurance" in parts:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), REAL)
            with bench.running():
                if "real" in parts:
                    for row in measure(bench, runs):
                        show(row)
                if "endurance" in parts:
                    for name, figure in endurance(bench, 50 if options.quick else options.updates):
                        print(f"| {name} | {figure} | | | |", flush=True)
    if "ready" in parts:
        for row in background(3 if options.quick else runs):
            show(row)
    if "scaled" in parts:
        show(scaled(10, 3 if options.quick else 10, 0.41 / 6))
        if not options.quick:
            show(scaled(100, 5, 3.2 / 6))
    if "fleet" in parts:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), REAL)
            with bench.store() as endpoint:
                client = bench.bucket.meta.client
                for name, figure in fleet_bench.rows(endpoint, bench.bucket, client, quick=options.quick):
                    print(f"| {name} | {figure} | | | |", flush=True)


if __name__ == "__main__":
    main()
