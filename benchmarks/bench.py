"""Measures the sidecar as its users meet it: a table, each row beside the yardstick of its own minute.

    python benchmarks/bench.py [--quick] [--only PART ...] [--json FILE] [--commands FOLDER]
    python benchmarks/bench.py --compare FILE FILE

Times drift on shared machines, so every time is also given in Y, the median time of `python3 -ISs -c pass`,
which is run between what is measured. "CGI" means: start `sidecar-cgi` as Navigator would, read its
answer, see it exit; the daemon is warm and the object store is a moto server on loopback.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import fleet_bench
import yaml
from results import PYTHON, Row, Yardstick, compare, write

from sidecar.demo.sample import REAL, Size, rename_studio, set_password, write_events, write_index
from sidecar.model import signing

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-for-the-benchmark"
MACHINE = "bench"
PATH = "/showcase/update_config"
HERE = Path(sys.executable).parent
Y = Yardstick()
Rows = Iterator[Row | tuple[Row, ...]]


class Bench:
    """A store, a daemon and a forwarder in a folder; nothing of it lies elsewhere."""

    commands = HERE
    """The folder of the commands that are measured."""

    def __init__(self, folder: Path, size: Size = REAL, **settings: Any) -> None:
        self.folder = folder
        self.settings = settings
        self.index = folder / "index.sqlite3"
        self.configuration = folder / "sidecar.yml"
        self.socket = folder / "s.sock"
        self.changes = 0
        for part in ("db", "config", "tmp"):
            (folder / "app" / part).mkdir(parents=True)
        write_index(self.index, size)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Store and daemon, both warm after a first update."""
        with self.store(), self.daemon():
            self.cgi()
            self.change()
            self.upload()
            self.cgi()
            yield

    @contextmanager
    def store(self) -> Iterator[str]:
        """An S3 server that holds the index; its URL."""
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
        endpoint = server.stdout.readline().strip()
        self.bucket = boto3.resource(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).Bucket("bench")
        self.bucket.create()
        self.upload()
        keys = {"access_key_id": "test", "secret_access_key": "test"}
        self.settings = {"store": "s3://bench", "s3": {"endpoint": endpoint, **keys}, **self.settings}
        self.configure()
        try:
            yield endpoint
        finally:
            server.kill()
            server.wait()
            for stream in (server.stdin, server.stdout):
                assert stream is not None
                stream.close()

    def configure(self, **more: Any) -> None:
        """Write sidecar.yml."""
        document = {
            "profile": "local",
            "paths": {"application": f"{self.folder}/app", "state": f"{self.folder}/state"},
            "listen": {"socket": str(self.socket), "port": 0},
            "machine": {"id": MACHINE},
            # Another program on this machine may use the usual one.
            "navigator": {"pid_file": f"{self.folder}/navigator.pid"},
            # Pokes follow each other faster than strangers may.
            "trigger": {"secret": SECRET, "interval": "0s"},
            # The first poke is a row of its own, which an update at the start would take away.
            "update": {"at_start": False},
            "logging": {"level": "error"},
            **self.settings,
            **more,
        }
        self.configuration.write_text(yaml.safe_dump(document))

    def command(self, *words: str) -> list[str]:
        """The command line of a command with this configuration."""
        return [str(self.commands / "sidecar"), "--config", str(self.configuration), *words]

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """A daemon that listens."""
        self.process = subprocess.Popen(self.command("serve"))
        try:
            self.until(self.listens)
            yield
        finally:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def listens(self) -> bool:
        """Whether the daemon takes requests."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.socket))
            return True
        return False

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that the daemon does, as closely as a millisecond."""
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit("the daemon did not do what it should")
            time.sleep(0.001)

    def change(self) -> None:
        """One user's password changes."""
        self.changes += 1
        digest = base64.b64encode(hashlib.sha1(str(self.changes).encode()).digest()).decode()
        set_password(self.index, "user0005", f"user0005:{{SHA}}{digest}")

    def upload(self) -> None:
        """Put the index in the store."""
        self.bucket.put_object(Key="db/index.sqlite3", Body=self.index.read_bytes())

    def body(self) -> bytes:
        """The index as a poke brings it along, after a change."""
        self.change()
        return gzip.compress(self.index.read_bytes(), 1, mtime=0)

    def cgi(self, body: bytes = b"", word: str = "") -> float:
        """Seconds from starting the forwarder to its exit; its answer must have the word."""
        script = self.commands / "sidecar-cgi"
        environ = {
            "PATH": os.environ["PATH"],
            "SIDECAR_SOCKET": str(self.socket),
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": PATH,
            "QUERY_STRING": "",
            "REMOTE_ADDR": "127.0.0.1:5000",
            "CONTENT_LENGTH": str(len(body)),
        }
        if body:
            digest = hashlib.sha256(body).hexdigest()
            poke = signing.Poke("POST", PATH, str(int(time.time())), MACHINE, digest)
            for name, value in signing.headers(poke, SECRET).items():
                environ["HTTP_" + name.upper().replace("-", "_")] = value
            environ["HTTP_CONTENT_ENCODING"] = "gzip"
        Y.run()
        started = time.perf_counter()
        done = subprocess.run([script], env=environ, cwd=script.parent, input=body, capture_output=True)
        seconds = time.perf_counter() - started
        answer = done.stdout.decode()
        if done.returncode != 0 or not answer.startswith("Status: 200") or word not in answer:
            raise SystemExit(f"expected {word!r} from the forwarder: {answer}")
        return seconds

    def published(self, runs: int) -> list[float]:
        """Seconds of so many signed bodies, each with a change."""
        return [self.cgi(self.body(), "Published") for _ in range(runs)]

    def ask(self, path: str = "/update") -> dict[str, Any]:
        """What the daemon answers on its socket."""
        connection = http.client.HTTPConnection("sidecar")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        connection.request("POST", path, headers={"Accept": "application/json"})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        if found["state"] not in ("published", "loaded"):
            raise SystemExit(str(found))
        return found

    def ready(self) -> float:
        """Seconds that the ready work takes, by command."""
        done = subprocess.run(self.command("ready", "--json"), capture_output=True, check=False)
        work = json.loads(done.stdout)
        if work["state"] != "done":
            raise SystemExit(done.stdout.decode())
        return float(work["seconds"])

    @property
    def memory(self) -> float:
        """The daemon's memory in MB, from the kernel."""
        return int(self._stat[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu(self) -> float:
        """The seconds of processor time that the daemon has used."""
        return (int(self._stat[11]) + int(self._stat[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def _stat(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()


@contextmanager
def benched(size: Size = REAL, **settings: Any) -> Iterator[Bench]:
    """A bench in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder), size, **settings)


# The parts


def real(scale: Scale) -> Rows:
    """Pokes at real size, and the daemon's memory and processor time when it has nothing to do."""
    with benched() as bench, bench.running():
        fetched, unchanged = [], []
        for _ in range(scale.runs):
            bench.change()
            bench.upload()
            fetched.append(bench.cgi(word="Published"))
            unchanged.append(bench.cgi(word="Unchanged"))
        yield (
            Row("CGI, index changed, fetched from the store", fetched, "3.5 Y"),
            Row("CGI, nothing changed", unchanged, "2.2 Y"),
        )
        yield Row("CGI, signed body", bench.published(scale.runs), "3 Y")
        halfway, used = 0.0, bench.cpu
        for number in range(scale.updates):
            bench.change()
            bench.upload()
            bench.ask()
            if number == scale.updates // 2:
                halfway = bench.memory
        used = (bench.cpu - used) / scale.updates * 1000
        yield Row("processor time of an update, in the daemon", [used], "", "ms")
        yield Row(f"memory after {scale.updates // 2} updates", [halfway], "no growth from here", "MB")
        yield Row(f"memory after {scale.updates} updates", [bench.memory], "80 MB", "MB")
        before = bench.cpu
        time.sleep(scale.idle)
        used = (bench.cpu - before) / scale.idle * 100
        yield Row("processor when idle, of a core", [used], "0.5 %", "%")


def scaled(scale: Scale) -> Rows:
    """The first generation of a fresh process, and signed bodies, at multiples of the real size."""
    for factor, target, first in ((1, "", "40 ms"), (10, "68 ms", "0.3 s"), (100, "0.53 s", "3 s")):
        if factor > scale.most:
            return
        with benched(REAL.times(factor)) as bench:
            objects = bench.folder / "objects" / "db"
            objects.mkdir(parents=True)
            shutil.copy(bench.index, objects)
            bench.configure(store=f"file://{objects.parent}")
            fresh = []
            for _ in range(max(1, scale.runs // (4 * factor))):
                shutil.rmtree(bench.folder / "state", ignore_errors=True)
                with bench.daemon():
                    Y.run(2)
                    stages = bench.ask()["stages"]
                    fresh.append(stages["read"] + stages["generate"] + stages["check"])
            yield Row(
                f"first set of a fresh process, read, made and checked, {factor} times real size",
                fresh,
                first,
            )
            if factor > 1:
                with bench.daemon():
                    bench.published(1)
                    bodies = bench.published(max(2, scale.runs // factor * 2))
                yield Row(f"CGI, signed body, {factor} times real size", bodies, target)


def starts(scale: Scale) -> Rows:
    """How long daemon and commands take to be there."""
    with benched(update={"at_start": True}) as bench, bench.store():
        listening, published, boots = [], [], []
        used: tuple[list[float], list[float]] = [], []
        for _ in range(scale.few):
            Y.run(5)
            shutil.rmtree(bench.folder / "state", ignore_errors=True)
            file = bench.folder / "app" / "config" / "navigator.yml"
            file.unlink(missing_ok=True)
            started = time.perf_counter()
            with bench.daemon():
                listening.append(time.perf_counter() - started)
                used[0].append(bench.cpu * 1000)
                bench.until(file.exists)
                published.append(time.perf_counter() - started)
                used[1].append(bench.cpu * 1000)
            bench.change()
            bench.upload()
            started = time.perf_counter()
            with bench.daemon():
                subprocess.run(bench.command("update", "--trigger", "boot"), check=True, capture_output=True)
                boots.append(time.perf_counter() - started)
        yield (
            Row("start of the daemon until it listens", listening),
            Row("start of the daemon to its first published set", published, "0.5 s"),
            Row("boot with a newer index: daemon and hook together", boots, "3 s"),
            Row("processor time of the start until it listens", used[0], "", "ms"),
            Row("processor time of the start to its first published set", used[1], "", "ms"),
        )
        with bench.daemon():
            bench.until(file.exists)
            python = str(bench.commands / "python")
            rows: dict[str, list[float]] = {"--version": [], "status": []}
            for _ in range(scale.runs):
                empty = _seconds([python, "-c", "pass"])
                for name, figures in rows.items():
                    figures.append(_seconds(bench.command(name)) / empty)
        empty_python = "times an empty Python of its environment"
        yield (
            Row("sidecar --version", rows["--version"], f"4 {empty_python}", "times"),
            Row("sidecar status", rows["status"], f"6 {empty_python}", "times"),
        )


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if not done.stdout and " -c " not in " ".join(command):
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def loads(scale: Scale) -> Rows:
    """From a poke to the load of what follows, by a stand-in or the Navigator that NAVIGATOR_BIN names."""
    sys.path.insert(0, str(ROOT))
    from tests.support.navigator import NavigatorProcess, free_port

    navigator, port = NavigatorProcess(), free_port()
    with benched(databases={"fetch": False}) as bench, bench.store(), ExitStack() as stack:
        pid_file = "/tmp/navigator.pid" if navigator.program else f"{bench.folder}/app/navigator-{port}.pid"
        bench.configure(navigator={"port": port, "pid_file": pid_file})
        stack.enter_context(bench.daemon())
        bench.ask()
        environ = {"SIDECAR_SOCKET": str(bench.socket)}
        stack.enter_context(navigator.start("config/navigator.yml", bench.folder / "app", **environ))
        figures = []
        for _ in range(scale.runs + 1):
            bench.change()
            bench.upload()
            Y.run()
            started = time.perf_counter()
            bench.ask("/update?wait=loaded")
            figures.append(time.perf_counter() - started)
        kind = "the real Navigator" if navigator.program else "a stand-in for Navigator"
        yield Row(f"poke to loaded, {kind}", figures[1:], "50 ms with the real one")


def ready(scale: Scale) -> Rows:
    """Ready work: event databases, the public pages, and updates while it is under way."""
    with origin() as (url, asked):
        pages = {"renderer": "http", "origin": url, "parallel": 8}
        with benched(databases={"prepare_timeout": "1ms"}, prerender=pages) as bench, bench.running():
            (bench.folder / "events").mkdir()
            write_events(bench.index, bench.folder / "events")
            stored = list((bench.folder / "events").iterdir())
            for path in stored:
                bench.bucket.put_object(Key=f"db/{path.name}", Body=path.read_bytes())
            yield Row(f"ready work, first: {len(stored)} databases, all pages", [bench.ready()])
            asked.clear()
            yield Row("ready work, nothing changed", [bench.ready() for _ in range(scale.few)])
            if asked:
                raise SystemExit("pages that cannot have changed were rendered")
            rename_studio(bench.index, "ashbury", "Another name")
            bench.upload()
            bench.cgi()
            yield Row("ready work, one studio changed", [bench.ready()])
    # A process for each core; each ends with the bench's folder.
    busy = "import os\nwhile os.path.exists('db'): sum(range(100000))"
    cores = "&".join(f' {PYTHON} -c "{busy}" ' for _ in range(os.cpu_count() or 1))
    prerender = {"renderer": "command", "command": ["sh", "-c", cores]}
    with benched(databases={"fetch": False}, prerender=prerender) as bench, bench.running():
        quiet, beside = [], []
        for _ in range(scale.few):
            quiet += bench.published(scale.few)
            work = subprocess.Popen(bench.command("ready", "--everything"), stdout=subprocess.DEVNULL)
            time.sleep(1)
            beside += bench.published(scale.few)
            (bench.folder / "app" / "db").rename(bench.folder / "app" / "aside")
            work.wait(30)
            (bench.folder / "app" / "aside").rename(bench.folder / "app" / "db")
        yield (
            Row("CGI, signed body, no ready work", quiet),
            Row("CGI, signed body, a renderer at full load on every core", beside, "1.5 times that without"),
        )


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


def fleet(scale: Scale) -> Rows:
    """Fleet updates: real daemons, simulated machines, and the bus."""
    with benched() as bench, bench.store() as endpoint:
        client = bench.bucket.meta.client
        yield from fleet_bench.eight_rows(endpoint, client, scale.few)
        for machines in scale.machines:
            yield from fleet_bench.many_rows(bench.command()[0], endpoint, bench.bucket, machines)
    yield from fleet_bench.bus_rows(scale.on_bus)


PARTS: dict[str, Callable[[Scale], Rows]] = {
    "real": real,
    "scaled": scaled,
    "starts": starts,
    "loads": loads,
    "ready": ready,
    "fleet": fleet,
}


class Scale:
    """How much is measured: enough for figures, or only enough to see that it works."""

    def __init__(self, updates: int, *, quick: bool) -> None:
        self.runs, self.few = (2, 1) if quick else (20, 5)
        self.updates, self.idle = (4, 1) if quick else (updates, 20)
        self.most = 1 if quick else 100
        self.machines = (50,) if quick else (1000, 10_000)
        self.on_bus = 50 if quick else 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--updates", type=int, default=10_000, help="updates before memory is looked at")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="only these parts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file, too")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="only compare two such files")
    parser.add_argument(
        "--commands", type=Path, metavar="FOLDER", default=HERE, help="measure the commands in this folder"
    )
    options = parser.parse_args()
    # Where compiled code may not be kept, every start would compile all of it, which no installation does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.compare:
        compare(*options.compare)
        return
    Bench.commands = options.commands
    scale = Scale(options.updates, quick=options.quick)
    rows = (row for name in options.only or PARTS for row in PARTS[name](scale))
    with suppress(KeyboardInterrupt):
        write(Y.beside(rows), options.json)


if __name__ == "__main__":
    main()
