"""What the administrator's own web server has besides: values of the profile `local`."""

from __future__ import annotations

from typing import Any

import yaml

from sidecar.cli.commands.compare import generated
from tests.support.machine import Machine


async def navigator(machine: Machine) -> dict[str, Any]:
    """The configuration that an update would publish."""
    data: dict[str, Any] = yaml.safe_load((await generated(machine.settings()))["navigator.yml"])
    return data


async def test_a_plain_host_has_none_of_it(machine: Machine) -> None:
    """Without values there is no key."""
    machine.put_index()
    found = await navigator(machine)
    assert "trust_proxy" not in found["server"]
    assert found["logging"] == {"format": "json"}
    assert [hook["command"] for hook in found["hooks"]["server"]["ready"]] == ["touch"]


async def test_the_administrators_host_names_them(machine: Machine) -> None:
    """A proxy before it, a log shipper, ready hooks after the one that proves the load."""
    machine.put_index()
    vector = {"enabled": True, "socket": "/tmp/vector.sock", "config": "/app/config/vector.toml"}
    hook = {"command": "script/after-load", "args": ["now"], "timeout": "10m"}
    machine.extra["values"] = {"trust_proxy": True, "vector": vector, "ready_hooks": [hook]}
    found = await navigator(machine)
    assert found["server"]["trust_proxy"] is True
    assert found["logging"]["vector"] == vector
    assert found["hooks"]["server"]["ready"][1:] == [hook]
