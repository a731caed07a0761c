"""What the sidecar relies on in Navigator, by the stand-in and by the real one (NAVIGATOR_BIN)."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from tests.support.navigator import NavigatorProcess, free_port, wait_until

PROGRAMS = [None, *filter(None, [os.environ.get("NAVIGATOR_BIN")])]
RELOADED = "Configuration reloaded successfully"
TRIGGERED = "CGI script triggered config reload"
STARTING = "Starting web app"

ECHO = f"""#!{sys.executable} -IS
import json, os, sys
body = sys.stdin.buffer.read()
print("Status: 207 Fine\\nContent-Type: application/json\\nX-Seen: yes\\n")
print(json.dumps({{"env": dict(os.environ), "cwd": os.getcwd(), "body": body.hex()}}))
"""
TENANT = """
import http.server, os, sys, time
while os.path.exists(os.environ["HOLD"]):
    time.sleep(0.01)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"tenant {os.environ['RAILS_APP_DB']}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


class Site:
    """A folder with a navigator.yml and scripts, and the Navigator that serves it."""

    def __init__(self, folder: Path, program: str | None) -> None:
        self.folder, self.program = folder, program
        self.navigator = NavigatorProcess(program=program)
        self.config: dict[str, Any] = {"server": {"listen": free_port(), "cgi_scripts": []}}
        self.yml = folder / "navigator.yml"

    def hooks(self, **lists: list[dict[str, Any]]) -> None:
        self.config["hooks"] = {"server": lists}

    def script(self, name: str, text: str) -> str:
        file = self.folder / "scripts" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return str(file)

    def cgi(self, path: str, text: str, **entry: Any) -> None:
        script = self.script(path.strip("/"), text)
        self.config["server"]["cgi_scripts"].append({"path": path, "script": script, **entry})

    def note(self, name: str, then: str = "") -> dict[str, Any]:
        """A hook that leaves a line in a file of notes."""
        return {"command": self.script(f"note-{name}", f"echo {name} >> {self.folder}/notes\n{then}")}

    @property
    def notes(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "notes").read_text().split()
        return []

    def gate(self, name: str) -> str:
        """Shell commands that wait while the file of this name is there; they note that they came by."""
        return f"echo {name} >> {self.folder}/notes; while [ -e {self.folder}/{name} ]; do sleep 0.01; done"

    def tenants(self, **databases: str) -> None:
        """Applications of the real one, lines of text in the stand-in. None gets up while `tenant` exists."""
        app = {"runtime": sys.executable, "server": self.script("app.py", "#!" + TENANT)}
        listed = [
            {**app, "args": ["{{port}}"], "path": f"/t{path}", "var": {"database": database}}
            for path, database in databases.items()
        ]
        env = {"RAILS_APP_DB": "${database}", "HOLD": str(self.folder / "tenant")}
        self.config["applications"] = {"env": env, "pools": {"start_port": 20000}, "tenants": listed}

    def write(self, name: str = "navigator.yml", **changes: Any) -> Path:
        """Publish the configuration, with this very moment as its time."""
        file = self.folder / name
        file.write_text(yaml.safe_dump({**self.config, **changes}))
        self.touch(file)
        return file

    def touch(self, file: Path, seconds: float = 0) -> None:
        moment = time.time_ns() + int(seconds * 1e9)
        os.utime(file, ns=(moment, moment))

    def start(self, *options: str, config: str = "navigator.yml", **env: str) -> None:
        self.write()
        if options:
            self.navigator = NavigatorProcess(*options, program=None)
        self.navigator.start(config, self.folder, **env)

    def start_with_gates(self) -> None:
        """Start it so that a file `tenant`, in the stand-in `reload` as well, holds it up."""
        self.start(*([] if self.program else ["--hold", str(self.folder)]))

    def dies(self, config: str = "navigator.yml") -> int:
        """Start it without a hope that it listens; its exit status."""
        self.navigator.launch(config, self.folder)
        return self.navigator.process.wait(20)

    def pid_in_file(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return int(self.navigator.pid_file.read_text())
        return None

    def request(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.navigator.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            self.headers = answer.headers
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def login(self, user: str, password: str) -> int:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.request("/private", Authorization=f"Basic {token}")[0]

    def users(self, text: str, seconds: float = 0) -> None:
        file = self.folder / "htpasswd"
        file.write_text(text)
        self.touch(file, seconds)
        self.config["auth"] = {"enabled": True, "realm": "Showcase", "htpasswd": str(file)}

    def reloads(self) -> int:
        return self.navigator.logged(RELOADED)

    def until(self, condition: Callable[[], object]) -> None:
        wait_until(condition)

    def reload(self) -> None:
        """Ask with SIGHUP and wait until it is done."""
        before = self.reloads()
        self.navigator.signal()
        self.until(lambda: self.reloads() > before)


def served(site: Site) -> Iterator[Site]:
    yield site
    if hasattr(site.navigator, "process"):
        site.navigator.stop()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Site]:
    yield from served(Site(tmp_path, None))


@pytest.fixture(params=PROGRAMS, ids=lambda program: "real" if program else "stand-in")
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    yield from served(Site(tmp_path, request.param))


# --- CGI


def test_a_script_gets_its_variables_its_folder_and_the_body_as_it_came(site: Site) -> None:
    """Own environment, then env, then CGI/1.1, then headers; the script's folder; the body not unpacked."""
    site.cgi("/echo", ECHO, method="POST", env={"OWN_B": "entry", "REQUEST_METHOD": "entry"})
    site.start(OWN_A="own", OWN_B="own")
    packed = gzip.compress(b"index " * 1000)
    headers = {
        "Content_Type": "application/gzip",
        "Content_Encoding": "gzip",
        "Proxy": "evil",
        "X_Note": "a, b",
    }
    status, text = site.request("/echo?a=%20b&c", "POST", packed, **headers)
    seen = json.loads(text)
    env = seen["env"]
    assert (status, site.headers["X-Seen"]) == (207, "yes")
    assert bytes.fromhex(seen["body"]) == packed
    assert seen["cwd"] == str(site.folder / "scripts")
    expected = {
        "OWN_A": "own", "OWN_B": "entry", "REQUEST_METHOD": "POST", "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "Navigator", "QUERY_STRING": "a=%20b&c",
        "SCRIPT_NAME": "/echo", "PATH_INFO": "", "SERVER_NAME": f"127.0.0.1:{site.navigator.port}",
        "CONTENT_TYPE": "application/gzip", "CONTENT_LENGTH": str(len(packed)), "HTTP_PROXY": "evil",
        "HTTP_X_NOTE": "a, b", "HTTP_CONTENT_ENCODING": "gzip", "HTTP_ACCEPT_ENCODING": "identity",
    }  # fmt: skip
    assert {name: env.get(name) for name in expected} == expected
    assert env["REMOTE_ADDR"].startswith("127.0.0.1:")
    assert set(env) - set(os.environ) - set(expected) <= {"REMOTE_ADDR", "HTTP_X_REQUEST_ID", "LC_CTYPE"}


def test_a_chunked_body_has_no_length_and_ends_with_the_file(site: Site) -> None:
    """CONTENT_LENGTH is empty, and standard input ends at end of file."""
    site.cgi("/echo", ECHO)
    site.start()
    seen = json.loads(site.request("/echo", "POST", iter([b"one ", b"two"]))[1])
    assert bytes.fromhex(seen["body"]) == b"one two"
    assert seen["env"]["CONTENT_LENGTH"] == ""
    assert "HTTP_TRANSFER_ENCODING" not in seen["env"]


def test_a_client_that_expects_100_continue_is_answered(site: Site) -> None:
    """The body of such a request is asked for and reaches the script."""
    site.cgi("/echo", ECHO)
    site.start()
    with socket.create_connection(("127.0.0.1", site.navigator.port), timeout=10) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(b"hi")
        assert client.recv(4096).startswith(b"HTTP/1.1 207")


def test_another_method_falls_through_to_the_next_handler(site: Site) -> None:
    """A method that the entry does not name is not refused; an unknown path is 404."""
    site.cgi("/echo", ECHO, method="post")
    site.start()
    assert site.request("/echo", "POST")[0] == 207
    assert site.request("/echo")[0] == 404
    assert site.request("/echo/", "POST")[0] == 404


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("exit 0", (200, "")),
        ("exit 1", (200, "")),
        ("printf 'no header\\nStatus: 503 Later\\n\\nwait'; exit 1", (503, "wait")),
        ("printf 'Status: soon\\r\\n\\r\\na\\n\\nb'", (200, "a\n\nb")),
        ("echo; head -c 100000 /dev/zero | tr '\\0' x", (200, "x" * 100_000)),
        ("#!/nowhere/python", (500, "Internal Server Error\n")),
    ],
)
def test_the_answer_is_what_the_script_printed(site: Site, text: str, answer: tuple[int, str]) -> None:
    """Status sets the code whatever the exit status is; no output is an empty 200; no start is 500."""
    site.cgi("/say", text)
    site.start()
    assert site.request("/say") == answer


def test_scripts_run_at_the_same_time(site: Site) -> None:
    """Two requests are two processes: each waits for the other one's file."""
    wait = "touch {0}; while [ ! -e {1} ]; do sleep 0.01; done; echo; echo met"
    site.cgi("/a", wait.format("a", "b"))
    site.cgi("/b", wait.format("b", "a"))
    site.start()
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(site.request, ["/a", "/b"])) == [(200, "met\n")] * 2


def test_the_answer_ends_when_the_script_ends(site: Site) -> None:
    """A short answer stays in a buffer until then, so nothing can be streamed."""
    site.cgi(
        "/slow", f"echo; echo early; touch started; while [ ! -e {site.folder}/go ]; do sleep 0.01; done"
    )
    site.start()
    with socket.create_connection(("127.0.0.1", site.navigator.port), timeout=10) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        site.until((site.folder / "scripts/started").exists)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        (site.folder / "go").touch()
        client.settimeout(10)
        assert client.makefile("rb").read().endswith(b"early\n")


def test_a_script_past_its_time_limit_is_killed(site: Site) -> None:
    """The client gets what was printed so far, an empty 200 here, and nothing is reloaded."""
    site.cgi("/hang", "exec sleep 60", timeout="200ms", reload_config="navigator.yml")
    site.start()
    site.touch(site.yml)
    assert site.request("/hang") == (200, "")
    assert site.navigator.logged(TRIGGERED) == 0


@pytest.mark.parametrize("length", [2, 1000])
def test_a_client_that_leaves_takes_its_script_along(site: Site, length: int) -> None:
    """Whether its request was read to the end or broke off, the script is killed and nothing is reloaded."""
    site.cgi("/hang", "echo $$ > pid; exec sleep 60", reload_config="navigator.yml")
    site.start()
    site.touch(site.yml)
    pid = site.folder / "scripts/pid"
    with socket.create_connection(("127.0.0.1", site.navigator.port)) as client:
        client.sendall(b"POST /hang HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nhi" % length)
        site.until(lambda: pid.exists() and pid.read_text())
    site.until(lambda: site.navigator.logged("CGI script execution failed") == 1)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    assert site.navigator.logged(TRIGGERED) == 0


# --- what causes a reload


def test_exit_0_and_a_newer_file_cause_a_reload(site: Site) -> None:
    """Neither exit status 1 nor a file with an older time does, whatever the file says."""
    site.cgi("/good", "exit 0", reload_config="navigator.yml")
    site.cgi("/bad", "exit 1", reload_config="navigator.yml")
    site.start()
    site.request("/good")
    site.write()
    site.request("/bad")
    site.touch(site.yml, -60)
    site.request("/good")
    assert site.navigator.logged(TRIGGERED) == 0
    site.touch(site.yml)
    site.request("/good")
    site.until(lambda: site.reloads() == 1)
    site.request("/good")
    assert site.navigator.logged(TRIGGERED) == 1


def test_the_reload_comes_after_the_script(site: Site) -> None:
    """A script that waited for the reload would wait for ever."""
    site.hooks(start=[site.note("start")])
    site.cgi("/wait", f"sleep 0.3; echo script >> {site.folder}/notes", reload_config="navigator.yml")
    site.start()
    site.touch(site.yml)
    site.request("/wait")
    site.until(lambda: len(site.notes) == 3)
    assert site.notes == ["start", "script", "start"]


def test_another_path_is_loaded_however_old_it_is(site: Site) -> None:
    """Paths are compared as text. The new one is current from then on; one that is missing is not loaded."""
    site.cgi("/other", "exit 0", reload_config="other.yml")
    site.cgi("/same", "exit 0", reload_config="./navigator.yml")
    site.cgi("/gone", "exit 0", reload_config="gone.yml")
    site.start()
    site.request("/gone")
    assert site.navigator.logged(TRIGGERED) == 0
    site.touch(site.write("other.yml"), -60)
    site.request("/other")
    site.until(lambda: site.reloads() == 1)
    site.request("/other")
    assert site.navigator.logged(TRIGGERED) == 1
    site.request("/same")
    site.until(lambda: site.reloads() == 2)


def test_sighup_reloads_whatever_the_time_is(site: Site) -> None:
    """The pid file names the process to signal. It is there from the start and goes at an orderly end."""
    site.config["server"]["health_check"] = {"path": "/up", "response": {"status": 200, "body": "one"}}
    site.start()
    assert site.request("/up") == (200, "one")
    site.config["server"]["health_check"]["response"] = {"status": 503, "body": "two"}
    site.touch(site.write(), -60)
    os.kill(int(site.navigator.pid_file.read_text()), signal.SIGHUP)
    site.until(lambda: site.request("/up") == (503, "two"))
    assert site.navigator.stop() == 0
    assert not site.navigator.pid_file.exists()


def test_a_pid_file_outlives_a_killed_process(site: Site) -> None:
    """So its presence proves nothing."""
    site.start()
    pid = site.navigator.pid
    site.navigator.kill()
    assert site.navigator.pid_file.read_text() == str(pid)


@pytest.mark.parametrize(
    "bad",
    ["server: {listen: [", "server: [1]", "auth: {enabled: maybe}", "hooks: {server: {ready: x}}",
     "auth: {}\nauth: {}\n", "just text", "applications: {pools: {max_size: many}}"],
)  # fmt: skip
def test_a_file_that_does_not_parse_changes_nothing(site: Site, bad: str) -> None:
    """The old configuration stays and no hook runs; the next good file is loaded. A start dies of it."""
    site.hooks(start=[site.note("start")], ready=[site.note("ready")])
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    site.start()
    site.until(lambda: site.notes == ["start", "ready"])
    site.yml.write_text(bad)
    site.touch(site.yml)
    site.request("/poke")
    site.until(lambda: site.navigator.logged("Failed to reload configuration") == 1)
    assert site.request("/poke")[0] == 200
    site.until(lambda: site.navigator.logged("Failed to reload configuration") == 2)
    assert site.notes == ["start", "ready"]
    site.write()
    site.request("/poke")
    site.until(lambda: site.notes == ["start", "ready"] * 2)
    site.navigator.stop()
    site.yml.write_text(bad)
    assert site.dies() == 1
    assert not site.navigator.pid_file.exists()


def test_an_empty_file_is_a_configuration(site: Site) -> None:
    """It is loaded, and with it every login, script and tenant goes: never publish one."""
    site.users("")
    site.start()
    assert site.request("/private")[0] == 401
    site.yml.write_text("")
    site.reload()
    assert site.request("/private")[0] == 404


# --- which file is the current one


def maintenance(site: Site, **ready: Any) -> None:
    """A page of maintenance beside navigator.yml, which a script of both moves it on to."""
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    hooks = {"server": {"ready": [{**site.note("maintenance"), **ready}]}}
    site.write("maintenance.yml", maintenance={"enabled": True}, hooks=hooks)
    site.hooks(ready=[{**site.note("navigator"), "reload_config": "navigator.yml"}])


def test_sighup_re_reads_the_file_that_is_current(site: Site) -> None:
    """On the maintenance file it stays there, however new navigator.yml is, until a script or a hook that
    names navigator.yml moves it on. After a reload the hooks' reload_config is not looked at."""
    maintenance(site)
    site.start(config="maintenance.yml")
    site.until(lambda: site.notes == ["maintenance"])
    site.write("maintenance.yml", maintenance={"enabled": True}, hooks={"server": {"ready": [
        {**site.note("again"), "reload_config": "navigator.yml"}]}})  # fmt: skip
    site.touch(site.yml)
    site.reload()
    site.until(lambda: site.notes == ["maintenance", "again"])
    assert site.request("/")[0] == 503
    site.touch(site.yml, -60)
    site.request("/poke")
    site.until(lambda: site.notes == ["maintenance", "again", "navigator"])
    assert site.request("/")[0] == 404
    site.reload()
    site.until(lambda: site.notes[3:] == ["navigator"])
    assert site.request("/")[0] == 404
    assert site.reloads() == 3


def test_its_command_line_names_the_file_it_was_started_with(site: Site) -> None:
    """As it was written there, whatever it has loaded since."""
    maintenance(site, reload_config="navigator.yml")
    site.start(config="maintenance.yml")
    site.until(lambda: site.notes == ["maintenance", "navigator"])
    words = Path(f"/proc/{site.navigator.pid}/cmdline").read_bytes().split(b"\0")
    assert b"maintenance.yml" in words
    assert b"navigator.yml" not in words


def test_a_move_to_a_file_that_does_not_parse_is_a_move(site: Site) -> None:
    """The old configuration serves, but SIGHUP reads the new file from then on."""
    maintenance(site)
    site.start(config="maintenance.yml")
    site.yml.write_text("server: [")
    site.request("/poke")
    site.until(lambda: site.navigator.logged("Failed to reload configuration") == 1)
    assert site.request("/")[0] == 503
    site.touch(site.write(), -60)
    site.reload()
    assert site.request("/")[0] == 404


def test_first_ready_hooks_compare_with_what_was_current_when_they_began(site: Site) -> None:
    """So a script's reload in the meantime does not spare the one that they cause."""
    hold = site.folder / "hold"
    hold.touch()
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    slow = {"command": site.script("slow", site.gate("hold")), "reload_config": "navigator.yml"}
    site.write("maintenance.yml", hooks={"server": {"ready": [slow]}})
    site.touch(site.write(), -60)
    site.navigator.start("maintenance.yml", site.folder)
    site.until(lambda: site.notes == ["hold"])
    site.request("/poke")
    site.until(lambda: site.reloads() == 1)
    hold.unlink()
    site.until(lambda: site.reloads() == 2)


# --- slow reloads


def test_a_file_staged_before_a_load_and_renamed_after_it_is_missed(site: Site) -> None:
    """It is older than the load time, which is taken before start hooks run. A newer time is seen."""
    hold, staged = site.folder / "hold", site.folder / "staged"
    site.hooks(start=[{"command": site.script("slow", site.gate("hold"))}])
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    site.start()
    site.write("staged")
    hold.touch()
    site.navigator.signal()
    site.until(lambda: site.notes == ["hold", "hold"])
    staged.rename(site.yml)
    site.request("/poke")
    assert site.navigator.logged(TRIGGERED) == 0
    site.write("staged")
    staged.rename(site.yml)
    site.request("/poke")
    assert site.navigator.logged(TRIGGERED) == 1
    hold.unlink()
    site.until(lambda: site.reloads() == 2)
    site.request("/poke")
    assert site.navigator.logged(TRIGGERED) == 1


def test_a_reload_waits_for_an_application_that_starts(site: Site) -> None:
    """Its load time is taken before that, start hooks and all the rest come after it."""
    hold = site.folder / "tenant"
    hold.touch()
    site.tenants(a="one")
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    site.hooks(start=[site.note("start")])
    site.start_with_gates()
    site.write("staged")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(site.request, "/ta/")
        site.until(lambda: site.navigator.logged(STARTING) == 1)
        site.navigator.signal()
        site.until(lambda: site.navigator.logged("Received SIGHUP") == 1)
        (site.folder / "staged").rename(site.yml)
        assert site.request("/poke")[0] == 200
        assert (site.navigator.logged(TRIGGERED), site.reloads(), site.notes) == (0, 0, ["start"])
        hold.unlink()
        assert first.result(20) == (200, "tenant one\n")
    site.until(lambda: site.reloads() == 1 and site.notes == ["start"] * 2)


def test_tenants_wait_while_another_one_starts(site: Site) -> None:
    """Those that run, too; all else is answered. A client that leaves does not end the start."""
    hold = site.folder / "tenant"
    site.tenants(a="one", b="two")
    site.config["server"]["health_check"] = {"path": "/up", "response": {"status": 200, "body": "up"}}
    site.start_with_gates()
    assert site.request("/tb/") == (200, "tenant two\n")
    hold.touch()
    with socket.create_connection(("127.0.0.1", site.navigator.port)) as client:
        client.sendall(b"GET /ta/ HTTP/1.1\r\nHost: x\r\n\r\n")
        site.until(lambda: site.navigator.logged(STARTING) == 2)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(site.request, "/tb/")
        with pytest.raises(TimeoutError):
            other.result(0.3)
        assert site.request("/up") == (200, "up")
        assert site.request("/nobody/")[0] == 404
        hold.unlink()
        assert other.result(20) == (200, "tenant two\n")
    assert site.request("/ta/") == (200, "tenant one\n")


# --- hooks


def test_hooks_run_in_order_and_the_first_failure_ends_the_list(site: Site) -> None:
    """Start hooks before it listens, ready hooks after; both at a reload, where a failed start is no end."""
    flag = site.folder / "fail"
    site.hooks(
        start=[site.note("start", f"test ! -e {flag}"), site.note("started")],
        ready=[site.note("one"), {"command": "/nowhere/hook"}, site.note("three")],
    )
    site.start()
    assert site.notes[:2] == ["start", "started"]
    site.until(lambda: site.notes == ["start", "started", "one"])
    flag.touch()
    site.reload()
    site.until(lambda: site.notes == ["start", "started", "one", "start", "one"])
    site.reload()
    site.until(lambda: site.notes == ["start", "started", "one", "start", "one", "start", "one"])


def test_a_hook_past_its_time_limit_is_killed(site: Site) -> None:
    """That is a failure, which ends the list."""
    hang = {"command": site.script("hang", "exec sleep 60"), "timeout": "200ms"}
    site.hooks(ready=[site.note("one"), {**hang, "reload_config": "./navigator.yml"}, site.note("three")])
    site.start()
    site.until(lambda: site.navigator.logged("Hook execution failed") == 1)
    assert site.notes == ["one"]
    site.reload()
    assert site.reloads() == 1


def test_a_hook_lasts_until_its_output_is_closed(site: Site) -> None:
    """A child that it leaves behind holds up the next hook, even beyond the time limit."""
    orphaned = 'while read -r _ _ _ parent _ < /proc/self/stat; [ "$parent" = $$ ]; do sleep 0.01; done'
    child = f"({orphaned}; sleep 0.5; echo child >> {site.folder}/notes) &"
    leaves = {"command": site.script("leaves", child), "timeout": "100ms"}
    site.hooks(ready=[leaves, site.note("next")])
    site.start()
    site.until(lambda: site.notes == ["child", "next"])


def test_ready_hooks_of_two_reloads_can_overlap(site: Site) -> None:
    """They run in the background; nothing waits for the list before."""
    go = site.folder / "go"
    site.hooks(ready=[site.note("ready", f"while [ ! -e {go} ]; do sleep 0.01; done"), site.note("done")])
    site.start()
    site.until(lambda: site.notes == ["ready"])
    site.reload()
    site.until(lambda: site.notes == ["ready", "ready"])
    go.touch()
    site.until(lambda: sorted(site.notes) == ["done", "done", "ready", "ready"])


def test_the_first_ready_hooks_can_cause_a_reload(site: Site) -> None:
    """Their reload_config counts at the first start, and only then: no loop."""
    hook = {
        **site.note("ready", f"touch -d '1 minute' {site.folder}/navigator.yml"),
        "reload_config": "navigator.yml",
    }
    site.hooks(ready=[hook])
    site.start()
    site.until(lambda: site.reloads() == 1 and site.notes == ["ready"] * 2)
    site.reload()
    site.until(lambda: site.notes == ["ready"] * 3)
    assert site.reloads() == 2


def test_a_failed_ready_hook_causes_no_reload(site: Site) -> None:
    """The list must succeed before its reload_config counts."""
    touched = {
        **site.note("ready", f"touch -d '1 minute' {site.folder}/navigator.yml"),
        "reload_config": "navigator.yml",
    }
    site.hooks(ready=[touched, {"command": "/bin/false"}])
    site.start()
    site.until(lambda: site.navigator.logged("Hook execution failed") == 1)
    site.reload()
    assert site.reloads() == 1


def start_hook_fails(site: Site) -> None:
    site.hooks(start=[{"command": "/bin/false"}])


def htpasswd_is_missing(site: Site) -> None:
    site.users("")
    (site.folder / "htpasswd").unlink()


def htpasswd_is_no_file(site: Site) -> None:
    site.config["auth"] = {"enabled": True, "htpasswd": str(site.folder)}


@pytest.mark.parametrize("fault", [start_hook_fails, htpasswd_is_missing, htpasswd_is_no_file])
def test_a_start_that_fails_is_no_start(site: Site, fault: Callable[[Site], None]) -> None:
    """It ends with status 1, and its pid file stays. A reload with the same fault is done all the same."""
    good = dict(site.config)
    fault(site)
    bad, site.config = site.config, good
    site.start()
    site.write(**bad)
    site.reload()
    site.navigator.stop()
    assert site.dies() == 1
    assert site.pid_in_file() == site.navigator.pid


def test_a_start_without_its_file_or_its_port_fails(site: Site) -> None:
    """Status 1 both times; the pid file is written before the port is asked for, after the file is read."""
    assert site.dies() == 1
    assert site.pid_in_file() != site.navigator.pid
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", site.config["server"]["listen"]))
        taken.listen()
        site.write()
        assert site.dies() == 1
    assert site.pid_in_file() == site.navigator.pid


def test_sighup_ends_it_before_it_listens(site: Site) -> None:
    """Its pid file is there already while start hooks run, but it does not yet listen to signals."""
    hold = site.folder / "hold"
    hold.touch()
    site.hooks(start=[{"command": site.script("slow", site.gate("hold"))}])
    site.write()
    site.navigator.launch("navigator.yml", site.folder)
    site.until(lambda: site.notes == ["hold"])
    assert site.navigator.status is None
    os.kill(int(site.navigator.pid_file.read_text()), signal.SIGHUP)
    assert site.navigator.process.wait(20) == -signal.SIGHUP
    hold.unlink()


@pytest.mark.parametrize(("action", "said"), [("suspend", "Suspending"), ("stop", "Stopping")])
def test_it_asks_for_its_end_when_nothing_was_asked_of_it(site: Site, action: str, said: str) -> None:
    """After the idle hooks, once, and also when a reload brings the time limit and no request comes."""
    said += " machine due to inactivity"
    site.start(FLY_APP_NAME="", FLY_MACHINE_ID="")
    hold = site.folder / "hold"
    hold.touch()
    site.config["server"]["idle"] = {"action": action, "timeout": "100ms"}
    site.hooks(idle=[{"command": site.script("slow", site.gate("hold"))}])
    site.write()
    site.navigator.signal()
    site.until(lambda: site.notes == ["hold"])
    assert site.navigator.logged(said) == 0
    hold.unlink()
    site.until(lambda: site.navigator.logged(said) == 1)
    assert site.notes == ["hold"]


def test_the_first_request_after_idling_runs_the_resume_hooks(site: Site) -> None:
    """It does not wait for them, later ones do; a newer file is loaded after them."""
    site.config["server"]["idle"] = {"action": "suspend", "timeout": "300ms"}
    go = site.folder / "go"
    resume = {
        **site.note("resume", f"while [ ! -e {go} ]; do sleep 0.01; done"),
        "reload_config": "navigator.yml",
    }
    site.hooks(idle=[site.note("idle")], resume=[resume])
    site.start(FLY_APP_NAME="", FLY_MACHINE_ID="")  # so that the real one asks nobody to suspend it
    site.until(lambda: site.notes[:1] == ["idle"])
    site.touch(site.yml)
    assert site.request("/")[0] == 404
    site.until(lambda: site.notes[:2] == ["idle", "resume"])
    with ThreadPoolExecutor() as pool:
        later = pool.submit(site.request, "/")
        with pytest.raises(TimeoutError):
            later.result(0.3)
        assert site.reloads() == 0
        go.touch()
        assert later.result(10)[0] == 404
    site.until(lambda: site.reloads() > 0)  # it may have idled again by now


def test_requests_go_on_when_a_resume_hook_fails(site: Site) -> None:
    """The list ends there, and nothing is loaded, however new the file is."""
    site.config["server"]["idle"] = {"action": "suspend", "timeout": "1s"}
    hooks = [{"command": "/bin/false", "reload_config": "navigator.yml"}, site.note("second")]
    site.hooks(idle=[site.note("idle")], resume=hooks)
    site.start(FLY_APP_NAME="", FLY_MACHINE_ID="")
    site.until(lambda: site.notes == ["idle"])
    site.touch(site.yml)
    assert [site.request("/")[0], site.request("/")[0]] == [404, 404]
    site.until(lambda: site.navigator.logged("Hook execution failed") >= 1)
    assert "second" not in site.notes
    assert site.reloads() == 0


# --- logins


def test_a_removed_user_stays_until_a_login_fails_or_a_reload(site: Site) -> None:
    """htpasswd is cached: taking somebody out of it is not enough."""
    site.users("user1:old\nuser2:pw\n")
    site.start()
    assert [site.login("user1", "old"), site.login("user2", "pw"), site.request("/private")[0]] == [
        404,
        404,
        401,
    ]
    site.users("user1:new\n", 1)
    assert [site.login("user1", "old"), site.login("user2", "pw")] == [404, 404]
    assert site.request("/private")[0] == 401  # no login was tried
    assert [site.login("user1", "old"), site.login("user2", "pw")] == [404, 404]
    assert site.login("user1", "new") == 404  # fails at first, which makes it read the file
    assert [site.login("user1", "old"), site.login("user2", "pw")] == [401, 401]
    site.users("user2:pw\n", -60)
    assert [site.login("user1", "new"), site.login("user2", "pw")] == [
        404,
        401,
    ]  # an older file is not noticed
    site.reload()
    assert [site.login("user1", "new"), site.login("user2", "pw")] == [401, 404]


def test_users_stay_when_htpasswd_cannot_be_read(site: Site) -> None:
    """The reload goes on and counts as successful."""
    site.users("user1:pw\n")
    site.start()
    (site.folder / "htpasswd").unlink()
    site.reload()
    assert site.navigator.logged("Failed to reload auth file") == 1
    assert [site.login("user1", "pw"), site.login("user1", "no")] == [404, 401]


def test_a_start_hook_may_write_htpasswd(site: Site) -> None:
    """At a reload the start hooks run before htpasswd is read."""
    site.users("user1:pw\n")
    site.start()
    site.hooks(start=[{"command": site.script("passwd", f"echo user2:pw > {site.folder}/htpasswd")}])
    site.write()
    site.reload()
    assert [site.login("user1", "pw"), site.login("user2", "pw")] == [401, 404]


LONG = "a-much-longer-password-than-sixteen"
STORED = {
    "bcrypt": ("open sesame", bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()),
    "bcrypt-2y": (LONG, "$2y$" + bcrypt.hashpw(LONG.encode(), bcrypt.gensalt(4)).decode()[4:]),
    "long": ("x" * 90, bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()),
    "apr1": ("open sesame", "$apr1$abcdefgh$T64oOxnD8c28.dQa.2Lty1"),
    "apr1-long": (LONG, "$apr1$abcdefgh$XwHkTGebIwD0SEr0GZ.dV0"),
    "md5": (LONG, "$1$abcdefgh$5dBD1CjyR.rdn8PaV4hYt/"),
    "sha": ("open sesame", "{SHA}" + base64.b64encode(hashlib.sha1(b"open sesame").digest()).decode()),
    "ssha": (
        "open sesame",
        "{SSHA}" + base64.b64encode(hashlib.sha1(b"open sesamesalt").digest() + b"salt").decode(),
    ),
    "plain": ("open:sesame", "open:sesame"),
    "nginx": ("open sesame", "{PLAIN}open sesame"),
    "unknown": ("$argon2id$v=19$abc", "$argon2id$v=19$abc"),
}


def test_every_stored_form_of_a_password_is_understood(site: Site) -> None:
    """bcrypt (72 bytes of the password count), apr1, $1$, {SHA}; whatever is not recognised is plain text."""
    site.users("".join(f"{user}:{stored}\r\n" for user, (_, stored) in STORED.items()))
    site.start()
    assert {user: site.login(user, password) for user, (password, _) in STORED.items()} == dict.fromkeys(
        STORED, 404
    )
    assert {
        user: site.login(user, f"{password[:9]}!") for user, (password, _) in STORED.items()
    } == dict.fromkeys(STORED, 401)
    assert site.login("  plain ", "open:sesame") == 404


def test_the_last_line_of_a_user_counts_and_bad_lines_are_skipped(site: Site) -> None:
    """Empty lines, comments and lines that cannot be understood are no error, and not anybody's last line."""
    bad = ["", "# a comment", "nobody", "user1:{SHA}short", "user1:$apr1$x", "user1:{SHA}!!", " \t "]
    site.users("\n".join(["user1:first", "user1:second", "  user2:pw  ", "# user3: pw", *bad]))
    site.start()
    assert [site.login("user1", p) for p in ("first", "second", "{SHA}short", "$apr1$x")] == [
        401,
        404,
        401,
        401,
    ]
    assert [site.login("user2", "pw"), site.login("# user3", " pw"), site.login("nobody", "")] == [
        404,
        404,
        401,
    ]
    site.users("cut:$2y$05$tooshort\n", 1)
    assert [site.login("cut", "$2y$05$tooshort"), site.login("user1", "second")] == [401, 401]


def test_public_paths_and_patterns_need_no_login(site: Site) -> None:
    """An expression that RE2 does not know is dropped without a word, and its exemption with it."""
    site.users("user1:pw\n")
    site.config["auth"]["public_paths"] = ["/docs/", "/exact", "*.css", "/a/*.txt"]
    patterns = ["^/free/", "^/look(?!ahead)", "^/back(a)\\1", "(", "^/on/"]
    site.config["auth"]["auth_patterns"] = [{"pattern": p, "action": "off"} for p in patterns[:-1]]
    site.config["auth"]["auth_patterns"] += [{"pattern": patterns[-1], "action": "Other realm"}]
    site.start()
    public = ["/docs/x/y", "/exact", "/x/y.css", "/a/b.txt", "/free/x"]
    closed = ["/docs", "/exact/", "/x.css/", "/a/b/c.txt", "/look", "/backaa", "/on/", "/x/free/"]
    answers = {path: site.request(path)[0] for path in public + closed}
    assert answers == dict.fromkeys(public, 404) | dict.fromkeys(closed, 401)
    assert site.headers["WWW-Authenticate"] == 'Basic realm="Showcase"'


# --- pages


def test_files_then_maintenance(site: Site) -> None:
    """Files with an extension for everyone, prerendered pages on public paths, maintenance for the rest."""
    files = {
        "studios/index.html": "studios",
        "regions/iad.html": "iad",
        "a.css": "css",
        "503.html": "later",
        "x.rb": "rb",
    }
    for name, text in files.items():
        file = site.folder / "public" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    static = {"allowed_extensions": ["html", "css"], "try_files": ["index.html", ".html"]}
    site.config["server"] |= {"root_path": "/showcase", "static": static}
    site.config["maintenance"] = {"enabled": True, "page": "/503.html"}
    site.start()
    assert site.request("/showcase/a.css") == (200, "css")
    assert site.request("/showcase/x.rb") == (503, "later")
    assert site.request("/showcase/studios/") == (503, "later")  # without auth nothing counts as public
    site.users("user1:pw\n")
    site.config["auth"]["public_paths"] = ["/showcase/"]
    site.write()
    site.reload()
    assert site.request("/showcase/studios/") == (200, "studios")
    assert site.request("/showcase/regions/iad") == (200, "iad")
    assert site.request("/showcase/regions/ord") == (503, "later")
    assert site.request("/showcase/studios/index.html")[0] == 301
    assert site.headers["Location"] == "./"


def test_tenants_by_longest_path(site: Site) -> None:
    """A tenant that runs goes on with its database after a reload; new ones are served, removed ones 404."""
    site.tenants(a="one", ab="two")
    site.start()
    assert site.request("/ta/x")[1] == "tenant one\n"
    assert site.request("/nobody/")[0] == 404
    site.tenants(a="changed", abc="three")
    site.write()
    site.reload()
    assert site.request("/ta/")[1] == "tenant one\n"
    assert site.request("/tabc/")[1] == "tenant three\n"
    assert site.request("/tab/")[0] == 404


# --- the stand-in alone


def test_reloads_can_be_ignored(stand_in: Site) -> None:
    """While the file exists requests are dropped; later ones are done."""
    site, stuck = stand_in, stand_in.folder / "stuck"
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    stuck.touch()
    site.start("--ignore-reloads", str(stuck))
    site.touch(site.yml)
    site.request("/poke")
    site.until(lambda: site.navigator.logged("Reload ignored") == 1)
    assert site.reloads() == 0
    stuck.unlink()
    site.request("/poke")
    site.until(lambda: site.reloads() == 1)


def test_a_file_written_during_a_slow_load_is_missed(stand_in: Site) -> None:
    """The load time is taken after reading, so what is written between the two looks loaded."""
    site, hold = stand_in, stand_in.folder / "reload"
    site.cgi("/poke", "exit 0", reload_config="navigator.yml")
    site.start_with_gates()
    hold.touch()
    site.navigator.signal()
    site.until(lambda: site.navigator.logged("Received SIGHUP") == 1)
    site.write()
    hold.unlink()
    site.until(lambda: site.reloads() == 1)
    site.request("/poke")
    assert site.navigator.logged(TRIGGERED) == 0


def test_loads_and_applications_can_be_slow(stand_in: Site) -> None:
    """By a number of seconds, and nobody has to open a gate."""
    site = stand_in
    site.tenants(a="one")
    site.start("--reload-delay", "0.1", "--tenant-boot", "0.1")
    started = time.monotonic()
    assert site.request("/ta/") == (200, "tenant one\n")
    site.reload()
    assert time.monotonic() - started >= 0.2


def test_it_ends_with_its_parent(stand_in: Site) -> None:
    """A test run that is killed leaves no server behind."""
    site = stand_in
    site.write()
    program = f"""
import sys, time
from pathlib import Path
from tests.support.navigator import NavigatorProcess
navigator = NavigatorProcess(program=None).start("navigator.yml", Path({str(site.folder)!r}))
print(navigator.pid, flush=True)
time.sleep(60)
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout
        pid = parent.stdout.readline().decode().strip()
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


async def test_it_can_be_started_in_a_coroutine(tmp_path: Path) -> None:
    """The same, without a wait that blocks the event loop."""
    site = Site(tmp_path, None)
    site.write()
    navigator = await site.navigator.start_async("navigator.yml", tmp_path)
    assert navigator.pid == int(navigator.pid_file.read_text())
    assert await navigator.stop_async() == 0
