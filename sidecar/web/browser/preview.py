"""Preview as a page: what an update would change, the question before it, and its beginning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.errors import CommandError
from sidecar.generate.check import LOSS
from sidecar.generations import Generations
from sidecar.model.runs import Outcome, Request
from sidecar.model.words import plural
from sidecar.system.commands import run_command
from sidecar.web.browser.common import WORD, Common, require_word
from sidecar.web.csrf import field
from sidecar.web.html import base_of
from sidecar.web.page import preview as preview_page

_MIN_OUTPUT_CHARACTERS = 2000


class PreviewPages:
    """An update of this machine from the page applies what was shown, and nothing else."""

    def __init__(
        self,
        common: Common,
        settings: Settings,
        generations: Generations,
        pending_regions: Callable[[], list[str]],
    ) -> None:
        """`pending_regions` says which regions a deployment waits for."""
        self._common = common
        self._settings = settings
        self._generations = generations
        self._pending_regions = pending_regions

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """What an update would change, with the button that applies exactly that."""
        who = await self._common.require(request)
        outcome = await self._common.preview(who)
        if outcome.error is not None:
            forced = await self._common.preview(who, force=True) if outcome.error.code == LOSS else None
            content = preview_page.refused(outcome, forced, base=base_of(request))
            return self._common.answer(request, who, "Preview", content, section="preview")
        needed = await self._deployment(outcome)
        current = self._generations.current
        content = preview_page.preview(
            outcome, needed, pinned=current is not None and current.pinned, base=base_of(request)
        )
        return self._common.answer(request, who, "Preview", content, section="preview")

    async def confirm(self, request: web.Request) -> web.StreamResponse:
        """The question before an update."""
        who = await self._common.require(request)
        tag, force = request.query.get("tag", ""), request.query.get("force") == "1"
        outcome = await self._common.preview(who, force=force)
        needed = await self._deployment(outcome)
        if outcome.error is not None or outcome.tag != tag or needed or not outcome.written:
            # Something else than was shown: it has to be shown first.
            raise web.HTTPSeeOther("../preview")
        first = outcome.changes is None
        content = preview_page.question(
            "Update the configuration?",
            f"{plural(len(outcome.written), 'file')} will be written and Navigator will load them. "
            + (
                "This is the first generation."
                if first
                else "If it does not, the machine goes back to what is in place now."
            ),
            preview_page.consequences(outcome.changes, outcome.drift),
            outcome.changes,
            action="update",
            button="Update configuration",
            fields=[
                ("tag", tag),
                ("force", "1" if force else ""),
                ("token", self._common.tokens.token(who, f"update {tag}{' by force' if force else ''}")),
            ],
            back="../preview",
            word=WORD if force else "",
        )
        return self._common.answer(request, who, "Update the configuration?", content, section="preview")

    async def apply(self, request: web.Request) -> web.StreamResponse:
        """Apply what was shown, and nothing else."""
        who = await self._common.require(request)
        tag, force = await field(request, "tag"), await field(request, "force") == "1"
        await self._common.tokens.require(request, who, f"update {tag}{' by force' if force else ''}")
        if force:
            await require_word(request)
        await self._common.start(Request(trigger="http", who=who, if_match=tag, force=force))
        raise web.HTTPSeeOther("../")

    async def _deployment(self, outcome: Outcome) -> list[str]:
        """Why an update would not be enough; empty when it is."""
        reasons = [f"{sentence}." for sentence in self._pending_regions()]
        if outcome.changes is not None:
            regions = outcome.changes.regions
            for what in ("added", "removed", "changed"):
                names = getattr(regions, what)
                if names.count:
                    reasons.append(f"{plural(names.count, 'region')} {what}: {', '.join(names.names)}.")
        settings = self._settings.page
        if settings.deployment_check:
            try:
                finished = await run_command(
                    settings.deployment_check,
                    Path(self._settings.paths.application),
                    settings.deployment_timeout,
                    {"PREVIEW_INDEX": outcome.sha256 or ""},
                )
            except CommandError as error:
                reasons.append(f"Whether one is needed could not be found out: {error}.")
            else:
                if finished.status != 0:
                    said = finished.output.strip()[-_MIN_OUTPUT_CHARACTERS:]
                    lines = [line for line in said.splitlines() if line.strip()]
                    reasons += lines or [f"The deployment check ended with status {finished.status}."]
        return reasons
