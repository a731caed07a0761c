"""What is remembered of a generation, as it lies in the state folder."""

from __future__ import annotations

from sidecar.generate.check import Counts
from sidecar.model.index import Region
from sidecar.model.navigator import Process
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

    `inputs` tells what else besides the index it was made of, `region` is the machine's that it was made for
    (None in older records). `regions` are the deployed ones, which the deployment's own files may have named
    instead of the index. After a rollback `source` is the generation that was restored; a `pinned` one stays
    until a person asks for an update. `taken_back` is the reason, when it took the place of a generation that
    Navigator did not load, until the newest index gives this very set. `withheld` are the tenants, by the
    stems of their databases, that are not served because these are not here yet.
    """

    number: int
    created: float
    trigger: str
    fingerprint: str
    index: IndexVersion
    digests: dict[str, str]
    counts: Counts
    inputs: str = ""
    region: str | None = None
    regions: tuple[Region, ...] | None = None
    source: int | None = None
    pinned: bool = False
    taken_back: str = ""
    withheld: tuple[str, ...] = ()


Stamp = tuple[int, int, int]
"""A file's time in nanoseconds, size and inode."""


class Installed(Record, frozen=True):
    """Which generation is in place, and when navigator.yml was put there, in seconds since 1970.

    `index` is the index database as it was right after its installation; None where none was installed.
    """

    generation: int
    published: float
    index: Stamp | None = None


class ReadyRecord(Record, frozen=True):
    """The generation whose ready work was done last, and when, in seconds since 1970."""

    generation: int
    at: float


class LastLoaded(Record, frozen=True):
    """Which generation was loaded last, and when, in seconds since 1970.

    `process` of Navigator loaded it, and touched the marker with this time (ns since 1970) and inode then: as
    long as both are the same, it serves it still.
    """

    generation: int
    at: float
    process: Process | None = None
    touched: int = 0
    inode: int = 0
