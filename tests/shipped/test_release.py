"""The package as it is built: what is in it, and that it works where it is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sidecar
from tests.conftest import ROOT
from tests.support.cgi import BIN, environment


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, made as `make dist` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"^dist:.*\n\t\$\(BIN\)/hatchling (.*)$", makefile, re.MULTILINE)
    assert command is not None
    done = subprocess.run(
        [BIN / "hatchling", *command[1].split(), "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a new environment. The locked dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [wheel] = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python")
    install = ("install", "--quiet", "--no-index", "--no-deps", wheel)
    # Of a package that is installed elsewhere on the path pip would install nothing.
    subprocess.run((*pip, *install), check=True, capture_output=True, env=environment(PYTHONPATH=""))
    return folder


def run(installed: Path, command: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command of the installed package; its dependencies come from here, the package itself from there."""
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    there = next((installed / "lib").glob("python*/site-packages"))
    return subprocess.run(
        [installed / "bin" / command, *arguments],
        cwd=installed,
        env=environment(PYTHONPATH=f"{there}:{here}", **environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_stands_in_one_place(built: Path) -> None:
    """Wheel, archive and command carry the version of `sidecar/__init__.py`; nothing else names it."""
    assert {path.name for path in built.iterdir()} >= {
        f"navigator_sidecar-{sidecar.__version__}-py3-none-any.whl",
        f"navigator_sidecar-{sidecar.__version__}.tar.gz",
    }
    assert not re.search(r"^version = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_changelog_fits_the_version() -> None:
    """The changelog has a section for what is not released yet, or for this version."""
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", sidecar.__version__}


def test_the_wheel_holds_what_is_needed_and_no_more(built: Path) -> None:
    """The package with its profiles, the forwarder, the man page and the completions; no tests."""
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "sidecar/config/profiles/base.yml",
        "sidecar/config/profiles/fly.yml",
        "data/bin/sidecar-cgi",
        "data/share/man/man1/sidecar.1",
        "data/share/bash-completion/completions/sidecar",
        "data/share/zsh/site-functions/_sidecar",
    ):
        assert any(name.endswith(wanted) for name in names), wanted
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]


def test_the_archive_can_be_tested(built: Path) -> None:
    """The source archive has the tests, the manual and what is shipped for the platforms."""
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for wanted in ("tests/conftest.py", "docs/operations.md", "systemd/sidecar.service", "fly/start.sh"):
        assert wanted in names
    assert not [name for name in names if name.startswith((".venv", ".git/", ".ci"))]


def test_every_locked_package_is_in_the_bill_of_materials() -> None:
    """`make sbom` names each package of the lock file with its digests, and what needs it, up to this one."""
    command = (sys.executable, ROOT / "package" / "sbom.py", ROOT / "requirements.lock")
    bill = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", sidecar.__version__)
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    assert [(part["name"], part["version"]) for part in bill["components"]] == locked
    digests = [
        digest["content"]
        for part in bill["components"]
        for reference in part["externalReferences"]
        for digest in reference["hashes"]
    ]
    assert digests == re.findall(r"sha256:(\w+)", lock)
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    reached, todo = set(), [bill["metadata"]["component"]["purl"]]
    while todo:
        part = todo.pop()
        if part not in reached:
            reached.add(part)
            todo += needs[part]
    assert reached == set(needs), "nothing is locked that nobody needs"


def test_the_installed_commands_run(installed: Path) -> None:
    """`sidecar` and `sidecar-cgi` of the wheel start, and the package is the installed one."""
    said = run(installed, "sidecar", "--version")
    assert said.stdout == f"sidecar {sidecar.__version__}\n", said.stderr
    where = run(installed, "python", "-c", "import sidecar; print(sidecar.__file__)")
    assert where.stdout.startswith(str(installed)), where.stderr
    answer = run(installed, "sidecar-cgi", REQUEST_METHOD="POST", SIDECAR_SOCKET="/nowhere")
    assert answer.stdout.startswith("Status: 503"), answer.stderr
    assert (installed / "bin" / "sidecar-cgi").read_text().startswith("#!/usr/bin/python3 -IS\n")


def test_the_installed_package_updates(installed: Path, tmp_path: Path) -> None:
    """With nothing but the wheel and its dependencies an update publishes every artifact."""
    from tests.support.machine import Machine

    machine = Machine(tmp_path)
    machine.put_index()
    done = run(installed, "sidecar", "--config", str(machine.write_settings()), "update", "--once", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"sidecar-cgi" in machine.targets()["navigator.yml"]
    assert str(installed) in machine.targets()["navigator.yml"].decode(), "it names the commands beside it"
