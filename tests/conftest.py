"""Fixtures that every kind of test shares."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.machine import Machine

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

# The same examples in every run: what fails must be what was changed. `make fuzz` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent
CONFORMANCE = ROOT.parent / "shared" / "conformance"

MEMORY = Path("/dev/shm")
MAX_BYTES = 2 << 30
"""A generous bound of what the tests' folders hold at one time."""


def is_roomy(folder: Path) -> bool:
    """Whether the tests' folders can be there: a container's /dev/shm is often 64 MiB, without programs."""
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        return (
            os.access(folder, os.W_OK)
            and found.f_bavail * found.f_frsize > MAX_BYTES
            and not found.f_flag & os.ST_NOEXEC
        )
    return False


# A publication syncs dozens of files and folders, which costs milliseconds each on a disk.
if is_roomy(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Where it is set, each of the many processes compiles anew what it imports: a third of a daemon's start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users get to as well: those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with a folder for a store."""
    return Machine(tmp_path)


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of reference inputs and outputs; tests that need it are skipped where it is not there."""
    if not CONFORMANCE.is_dir():
        pytest.skip("the reference files are not here")
    return CONFORMANCE


@dataclass
class Bucket:
    """A real S3 server over HTTP with one bucket."""

    endpoint: str
    name: str
    client: S3Client

    def put(self, key: str, body: bytes, modified: str | None = None) -> str:
        """Store an object, with the metadata that today's tools give it; returns its ETag."""
        metadata = {"last-modified": modified} if modified else {}
        answer = self.client.put_object(Bucket=self.name, Key=key, Body=body, Metadata=metadata)
        return answer["ETag"].strip('"')

    @property
    def settings(self) -> dict[str, object]:
        """The settings that make a machine use it."""
        return {
            "store": f"s3://{self.name}",
            "s3": {"endpoint": self.endpoint, "access_key_id": "test", "secret_access_key": "test"},
        }


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server on loopback that lives as long as the tests."""
    from moto.server import ThreadedMotoServer

    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_client(endpoint: str) -> S3Client:
    """A client of the tests' S3 server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """An empty bucket of its own for each test."""
    client = s3_client(s3_endpoint)
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    client.create_bucket(Bucket=name)
    yield Bucket(s3_endpoint, name, client)
    client.close()
