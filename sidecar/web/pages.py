"""The operators' page: what browsers get where others get JSON or text, and the buttons."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.errors import BadRequest, CommandError, NotFound, SidecarError
from sidecar.fleet.report import Report, State
from sidecar.fleet.rollout import Rollout
from sidecar.fleet.run import Wanted
from sidecar.fleet.undo import RollbackPlan
from sidecar.generate import yaml_writer
from sidecar.generate.check import LOSS, large_losses
from sidecar.generations import Generations
from sidecar.model.artifacts import MAP
from sidecar.model.changes import Changes
from sidecar.model.runs import PREVIEW, Outcome, Request
from sidecar.model.words import plural
from sidecar.observe.alerts import meanings
from sidecar.observe.comparison import Comparison
from sidecar.observe.events import Broker
from sidecar.observe.history import Entry, History, Search
from sidecar.observe.logs import whereabouts
from sidecar.observe.status import StatusSource
from sidecar.system.commands import run_command
from sidecar.system.tasks import Tasks
from sidecar.update.reconciler import Reconciler
from sidecar.update.worker import Worker
from sidecar.web.access import Administrators
from sidecar.web.answers import EVENTS, Handler, is_number, wants_page
from sidecar.web.forms import Forms, field
from sidecar.web.html import ADDRESSES, base_of, html_answer
from sidecar.web.page import before, change, fleet, now, parts
from sidecar.web.page import help as help_page
from sidecar.web.page.atlas import atlas
from sidecar.web.page.layout import Frame, page
from sidecar.web.page.markup import Content, Markup
from sidecar.web.views import search

logger = logging.getLogger(__name__)

_ENTRIES = 50
# How often to look while something is under way, whether or not an event came; and how long to gather events.
_RECHECK = 1.0
_GATHER = 0.05
_SHORTEST_OUTPUT = 2000
# How long the page waits for a rollout to take in what a person wants of it.
_CONTROL_SECONDS = 3.0
# What has to be typed where an update takes away more than is allowed at once.
_WORD = "lose"
_ALL_AT_ONCE = (
    "Every active machine is poked, and followed until it has loaded the newest index. Where this machine "
    "owns the index, that is uploaded first."
)
_BY_CANARY = (
    "A new index goes to one machine first, which is watched, then to a quarter of all, then into the store "
    "and to all others. The first machine that refuses it has it taken back from all."
)

Fleet = Callable[[], State | None]
UpdateFleet = Callable[[Wanted, str], Coroutine[Any, Any, object]]
"""Updates the fleet on behalf of somebody."""

LookAtFleet = Callable[[], Awaitable[object]]
"""Asks all machines how they are."""

CompareFleet = Callable[[], Awaitable[Changes | None]]
"""What that would change in the store; None where nothing is uploaded."""
PlanUndo = Callable[[str], Awaitable[RollbackPlan]]
"""What putting an index back would change, by the first digits of its digest; without any one step back."""
RolloutUnderWay = Callable[[], Awaitable[Rollout | None]]
"""The rollout by canary under way; None where there is none."""
ControlRollout = Callable[[str, str], Coroutine[Any, Any, Rollout]]
"""Pauses, resumes or aborts it, on behalf of somebody."""
UndoFleet = Callable[[str, str, str], Coroutine[Any, Any, Report]]
"""Puts an index back where the store holds another one, on behalf of somebody."""


def either(shown: Handler, plain: Handler) -> Handler:
    """One address for both: a page for browsers, `plain` for everyone else."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (shown if wants_page(request) else plain)(request)

    return handler


class Pages:
    """Reading and acting need an administrator. The state alone is open, as it is in JSON."""

    def __init__(
        self,
        settings: Settings,
        worker: Worker,
        status: StatusSource,
        reconciler: Reconciler,
        generations: Generations,
        history: History,
        broker: Broker,
        administrators: Administrators,
        comparison: Comparison,
        pending_regions: Callable[[], list[str]],
        fleet: Fleet = lambda: None,
        update_fleet: UpdateFleet | None = None,
        compare_fleet: CompareFleet | None = None,
        plan_undo: PlanUndo | None = None,
        undo: UndoFleet | None = None,
        look_at_fleet: LookAtFleet | None = None,
        rollout_under_way: RolloutUnderWay | None = None,
        control_rollout: ControlRollout | None = None,
    ) -> None:
        self._rollout = rollout_under_way
        self._control = control_rollout
        self._plan_undo = plan_undo
        self._undo = undo
        self._look = look_at_fleet
        self._update_fleet = update_fleet
        self._compare_fleet = compare_fleet
        self._settings = settings
        self._worker = worker
        self._status = status
        self._reconciler = reconciler
        self._generations = generations
        self._history = history
        self._broker = broker
        self._administrators = administrators
        self._comparison = comparison
        self._pending_regions = pending_regions
        self._fleet = fleet
        self._forms = Forms()
        self._map: tuple[str, Mapping[str, Any]] | None = None
        self._tasks = Tasks()

    # Status and fleet

    async def home(self, request: web.Request) -> web.StreamResponse:
        """What is."""
        who = await self._administrators.require(request, linked=True)
        seen = self._seen()
        content = now.main(seen, base=base_of(request))
        return self._answer(request, who, "Status", content, section="", refresh=seen.active)

    async def state(self, request: web.Request) -> web.StreamResponse:
        """What everyone may see."""
        frame = self._frame(request, "")
        content = now.status_page(self._seen(), base=frame.base)
        return html_answer(page(msgspec.structs.replace(frame, section=None), "Status", *content))

    async def fleet(self, request: web.Request) -> web.StreamResponse:
        """How the machines were when they were looked at, and the map."""
        who = await self._administrators.require(request, linked=True)
        seen = self._seen()
        content = await self._fleet_main(seen, who, base_of(request))
        running = seen.fleet is not None and seen.fleet.running
        return self._answer(request, who, "Fleet", content, section="fleet", refresh=running)

    async def _fleet_main(self, seen: now.Now, who: str, base: str) -> Markup:
        token = self._forms.token(who, "look")
        settings = self._settings
        by_canary = settings.update.own_index and settings.fleet.strategy != "canary"
        map_ = await self._atlas(seen)
        return fleet.main(seen.fleet, seen.at, map_, base=base, token=token, by_canary=by_canary)

    async def look_at_fleet(self, request: web.Request) -> web.StreamResponse:
        """Ask all machines how they are, and show that."""
        who = await self._administrators.require(request)
        await self._forms.require(request, who, "look")
        if self._look is None or self._fleet() is None:
            raise NotFound("this machine knows no fleet", "set fleet.app or fleet.machines")
        await self._look()
        raise web.HTTPSeeOther("../fleet")

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The changing part of a page, whenever it changes, for as long as something is under way.

        Each event holds all of it: a browser that was away gets what it missed with the next one. The end
        of what is under way is the end of the stream, which would keep an idle machine awake.
        """
        who = await self._administrators.require(request)
        of_fleet = request.query.get("of") == "fleet"
        response = web.StreamResponse(
            headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        with self._broker.listening() as queue:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            sent: Markup | None = None
            going = True
            while going:
                seen = self._seen()
                shown = (
                    fleet.panel(seen.fleet, seen.at, base="./", token="")
                    if of_fleet
                    else now.panel(seen, base="./")
                )
                if not seen.active:
                    # A rollback may be about to follow.
                    await asyncio.sleep(_GATHER)
                    seen = self._seen()
                if not seen.active:
                    whole = await self._fleet_main(seen, who, "./") if of_fleet else now.main(seen, base="./")
                    await _write(response, "end", whole)
                    break
                if shown != sent:
                    await _write(response, "panel", shown)
                else:
                    await response.write(b": still here\n\n")
                sent = shown
                going = await _something(queue)
        return response

    def _seen(self) -> now.Now:
        status = self._status.status()
        run = self._worker.running
        if run is not None and run.request.preview:
            run = None
        known = self._fleet()
        active = (
            run is not None
            or self._worker.queued > 0
            or self._reconciler.is_loading
            or self._status.working
            or (known is not None and known.running)
        )
        running = None
        if run is not None:
            running = now.Active(
                run.request.trigger, run.request.who, run.started, dict(run.stages), tuple(run.lines)
            )
        status = msgspec.structs.replace(status, waiting=self._worker.queued)
        return now.Now(time.time(), status, active, running, self._status.last, known)

    async def _atlas(self, seen: now.Now) -> Markup | None:
        current = self._generations.current
        if current is None:
            return None
        digest = current.digests.get(MAP, "")
        if self._map is None or self._map[0] != digest:
            self._map = digest, await asyncio.to_thread(self._read_map, current.number)
        here = self._settings.machine.region or None
        states = fleet.states(seen.fleet)
        if here is not None:
            states.setdefault(here, now.state(seen))
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

    # Preview

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """What an update would change, with the button that applies exactly that."""
        who = await self._administrators.require(request)
        outcome = await self._previewed(who)
        if outcome.error is not None:
            forced = await self._previewed(who, force=True) if outcome.error.code == LOSS else None
            content = change.refused(outcome, forced, base=base_of(request))
            return self._answer(request, who, "Preview", content, section="preview")
        needed = await self._deployment(outcome)
        current = self._generations.current
        content = change.preview(
            outcome, needed, pinned=current is not None and current.pinned, base=base_of(request)
        )
        return self._answer(request, who, "Preview", content, section="preview")

    async def confirm(self, request: web.Request) -> web.StreamResponse:
        """The question before an update."""
        who = await self._administrators.require(request)
        tag, force = request.query.get("tag", ""), request.query.get("force") == "1"
        outcome = await self._previewed(who, force=force)
        needed = await self._deployment(outcome)
        if outcome.error is not None or outcome.tag != tag or needed or not outcome.written:
            # Something else than was shown: it has to be shown first.
            raise web.HTTPSeeOther("../preview")
        first = outcome.changes is None
        content = change.question(
            "Update the configuration?",
            f"{plural(len(outcome.written), 'file')} will be written and Navigator will load them. "
            + (
                "This is the first generation."
                if first
                else "If it does not, the machine goes back to what is in place now."
            ),
            change.consequences(outcome.changes, outcome.drift),
            outcome.changes,
            action="update",
            button="Update configuration",
            fields=[
                ("tag", tag),
                ("force", "1" if force else ""),
                ("token", self._forms.token(who, f"update {tag}{' by force' if force else ''}")),
            ],
            back="../preview",
            word=_WORD if force else "",
        )
        return self._answer(request, who, "Update the configuration?", content, section="preview")

    async def apply(self, request: web.Request) -> web.StreamResponse:
        """Apply what was shown, and nothing else."""
        who = await self._administrators.require(request)
        tag, force = await field(request, "tag"), await field(request, "force") == "1"
        await self._forms.require(request, who, f"update {tag}{' by force' if force else ''}")
        if force:
            await _require_word(request)
        await self._start(Request(trigger="http", who=who, if_match=tag, force=force))
        raise web.HTTPSeeOther("../")

    async def _previewed(self, who: str, *, force: bool = False) -> Outcome:
        return await self._worker.submit(Request(trigger=PREVIEW, who=who, preview=True, force=force))

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
                    said = finished.output.strip()[-_SHORTEST_OUTPUT:]
                    lines = [line for line in said.splitlines() if line.strip()]
                    reasons += lines or [f"The deployment check ended with status {finished.status}."]
        return reasons

    async def confirm_fleet(self, request: web.Request) -> web.StreamResponse:
        """The question before all machines are updated."""
        who = await self._administrators.require(request)
        self._fleets_update()
        canary = self._settings.update.own_index and (
            request.query.get("canary") == "1" or self._settings.fleet.strategy == "canary"
        )
        changes, unknown = await self._fleet_changes(who)
        lost: list[str] = []
        if self._settings.update.own_index and changes is not None:
            lost = large_losses(changes.losses, self._settings.update.max_lost_tenants)
        title = "Update the fleet by canary?" if canary else "Update the fleet?"
        content = change.question(
            title,
            _BY_CANARY if canary else _ALL_AT_ONCE,
            [*change.large(lost), *change.consequences(changes)],
            changes,
            unknown=unknown,
            action="fleet",
            button=title.removesuffix("?"),
            fields=[
                ("canary", "1" if canary else ""),
                ("force", "1" if lost else ""),
                ("token", self._forms.token(who, _fleet_purpose(canary=canary, force=bool(lost)))),
            ],
            back="../fleet",
            word=_WORD if lost else "",
        )
        return self._answer(request, who, title, content, section="fleet")

    async def _fleet_changes(self, who: str) -> tuple[Changes | None, str | None]:
        """What the machines would get, or why that is not known.

        An owner's index is compared with the store's, any other machine's with what is in place here.
        """
        try:
            changes = await self._compare_fleet() if self._compare_fleet is not None else None
        except SidecarError as error:
            return None, f"The index here and the store's cannot be compared: {error.message}."
        if changes is not None:
            return changes, None
        outcome = await self._previewed(who)
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
        who = await self._administrators.require(request)
        canary, force = [await field(request, name) == "1" for name in ("canary", "force")]
        await self._forms.require(request, who, _fleet_purpose(canary=canary, force=force))
        if force:
            await _require_word(request)
        wanted = Wanted(force=force, canary="1" if canary else None)
        await self._begin(self._fleets_update()(wanted, who))
        raise web.HTTPSeeOther("../fleet")

    async def confirm_undo(self, request: web.Request) -> web.StreamResponse:
        """The question before an older index goes back into the store and to all machines."""
        who = await self._administrators.require(request)
        self._fleets_update()
        if self._plan_undo is None:
            raise NotFound("this machine knows no fleet", "set fleet.app or fleet.machines")
        plan = await self._plan_undo(request.query.get("to", ""))
        to = plan.to.sha256
        fields = {"to": to, "held": plan.held, "token": self._forms.token(who, f"undo {plan.held} {to}")}
        title = "Undo the last index?"
        content = change.question(
            title,
            [
                f"The store goes from the index {plan.held[:12]} back to {to[:12]}, stored ",
                parts.moment(plan.to.at, time.time()),
                f" by {plan.to.who}. Every active machine is followed until it has loaded it.",
            ],
            [*change.returning(plan.changes), *change.consequences(plan.changes)],
            plan.changes,
            unknown=plan.problem or None,
            action="rollback",
            button="Put it back on all machines",
            fields=fields.items(),
            back="../../fleet",
        )
        return self._answer(request, who, title, content, section="fleet")

    async def apply_undo(self, request: web.Request) -> web.StreamResponse:
        """Put it back, if the store still holds what the question was about."""
        who = await self._administrators.require(request)
        to, held = await field(request, "to"), await field(request, "held")
        await self._forms.require(request, who, f"undo {held} {to}")
        if self._undo is None:
            raise NotFound("this machine knows no fleet", "set fleet.app or fleet.machines")
        await self._begin(self._undo(to, held, who))
        raise web.HTTPSeeOther("../../fleet")

    async def rollout(self, request: web.Request) -> web.StreamResponse:
        """The rollout under way, whoever drives it, with what can be done with it."""
        who = await self._administrators.require(request)
        self._fleets_update()
        known = await self._rollout() if self._rollout is not None else None
        tokens = {word: self._forms.token(who, _control_purpose(word, known)) for word in fleet.CONTROLS}
        content = fleet.rollout(known, time.time(), tokens, back="../../fleet")
        return self._answer(request, who, "Rollout", content, section="fleet")

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Pause, resume or abort the very rollout that was shown."""
        who = await self._administrators.require(request)
        self._fleets_update()
        word = await field(request, "word")
        known = await self._rollout() if self._rollout is not None else None
        await self._forms.require(request, who, _control_purpose(word, known))
        if self._control is None or word not in fleet.CONTROLS:
            raise BadRequest(f"{word!r} can be done with no rollout", "use the buttons of the page")
        task = self._tasks.start(self._control(word, who))
        task.add_done_callback(_ended)
        # Where nobody drives it this daemon does, to the end: the page shows how far it is meanwhile.
        await asyncio.wait({task}, timeout=_CONTROL_SECONDS)
        if task.done():
            task.result()
        raise web.HTTPSeeOther("rollout")

    def _fleets_update(self) -> UpdateFleet:
        if self._update_fleet is None or self._fleet() is None:
            raise NotFound("this machine knows no fleet", "set fleet.app or fleet.machines")
        return self._update_fleet

    # Help

    async def help(self, request: web.Request) -> web.StreamResponse:
        """Ten questions, where the logs are, what the alerts mean."""
        who = await self._administrators.require(request, linked=True)
        alerts = await asyncio.to_thread(meanings)
        content = help_page.main(whereabouts(self._settings), alerts, base=base_of(request))
        return self._answer(request, who, "Help", content, section="help")

    # History

    async def past(self, request: web.Request) -> web.StreamResponse:
        """The history."""
        who = await self._administrators.require(request, linked=True)
        text = request.query.get("before", "")
        if text and (not text.isdecimal() or len(text) > 12):
            raise BadRequest(f"before must be a whole number, not {text!r}")
        wanted = search(request)
        entries = await asyncio.to_thread(
            self._history.entries, _ENTRIES + 1, int(text) if text else None, wanted
        )
        charted = [] if text or wanted != Search() else await asyncio.to_thread(self._published)
        content = before.history(
            entries[:_ENTRIES],
            charted,
            self._number,
            time.time(),
            search=wanted,
            base=base_of(request),
            more=entries[_ENTRIES - 1].run if len(entries) > _ENTRIES else None,
        )
        return self._answer(request, who, "History", content, section="generations")

    def _published(self) -> list[Entry]:
        """The newest publications, for the charts."""
        return self._history.entries(before.CHARTED, None, Search(published=True))

    async def run(self, request: web.Request) -> web.StreamResponse:
        """One run, whatever became of it."""
        who = await self._administrators.require(request, linked=True)
        number = _number(request, "run")
        entry = await asyncio.to_thread(self._history.run, number)
        if entry is None:
            raise NotFound(f"the history knows no run {number}", "look at the list of runs")
        if entry.outcome.state == "published":
            raise web.HTTPSeeOther(f"../generations/{entry.outcome.generation}")
        content = before.generation(
            entry, None, None, None, time.time(), kept=False, current=False, base=base_of(request)
        )
        return self._answer(request, who, f"Run {number}", content, section="generations")

    async def generation(self, request: web.Request) -> web.StreamResponse:
        """One generation."""
        who = await self._administrators.require(request, linked=True)
        number = _number(request)
        entry = await asyncio.to_thread(self._history.generation, number)
        if entry is None:
            raise NotFound(f"the history knows no generation {number}", "look at the list of runs")
        kept = await asyncio.to_thread(self._generations.archive.numbers)
        older = max((one for one in kept if one < number), default=None)
        diffs = None
        if number in kept and older == number - 1:
            diffs = await asyncio.to_thread(self._comparison.files, older, number)
        content = before.generation(
            entry,
            number,
            diffs,
            older,
            time.time(),
            kept=number in kept,
            current=number == self._number,
            base=base_of(request),
        )
        return self._answer(request, who, f"Generation {number}", content, section="generations")

    async def confirm_rollback(self, request: web.Request) -> web.StreamResponse:
        """The question before a rollback."""
        who = await self._administrators.require(request)
        number, current = _number(request), self._generations.current
        await asyncio.to_thread(self._generations.archive.manifest, number)
        found, diffs = None, {}
        if current is not None:
            found = await asyncio.to_thread(self._comparison.changes, current.number, number)
            diffs = await asyncio.to_thread(self._comparison.files, current.number, number)
        drift = dict.fromkeys(self._status.status().drift, "")
        lead = (
            "Its files and its index come back as a new generation, which stays until somebody asks for an "
            "update."
        )
        if found == Changes() and not diffs:
            found, lead = None, "It is the same as what is in place, so there is nothing to be changed."
        content = change.question(
            f"Roll back to generation {number}?",
            lead,
            change.consequences(found, drift),
            found,
            action=str(number),
            button=f"Roll back to generation {number}",
            fields=[("token", self._forms.token(who, f"rollback {number}"))],
            back=f"../../generations/{number}",
            more=parts.diffs(diffs, "File by file"),
        )
        title = f"Roll back to generation {number}?"
        return self._answer(request, who, title, content, section="generations")

    async def roll_back(self, request: web.Request) -> web.StreamResponse:
        """Restore an older generation."""
        who = await self._administrators.require(request)
        number = _number(request)
        await self._forms.require(request, who, f"rollback {number}")
        await self._start(Request(trigger="rollback", who=who, rollback=number))
        raise web.HTTPSeeOther("../../")

    @property
    def _number(self) -> int | None:
        current = self._generations.current
        return current.number if current else None

    # Common to all

    async def _start(self, wanted: Request) -> None:
        """Begin a run whose progress the first page shows. What refuses it at once is an error."""
        await self._begin(self._worker.submit(wanted))

    async def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        task = self._tasks.start(work)
        task.add_done_callback(_ended)
        await asyncio.sleep(0)
        if task.done():
            task.result()

    def _frame(self, request: web.Request, who: str) -> Frame:
        status = self._status.status()
        return Frame(
            base=base_of(request),
            assets=ADDRESSES,
            machine=status.machine,
            region=status.region or "",
            who=who,
        )

    def _answer(
        self,
        request: web.Request,
        who: str,
        title: str,
        content: Content,
        *,
        section: str,
        refresh: bool = False,
    ) -> web.Response:
        frame = msgspec.structs.replace(self._frame(request, who), section=section, refresh=refresh)
        return html_answer(page(frame, title, content))


def _number(request: web.Request, what: str = "generation") -> int:
    text = request.match_info["number"]
    if not is_number(text):
        raise NotFound(f"there is no {what} {text!r}", "look at the list of runs")
    return int(text)


async def _something(queue: asyncio.Queue[Any]) -> bool:
    """Wait until something happens or it is time to look, gather what follows; False at the daemon's end."""
    try:
        async with asyncio.timeout(_RECHECK):
            event = await queue.get()
        await asyncio.sleep(_GATHER)
    except TimeoutError:
        return True
    while event is not None and not queue.empty():
        event = queue.get_nowait()
    return event is not None


async def _write(response: web.StreamResponse, kind: str, html: str) -> None:
    # JSON, so that no line of it can be taken for the stream's own.
    await response.write(b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(str(html))))


def _control_purpose(word: str, rollout: Rollout | None) -> str:
    """What a form agrees to: to this of this rollout, not of the next one."""
    return f"{word} {rollout.started if rollout else ''}"


def _fleet_purpose(*, canary: bool, force: bool) -> str:
    """What a form agrees to."""
    return f"fleet{' by canary' if canary else ''}{' by force' if force else ''}"


async def _require_word(request: web.Request) -> None:
    if (await field(request, "word")).strip().lower() != _WORD:
        raise BadRequest(f"the word {_WORD!r} was not typed", "go back, and type it if that is meant")


def _ended(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.warning("a run asked for on the page was not run: %s", task.exception())
