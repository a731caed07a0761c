"""What is built: the images, and the package, which is the same whoever builds it.

The images are those of the sidecar's own Dockerfile and of an application with the lines of
fly/Dockerfile.part. They are built, step by step as they stand, and run. The second is booted by its own
command, as a container under Kamal: the index is the host's own, and there is no store. Navigator is the
stand-in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.demo.sample import write_index
from tests.conftest import ROOT
from tests.support.image import Image, Running, Workshop, why_not
from tests.support.machine import SMALL

_REASON = why_not()
needs_buildah = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")
needs_debian = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not there: no Debian")

PART, FINAL = (ROOT / "fly" / "Dockerfile.part").read_text().split("# In the final stage", 1)
KAMAL = FINAL.replace("FLY_APP_NAME=build FLY_REGION=build", "KAMAL_CONTAINER_NAME=build")
# What the part's own words ask of the application's Dockerfile: a first stage `base`, and its files in place.
APPLICATION = f"""
FROM debian:bookworm-slim AS base
WORKDIR /rails
{PART}
FROM base
COPY rails /rails
COPY programs /usr/local/bin
RUN useradd rails --create-home && mkdir /data && chown -R rails:rails db log tmp /data
# In the final stage{KAMAL}
"""
PROGRAMS = {
    "programs/navigator": "exec env PYTHONPATH=/packages:/src python3 /src/tests/support/navigator.py "
    '"$1" --pid-file /tmp/navigator.pid',
    "programs/ruby": 'shift; for one; do [ -s "$one" ] || echo made > "$one"; done',
    "rails/bin/rails": "true",
    "rails/bin/bundle": "date > db/showcases.yml; mkdir -p public/studios; touch public/studios/index.html; "
    "cp app/views/event/* public/studios/",
    "rails/script/hook_navigator_start.sh": "true",
}
NO_SOURCES = (".venv", ".git", "build", "dist", "demo", "artifacts")
BOUND = 60.0


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


@pytest.fixture(scope="module")
def image(workshop: Workshop) -> Image:
    """The sidecar's own."""
    return workshop.build(ROOT)


@pytest.fixture(scope="module")
def application(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The application's."""
    context = tmp_path_factory.mktemp("application")
    copy_sources(context / "sidecar")
    for name, script in PROGRAMS.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(f"#!/bin/sh\n{script}\n")
        (context / name).chmod(0o755)
    for folder in ("app/views/event", "db", "log", "tmp", "public"):
        (context / "rails" / folder).mkdir(parents=True)
        (context / "rails" / folder / "of-the-image").touch()
    (context / "Dockerfile").write_text(APPLICATION)
    return workshop.build(context)


def copy_sources(target: Path) -> None:
    """Another checkout."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [
            name for name in names if name == "__pycache__" or (folder == str(ROOT) and name in NO_SOURCES)
        ]

    shutil.copytree(ROOT, target, ignore=ignored)


def until(running: Running, good: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The daemon's status, once it is as it should be."""
    deadline = time.monotonic() + BOUND
    while True:
        done = running.run("sidecar", "status", "--json", check=False)
        found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        if "health" in found and good(found):
            return dict(found)
        assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}\n{running.said()}"
        time.sleep(0.1)


@needs_buildah
def test_the_image_is_small_in_rights(image: Image) -> None:
    """Not root, nothing to build or to install with; what install.md runs ends well."""
    assert image.config["User"] == "10001:10001"
    assert not list((image.root / "opt" / "sidecar" / "bin").glob("pip*"))
    assert not list(image.root.glob("opt/sidecar/lib/*/site-packages/pip"))
    assert "sound" in image.run("config", "--check")


@needs_buildah
def test_the_image_serves(image: Image, tmp_path: Path) -> None:
    """It publishes what its store holds; its health check tells whether it works; it ends well."""
    store, rails = tmp_path / "store", tmp_path / "rails"
    for folder in (store / "db", rails / "db"):
        folder.mkdir(parents=True)
    write_index(store / "db" / "index.sqlite3", SMALL, 1)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 10001, 10001)
    settings = {
        "SIDECAR_STORE": "file:///store",
        "SIDECAR_PROFILE": "local",
        "SIDECAR_PATHS_APPLICATION": "/rails",
    }
    check = image.config["Healthcheck"]["Test"][1:]
    with image.start((store, "/store"), (rails, "/rails"), **settings) as running:
        until(running, lambda status: status["generation"]["current"] == 1)
        # Process 1 only takes ends and passes signals on; the daemon is its child.
        (daemon,) = map(int, Path(f"/proc/{running.first}/task/{running.first}/children").read_text().split())
        for process in (running.first, daemon):
            facts = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines()
            )
            assert (set(facts["Uid"].split()), int(facts["CapEff"], 16)) == ({"10001"}, 0)
        assert running.run(*check).returncode == 0
        os.kill(daemon, signal.SIGSTOP)
        assert running.run(*check, check=False).returncode != 0
        os.kill(daemon, signal.SIGCONT)
        os.kill(running.first, signal.SIGTERM)
        assert running.process.wait(BOUND) == 0, running.said()


@needs_buildah
def test_a_container_under_kamal_comes_up(application: Image, tmp_path: Path) -> None:
    """From the maintenance page to the host's own index and maps; the next container goes on from there."""
    data = tmp_path / "data"
    index, maps = data / "db" / "index.sqlite3", data / "db" / "views" / "event"
    maps.mkdir(parents=True)
    write_index(index, SMALL, 1)
    (maps / "_usmap.html.erb").write_text("drawn\n")
    tmp_path.chmod(0o755)
    shared = ((data, "/data"), (ROOT, "/src"), (Path(sysconfig.get_path("purelib")), "/packages"))
    environ = {"KAMAL_CONTAINER_NAME": "showcase-web-1", "KAMAL_HOST": "192.0.2.1"}
    for generation in (1, 2):

        def served(status: dict[str, Any], number: int = generation) -> bool:
            return bool(
                (status["health"]["state"], status["generation"]["loaded"]) == ("healthy", number)
                and status["ready"]["state"] == "done"
                and status["ready"]["generation"] == number
            )

        with application.start(*shared, **environ) as running:
            found = until(running, served if generation == 1 else lambda status: served(status, 1))
            assert (found["machine"], found["sync"]["state"], found["problems"]) == (
                "192.0.2.1",
                "synced",
                [],
            )
            assert running.run("cat", "/rails/public/studios/_usmap.html.erb").stdout == "drawn\n"
            navigator = yaml.safe_load(running.run("cat", "/rails/config/navigator.yml").stdout)
            assert navigator["server"]["root_path"] == ""
            if generation == 1:
                continue
            with closing(sqlite3.connect(index)) as connection:
                connection.execute("update locations set name = 'Elsewhere' where id = 1")
                connection.commit()
            until(running, served)


@needs_debian
def test_the_package_is_the_same_whoever_builds_it(tmp_path: Path) -> None:
    """Wheel, source archive and Debian package of the same sources have the same bytes, in any folder."""
    elsewhere = tmp_path / "elsewhere"
    copy_sources(elsewhere)
    found = []
    for folder in (ROOT, elsewhere):
        make = ("make", "--silent", "deb", f"VENV={ROOT / '.venv'}", "SOURCE_DATE_EPOCH=1767225600")
        done = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        built = [path for path in (folder / "dist").iterdir() if path.suffix in (".whl", ".gz", ".deb")]
        found.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built})
    assert len(found[0]) == 3
    assert found[0] == found[1]
