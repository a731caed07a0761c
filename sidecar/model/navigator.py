"""The web server's process as data."""

from __future__ import annotations

from sidecar.model.record import Record


class Process(Record, frozen=True):
    """A Navigator process: id, start in clock ticks since boot, and the boot's id; no other shares all three.

    `configuration` is the file that its command line names, by which it was started.
    """

    pid: int
    started: int
    boot: str = ""
    configuration: str = ""

    def __str__(self) -> str:
        return f"process {self.pid}"
