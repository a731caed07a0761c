"""What is: the state in words, a run under way or the last one, facts, ready work, what words mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidecar.fleet.report import FleetState
from sidecar.model.record import Record
from sidecar.model.runs import Outcome
from sidecar.model.status import ReadyState, Status
from sidecar.model.words import brief, plural, short, span
from sidecar.web.page import fleet, parts, work
from sidecar.web.page.layout import capital
from sidecar.web.page.markup import Content, Markup, h, render

_STEPS = (
    ("fetch", "Fetched"),
    ("generate", "Generated"),
    ("check", "Checked"),
    ("publish", "Published"),
    ("loaded", "Loaded"),
)
# What a run does until a stage has ended.
_DOING = {
    "fetch": "fetching the index",
    "read": "reading it",
    "generate": "generating the files",
    "check": "checking them",
    "publish": "publishing them",
}
_MEANINGS = (
    ("Index", "the database in the store that says which events, studios and users exist"),
    ("Generation", "one numbered set of files made of the index, published and kept as a whole"),
    ("Sync", "the store's index against what is published here"),
    ("Health", "what the living Navigator, the web server, serves"),
    ("Tenant", "an event, as the web server sees it"),
)


class ActiveRun(Record, frozen=True):
    """A run under way: who asked for what, since when, and what it has done so far."""

    trigger: str
    who: str
    started: float
    stages: dict[str, float]
    lines: tuple[str, ...]


class StatusData(Record, frozen=True):
    """Everything that the page shows. `status` is what `GET /status` tells, `at` the time of the answer.

    `running` is the run under way, `last` the one before. `active` while anything is under way that the
    page should follow. `fleet` is what `GET /fleet` tells.
    """

    at: float
    status: Status
    active: bool
    running: ActiveRun | None
    last: Outcome | None
    fleet: FleetState | None = None


def sentence(now: StatusData) -> str:
    """The state in a sentence, to be read aloud when it changes."""
    status = now.status
    if now.running is not None:
        doing = next((words for stage, words in _DOING.items() if stage not in now.running.stages), "ending")
        return f"An update is under way: {doing}."
    if status.waiting:
        return "An update is under way."
    sync, health = status.sync, status.health
    if sync.state == "synced" and health.state == "healthy":
        return f"{capital(health.reason)}, made of the store's index."
    return f"{capital(sync.reason)}. {capital(health.reason)}."


def state(now: StatusData) -> str:
    """The worse of the two words; while something runs or waits its turn, that."""
    if now.running is not None or now.status.waiting:
        return "updating"
    sync, health = now.status.sync.state, now.status.health.state
    return str(health if health in ("degraded", "waiting") or sync == "synced" else sync)


def _words(now: StatusData) -> Content:
    """Both words, each with its own colour."""
    words = [parts.pill(now.status.sync.state), " ", parts.pill(now.status.health.state)]
    return [parts.pill("updating"), " ", *words] if state(now) == "updating" else words


def panel(now: StatusData, *, base: str, acting: bool = True) -> Markup:
    """The part that changes while something is under way."""
    ready, generation = now.status.ready, now.status.generation
    return h.div(
        h.h1(_words(now)),
        h.p(sentence(now), class_="lead", data_say=True),
        _looked(now, base if acting else f"{base}status"),
        _run(now, base) if acting else None,
        _next(now, base) if acting and not now.active else None,
        _facts(now, base, acting=acting),
        _ready(ready),
        id="now",
        data_live=f"{base}page/live" if acting and now.active else None,
        data_state=f"{now.status.sync.state} {now.status.health.state}",
        data_generation=str(generation.current or ""),
    )


def _looked(now: StatusData, address: str) -> Markup:
    """How fresh all this is."""
    sync = now.status.sync
    seen: Content = (
        ("The store was looked at ", parts.moment(sync.looked, now.at, brief=True))
        if sync.looked
        else "The store has not been looked at yet"
    )
    due = f"; next look in {span(max(0.0, sync.next - now.at))}" if sync.next else ""
    page = ". This page is of ", parts.clock(now.at), ". ", h.a("Load it again", href=address)
    return h.p(seen, due, page, class_="quiet")


def _next(now: StatusData, base: str) -> Markup:
    """What there is to do: the first publication, the end of a pin, or a look at what is new."""
    generation = now.status.generation
    words = (
        "Publish the first generation…"
        if not generation.current
        else "Resume updates…"
        if generation.pinned
        else "What would an update change?"
    )
    return h.p(
        h.a(words, href=f"{base}preview", class_="button" if not generation.current else "button plain")
    )


def _run(now: StatusData, base: str) -> Content:
    if now.running is not None:
        run = now.running
        return h.section(
            h.h2("Under way"),
            _by(run.trigger, run.who, run.started, now.at),
            _steps(now, run.stages, published="publish" in run.stages, error=False),
            parts.log(run.lines, folded=False),
            class_="run",
        )
    if now.active:
        stages = now.last.stages if now.last else {}
        waits = now.status.waiting
        return h.section(
            h.h2("Under way"),
            h.p(plural(waits, "request waits", "requests wait") + " for the run before.") if waits else None,
            _steps(now, stages, published=True, error=False),
            parts.log(now.last.log, folded=False) if now.last and not waits else None,
            class_="run",
        )
    if now.last is None:
        return None
    last = now.last
    loaded = now.status.generation.loaded == last.generation and last.state == "published"
    return h.section(
        h.h2("Last run ", parts.pill("loaded" if loaded else last.state)),
        _by(last.trigger, last.who, last.started, now.at, last.seconds),
        parts.trouble(
            last.error,
            h.p(h.a("Look at a new preview", href=f"{base}preview"))
            if last.error.code == "changed"
            else None,
        )
        if last.error
        else _steps(now, last.stages, published=last.state == "published", error=False),
        h.p(brief(last.changes)) if last.changes is not None and brief(last.changes) else None,
        parts.log(last.log, folded=True),
        class_="run",
    )


def _by(trigger: str, who: str, started: float, at: float, seconds: float | None = None) -> Markup:
    took = f", took {parts.took(seconds)}" if seconds is not None else ""
    return h.p(parts.asked(trigger, who), ", ", parts.moment(started, at), took, class_="quiet")


def _steps(now: StatusData, stages: Mapping[str, float], *, published: bool, error: bool) -> Markup:
    """The life of a generation, as far as this one has come."""
    generation = now.status.generation
    current = generation.current
    loaded = published and generation.loaded == current and not generation.pending
    items: list[Content] = []
    reached = True
    for stage, name in _STEPS:
        if stage not in ("publish", "loaded") and stage not in stages and "publish" in stages:
            continue  # a rollback fetches and generates nothing
        if stage == "loaded" and "publish" not in stages and not now.active:
            continue
        if stage == "publish" and "publish" not in stages and not now.active:
            items.append(h.li(h.b("Nothing to publish"), class_="done"))
            break
        done = loaded if stage == "loaded" else stage in stages
        current_one = reached and not done and now.active
        reached = done
        seconds = stages.get(stage)
        items.append(
            h.li(
                h.b(name),
                h.span(parts.took(seconds)) if seconds is not None else None,
                class_="done" if done else "doing" if current_one else "open",
                aria_current="step" if current_one else None,
            )
        )
    return h.ol(items, class_="steps", aria_label="Progress")


def _facts(now: StatusData, base: str, *, acting: bool) -> Markup:
    status, at = now.status, now.at
    generation, index = status.generation, status.index
    navigator = status.navigator.state
    drift = status.drift
    return parts.facts(
        [
            (
                "In place",
                (
                    f"generation {generation.current}",
                    f", a copy of {generation.source}" if generation.source else "",
                )
                if generation.current
                else "nothing yet",
            ),
            ("Since", parts.moment(status.published, at) if status.published else None),
            (
                "Navigator serves",
                f"generation {generation.loaded}" if generation.loaded else "none of ours",
            ),
            ("Events", f"{status.tenants:,}" if status.tenants is not None else None),
            ("Users", f"{status.users:,}" if status.users is not None else None),
            (
                "Navigator",
                h.span("up" if navigator == "up" else "down", class_="good" if navigator == "up" else "bad"),
            ),
            ("Index from", parts.moment(index.modified, at) if index.modified else None),
            ("Index", h.code(short(index.sha256), title=index.sha256) if index.sha256 else None),
            ("Daemon up since", parts.moment(status.started, at)),
            (
                "Fleet",
                h.a(fleet.sentence(now.fleet).removesuffix("."), href=f"{base}fleet")
                if now.fleet is not None and acting
                else None,
            ),
            (
                "Does not work",
                h.ul([h.li(capital(one)) for one in status.problems]) if status.problems else None,
            ),
            (
                "Changed by hand",
                h.span(", ".join(drift), class_="bad") if drift else None,
            ),
        ]
    )


# Work in the background, and the fleet.


def _ready(ready: ReadyState) -> Markup | None:
    note = "Another process on this machine does it now." if ready.state == "waiting" else ""
    return work.section(ready.state, ready.generation, ready.steps, note)


def main(now: StatusData, *, base: str) -> Markup:
    """The content of the first page."""
    meanings = h.details(
        h.summary("What the words mean"),
        h.dl([h.div(h.dt(word), h.dd(meaning)) for word, meaning in _MEANINGS], class_="meanings"),
        id="meanings",
    )
    return render([panel(now, base=base), meanings])


def status_page(now: StatusData, *, base: str) -> Sequence[Content]:
    """What everyone may see: the state, without log, names and buttons."""
    return [
        panel(now, base=base, acting=False),
        h.p(h.a("Sign in to see more", href=base, class_="button plain")),
    ]
