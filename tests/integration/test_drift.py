"""Files that somebody else changes are noticed, and a publication under way is not taken for that."""

from __future__ import annotations

from sidecar.generations.plan import PresentFiles
from sidecar.model.runs import Request
from sidecar.observe.drift import Drift
from tests.support.machine import Machine


async def test_a_change_counts_when_it_has_rested(machine: Machine) -> None:
    """What changed since the last look is left alone: it may be half of a publication."""
    machine.put_index()
    async with machine.daemon() as daemon, machine.client() as client:
        async with client.post("update") as answer:
            assert answer.status == 200
        drift = Drift(daemon.generations)
        drift.look()
        drift.look()
        assert drift.names == []
        target = machine.target("map.yml")
        right = target.read_bytes()
        target.write_bytes(b"edited\n")
        drift.look()
        assert drift.names == []
        drift.look()
        assert drift.names == ["map.yml"]
        assert "+edited" in drift.diffs["map.yml"]
        target.write_bytes(right)
        drift.look()
        drift.look()
        assert drift.names == []


async def test_a_publication_while_it_looks_is_no_drift(machine: Machine) -> None:
    """What was read before a publication is not compared with what was published by it."""
    machine.put_index()
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request(trigger="socket"))
        drift, site = Drift(daemon.generations), daemon.generations.site
        drift.look()
        before, read = daemon.generations.archive.manifest(1), site.present()
        machine.put_index(seed=2)

        class Late:
            """Reads, and gives the answer when a publication has come in between."""

            where, index_fault, stamps = site.where, site.index_fault, site.stamps

            def present(self) -> PresentFiles:
                daemon.generations.current = published
                return read

        await daemon.worker.submit(Request(trigger="socket"))
        published = daemon.generations.current
        daemon.generations.current, daemon.generations.site = before, Late()  # type: ignore[assignment]
        drift.look()
        drift.look()
        assert drift.names == []
        daemon.generations.site = site
        drift.look()
        drift.look()
        assert drift.names == []


async def test_a_changed_mode_counts(machine: Machine) -> None:
    """A file that somebody opened to everybody is reported, with the mode that it should have."""
    machine.put_index()
    async with machine.daemon() as daemon:
        await daemon.worker.submit(Request(trigger="socket"))
        drift = Drift(daemon.generations)
        drift.look()
        drift.look()
        machine.target("htpasswd").chmod(0o666)
        drift.look()
        drift.look()
        assert drift.diffs == {"htpasswd": "mode is 0666 instead of 0640"}
        await daemon.worker.submit(Request(trigger="socket"))
        drift.look()
        drift.look()
        assert drift.names == []
