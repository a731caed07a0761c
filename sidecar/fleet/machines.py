"""Who belongs to the fleet, and who of them is to be poked. Values in, values out.

A machine that is stopped or suspended is not poked, which could wake it: it fetches when it wakes by itself.
One whose host does not answer Fly is tried all the same: it may well serve, and if it does not, that is worth
knowing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from sidecar.config.settings import FleetMachine
from sidecar.errors import SidecarError
from sidecar.model.record import Record

ACTIVE = frozenset({"started", "created"})
HELPERS = frozenset({"fly_app_release_command", "fly_app_console"})
"""Process groups of machines that live for one command."""

_MAX_LISTED = 10
_ID = re.compile(r"[\w.-]{1,255}")


class FleetError(SidecarError):
    """The fleet cannot be updated, or its machines cannot be found out."""

    code = "fleet"
    status = 502


class Target(Record, frozen=True):
    """A machine to poke: its id, its base URL, and what Fly-Force-Instance-Id must say (None: nothing)."""

    id: str
    name: str
    region: str
    url: str
    instance: str | None = None


class Skipped(Record, frozen=True):
    """A machine that is left out, and why."""

    id: str
    name: str
    region: str
    reason: str


class DiscoveredFleet(Record, frozen=True):
    """The fleet: who is to be poked and who is not, each by region and id."""

    targets: tuple[Target, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.targets) + len(self.skipped)


class _Config(msgspec.Struct):
    metadata: dict[str, Any] | None = None


class _Document(msgspec.Struct):
    id: str
    name: str | None = None
    state: str | None = None
    region: str | None = None
    config: _Config | None = None
    incomplete_config: _Config | None = None
    host_status: str | None = None

    @property
    def group(self) -> str | None:
        """The process group; None where nobody says."""
        for config in (self.config, self.incomplete_config):
            if config is not None and config.metadata:
                group = config.metadata.get("fly_process_group")
                if isinstance(group, str):
                    return group
        return None


def from_fly(body: bytes, url: str, groups: Collection[str] = ()) -> DiscoveredFleet:
    """The fleet from the Machines API's JSON array, or from `flyctl machines list --json`, which is the same.

    `groups` are the process groups that count; none: all but those of single commands. `FleetError` when it
    is no such array; a machine in it that cannot be understood is skipped and named.
    """
    try:
        listed = msgspec.json.decode(body, type=list[msgspec.Raw] | None) or []
    except msgspec.MsgspecError as error:
        raise FleetError(
            f"the list of machines cannot be understood: {error}", "check fleet.api and fleet.flyctl"
        ) from None
    targets, skipped = [], []
    for raw in listed:
        try:
            one = msgspec.json.decode(raw, type=_Document)
        except msgspec.MsgspecError:
            skipped.append(Skipped(_id(raw), "", "", "its description cannot be understood"))
            continue
        name, region = one.name or "", one.region or ""
        if reason := _reason(one, groups):
            skipped.append(Skipped(one.id, name, region, reason))
        else:
            targets.append(Target(one.id, name, region, url, one.id))
    return _sorted(targets, skipped)


def _id(raw: msgspec.Raw) -> str:
    try:
        found = msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return "?"
    return str(found.get("id", "?")) if isinstance(found, dict) else "?"


def _reason(one: _Document, groups: Collection[str]) -> str:
    """Why a machine is left out; empty when it is not."""
    group = one.group
    if group in HELPERS or (groups and group is not None and group not in groups):
        return f"belongs to the process group {group}"
    if one.state not in ACTIVE:
        return one.state or "its state is not known"
    return ""


def from_list(machines: Iterable[FleetMachine]) -> DiscoveredFleet:
    """The fleet as the configuration lists it: all are poked."""
    return _sorted([Target(one.id, "", one.region, one.url.rstrip("/")) for one in machines], [])


def from_dns(texts: Iterable[str], url: str) -> DiscoveredFleet:
    """The fleet from Fly's DNS, which names the started machines: `id region,id region`."""
    targets = []
    for entry in ",".join(texts).split(","):
        name, _, region = entry.strip().partition(" ")
        if name:
            targets.append(Target(name, "", region.strip(), url, name))
    return _sorted(targets, [])


def only(found: DiscoveredFleet, wanted: Sequence[str]) -> DiscoveredFleet:
    """The machines with the ids, names or regions that are wanted; `FleetError` for one that fits nobody."""
    if not wanted:
        return found
    everyone: list[Target | Skipped] = [*found.targets, *found.skipped]
    for word in wanted:
        if not any(_fits(one, word) for one in everyone):
            known = sorted({one.region for one in everyone} - {""}) + [one.id for one in everyone]
            more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
            raise FleetError(
                f"no machine has the id, name or region {word!r}",
                f"known are {', '.join(known[:_MAX_LISTED]) or 'none'}{more}",
                code="fleet_unknown",
            )
    return DiscoveredFleet(
        tuple(one for one in found.targets if any(_fits(one, word) for word in wanted)),
        tuple(one for one in found.skipped if any(_fits(one, word) for word in wanted)),
    )


def without(found: DiscoveredFleet, machine: str) -> DiscoveredFleet:
    """All but one machine, which pokes the others and has what it pokes them for."""
    return DiscoveredFleet(
        tuple(one for one in found.targets if one.id != machine),
        (
            *found.skipped,
            *(
                Skipped(one.id, one.name, one.region, "passes the poke on")
                for one in found.targets
                if one.id == machine
            ),
        ),
    )


def _fits(one: Target | Skipped, word: str) -> bool:
    return word in (one.id, one.name, one.region)


def _sorted(targets: list[Target], skipped: list[Skipped]) -> DiscoveredFleet:
    """The fleet in order; whose id cannot be one, as it goes into headers and is signed, is left out."""
    odd = [one for one in targets if not _ID.fullmatch(one.id)]
    targets = [one for one in targets if one not in odd]
    skipped = [*skipped, *(Skipped(one.id, one.name, one.region, "its id is none") for one in odd)]
    return DiscoveredFleet(
        tuple(sorted(targets, key=lambda one: (one.region, one.id))),
        tuple(sorted(skipped, key=lambda one: (one.region, one.id))),
    )
