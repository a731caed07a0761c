"""The manual: complete, current, its links lead somewhere, and its commands do what they are shown for."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import jsonschema_rs
import pytest
import yaml

from sidecar.cli.client import Client
from sidecar.config import parse
from sidecar.config.parse import fields as setting_fields
from sidecar.config.schema import schema
from sidecar.model.states import HEALTH, SYNC
from sidecar.observe.metrics import Metrics
from sidecar.update.lifecycle import Phase
from sidecar.web.routes import document
from tests.conftest import ROOT, free_port
from tests.support.cgi import BIN, Daemon, environment, run, serving
from tests.support.machine import SECRET, Machine
from tests.support.navigator import NavigatorProcess
from tests.support.navigator import free_port as navigator_port
from tests.support.prose import raw

DOCS = ROOT / "docs"
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    | set(DOCS.glob("*.md"))
    | {ROOT / "fly" / "README.md", ROOT / "monitoring" / "README.md"}
)
GENERATE = runpy.run_path(str(DOCS / "generate.py"))
PASSWORD = "a password for tests"

# Commands that no test can run, by how they begin, and why.
CANNOT = {
    "make demo": "runs until it is stopped; it is `sidecar demo` in a new environment",
    ".venv/bin/sidecar demo": "needs a demo that runs; the demo's own tests have one",
    "make check": "it is what runs this",
    "make install-systemd": "writes to the system; with DESTDIR the tests of the units run it",
    "make deb": "takes a minute; the tests of the platforms run it",
    "apt install": "writes to the system; the tests of the platforms run it",
    "pip install": "needs a package index",
    "/opt/sidecar/bin/pip": "needs a package index; the tests of the image run the same",
    "python3 -m venv /opt/sidecar": "writes to the system",
    "sidecar serve": "runs until it is stopped; all others talk to it",
    "sidecar --config /etc/sidecar/sidecar.yml serve": "the same",
    "sidecar demo": "runs until it is stopped, or needs one that runs; the demo's own tests do both",
    "sidecar fleet rollback": "needs an index before; the tests of rollouts have one",
    "sidecar fleet pause": "needs a rollout that is under way; the tests of rollouts have one",
    "sidecar fleet resume": "the same",
    "sidecar fleet abort": "the same",
    "systemctl": "needs systemd as process 1",
    "systemd-": "needs root, and writes to the system",
    "install -": "writes to the system",
    "docker": "needs a container engine",
    "fly ": "needs a cloud account",
    "ruby": "needs the application",
}
# What stands for something that is different on every machine.
STANDS_FOR = {
    ".venv/bin/sidecar": "sidecar",
    "sidecar rollback 12": "sidecar rollback 1",
    "--machine 148e21": "--machine test-machine",
    "--machine 148e ": "--machine test-machine ",
    "--user admin ": f"--user 'admin:{PASSWORD}' ",
}

# Commands that print something for programs.
DATA = ("--json", " sign ")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of one language."""
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    yield from fence.findall(page.read_text())


def command_lines() -> list[tuple[str, str]]:
    """Every command of a page's `sh` block, each once, with its page."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page, "sh"):
            joined = re.sub(r"(\\|&&)\n\s*", lambda match: match[1].replace("\\", "") + " ", block)
            for line in joined.splitlines():
                command = re.sub(r"\s+# .*", "", line.strip())
                if command and not command.startswith("#"):
                    found.setdefault(command, str(page.relative_to(ROOT)))
    return list(found.items())


def exempt(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in CANNOT)


# Complete and current


def test_the_generated_parts_are_current() -> None:
    """What is generated from the code is what the code says now: `make docs` would change nothing."""
    stale = [
        str(path.relative_to(ROOT))
        for path, text in GENERATE["outputs"]().items()
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run `make docs`"


def test_every_setting_is_documented() -> None:
    """Each setting stands in the reference with its variable, what it is, and those of its records too."""
    text = (DOCS / "configuration.md").read_text()
    for key, field in setting_fields().items():
        assert f"| `{key}`<br>`{parse.variable(key)}` |" in text, key
        assert GENERATE["description"](field.type), f"{key} has no description"
    for variable in [
        *parse._DEPLOYMENT,
        *parse._OTHER_VARIABLES,
        "BUCKET_NAME",
        "STATE_DIRECTORY",
    ]:
        assert f"`{variable}`" in text, variable


def test_every_command_is_documented() -> None:
    """Each command has its section with an example, its options, and a place in the man page and README."""
    text, manual = (DOCS / "commands.md").read_text(), (DOCS / "sidecar.1").read_text().replace("\\-", "-")
    readme = (ROOT / "README.md").read_text()
    names = []
    for name, parser, summary in GENERATE["subcommands"](GENERATE["cli"].parser()):
        names.append(name)
        assert f"## sidecar {name}\n" in text
        assert summary
        assert f"sidecar {name}" in manual
        assert f"sidecar {name.split()[0]}" in readme, name
        for written, about in GENERATE["options"](parser):
            assert about, f"{name} {written} has no help"
            assert written.split()[0] in text
    assert len(names) > 8


def test_every_metric_is_documented() -> None:
    """Each metric of the sidecar's own stands in the reference."""
    text = (DOCS / "metrics.md").read_text()
    for family in Metrics("machine", "region").registry.collect():
        if family.name.startswith("sidecar_"):
            assert f"`{family.name}" in text


def test_every_endpoint_is_documented() -> None:
    """Each endpoint stands in the table and has its section."""
    text = (DOCS / "api.md").read_text()
    for path, item in document()["paths"].items():
        for method in item:
            assert f"| `{method.upper()} {path}` |" in text
            assert f"### {method.upper()} {path}\n" in text


def test_every_state_is_explained() -> None:
    """Each word and phase that the status or the history can show says what to do, or what it means."""
    text = (DOCS / "operations.md").read_text()
    history = ["published", "loaded", "rolled_back", "unchanged", "rejected", "failed"]
    for state in [*SYNC, *HEALTH, *Phase, *history]:
        assert f"| `{state}` |" in text, state


def test_every_command_that_is_mentioned_exists() -> None:
    """No page names a command or an option that there is not."""
    known = {
        name: {
            part for written, _ in GENERATE["options"](parser) for part in re.findall(r"--[\w-]+", written)
        }
        for name, parser, _ in GENERATE["subcommands"](GENERATE["cli"].parser())
    }
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for mention in re.findall(r"`sidecar ([a-z][^`]*)`", prose):
            words = mention.split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            assert name in known, f"{page.name}: sidecar {mention}"
            for option in re.findall(r"--[\w-]+", mention):
                assert option in known[name] | {"--help"}, f"{page.name}: sidecar {mention}"


def test_every_setting_that_is_mentioned_exists() -> None:
    """No page names a setting that there is not."""
    known = set(setting_fields())
    sections = {key.partition(".")[0] for key in known if "." in key}
    for page in PAGES:
        for mention in re.findall(r"`([a-z_0-9]+\.[a-z_]+)`", page.read_text()):
            section, _, key = mention.partition(".")
            if (
                section in sections
                and not (ROOT / "docs" / mention).exists()
                and key not in ("yml", "md", "py", "txt")
            ):
                assert mention in known | STATUS_KEYS, f"{page.name}: {mention}"


STATUS_KEYS = {"navigator.state", "ready.steps", "generation.source"}


def test_examples_of_the_configuration_are_sound() -> None:
    """Every sidecar.yml that a page shows is accepted, by the parser and by the schema for editors."""
    for page in PAGES:
        for block in blocks(page, "yaml"):
            data = yaml.safe_load(block)
            if data.keys() & {"scrape_configs", "inhibit_rules"}:  # of Prometheus and Alertmanager
                continue
            hashed = "$2b$12$" + "a" * 53
            data["administrators"] = dict.fromkeys(data.get("administrators", {}), hashed)
            if data.get("trigger", {}).get("secret"):
                data["trigger"]["secret"] = SECRET
            environ = {"FLY_REGION": "iad", "FLY_APP_NAME": "showcase"}
            assert parse.parse(data, environ, str(page)), page
            assert not faults(data), page
    for shipped in ("fly/sidecar.yml", "package/sidecar.yml"):
        assert not faults(yaml.safe_load((ROOT / shipped).read_text()) or {}), shipped


def faults(document: dict[str, Any]) -> list[str]:
    """What an editor says of a configuration by its schema."""
    return [error.message for error in jsonschema_rs.validator_for(schema()).iter_errors(document)]


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a code forge makes them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """Every link within the repository leads to a file that is there, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_can_be_reached() -> None:
    """From the README, by links alone."""
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                todo.append((page.parent / target).resolve())
    assert set(PAGES) <= reached


# What is installed with the package


def test_completions_and_man_page_are_well_formed() -> None:
    """The shells parse the completions, and the man page shows without a warning."""
    subprocess.run(["bash", "-n", ROOT / "completion" / "sidecar.bash"], check=True)
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", ROOT / "completion" / "_sidecar"], check=True)
    if shutil.which("man"):
        command = ["man", "--warnings", "--local-file", str(DOCS / "sidecar.1")]
        shown = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=environment(MANWIDTH="90", LC_ALL="C.UTF-8"),
        )
        assert shown.stderr == ""
        assert "sidecar rollback" in shown.stdout


# Commands


def test_the_exemptions_are_needed() -> None:
    """Nothing stands on the list that no page shows."""
    commands = [command for command, _ in command_lines()]
    for beginning in CANNOT:
        assert any(command.startswith(beginning) for command in commands), beginning


@asynccontextmanager
async def shown_machine(folder: Path) -> AsyncIterator[tuple[Machine, Daemon, NavigatorProcess]]:
    """A machine as the pages assume it: daemon and Navigator run, and there are some generations."""
    port = navigator_port()
    navigator = NavigatorProcess()
    pid_file = "/tmp/navigator.pid" if navigator.program else folder / "app" / f"navigator-{port}.pid"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    extra: dict[str, Any] = {
        "administrators": {"admin": hashed},
        "listen": {"port": free_port()},
        "navigator": {"port": port, "pid_file": str(pid_file)},
        "trigger": {"interval": "0s", "burst": 1000},
        "fleet": {"machines": [{"id": "test-machine", "url": f"http://127.0.0.1:{port}", "region": "iad"}]},
    }
    machine = Machine(folder, extra)
    machine.put_index()
    async with serving(machine) as daemon:
        client = Client(str(machine.socket))
        assert client.request("POST", "/update")[0] == 200
        await navigator.start_async("config/navigator.yml", machine.application)
        try:
            machine.put_index(seed=2)
            status, outcome = client.request("POST", "/update?wait=loaded")
            assert status == 200, outcome
            yield machine, daemon, navigator
        finally:
            await navigator.stop_async()


async def test_every_command_runs(tmp_path: Path) -> None:
    """Each command line that a page shows ends with status 0, on a machine as the page assumes it; what it
    prints for people has no raw moment, no name of the code's and no stack."""
    here = tmp_path / "here"
    (here / "demo" / "iad").mkdir(parents=True)
    (here / "password.txt").write_text(f"{PASSWORD}\n")
    failures = []
    folder = tmp_path / "machine"
    folder.mkdir()
    async with shown_machine(folder) as (machine, daemon, navigator):
        config = machine.write_settings()
        shutil.copy(config, here / "demo" / "iad" / "sidecar.yml")
        shutil.copy(machine.store_index, here / "index.sqlite3")
        look = machine.document()
        look["paths"]["state"] = str(tmp_path / "look")
        (here / "look.yml").write_text(yaml.safe_dump(look))
        stands_for = {
            **STANDS_FOR,
            "/data/db /rails": str(machine.application),
            "https://example.com": navigator.url,
            "http://localhost:9999": navigator.url,
            "http://127.0.0.1:9292": f"http://127.0.0.1:{machine.extra['listen']['port']}",
            "/run/sidecar/sidecar.sock": str(machine.socket),
        }
        # By themselves only without a daemon, so they come last.
        lines = [one for one in command_lines() if not exempt(one[0])]
        lines.sort(key=lambda one: "--once" in one[0])
        assert len(lines) > 20
        for command, page in lines:
            if shutil.which(command.split()[0]) is None and command.startswith(("curl", "openssl")):
                continue
            if "--once" in command:
                await daemon.stop()
            for shown, real in stands_for.items():
                command = command.replace(shown, real)
            quiet = command.replace("curl ", "curl --fail --silent --show-error ")
            done = await run(
                *("sh", "-c", f"cd '{here}' && {quiet}"),
                SIDECAR_CONFIG=str(config),
                SIDECAR_TRIGGER_SECRET=SECRET,
                PATH=f"{BIN}:{os.environ['PATH']}",
            )
            if done.code:
                failures.append(f"{page}: {command}: {done.code}\n{done.out[-500:]}{done.err[-500:]}")
            if command.startswith("sidecar ") and not any(word in command for word in DATA):
                failures += [f"{page}: {command}: {found}" for found in raw(done.out + done.err)]
    assert not failures, "\n".join(failures)


async def test_the_example_of_a_signed_poke_is_sound(tmp_path: Path) -> None:
    """What the migration page shows in Ruby is accepted by a machine, as a fetch and with an index."""
    if shutil.which("ruby") is None:
        pytest.skip("there is no ruby")
    (program,) = blocks(DOCS / "migration.md", "ruby")
    (tmp_path / "poke.rb").write_text(program)
    (tmp_path / "machine").mkdir()
    async with shown_machine(tmp_path / "machine") as (machine, _, navigator):
        other = tmp_path / "other.sqlite3"
        shutil.copy(machine.put_index(seed=3), other)
        for index in ((), (str(other),)):
            poked = await run(
                *("ruby", str(tmp_path / "poke.rb"), navigator.url, "test-machine", *index),
                SIDECAR_TRIGGER_SECRET=SECRET,
            )
            assert poked.code == 0, poked.out + poked.err
            assert poked.out.startswith("test-machine: 200 ")
        wrong = await run(
            *("ruby", str(tmp_path / "poke.rb"), navigator.url, "test-machine"),
            SIDECAR_TRIGGER_SECRET="another-secret-for-tests",
        )
        assert wrong.code == 1
