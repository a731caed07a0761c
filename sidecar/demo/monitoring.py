"""Prometheus for the demo: it scrapes every machine of the fleet, with the rules that are shipped."""

from __future__ import annotations

import shutil

import yaml

from sidecar.demo.prepare import DemoFleet
from sidecar.system.shipped import shipped

PROGRAM = "prometheus"
_SCRAPE_SECONDS = 2


def advice() -> str:
    """What to do where Prometheus is not installed."""
    return (
        f"There is no {PROGRAM} here: install it (Debian's package {PROGRAM}) and start the demo again, or "
        f"have yours scrape the pages' ports with the rules {shipped('rules.yml')}."
    )


def command(fleet: DemoFleet, port: int) -> list[str]:
    """Write the configuration, and give the command that runs Prometheus with it on this port of loopback."""
    folder = fleet.folder / "prometheus"
    folder.mkdir(exist_ok=True)
    targets = [f"127.0.0.1:{one.page}" for one in fleet.machines]
    every = f"{_SCRAPE_SECONDS}s"
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(shipped("rules.yml"))],
        "scrape_configs": [{"job_name": "sidecar", "static_configs": [{"targets": targets}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return [
        shutil.which(PROGRAM) or PROGRAM,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
