"""What is: the state in words, the run under way or the last one, facts, ready work, the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.model import Record
from sidecar.page import parts
from sidecar.page.layout import as_code, capital
from sidecar.page.markup import NONE, Content, Markup, h, render
from sidecar.run import Outcome

_STEPS = (
    ("fetch", "Fetched"),
    ("generate", "Generated"),
    ("check", "Checked"),
    ("publish", "Published"),
    ("loaded", "Loaded"),
)


class Active(Record, frozen=True):
    """A run under way: who asked for what, since when, and what it has done so far."""

    trigger: str
    who: str
    started: float
    stages: dict[str, float]
    lines: tuple[str, ...]


class Now(Record, frozen=True):
    """Everything that the page shows. `status` is what `GET /status` tells, `at` the time of the answer.

    `running` is the run under way, `last` the one before. `active` while anything is under way that the
    page should follow. `fleet` is what `GET /fleet` tells.
    """

    at: float
    status: Mapping[str, Any]
    active: bool
    running: Active | None
    last: Outcome | None
    fleet: Mapping[str, Any] | None = None


def sentence(now: Now) -> str:
    """The state in a sentence, to be read aloud when it changes."""
    status, generation = now.status, now.status["generation"]
    current = generation["current"]
    if now.running is not None or status["waiting"]:
        return "An update is under way."
    if status["state"] == "loading":
        return f"Generation {current} is published; waiting until Navigator has loaded it."
    if status["error"] is not None:
        in_place = f"Generation {current} stays in place" if current else "Nothing is in place yet"
        return f"{in_place}: {status['error'].message}."
    if status["not_loaded"]:
        return f"{capital(status['not_loaded'])}. Generation {current} is in place now."
    if current is None:
        return "No generation has been published yet."
    if generation["pending"]:
        return f"Generation {current} is in place; Navigator is down and will load it when it starts."
    if generation["pinned"]:
        return f"Generation {generation['source']} was restored by hand, and stays until you update."
    return f"Generation {current} is {'loaded' if generation['loaded'] == current else 'in place'}."


def state(now: Now) -> str:
    """The state in a word; while something waits its turn that is an update too."""
    found = str(now.status["state"])
    return "updating" if now.running is None and now.status["waiting"] and found == "in_sync" else found


def panel(now: Now, *, base: str, acting: bool = True) -> Markup:
    """The part that changes while something is under way."""
    ready, generation = now.status.get("ready"), now.status["generation"]
    return h.div(
        h.h1(parts.pill(state(now))),
        h.p(sentence(now), class_="lead", data_say=True),
        _run(now, base) if acting else None,
        _facts(now),
        h.p(h.a("What would an update change?", href=f"{base}preview", class_="button plain"))
        if acting and not now.active and generation["current"]
        else None,
        _first(now, base) if acting and not now.active and not generation["current"] else None,
        _ready(ready, now.at) if ready else None,
        _fleet(now, base) if now.fleet is not None and acting else None,
        id="now",
        data_live=f"{base}page/live" if acting and now.active else None,
        data_state=state(now),
        data_generation=str(generation["current"] or ""),
    )


def _first(now: Now, base: str) -> Markup:
    return h.p(h.a("Publish the first generation…", href=f"{base}preview", class_="button"))


def _run(now: Now, base: str) -> Content:
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
        waits = now.status["waiting"]
        return h.section(
            h.h2("Under way"),
            h.p(parts.plural(waits, "request waits", "requests wait") + " for the run before.")
            if waits
            else None,
            _steps(now, stages, published=True, error=False),
            parts.log(now.last.log, folded=False) if now.last and not waits else None,
            class_="run",
        )
    if now.last is None:
        return None
    last = now.last
    loaded = now.status["generation"]["loaded"] == last.generation and last.state == "published"
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
        parts.log(last.log, folded=True),
        class_="run",
    )


def _by(trigger: str, who: str, started: float, at: float, seconds: float | None = None) -> Markup:
    took = f", took {parts.took(seconds)}" if seconds is not None else ""
    return h.p(parts.asked(trigger, who), ", ", parts.moment(started, at), took, class_="quiet")


def _steps(now: Now, stages: Mapping[str, float], *, published: bool, error: bool) -> Markup:
    """The life of a generation, as far as this one has come."""
    generation = now.status["generation"]
    current = generation["current"]
    loaded = published and generation["loaded"] == current and not generation["pending"]
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


def _facts(now: Now) -> Markup:
    status, at = now.status, now.at
    generation, index = status["generation"], status["index"]
    navigator = status["navigator"]["state"]
    drift = status["drift"]
    return parts.facts(
        [
            (
                "Serves",
                (
                    f"generation {generation['current']}",
                    f", a copy of {generation['source']}" if generation["source"] else "",
                )
                if generation["current"]
                else "nothing yet",
            ),
            ("Since", parts.moment(status["published"], at) if status["published"] else None),
            (
                "Loaded",
                f"generation {generation['loaded']}" if generation["loaded"] else "none so far",
            ),
            ("Tenants", f"{status['tenants']:,}" if status["tenants"] is not None else None),
            ("Users", f"{status['users']:,}" if status["users"] is not None else None),
            (
                "Navigator",
                h.span("up" if navigator == "up" else "down", class_="good" if navigator == "up" else "bad"),
            ),
            ("Index from", parts.moment(index["modified"], at) if index["modified"] else None),
            ("Index", h.code(index["sha256"][:12], title=index["sha256"]) if index["sha256"] else None),
            ("Daemon up since", parts.moment(status["started"], at)),
            (
                "Changed by hand",
                h.span(", ".join(drift), class_="bad") if drift else None,
            ),
        ]
    )


# Work in the background, and the fleet. Both are shown as far as they are told.


def _ready(ready: Mapping[str, Any], at: float) -> Markup:
    steps = ready.get("steps") or []
    if isinstance(steps, Mapping):
        steps = [{"step": name, **_mapping(value)} for name, value in steps.items()]
    rows = [_ready_step(_mapping(step), at) for step in steps]
    found = str(ready.get("state") or ready.get("outcome") or ("running" if ready.get("running") else "idle"))
    number = ready.get("generation")
    return h.section(
        h.h2("Ready work ", parts.pill(found)),
        h.p(f"For generation {number}.", class_="quiet") if number else None,
        h.ul(rows, class_="ready") if rows else None,
        _said(ready),
        class_="background",
    )


def _ready_step(step: Mapping[str, Any], at: float) -> Markup:
    name = str(step.get("name") or step.get("step") or "step")
    found = str(step.get("state") or step.get("outcome") or "waiting")
    done, total = step.get("done"), step.get("total")
    counted = isinstance(done, int) and isinstance(total, int) and total > 0
    seconds = step.get("seconds")
    return h.li(
        h.b(capital(name.replace("_", " "))),
        parts.pill(found),
        h.progress(value=str(done), max=str(total), aria_label=f"{name}: {done} of {total}")
        if counted
        else None,
        h.span(f"{done:,} of {total:,}", class_="quiet") if counted else None,
        h.span(parts.took(float(seconds)), class_="quiet") if isinstance(seconds, (int, float)) else None,
        _said(step),
    )


def _fleet(now: Now, base: str) -> Markup:
    fleet = now.fleet or {}
    machines = machines_of(fleet)
    running = bool(fleet.get("running"))
    button = h.p(h.a("Update the fleet…", href=f"{base}page/fleet", class_="button plain"))
    by = None
    if fleet.get("started"):
        by = _by("fleet", str(fleet.get("who") or ""), float(fleet["started"]), now.at, fleet.get("seconds"))
    if not machines:
        return h.section(
            h.h2("The fleet", (" ", parts.pill("running")) if running else None),
            by,
            _said(fleet),
            None if running else button,
            class_="fleet",
        )
    rows = [
        h.tr(
            h.th(one["machine"], scope="row"),
            h.td(one["region"]),
            h.td(parts.pill(one["state"])),
            h.td(one["generation"], class_="number"),
            h.td(one["index"], class_="code"),
            h.td(one["said"], class_="wide-only"),
        )
        for one in machines
    ]
    # One that stopped on the way fetches when it wakes.
    behind = sum(parts.tone(one["state"]) != "good" and one["state"] != "stopped" for one in machines)
    state = "running" if running else "behind" if behind else "in_sync"
    return h.section(
        h.h2("The fleet ", parts.pill(state)),
        by,
        h.p(
            f"{parts.plural(len(machines), 'machine')}, "
            + (f"{behind} not in sync." if behind else "all in sync."),
            class_="quiet",
        ),
        _said(fleet),
        h.table(
            h.thead(
                h.tr(
                    [
                        h.th(name, scope="col", class_=kind)
                        for name, kind in (
                            ("Machine", None),
                            ("Region", None),
                            ("State", None),
                            ("Generation", "number"),
                            ("Index", None),
                            ("Last word", "wide-only"),
                        )
                    ]
                )
            ),
            h.tbody(rows),
        ),
        None if running else button,
        class_="fleet",
    )


def machines_of(fleet: Mapping[str, Any]) -> list[dict[str, str]]:
    """The machines of a fleet as texts: machine, region, state, generation, index, said."""
    listed = fleet.get("machines") or ()
    if isinstance(listed, Mapping):
        listed = [{"machine": name, **_mapping(value)} for name, value in listed.items()]
    return [_machine(_mapping(one)) for one in listed]


def _machine(one: Mapping[str, Any]) -> dict[str, str]:
    generation = one.get("generation")
    if isinstance(generation, Mapping):
        generation = generation.get("loaded") or generation.get("current")
    index = one.get("index") or one.get("sha256")
    if isinstance(index, Mapping):
        index = index.get("sha256")
    error = one.get("error")
    if isinstance(error, Mapping):
        error = error.get("message")
    return {
        "machine": str(one.get("machine") or one.get("id") or one.get("name") or "?"),
        "region": str(one.get("region") or NONE),
        "state": str(one.get("state") or one.get("outcome") or "unknown"),
        "generation": str(generation or NONE),
        "index": str(index or NONE)[:12],
        "said": str(error or one.get("note") or one.get("message") or ""),
    }


def _said(data: Mapping[str, Any]) -> Content:
    error = data.get("error") or data.get("reason") or data.get("message")
    if isinstance(error, Mapping):
        error = error.get("message")
    return h.span(as_code(str(getattr(error, "message", error))), class_="quiet") if error else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def main(now: Now, map_: Content, *, base: str) -> Markup:
    """The content of the first page."""
    return render([panel(now, base=base), map_])


def status_page(now: Now, *, base: str) -> Sequence[Content]:
    """What everyone may see: the state, without log, names and buttons."""
    return [
        panel(now, base=base, acting=False),
        h.p(h.a("Sign in to see more", href=base, class_="button plain")),
    ]
