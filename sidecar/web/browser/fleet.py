"""The fleet as a page: how its machines are, updates of all of them, undo, and the rollout under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import yaml
from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.errors import BadRequest, NotFound, SidecarError
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.run import FleetRequest
from sidecar.fleet.service import FleetService
from sidecar.generate import yaml_writer
from sidecar.generate.check import large_losses
from sidecar.generations import Generations
from sidecar.model.artifacts import MAP
from sidecar.model.changes import Changes
from sidecar.model.words import short
from sidecar.web.browser.common import WORD, Common, require_word
from sidecar.web.browser.look import Look
from sidecar.web.csrf import field
from sidecar.web.html import base_of
from sidecar.web.page import fleet, parts
from sidecar.web.page import preview as preview_page
from sidecar.web.page import status as status_page
from sidecar.web.page.atlas import atlas
from sidecar.web.page.markup import Markup

logger = logging.getLogger(__name__)

# How long the page waits for a rollout to take in what a person wants of it.
_CONTROL_SECONDS = 3.0
_ALL_AT_ONCE = (
    "Every active machine is poked, and followed until it has loaded the newest index. Where this machine "
    "owns the index, that is uploaded first."
)
_BY_CANARY = (
    "A new index goes to one machine first, which is watched, then to a quarter of all, then into the store "
    "and to all others. The first machine that refuses it has it taken back from all."
)


class FleetPages:
    """Where this machine knows of no fleet, there is nothing to look at: `NotFound`."""

    def __init__(
        self,
        common: Common,
        look: Look,
        settings: Settings,
        generations: Generations,
        fleet: FleetService,
    ) -> None:
        self._common = common
        self._look = look
        self._settings = settings
        self._generations = generations
        self._fleet = fleet
        self._map: tuple[str, Mapping[str, Any]] | None = None

    async def fleet(self, request: web.Request) -> web.StreamResponse:
        """How the machines were when they were looked at, and the map."""
        who = await self._common.require(request, linked=True)
        seen = self._look.data()
        content = await self.main(seen, who, base_of(request))
        running = seen.fleet is not None and seen.fleet.running
        return self._common.answer(request, who, "Fleet", content, section="fleet", refresh=running)

    async def main(self, seen: status_page.StatusData, who: str, base: str) -> Markup:
        """What is within the page."""
        token = self._common.tokens.token(who, "look")
        settings = self._settings
        by_canary = settings.update.own_index and settings.fleet.strategy != "canary"
        map_ = await self._atlas(seen)
        return fleet.main(seen.fleet, seen.at, map_, base=base, token=token, by_canary=by_canary)

    async def look_at_fleet(self, request: web.Request) -> web.StreamResponse:
        """Ask all machines how they are, and show that."""
        who = await self._common.require(request)
        await self._common.tokens.require(request, who, "look")
        self._require_fleet()
        await self._fleet.look()
        raise web.HTTPSeeOther("../fleet")

    async def _atlas(self, seen: status_page.StatusData) -> Markup | None:
        current = self._generations.current
        if current is None:
            return None
        digest = current.digests.get(MAP, "")
        if self._map is None or self._map[0] != digest:
            self._map = digest, await asyncio.to_thread(self._read_map, current.number)
        here = self._settings.machine.region or None
        states = fleet.states(seen.fleet)
        if here is not None:
            states.setdefault(here, status_page.state(seen))
        return atlas(self._map[1], states, here)

    def _read_map(self, number: int) -> Mapping[str, Any]:
        try:
            content = next(
                one.content for one in self._generations.archive.artifacts(number) if one.name == MAP
            )
            found = yaml_writer.load(content)
        except (NotFound, StopIteration, yaml.YAMLError) as error:
            logger.warning("the map cannot be shown: %s", error)
            return {}
        return found if isinstance(found, dict) else {}

    async def confirm_fleet(self, request: web.Request) -> web.StreamResponse:
        """The question before all machines are updated."""
        who = await self._common.require(request)
        self._require_fleet()
        canary = self._settings.update.own_index and (
            request.query.get("canary") == "1" or self._settings.fleet.strategy == "canary"
        )
        changes, unknown = await self._fleet_changes(who)
        lost: list[str] = []
        if self._settings.update.own_index and changes is not None:
            lost = large_losses(changes.losses, self._settings.update.max_lost_tenants)
        title = "Update the fleet by canary?" if canary else "Update the fleet?"
        content = preview_page.question(
            title,
            _BY_CANARY if canary else _ALL_AT_ONCE,
            [*preview_page.large(lost), *preview_page.consequences(changes)],
            changes,
            unknown=unknown,
            action="fleet",
            button=title.removesuffix("?"),
            fields=[
                ("canary", "1" if canary else ""),
                ("force", "1" if lost else ""),
                ("token", self._common.tokens.token(who, _fleet_purpose(canary=canary, force=bool(lost)))),
            ],
            back="../fleet",
            word=WORD if lost else "",
        )
        return self._common.answer(request, who, title, content, section="fleet")

    async def _fleet_changes(self, who: str) -> tuple[Changes | None, str | None]:
        """What the machines would get, or why that is not known.

        An owner's index is compared with the store's, any other machine's with what is in place here.
        """
        try:
            changes = await self._fleet.changes()
        except SidecarError as error:
            return None, f"The index here and the store's cannot be compared: {error.message}."
        if changes is not None:
            return changes, None
        outcome = await self._common.preview(who)
        if outcome.error is not None:
            return (
                None,
                f"What the store holds cannot be compared with what is here: {outcome.error.message}.",
            )
        if outcome.changes is None:
            return None, "There is nothing in place here to compare with."
        return outcome.changes, None

    async def apply_fleet(self, request: web.Request) -> web.StreamResponse:
        """Begin a fleet update, whose progress the fleet's page shows."""
        who = await self._common.require(request)
        canary, force = [await field(request, name) == "1" for name in ("canary", "force")]
        await self._common.tokens.require(request, who, _fleet_purpose(canary=canary, force=force))
        if force:
            await require_word(request)
        wanted = FleetRequest(force=force, canary="1" if canary else None)
        await self._common.begin(self._fleet.update(wanted, who))
        raise web.HTTPSeeOther("../fleet")

    async def confirm_undo(self, request: web.Request) -> web.StreamResponse:
        """The question before an older index goes back into the store and to all machines."""
        who = await self._common.require(request)
        self._require_fleet()
        plan = await self._fleet.plan(request.query.get("to", ""))
        to = plan.to.sha256
        fields = {
            "to": to,
            "held": plan.held,
            "token": self._common.tokens.token(who, f"undo {plan.held} {to}"),
        }
        title = "Undo the last index?"
        content = preview_page.question(
            title,
            [
                f"The store goes from the index {short(plan.held)} back to {short(to)}, stored ",
                parts.moment(plan.to.at, time.time()),
                f" by {plan.to.who}. Every active machine is followed until it has loaded it.",
            ],
            [*preview_page.returning(plan.changes), *preview_page.consequences(plan.changes)],
            plan.changes,
            unknown=plan.problem or None,
            action="rollback",
            button="Put it back on all machines",
            fields=fields.items(),
            back="../../fleet",
        )
        return self._common.answer(request, who, title, content, section="fleet")

    async def apply_undo(self, request: web.Request) -> web.StreamResponse:
        """Put it back, if the store still holds what the question was about."""
        who = await self._common.require(request)
        to, held = await field(request, "to"), await field(request, "held")
        await self._common.tokens.require(request, who, f"undo {held} {to}")
        self._require_fleet()
        await self._common.begin(self._fleet.roll_back(to, held, who))
        raise web.HTTPSeeOther("../../fleet")

    async def rollout(self, request: web.Request) -> web.StreamResponse:
        """The rollout under way, whoever drives it, with what can be done with it."""
        who = await self._common.require(request)
        self._require_fleet()
        known = await self._fleet.rollout()
        tokens = {
            word: self._common.tokens.token(who, _control_purpose(word, known)) for word in fleet.CONTROLS
        }
        content = fleet.rollout(known, time.time(), tokens, back="../../fleet")
        return self._common.answer(request, who, "Rollout", content, section="fleet")

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Pause, resume or abort the very rollout that was shown."""
        who = await self._common.require(request)
        self._require_fleet()
        word = await field(request, "word")
        known = await self._fleet.rollout()
        await self._common.tokens.require(request, who, _control_purpose(word, known))
        if word not in fleet.CONTROLS:
            raise BadRequest(f"{word!r} can be done with no rollout", "use the buttons of the page")
        # Where nobody drives it this daemon does, to the end: the page shows how far it is meanwhile.
        await self._common.begin(self._fleet.control(word, who), _CONTROL_SECONDS)
        raise web.HTTPSeeOther("rollout")

    def _require_fleet(self) -> None:
        if self._fleet.known() is None:
            raise NotFound("this machine knows no fleet", "set fleet.app or fleet.machines")


def _control_purpose(word: str, rollout: Rollout | None) -> str:
    """What a form agrees to: to this of this rollout, not of the next one."""
    return f"{word} {rollout.started if rollout else ''}"


def _fleet_purpose(*, canary: bool, force: bool) -> str:
    """What a form agrees to."""
    return f"fleet{' by canary' if canary else ''}{' by force' if force else ''}"
