"""What the daemon loads before it listens, and what it leaves until then."""

from __future__ import annotations

import subprocess
import sys

from tests.support.machine import Machine

LATER = {"aioboto3", "aiobotocore", "boto3", "botocore", "nats", "dns"}
"""Libraries that are not loaded when the daemon says that it is ready."""

CODE = """
import os, sys
from sidecar import cli
from sidecar.system import systemd

def told(text):
    if text.startswith("READY"):
        print(*sys.modules, flush=True)
        os._exit(0)

systemd.notify = told
cli.main(sys.argv[1:])
"""


def serve(machine: Machine, code: str, **s3: str) -> subprocess.CompletedProcess[str]:
    """Run `sidecar serve` for a bucket that nobody serves."""
    machine.extra = {
        "store": "s3://nowhere",
        "s3": {"endpoint": "http://127.0.0.1:1", "access_key_id": "test", "secret_access_key": "test", **s3},
    }
    command = [sys.executable, "-c", code, "--config", str(machine.write_settings()), "serve"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_is_ready_before_the_stores_library_is_loaded(machine: Machine) -> None:
    """That is a third of all that it loads; pokes are accepted meanwhile."""
    run = serve(machine, CODE)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "aiohttp" in loaded, run.stderr
    assert not loaded & LATER


def test_a_store_that_cannot_be_used_ends_it(machine: Machine) -> None:
    """Though that is found out after it listens, it is a mistake in the settings, said in a sentence."""
    run = serve(
        machine, "import sys; from sidecar import cli; sys.exit(cli.main(sys.argv[1:]))", endpoint="x"
    )
    assert run.returncode == 2
    assert "s3.endpoint is a URL with its scheme" in run.stderr
