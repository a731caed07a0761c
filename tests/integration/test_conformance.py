"""What is generated agrees with the reference files, for every index and every kind of machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.parse import parse
from sidecar.generate import generate
from sidecar.generate.cache import ResultCache
from sidecar.inputs.index import read_index
from sidecar.inputs.machine import Machine
from sidecar.model.artifacts import (
    HTPASSWD,
    MAINTENANCE,
    MAP,
    NAMES,
    NAVIGATOR,
    PRERENDER,
    SHOWCASES,
    TENANTS,
)

ENVIRONMENTS = {
    "fly-iad": {"FLY_APP_NAME": "smooth", "FLY_REGION": "iad"},
    "fly-syd": {"FLY_APP_NAME": "smooth", "FLY_REGION": "syd"},
    "kamal": {"KAMAL_CONTAINER_NAME": "showcase"},
    "local": {},
}
COMMON = {"RAILS_DB_VOLUME": "/data/db", "RAILS_STORAGE": "/data/storage"}
INDEXES = ("small", "edge")
OPTIONS = {
    "--htpasswd": HTPASSWD,
    "--showcases": SHOWCASES,
    "--map": MAP,
    "--navigator": NAVIGATOR,
    "--tenants": TENANTS,
    "--prerender": PRERENDER,
}

every_case = pytest.mark.parametrize("kind", ENVIRONMENTS)
every_index = pytest.mark.parametrize("index", INDEXES)


def generated(conformance: Path, index: str, kind: str, folder: Path) -> Path:
    """A folder with the artifacts of a machine that has nothing but the environment of its kind."""
    settings = parse({"paths": {"state": str(folder / "state")}}, {**COMMON, **ENVIRONMENTS[kind]})
    inputs = Machine(settings, folder / "state" / "loaded").inputs()
    database = conformance / "indexes" / f"{index}.sqlite3"
    made = generate(read_index(database, inputs.deployed), inputs.deployment, ResultCache())
    assert [artifact.name for artifact in made.artifacts] == list(NAMES)
    for artifact in made.artifacts:
        (folder / artifact.name).write_bytes(artifact.content)
    return folder


@every_index
@every_case
def test_the_comparison_finds_no_difference(conformance: Path, tmp_path: Path, index: str, kind: str) -> None:
    """The reference's own comparison finds 0 differences in all six artifacts that it knows."""
    folder = generated(conformance, index, kind, tmp_path)
    files = [word for option, name in OPTIONS.items() for word in (option, str(folder / name))]
    compared = subprocess.run(
        [sys.executable, conformance / "compare.py", conformance / "expected" / index / kind, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.stdout.splitlines()[-1:] == ["6 files compared, 0 differences"], compared.stdout
    assert compared.returncode == 0


@every_index
@every_case
def test_the_maintenance_configuration_is_the_same(
    conformance: Path, tmp_path: Path, index: str, kind: str
) -> None:
    """navigator-maintenance.yml is the reference's but for what is the sidecar's own, order included."""
    folder = generated(conformance, index, kind, tmp_path)
    want = without_own(conformance / "expected" / index / kind / MAINTENANCE)
    got = without_own(folder / MAINTENANCE)
    assert got == want
    assert yaml.safe_dump(got, sort_keys=False) == yaml.safe_dump(want, sort_keys=False)


def without_own(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(path.read_bytes())
    data["server"].pop("cgi_scripts", None)
    data.pop("hooks", None)
    data.pop("managed_processes", None)
    return data


@every_case
def test_the_maintenance_configuration_leads_to_the_real_one(
    conformance: Path, tmp_path: Path, kind: str
) -> None:
    """A machine that boots with it brings itself up: its last ready hook names navigator.yml for a reload."""
    data = yaml.safe_load((generated(conformance, "small", kind, tmp_path) / MAINTENANCE).read_bytes())
    assert data["hooks"]["server"]["ready"][-1]["reload_config"] == "config/navigator.yml"
    assert "tenants" not in data.get("applications", {})


@pytest.mark.parametrize("kind", ["fly-iad", "local"])
def test_the_same_input_gives_the_same_bytes(conformance: Path, tmp_path: Path, kind: str) -> None:
    """Two runs that remember nothing of each other write the same bytes: unchanged never looks changed."""
    folder = generated(conformance, "edge", kind, tmp_path)
    before = {name: (folder / name).read_bytes() for name in NAMES}
    generated(conformance, "edge", kind, folder)
    assert {name: (folder / name).read_bytes() for name in NAMES} == before
