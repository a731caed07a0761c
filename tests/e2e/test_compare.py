"""`sidecar compare`, the installed command: equal, different, nothing there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cgi import SIDECAR, run, sidecar
from tests.support.machine import Machine


async def test_the_exit_status_tells_whether_the_data_is_equal(machine: Machine) -> None:
    """Before anything is published and after; whatever the formatting; nothing of the machine is touched."""
    machine.put_index()
    other = machine.folder / "other"
    (other / "db").mkdir(parents=True)
    nothing = await sidecar(machine, "compare", str(other))
    assert nothing.code == 1
    assert "none of htpasswd, map.yml" in nothing.err
    unpublished = await sidecar(machine, "compare", "--published", str(other), "--json")
    assert unpublished.code == 1
    await sidecar(machine, "update", "--once")
    for name in ("htpasswd", "map.yml", "showcases.yml"):
        shutil.copy(machine.target(name), other / "db")
    data = yaml.safe_load(machine.target("map.yml").read_bytes())
    for place in (*data["regions"].values(), *data["studios"].values()):
        for key in ("map", "x", "y"):
            place.pop(key, None)
    (other / "db" / "map.yml").write_text(yaml.safe_dump(data, default_flow_style=True))
    before = machine.targets()
    for more in ((), ("--published",)):
        equal = await sidecar(machine, "compare", str(other), str(machine.application), *more)
        assert equal.code == 0, equal.out + equal.err
        assert "as meant: its place on the drawn maps" in equal.out
        assert "6 files compared, 0 differences" in equal.out
    assert machine.targets() == before
    lines = (other / "db" / "htpasswd").read_text().splitlines()
    (other / "db" / "htpasswd").write_text("\n".join(lines[1:]))
    different = await sidecar(machine, "compare", str(other), "--json")
    assert different.code == 1
    found = json.loads(different.out)
    assert found["absent"] == ["tenants.list", "navigator.yml", "prerender.txt"]
    assert found["files"][0]["differences"] == [
        {"place": lines[0].partition(":")[0], "what": "only here", "meant": False}
    ]


@pytest.mark.parametrize("kind", ["fly-iad", "kamal", "local"])
async def test_the_applications_own_files_are_equal(conformance: Path, tmp_path: Path, kind: str) -> None:
    """Reference files that the application's generator made: no difference but what is meant."""
    environ: dict[str, Any] = {
        "fly-iad": {"FLY_APP_NAME": "smooth", "FLY_REGION": "iad"},
        "kamal": {"KAMAL_CONTAINER_NAME": "showcase"},
        "local": {},
    }[kind]
    store = tmp_path / "store" / "db"
    store.mkdir(parents=True)
    shutil.copy(conformance / "indexes" / "edge.sqlite3", store / "index.sqlite3")
    config = tmp_path / "sidecar.yml"
    config.write_text(
        yaml.safe_dump({"store": f"file://{tmp_path}/store", "paths": {"state": str(tmp_path / "state")}})
    )
    done = await run(
        SIDECAR,
        *("--config", str(config), "compare", str(conformance / "expected" / "edge" / kind)),
        RAILS_DB_VOLUME="/data/db",
        RAILS_STORAGE="/data/storage",
        **environ,
    )
    assert done.code == 0, done.out + done.err
    assert "6 files compared, 0 differences" in done.out
