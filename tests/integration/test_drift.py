"""Files that somebody else changes are noticed, and a publication under way is not taken for that."""

from __future__ import annotations

from sidecar.observe.status import Drift
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
