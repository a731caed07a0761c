"""Who lists the machines: the API, a command, DNS, the configuration. Real sockets and processes."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.config.parse import parse
from sidecar.errors import SettingsError
from sidecar.fleet.discovery import Discovery
from sidecar.fleet.machines import FleetError, Target
from tests.support.fleet import APP, TOKEN, MachinesApi, document


@asynccontextmanager
async def discovery(**fleet: Any) -> AsyncIterator[tuple[Discovery, list[str]]]:
    """A discovery with these settings, and what it says."""
    said: list[str] = []
    settings = parse({"fleet": {"app": APP, "pause": "5ms", **fleet}}, {})
    async with aiohttp.ClientSession() as session:
        yield Discovery(settings, session, said.append), said


def target(machine: str) -> Target:
    return Target(machine, "", "", "")


async def test_what_may_pass_is_asked_again() -> None:
    """Too many requests, a failing server, an empty list: said, and asked again until there is an answer."""
    api = MachinesApi([document("m1")])
    api.then += [(429, {}, {"Retry-After": "0"}), (503, {}, {}), (200, [], {}), (200, None, {})]
    async with api.running(), discovery(api=api.url, token=TOKEN) as (found, said):
        assert [one.id for one in (await found.find()).targets] == ["m1"]
        assert api.asked == 5
        assert [sentence.partition(";")[0] for sentence in said] == [
            "the Machines API answers 429",
            "the Machines API answers 503",
            "the list of machines is empty",
            "the list of machines is empty",
        ]


async def test_what_does_not_pass_is_an_error_at_once() -> None:
    """A wrong token or application is not asked for again; the token is in no sentence."""
    api = MachinesApi([document("m1")])
    async with api.running():
        for wrong in ({"token": "another-token"}, {"token": TOKEN, "app": "elsewhere"}):
            async with discovery(**{"api": api.url, **wrong}) as (found, said):
                with pytest.raises(FleetError, match=r"the Machines API answers 40") as caught:
                    await found.find()
                assert said == []
                assert str(wrong["token"]) not in str(caught.value)
    assert api.asked == 2


async def test_an_api_that_is_not_there_is_an_error_in_the_end() -> None:
    """After a bounded number of attempts."""
    async with discovery(api="http://127.0.0.1:9", token=TOKEN) as (found, said):
        with pytest.raises(FleetError, match=r"cannot be reached.*6 times in a row"):
            await found.find()
        assert len(said) == 5


async def test_those_who_fail_together_share_a_look() -> None:
    """Whether machines have stopped meanwhile is asked once for many, and an empty list says nothing."""
    api = MachinesApi([document("m1"), document("m2", state="stopped")])
    async with api.running():
        async with discovery(api=api.url, token=TOKEN) as (found, _):
            told = await asyncio.gather(*(found.stopped(target(name)) for name in ("m1", "m2", "m3") * 20))
            assert told == [False, True, True] * 20
            assert api.asked == 1
        api.then += [(200, [], {})]
        async with discovery(api=api.url, token=TOKEN) as (found, _):
            assert not await found.stopped(target("m2"))


async def test_flyctl_lists_them_without_a_token(tmp_path: Path) -> None:
    """Its JSON is read whole, however long, and what it says besides is no part of it."""
    many = [document(f"m{number:03}", env={"X": "x" * 500}) for number in range(300)]
    (tmp_path / "machines.json").write_text(json.dumps(many))
    command = tmp_path / "flyctl"
    command.write_text(
        "#!/bin/sh\n"
        "echo 'a new version is there' >&2\n"
        f"test \"$*\" = 'machines list --app {APP} --json' && cat {tmp_path}/machines.json\n"
    )
    command.chmod(0o755)
    async with discovery(flyctl=str(command)) as (found, _):
        assert found.source == "flyctl"
        assert len((await found.find()).targets) == 300
    async with discovery(source="flyctl", flyctl=str(tmp_path / "none")) as (found, _):
        with pytest.raises(FleetError, match="cannot be started"):
            await found.find()


@pytest.mark.parametrize("folder", ["bin", ".fly/bin"])
async def test_flyctl_is_found_where_its_installer_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """It need not be on the PATH, which a service seldom has from its user's profile."""
    command = tmp_path / folder / "flyctl"
    command.parent.mkdir(parents=True)
    (tmp_path / "machines.json").write_text(json.dumps([document("m1")]))
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/machines.json\n")
    command.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    async with discovery() as (found, _):
        assert found.source == "flyctl"
        assert [one.id for one in (await found.find()).targets] == ["m1"]


@asynccontextmanager
async def dns_server(text: bytes, *, large: bool = False) -> AsyncIterator[str]:
    """A DNS server that knows one TXT record; `large` gives it over TCP only. Its address."""

    def answer(query: bytes, flags: int = 0x8180) -> bytes:
        asked = query[12 : query.index(b"\0", 12) + 5]
        pieces = [text[at : at + 255] for at in range(0, len(text), 255)]
        data = b"".join(bytes([len(one)]) + one for one in pieces)
        record = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 5, len(data)) + data
        known = asked.startswith(b"\3vms" + bytes([len(APP)]) + APP.encode() + b"\10internal\0")
        if not known:
            return query[:2] + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + asked
        cut = bool(flags & 0x200)
        return (
            query[:2] + struct.pack("!5H", flags, 1, 0 if cut else 1, 0, 0) + asked + (b"" if cut else record)
        )

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(answer(data, 0x8380 if large else 0x8180), addr)

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        message = answer(await reader.readexactly(length))
        writer.write(struct.pack("!H", len(message)) + message)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(stream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", port))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("large", [False, True])
async def test_dns_names_the_started_machines(large: bool) -> None:
    """Without token or command; what does not fit a datagram comes over TCP."""
    machines = [f"m{number:03}" for number in range(100)]
    text = ",".join(f"{name} iad" for name in machines).encode()
    async with (
        dns_server(text, large=large) as address,
        discovery(source="dns", resolver=address) as (found, _),
    ):
        targets = (await found.find()).targets
        assert [(one.id, one.region, one.instance) for one in targets] == [
            (name, "iad", name) for name in machines
        ]
        assert {one.url for one in targets} == {f"https://{APP}.fly.dev"}


async def test_a_name_that_dns_does_not_know_is_no_machine() -> None:
    """Asked for again, and then an error: it may be the wrong application."""
    async with (
        dns_server(b"m1 iad") as address,
        discovery(source="dns", resolver=address, app="elsewhere") as (found, said),
    ):
        with pytest.raises(FleetError, match="the list of machines is empty"):
            await found.find()
        assert len(said) == 5


async def test_the_sources_come_in_order() -> None:
    """The configuration's own list, then the API with a token, then flyctl where there is one, then DNS."""
    listed = [{"id": "h1", "url": "http://127.0.0.1:9"}]
    for settings, source in (
        ({"machines": listed, "token": TOKEN}, "machines"),
        ({"token": TOKEN, "flyctl": "true"}, "api"),
        ({"flyctl": "true"}, "flyctl"),
        ({"flyctl": "there-is-no-such-command"}, "dns"),
    ):
        async with discovery(**settings) as (found, _):
            assert found.source == source
    for nothing in ({"app": ""}, {"source": "api"}, {"source": "machines"}):
        with pytest.raises(SettingsError):
            async with discovery(**nothing):
                pass
    async with discovery(machines=listed) as (found, _):
        assert [one.id for one in (await found.find()).targets] == ["h1"]
        assert not await found.stopped(target("h1"))
