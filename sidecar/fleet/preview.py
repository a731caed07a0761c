"""What an index would change on every machine, region by region, from one place: nothing is touched or poked.

The sets are made here, of the index in the store and of the other one, with this machine's profile and
deployment. What is a machine's own, it alone knows: `UNKNOWN` says what.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import msgspec

from sidecar.config.settings import Settings
from sidecar.errors import Rejected, SettingsError
from sidecar.fleet.context import Context, open_context
from sidecar.fleet.index_history import named
from sidecar.fleet.machine_updates import ProgressListener
from sidecar.fleet.machines import DiscoveredFleet, Skipped, Target
from sidecar.fleet.table import table
from sidecar.generate import Generated, generate
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import LossLimits, check, check_regions, counts
from sidecar.generate.ownership import compared
from sidecar.inputs.index import read_index
from sidecar.inputs.machine import Inputs, Machine
from sidecar.inputs.store import own_index
from sidecar.model.artifacts import HTPASSWD
from sidecar.model.changes import Changes, NamedCount
from sidecar.model.record import Record
from sidecar.model.words import short
from sidecar.system.background import in_thread

UNKNOWN = (
    "Not known from here: a machine's own profile, limits and check_command, event databases that it lacks, "
    "its probes, and whether Navigator loads it."
)
_MAX_NAMED = 5
_MAX_CHARACTERS = 200


class RegionPreview(Record, frozen=True):
    """What changes for the machines of one region (None: of none).

    `before` and `after` are how many events they serve, `added` and `removed` the paths of those that come
    and go; `files` would be written; `refused` says why the index would be refused.
    """

    region: str | None
    machines: tuple[str, ...]
    before: int = 0
    after: int = 0
    added: NamedCount = NamedCount()
    removed: NamedCount = NamedCount()
    files: tuple[str, ...] = ()
    refused: str = ""


class FleetPreview(Record, frozen=True):
    """From the store's index to another, both by their SHA-256; `changes` are for administrators only.

    `refused` says why a fleet update would not upload it.
    """

    held: str
    sha256: str
    profile: str
    changes: Changes
    regions: tuple[RegionPreview, ...]
    skipped: tuple[Skipped, ...]
    refused: str = ""

    @property
    def good(self) -> bool:
        """Whether it would be uploaded, and every machine would take it, as far as it is known here."""
        return not self.refused and not any(one.refused for one in self.regions)


async def preview(settings: Settings, wanted: str, listener: ProgressListener) -> FleetPreview:
    """The preview of a file, of an index in the history by its digest, or without either of the local one.

    Raises `Rejected` where it is no index at all, and `SidecarError` when something cannot be found out.
    """
    async with open_context(settings, None, listener) as context:
        candidate = await _candidate(context, wanted)
        now = context.folder / "now"
        await context.store.fetch(settings.index_key, now, None)
        found = await context.discovery.find()
        return await in_thread(_compare, settings, now, candidate, found, context.discovery.source)


async def _candidate(context: Context, wanted: str) -> Path:
    if wanted and Path(wanted).is_file():
        return Path(wanted)
    if wanted:
        return await context.records.content(named(await context.records.entries(), wanted).sha256)
    local = own_index(context.settings, lambda *_: None)
    if local is None:
        raise SettingsError(
            "there is no index to preview: this machine does not own one (update.own_index)",
            "name a file, or a digest of `sidecar fleet history`",
        )
    path = context.folder / "candidate"
    await local.fetch(context.settings.index_key, path, None)
    return path


def _compare(
    settings: Settings, now: Path, candidate: Path, found: DiscoveredFleet, source: str
) -> FleetPreview:
    inputs, memo = Machine(settings, Path(settings.paths.state) / "loaded").inputs(), ResultCache()
    old, new = read_index(now, inputs.deployed), read_index(candidate, inputs.deployed)
    regions: dict[str | None, list[str]] = {}
    everyone: list[Target | Skipped] = [*found.targets, *found.skipped]
    for one in everyone:
        regions.setdefault(one.region or None, []).append(one.id)

    def made(region: str | None, ids: list[str]) -> RegionPreview:
        # The region of a listed machine is for people: its sidecar knows of none, and serves everything.
        here = inputs if source == "machines" else _in_region(inputs, region)
        before = generate(old, here.deployment, memo)
        told = RegionPreview(region, tuple(ids), len(before.tenants))
        limits = LossLimits(settings.update.max_lost_tenants, settings.update.max_lost_users)
        try:
            after = generate(new, here.deployment, memo, before[HTPASSWD])
            told = _told(region, tuple(ids), before, after)
            check(after, counts(before), limits, memo, force=False)
        except Rejected as error:
            return msgspec.structs.replace(told, refused=error.message)
        return told

    found_changes = compared(old, new, memo)
    return FleetPreview(
        _digest(now),
        _digest(candidate),
        settings.profile,
        found_changes,
        tuple(made(region, ids) for region, ids in sorted(regions.items(), key=lambda one: one[0] or "")),
        found.skipped,
        _refusal(found_changes, settings.update.max_lost_tenants),
    )


def _refusal(found: Changes, limit: float) -> str:
    try:
        check_regions(found.losses, limit)
    except Rejected as error:
        return str(error)
    return ""


def _in_region(inputs: Inputs, region: str | None) -> Inputs:
    deployment = dataclasses.replace(
        inputs.deployment, region=region, values={**inputs.deployment.values, "region": region}
    )
    return dataclasses.replace(inputs, deployment=deployment)


def _told(region: str | None, ids: tuple[str, ...], before: Generated, after: Generated) -> RegionPreview:
    was, becomes = ({tenant.scope for tenant in one.tenants} for one in (before, after))
    added, removed = sorted(becomes - was), sorted(was - becomes)
    return RegionPreview(
        region,
        ids,
        len(was),
        len(becomes),
        NamedCount(len(added), tuple(added)),
        NamedCount(len(removed), tuple(removed)),
        tuple(one.name for one in after.artifacts if before[one.name] != one.content),
    )


def preview_lines(told: FleetPreview) -> list[str]:
    """A line a region, and who loses what; with names."""
    rows = [
        (
            one.region or "-",
            str(len(one.machines)),
            f"{one.before} -> {one.after}",
            f"+{one.added.count} -{one.removed.count}",
            str(len(one.files)),
            f"refused: {one.refused}"[:_MAX_CHARACTERS] if one.refused else _first(one.removed),
        )
        for one in told.regions
    ]
    lines = [
        f"From {short(told.held)} in the store to {short(told.sha256)}, with the profile {told.profile}:"
    ]
    lines += table(("REGION", "MACHINES", "EVENTS", "", "FILES", ""), rows) if rows else []
    for kind, what, names in told.changes.each():
        lines.append(f"{names.count} {kind} {what}: {', '.join(names.names[:_MAX_NAMED])}{_more(names)}")
    if told.refused:
        lines.append(f"Refused: {told.refused}")
    return [*lines, UNKNOWN]


def _first(removed: NamedCount) -> str:
    return f"gone: {', '.join(removed.names[:_MAX_NAMED])}{_more(removed)}" if removed.count else ""


def _more(names: NamedCount) -> str:
    return f" and {names.count - _MAX_NAMED} more" if names.count > _MAX_NAMED else ""


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
