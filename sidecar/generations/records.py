"""What is remembered of a generation, as it lies in the state folder."""

from __future__ import annotations

from sidecar.generate.check import Counts
from sidecar.model.index import Region
from sidecar.model.record import Record

INDEX = "index.sqlite3"


class IndexVersion(Record, frozen=True):
    """Which index a generation was made of.

    `etag` as the store names it, `modified` its age in seconds since 1970.
    """

    etag: str
    sha256: str
    modified: float | None
    size: int


class Manifest(Record, frozen=True):
    """What a generation holds; `digests` are the SHA-256 of its artifacts in hexadecimal.

    `inputs` tells what else besides the index it was made of; `regions` are those that it was made for, which
    the deployment's own files may have named instead of the index (None in records from before that). After
    a rollback `source` is the generation that was restored; a `pinned` one stays until somebody asks for an
    update.
    """

    number: int
    created: float
    trigger: str
    fingerprint: str
    index: IndexVersion
    digests: dict[str, str]
    counts: Counts
    inputs: str = ""
    regions: tuple[Region, ...] | None = None
    source: int | None = None
    pinned: bool = False


class Installed(Record, frozen=True):
    """Which generation is in place, and when navigator.yml was put there, in seconds since 1970."""

    generation: int
    published: float


class Loaded(Record, frozen=True):
    """Which generation came how far (the file says so), and when, in seconds since 1970."""

    generation: int
    at: float
