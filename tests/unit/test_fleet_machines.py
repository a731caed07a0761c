"""Who belongs to the fleet and is to be poked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.config.settings import FleetMachine
from sidecar.fleet.machines import (
    DiscoveredFleet,
    FleetError,
    Skipped,
    Target,
    from_dns,
    from_fly,
    from_list,
    only,
    without,
)
from tests.support.fleet import document, unreachable_host

URL = "https://example.com"


def fly(*documents: Any, groups: tuple[str, ...] = ()) -> DiscoveredFleet:
    return from_fly(json.dumps(documents).encode(), URL, groups)


def test_active_machines_are_poked_by_their_ids() -> None:
    """Started and created ones, in the order of region and id, each forced by its own id."""
    found = fly(document("b2", "syd", "created"), document("a1", "iad"), document("c3", "iad"))
    assert found.skipped == ()
    assert [(one.region, one.id, one.instance, one.url) for one in found.targets] == [
        ("iad", "a1", "a1", URL),
        ("iad", "c3", "c3", URL),
        ("syd", "b2", "b2", URL),
    ]


@pytest.mark.parametrize(
    "state",
    ["stopped", "suspended", "suspending", "stopping", "destroyed", "destroying", "replacing", "starting"],
)
def test_all_others_are_left_out_and_named(state: str) -> None:
    """Poking them could wake them; the state is the reason."""
    assert fly(document("a1", "iad", state)) == DiscoveredFleet(
        (), (Skipped("a1", "quiet-a1", "iad", state),)
    )


@pytest.mark.parametrize("group", ["fly_app_release_command", "fly_app_console"])
@pytest.mark.parametrize("reachable", [True, False])
def test_machines_of_single_commands_are_no_servers(group: str, reachable: bool) -> None:
    """Also where the host does not answer, and the configuration is an incomplete one."""
    described = document("a1", group=group) if reachable else unreachable_host("a1", group=group)
    (skipped,) = fly(described).skipped
    assert skipped.reason == f"belongs to the process group {group}"


@pytest.mark.parametrize("name", ["a\r\nX: y", "a b", "", "a\0", "é\u202e", "a" * 300])
def test_a_machine_whose_id_is_none_is_left_out(name: str) -> None:
    """It would go into headers: one such entry must not end the update of all the others."""
    found = fly(document(name, "iad"), document("a1", "iad"))
    assert [one.id for one in found.targets] == ["a1"]
    assert [(one.id, one.reason) for one in found.skipped] == [(name, "its id is none")]
    listed = from_list([FleetMachine(id=name, url="http://10.0.0.1")])
    assert [one.reason for one in listed.skipped] == ["its id is none"]


def test_other_process_groups_can_be_left_out() -> None:
    """Where groups are named, only those count; a machine that tells none is not left out."""
    nobody = document("c", config={"metadata": None})
    found = fly(document("a", group="web"), document("b", group="pdf"), nobody, groups=("web",))
    assert [one.id for one in found.targets] == ["a", "c"]
    assert [one.id for one in found.skipped] == ["b"]
    assert len(fly(document("a", group="web"), document("b", group="pdf")).targets) == 2


def test_a_machine_on_an_unreachable_host_is_tried() -> None:
    """It may serve, and if it does not, that is worth knowing."""
    assert [one.id for one in fly(unreachable_host("a1")).targets] == ["a1"]
    bare = {"id": "a2", "state": "started", "config": None}
    assert [one.id for one in fly(bare).targets] == ["a2"]


def test_what_cannot_be_understood_does_not_hide_the_others() -> None:
    """One strange description is named; the rest of the list counts."""
    found = fly({"id": "odd", "config": "text"}, {"state": 7}, 12, document("a1"))
    assert [one.id for one in found.targets] == ["a1"]
    assert sorted(one.id for one in found.skipped) == ["?", "?", "odd"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'"text"', b"[1,", b"12"])
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    """An error page, or another document: nobody is told that there are no machines."""
    with pytest.raises(FleetError):
        from_fly(body, URL)


def test_no_list_at_all_is_an_empty_one() -> None:
    """Both ways in which nothing is written."""
    assert len(from_fly(b"[]", URL)) == len(from_fly(b"null", URL)) == 0


def test_a_static_list_is_taken_as_it_is() -> None:
    """Plain hosts have no instance to force; a slash at the end of the URL is not part of it."""
    found = from_list([FleetMachine(id="h1", url="http://10.0.0.1/", region="eu")])
    assert found == DiscoveredFleet((Target("h1", "", "eu", "http://10.0.0.1", None),))


def test_dns_names_ids_and_regions() -> None:
    """In one text or several, with or without a region."""
    found = from_dns(["a1 iad,b2 syd", "c3"], URL)
    assert [(one.id, one.region, one.instance) for one in found.targets] == [
        ("c3", "", "c3"),
        ("a1", "iad", "a1"),
        ("b2", "syd", "b2"),
    ]
    assert len(from_dns([""], URL)) == 0


def test_only_those_that_are_named() -> None:
    """By id, name or region; those left out anyway stay named where they fit."""
    found = fly(document("a1"), document("b2", "syd"), document("c3", "syd", "stopped"))
    assert [one.id for one in only(found, ["syd"]).targets] == ["b2"]
    assert [one.id for one in only(found, ["syd"]).skipped] == ["c3"]
    assert [one.id for one in only(found, ["quiet-a1", "b2"]).targets] == ["a1", "b2"]
    assert only(found, []) == found


def test_a_name_that_fits_nobody_is_an_error() -> None:
    """It says which are known."""
    with pytest.raises(FleetError, match=r"'ams'.*iad, syd, a1, b2"):
        only(fly(document("a1"), document("b2", "syd")), ["a1", "ams"])


def test_who_passes_a_poke_on_is_left_out() -> None:
    """And named like all who are left out."""
    found = without(fly(document("a1"), document("b2")), "a1")
    assert [one.id for one in found.targets] == ["b2"]
    assert [one.id for one in found.skipped] == ["a1"]
