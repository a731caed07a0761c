"""The Dockerfile, step by step, without an engine: what it copies is there, what it runs does its work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.cgi import BIN, environment, serving
from tests.support.machine import Machine

DEBIAN = Path("/usr/bin/python3")


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    stage: int
    name: str
    arguments: str


def steps(path: Path) -> list[Step]:
    """Its instructions, lines joined and comments left out."""
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.lstrip().startswith("#"))
    found: list[Step] = []
    stage = -1
    for line in text.replace("\\\n", " ").splitlines():
        name, _, arguments = line.strip().partition(" ")
        if not name:
            continue
        stage += name == "FROM"
        found.append(Step(stage, name, " ".join(arguments.split())))
    return found


STEPS = steps(ROOT / "Dockerfile")


def commands(name: str = "RUN") -> list[str]:
    return [part.strip() for step in STEPS if step.name == name for part in step.arguments.split("&&")]


def copied(step: Step) -> list[str]:
    return [word for word in step.arguments.split() if not word.startswith("--")][:-1]


def locked(name: str) -> set[str]:
    """The entries of a lock file, each with its digests."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {" ".join(entry.split()) for entry in re.split(r"\n(?=\S)", text) if entry.strip()}


def test_it_is_what_docker_understands() -> None:
    """Only known instructions, two stages, and nothing but an argument before the first."""
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK"}
    assert {step.name for step in STEPS} <= known | {"ENTRYPOINT", "CMD"}
    assert [step.name for step in STEPS if step.stage < 0] == ["ARG"]
    assert STEPS[-1].stage == 1
    for step in STEPS:
        if step.name in ("ENTRYPOINT", "CMD"):
            assert json.loads(step.arguments)


def test_what_it_copies_is_in_the_context() -> None:
    """Every path exists, and .dockerignore lets it through."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    paths = [
        path
        for step in STEPS
        if step.name == "COPY" and "--from" not in step.arguments
        for path in copied(step)
    ]
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) for pattern in allowed), path
    assert sorted(allowed) == sorted(paths)


def test_the_final_stage_has_what_runs_and_no_more() -> None:
    """Debian's own python3 for the forwarder, nothing to build with, not root, the daemon as entry point."""
    final = [step for step in STEPS if step.stage == 1]
    installed = next(step.arguments for step in final if "apt-get install" in step.arguments)
    packages = installed.partition("--no-install-recommends")[2].partition("&&")[0].split()
    assert packages == ["ca-certificates", "python3"]
    assert "rm -rf /var/lib/apt/lists/*" in installed
    last = {step.name: step.arguments for step in final}
    assert not last["USER"].startswith(("0", "root"))
    assert json.loads(last["ENTRYPOINT"]) == ["sidecar"]
    assert json.loads(last["CMD"]) == ["serve"]
    assert (ROOT / "sidecar/sidecar-cgi").read_text().startswith(f"#!{DEBIAN} ")
    copies = [step.arguments for step in final if step.name == "COPY"]
    assert copies == ["--from=build /opt/sidecar /opt/sidecar"]
    assert "/opt/sidecar/bin:$PATH" in last["ENV"]


def test_every_package_is_locked() -> None:
    """Each pip command takes digests or no index at all, and what builds is in the developers' lock too."""
    for command in commands():
        if " pip " in command and " install" in command:
            assert "--require-hashes" in command or "--no-index --no-deps" in command, command
    assert locked("requirements-build.lock") <= locked("requirements-dev.lock")
    for entry in locked("requirements-build.lock") | locked("requirements.lock"):
        assert " --hash=sha256:" in entry, entry


def test_shell_commands_parse(tmp_path: Path) -> None:
    """The shell of the image understands each RUN."""
    for step in STEPS:
        if step.name == "RUN":
            subprocess.run(["sh", "-n", "-c", step.arguments], check=True)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's python3 is not there")
def test_the_build_steps_make_a_working_environment(tmp_path: Path) -> None:
    """The very commands, with folders of this test and without the index, end in commands that run.

    The locked packages are installed in the environment of the tests; it stands in for that step.
    """
    source, opt, dist = tmp_path / "src", tmp_path / "opt", tmp_path / "dist"
    source.mkdir()
    for step in STEPS:
        if step.name == "COPY" and "--from" not in step.arguments:
            for path in copied(step):
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                copy(ROOT / path, source / path)

    def here(command: str) -> str:
        command = command.replace("/opt/build/bin/hatchling", str(BIN / "hatchling"))
        command = command.replace("python3 ", f"{DEBIAN} ").replace("/opt/sidecar", f"{opt}/sidecar")
        return command.replace("/dist", str(dist))

    wanted = [
        command
        for command in commands()
        if ("/opt/sidecar" in command and "--require-hashes" not in command) or "hatchling build" in command
    ]
    wanted = [command for command in wanted if "compileall" not in command]
    assert [command.split()[0] for command in wanted] == ["python3", "/opt/build/bin/hatchling", "python3"]
    for command in wanted:
        done = subprocess.run(
            ["sh", "-c", here(command)],
            cwd=source,
            env=environment(PYTHONPATH=""),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (opt / "sidecar" / "bin" / "pip").exists()
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    program = opt / "sidecar" / "bin" / "sidecar"
    if f"{sys.version_info.major}.{sys.version_info.minor}" not in next((opt / "sidecar/lib").iterdir()).name:
        pytest.skip("Debian's python3 is another one than that of the tests, which has the packages")
    done = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(packages)),
    )
    assert done.stdout.startswith("sidecar "), done.stderr
    forwarder = subprocess.run(
        [opt / "sidecar/bin/sidecar-cgi"],
        capture_output=True,
        env=environment(SIDECAR_SOCKET="/nowhere", REQUEST_METHOD="POST"),
        check=False,
    )
    assert forwarder.stdout.startswith(b"Status: 503"), forwarder.stderr


async def test_the_health_check_tells_whether_the_daemon_works(machine: Machine) -> None:
    """The health check's command succeeds beside a daemon, and fails without one."""
    [check] = commands("HEALTHCHECK")
    program, *arguments = json.loads(check.partition("CMD ")[2])
    command = [str(BIN / program), *arguments]
    settings = environment(SIDECAR_CONFIG=str(machine.write_settings()))
    assert subprocess.run(command, env=settings, check=False, capture_output=True).returncode == 1  # noqa: ASYNC221
    async with serving(machine):
        assert subprocess.run(command, env=settings, check=False).returncode == 0  # noqa: ASYNC221


def test_the_part_for_fly_copies_what_is_there() -> None:
    """The lines for the application's own image name files of this repository, and the same commands."""
    part = steps(ROOT / "fly" / "Dockerfile.part")
    for step in part:
        if step.name == "COPY" and "--from" not in step.arguments:
            for path in copied(step):
                assert (ROOT / path.removeprefix("sidecar").lstrip("/")).exists(), path
        if step.name == "RUN":
            assert shlex.split(step.arguments)
            for command in step.arguments.split("&&"):
                if " pip " in command and " install" in command:
                    assert "--require-hashes" in command or "--no-index --no-deps" in command, command
    assert part[-1] == Step(0, "CMD", '["start"]')
