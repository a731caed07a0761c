"""Rules, dashboard and metrics: held against what the code exports, by Prometheus's own tools."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sidecar.fleet.report import FleetOverview, FleetState, MachineRow
from sidecar.observe.metrics import Metrics
from tests.conftest import ROOT, free_port
from tests.support.machine import Machine, until

MONITORING = ROOT / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
OWN = re.compile(r"\b(?:sidecar|process|python)_\w+")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"
)


def promtool(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def seen_metrics() -> Metrics:
    """The metrics of a daemon that has looked at its fleet."""
    metrics = Metrics("machine", "region")
    metrics.fleet.overview = lambda: FleetOverview(2.0, "ab" * 32, 1.0, (), ())
    metrics.fleet.ended = lambda: FleetState("done", started=1.0, seconds=1.0)
    return metrics


def test_of_a_fleet_that_nobody_looked_at_there_is_no_series() -> None:
    """Neither 0 machines nor an update that failed: what was not looked at is not told of."""
    families = list(Metrics("machine", "region").fleet.collect())
    assert families
    assert [sample for family in families for sample in family.samples] == []


def test_machines_are_counted_as_they_were_seen() -> None:
    """By what they serve and by their health; one that gives no answer is neither behind nor in sync."""
    metrics = seen_metrics()
    machines = (
        MachineRow("m1", "", "", "in_sync", health="healthy"),
        MachineRow("m2", "", "", "degraded", health="degraded"),
        MachineRow("m3", "", "", "behind", behind=30.0, health="healthy"),
        MachineRow("m4", "", "", "unreachable"),
    )
    metrics.fleet.overview = lambda: FleetOverview(200.0, "ab" * 32, 100.0, machines, ())
    samples = [sample for family in metrics.fleet.collect() for sample in family.samples]
    found = {
        (one.labels["sync"], one.labels["health"]): one.value for one in samples if one.labels and one.value
    }
    assert found == {
        ("synced", "healthy"): 1,
        ("synced", "degraded"): 1,
        ("behind", "healthy"): 1,
        ("no_answer", "no_answer"): 1,
    }
    values = {one.name.removeprefix("sidecar_fleet_"): one.value for one in samples if not one.labels}
    assert (values["store_index_timestamp_seconds"], values["oldest_index_timestamp_seconds"]) == (100, 70)
    assert (values["looked_timestamp_seconds"], values["update_good"]) == (200, 1)


def exported() -> set[str]:
    """The names of every series that a sidecar can export."""
    registry = seen_metrics().registry
    samples = {sample.name for family in registry.collect() for sample in family.samples}
    return samples | set(registry._names_to_collectors)


def dashboard_expressions() -> list[str]:
    variables = {"$__rate_interval": "5m", "$instance": "m1"}
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    expressions += [one["expr"] for one in DASHBOARD["annotations"]["list"]]
    for name, value in variables.items():
        expressions = [expression.replace(name, value) for expression in expressions]
    return expressions


def used() -> Iterator[tuple[str, str]]:
    """Every metric that a rule or a panel asks for, with the expression."""
    for expression in [rule["expr"] for rule in ALERTS] + dashboard_expressions():
        for name in OWN.findall(expression):
            yield name, expression
    [query] = [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["name"] == "instance"]
    yield OWN.findall(query)[0], query


@needs_promtool
def test_the_rules_are_sound() -> None:
    """`promtool check rules` accepts them."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(MONITORING / "rules.yml"))


@needs_promtool
def test_the_rules_fire_when_they_should_and_only_then() -> None:
    """`promtool test rules` passes, and it has a case for every alert, one of them without the alert."""
    promtool("test", "rules", str(MONITORING / "rules_test.yml"))
    cases = [
        case
        for test in yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    for wanted in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) == wanted} == {
            rule["alert"] for rule in ALERTS
        }


def test_no_rule_asks_for_what_is_absent() -> None:
    """A suspended machine has no series: neither absence nor `up` may be an alert."""
    for expression in [rule["expr"] for rule in ALERTS]:
        assert not re.search(r"\babsent\w*\(|\bup\b", expression), expression


def test_every_metric_that_is_used_exists() -> None:
    """Rules and dashboard ask for nothing that the code does not export."""
    names = exported()
    assert {f"{name} in {expression}" for name, expression in used() if name not in names} == set()


def test_every_label_that_is_used_exists() -> None:
    """The label values that rules and dashboard name are among those that are made up front."""
    text = "\n".join(expression for _, expression in used())
    known = {
        (label, value)
        for family in seen_metrics().registry.collect()
        for sample in family.samples
        for label, value in sample.labels.items()
    }
    known |= {("stage", "update"), ("stage", "load")}  # there from the first success on
    for label, operator, values in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', text):
        if label != "instance":
            for value in values.split("|") if "~" in operator else [values]:
                assert (label, value) in known, (label, value)


@needs_promtool
def test_the_dashboards_expressions_are_sound(tmp_path: Path) -> None:
    """Prometheus understands what each panel asks."""
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_the_panels_do_not_overlap() -> None:
    """Every panel has an id and a place of its own within the width of 24."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_says_what_to_do() -> None:
    """Each alert has a summary, a severity and a section on the page, and no section is without alert."""
    sections = set(re.findall(r"^### (\w+)$", (MONITORING / "README.md").read_text(), re.MULTILINE))
    assert sections == {rule["alert"] for rule in ALERTS}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"monitoring/README.md#{rule['alert'].lower()}"


@needs_promtool
async def test_what_is_exported_passes_the_linter(machine: Machine) -> None:
    """`promtool check metrics` has nothing to say about a running daemon's /metrics."""
    machine.put_index()
    async with machine.daemon() as daemon, aiohttp.ClientSession() as client:
        await client.post(f"{daemon.server.url}/public")  # not there on TCP, and counted nowhere
        async with client.get(f"{daemon.server.url}/metrics") as answer:
            text = await answer.text()
    assert promtool("check", "metrics", stdin=text) == ""


@needs_prometheus
async def test_prometheus_scrapes_a_running_sidecar(machine: Machine, tmp_path: Path) -> None:
    """A real Prometheus takes in the metrics, and evaluates the rules on them."""
    machine.put_index()
    address = f"127.0.0.1:{free_port()}"
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        machine.load()
        await until(daemon.status.in_sync)
        assert daemon.server.url is not None
        target = daemon.server.url.removeprefix("http://")
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
            "rule_files": [str(MONITORING / "rules.yml")],
            "scrape_configs": [{"job_name": "sidecar", "static_configs": [{"targets": [target]}]}],
        }
        file = tmp_path / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        with (tmp_path / "prometheus.log").open("wb") as log:
            prometheus = await asyncio.create_subprocess_exec(
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={tmp_path}/tsdb",
                f"--web.listen-address={address}",
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(40):
                await scraped(f"http://{address}", target)
        except TimeoutError:
            pytest.fail((tmp_path / "prometheus.log").read_text()[-3000:])
        finally:
            prometheus.kill()
            await prometheus.wait()


async def scraped(url: str, target: str) -> None:
    """Wait until Prometheus has the series, and look at them and at its rules."""
    async with aiohttp.ClientSession() as client:

        async def get(path: str, **query: str) -> Any:
            async with client.get(f"{url}/api/v1/{path}", params=query) as answer:
                return (await answer.json())["data"]

        while True:
            try:
                found = (await get("query", query="sidecar_in_sync"))["result"]
                groups = (await get("rules"))["groups"]
                evaluated = groups and all(rule["health"] == "ok" for rule in groups[0]["rules"])
            except aiohttp.ClientError:
                found, evaluated = [], False
            if found and evaluated:
                break
            await asyncio.sleep(0.05)
        assert [(one["metric"]["instance"], one["value"][1]) for one in found] == [(target, "1")]
        [scrape] = (await get("targets"))["activeTargets"]
        assert (scrape["health"], scrape["lastError"]) == ("up", "")
        total = (await get("query", query='sum(sidecar_updates_total{outcome="published"})'))["result"]
        assert [one["value"][1] for one in total] == ["1"]
