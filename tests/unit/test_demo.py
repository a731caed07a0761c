"""The demo's folder and its changes, without the processes."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.cli.commands.demo import _CHANGES
from sidecar.cli.configuration import load_settings
from sidecar.config.settings import Settings
from sidecar.demo.changes import KINDS, change, password_of
from sidecar.demo.prepare import PASSWORDS, STUDIO_USER, DemoFleet, existing, prepare
from sidecar.demo.sample import Size, htpasswd_line, set_password, write_index
from sidecar.errors import SettingsError
from tests.support.navigator import free_port

FEW = Size(events=60, studios=60, users=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A demo's folder with a small index of the office."""
    write_index(tmp_path / "index.sqlite3", FEW)
    set_password(tmp_path / "index.sqlite3", STUDIO_USER, htpasswd_line(STUDIO_USER, PASSWORDS[0]))
    return tmp_path


@pytest.fixture
def fleet(folder: Path) -> DemoFleet:
    return prepare(folder, 3, free_port())


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def settings(fleet: DemoFleet, place: int) -> Settings:
    return load_settings(str(fleet.machines[place].config))


def test_every_machine_knows_the_fleet(fleet: DemoFleet) -> None:
    """Each configuration is sound, is its own region's, and names every machine's web server."""
    urls = [f"http://127.0.0.1:{one.web}" for one in fleet.machines]
    for place, machine in enumerate(fleet.machines):
        one = settings(fleet, place)
        assert (one.machine.id, one.machine.region) == (machine.name, machine.name)
        assert [other.url for other in one.fleet.machines] == urls
        assert (one.listen.port, one.navigator.port) == (machine.page, machine.web)


def test_the_folder_is_kept(fleet: DemoFleet) -> None:
    """A second start writes the same configurations, and leaves indexes and databases alone."""
    set_password(fleet.index, STUDIO_USER, None)
    kept = {path: path.read_bytes() for path in fleet.folder.rglob("*.*") if path.is_file()}
    again = prepare(fleet.folder, 3, fleet.machines[0].page)
    assert {path: path.read_bytes() for path in kept} == kept
    assert existing(fleet.folder).machines == again.machines == fleet.machines


def test_an_edited_configuration_is_not_overwritten(fleet: DemoFleet, taken: int) -> None:
    """It stays as it is, that is said, its ports count, and the other machines look for it there."""
    config = fleet.machines[1].config
    other = free_port()
    edited = config.read_text().replace(f"port: {fleet.machines[1].web}", f"port: {other}")
    config.write_text(edited)
    again = prepare(fleet.folder, 3, fleet.machines[0].page)
    assert config.read_text() == edited
    assert str(config) in " ".join(again.notes)
    assert again.machines[1].web == other
    assert f"http://127.0.0.1:{other}" in [one.url for one in settings(again, 0).fleet.machines]
    config.write_text(edited.replace(f"port: {other}", f"port: {taken}"))
    with pytest.raises(SettingsError, match=f"port {taken} is taken") as caught:
        prepare(fleet.folder, 3, fleet.machines[0].page)
    assert str(config) in str(caught.value)
    config.write_text("listen: [")
    with pytest.raises(SettingsError, match="remove it"):
        prepare(fleet.folder, 3, fleet.machines[0].page)


def test_a_port_that_is_taken_is_replaced(folder: Path, taken: int) -> None:
    """A free one takes its place, and that is said."""
    fleet = prepare(folder, 1, taken)
    assert fleet.machines[0].page != taken
    assert str(taken) in fleet.notes[0]
    assert str(fleet.machines[0].page) in fleet.notes[0]


def test_every_change_moves_the_store(fleet: DemoFleet) -> None:
    """Each kind is something new each time; the bad one leaves the office's own index alone."""
    assert tuple(KINDS) == _CHANGES
    seen = {fleet.digest()}
    for kind in [*KINDS, *KINDS]:
        own = fleet.index.read_bytes()
        change(fleet, kind)
        assert (fleet.index.read_bytes() == own) == (kind == "bad")
        # A bad index is the same again only if the office's is.
        assert fleet.digest() not in seen
        seen.add(fleet.digest())


def test_a_studio_moves_there_and_back(fleet: DemoFleet, folder: Path) -> None:
    """From one machine's region to another's, and back; a fleet of one has nowhere to move it to."""
    said = [change(fleet, "region").what for _ in range(3)]
    assert said[0] == said[2] != said[1]
    assert re.search("(iad|syd) serves the studio .* instead of (iad|syd)", said[0])
    with pytest.raises(SettingsError, match="nowhere"):
        change(prepare(folder / "one", 1, free_port()), "region")


def test_the_password_alternates(fleet: DemoFleet) -> None:
    """The one that is taken away comes back with the next change."""
    passwords = []
    for _ in range(3):
        passwords.append(password_of(fleet.index))
        change(fleet, "password")
    assert passwords == [PASSWORDS[0], PASSWORDS[1], PASSWORDS[0]]


def test_a_new_event_has_its_database(fleet: DemoFleet) -> None:
    """The store holds it, so that the machine can serve it at once."""
    before = set(fleet.stored.parent.iterdir())
    change(fleet, "event")
    [added] = [path for path in set(fleet.stored.parent.iterdir()) - before if "gala" in path.name]
    assert added.stat().st_size


def test_without_a_demo_nothing_can_be_changed(tmp_path: Path) -> None:
    """The error says how to start one."""
    with pytest.raises(SettingsError, match="sidecar demo"):
        existing(tmp_path)
