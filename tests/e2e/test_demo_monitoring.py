"""The demo's monitoring: a real Prometheus scrapes the fleet, and every panel has something to show."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.demo import monitoring
from sidecar.demo.changes import change
from sidecar.demo.prepare import existing, prepare
from sidecar.demo.sample import DEMO_PASSWORD, DEMO_USER
from sidecar.system.shipped import shipped
from tests.conftest import free_port
from tests.shipped.test_monitoring import ALERTS, DASHBOARD, needs_prometheus
from tests.support.cgi import SIDECAR, environment

PATIENCE_SECONDS = 60


def expressions() -> list[tuple[str, str]]:
    """Each panel's title with what it asks for."""
    return [
        (
            f"{panel['title']} {target['refId']}",
            target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m"),
        )
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def test_what_is_shipped_is_found(tmp_path: Path) -> None:
    """Rules and dashboard are in every installation; without Prometheus it is said how they are used."""
    assert shipped("rules.yml").is_file()
    assert shipped("dashboard.json").is_file()
    assert str(shipped("rules.yml")) in monitoring.advice()
    fleet = prepare(tmp_path / "demo", 1, free_port())
    assert f"--config.file={fleet.folder}/prometheus/prometheus.yml" in monitoring.command(fleet, 1)


@needs_prometheus
async def test_every_panel_has_something_to_show() -> None:
    """`sidecar demo --monitoring`, two changes of the fleet: each query of the dashboard returns numbers."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    command = [SIDECAR, "demo", "--folder", folder, "--port", str(free_port()), "--monitoring", "--json"]
    demo = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=PIPE, stderr=STDOUT, env=environment(), start_new_session=True
    )
    assert demo.stdout is not None
    try:
        async with asyncio.timeout(60):
            said = b""
            while not said.rstrip().endswith(b"]"):
                line = await demo.stdout.readline()
                assert line, said
                said += line
        machines = json.loads(said)
        url = machines[0]["prometheus"]
        auth = {"Authorization": aiohttp.encode_basic_auth(DEMO_USER, DEMO_PASSWORD)}
        async with aiohttp.ClientSession() as client:
            await has(client, url, "count(sidecar_in_sync) == 3")
            for kind in ("password", "studio"):
                change(existing(folder), kind)
                async with client.post(f"{machines[0]['page']}fleet/update", headers=auth) as answer:
                    assert answer.status == 200, await answer.text()
            for title, expression in expressions():
                await has(client, url, expression, title)
            async with client.get(f"{url}api/v1/rules") as answer:
                groups = (await answer.json())["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert {rule["name"] for rule in rules} == {rule["alert"] for rule in ALERTS}
            assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    finally:
        demo.terminate()
        async with asyncio.timeout(20):
            await demo.wait()
        shutil.rmtree(folder)


async def has(client: aiohttp.ClientSession, url: str, expression: str, what: str = "") -> None:
    """Wait until a query returns a number."""
    found: Any = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    async with client.get(f"{url}api/v1/query", params={"query": expression}) as answer:
                        found = await answer.json()
                    values = [float(one["value"][1]) for one in found["data"]["result"]]
                    if any(not math.isnan(value) for value in values):
                        return
                except (aiohttp.ClientError, KeyError):  # it may not be ready, and say so as text
                    pass
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"{what} has nothing to show: {expression} gives {found}")
