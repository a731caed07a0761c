"""What an update or a rollback would do, readable at a glance, and the question before it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.model.changes import Changes, Delta, NamedCount
from sidecar.model.runs import Outcome
from sidecar.model.words import plural, short
from sidecar.web.page import parts
from sidecar.web.page.markup import MINUS, Content, Markup, h

# The changes' records hold more names; the differences of the files have the rest.
_MAX_NAMES = 50

_KINDS = (("removed", MINUS, "del"), ("added", "+", "add"), ("changed", "~", "mod"))


# What a person should know before agreeing: kind, what happens to it, one of it, and what that means.
_DESTRUCTIVE = (
    ("events", "removed", "event", "will no longer be served"),
    ("studios", "removed", "studio", "will disappear"),
    ("users", "removed", "user", "will no longer be able to sign in"),
    ("users", "changed", "user", "will need another password than now"),
    ("studios", "moved", "studio", "will be served from another region"),
    ("regions", "removed", "region", "will serve nothing any more"),
)


def consequences(changes: Changes | None, drift: Mapping[str, str] | Sequence[str] = ()) -> list[Content]:
    """What ends, moves or is overwritten, by name."""
    found: list[Content] = []
    for kind, what, noun, meaning in _DESTRUCTIVE if changes is not None else ():
        names: NamedCount = getattr(getattr(changes, kind), what)
        if names.count:
            found.append((h.b(plural(names.count, noun)), f" {meaning}: ", _some(names)))
    if drift:
        found.append(
            (h.b("Edits made by hand"), " will be overwritten in ", h.code(", ".join(sorted(drift))), ".")
        )
    return found


def large(lost: Sequence[str]) -> list[Content]:
    """What is more than one region may lose at once."""
    return [(h.b("A large loss"), f": {', '.join(lost)}.")] if lost else []


def returning(changes: Changes | None) -> list[Content]:
    """Who comes back with an older index, by name."""
    if changes is None or not changes.users.added.count:
        return []
    users = changes.users.added
    return [(h.b(plural(users.count, "user")), " can sign in again: ", _some(users))]


def _some(names: NamedCount, most: int = 6) -> Content:
    shown = ", ".join(names.names[:most])
    return f"{shown} and {names.count - most:,} more." if names.count > most else f"{shown}."


def summary(changes: Changes | None) -> Markup:
    """Events by year and studio, studios, regions, users."""
    if changes is None:
        return h.p("There is nothing in place yet to compare with: this would be the first generation.")
    sections = [
        _events(changes.events),
        _moves(changes.studios.moved),
        _plain("Studios", "studio", changes.studios),
        _plain("Regions", "region", changes.regions),
        _plain("Users", "user", changes.users),
    ]
    shown = [section for section in sections if section is not None]
    if not shown:
        return h.p(
            "Events, studios, regions and users are the same. The files differ because the profile, the "
            "settings or a file in place did."
        )
    return h.div(shown, class_="changes")


def _heading(title: str, delta: Delta) -> Markup:
    counts = [
        h.span(f"{sign}{count}", h.span(f" {what}", class_="unseen"), class_=kind)
        for what, sign, kind in _KINDS
        if (count := getattr(delta, what).count)
    ]
    return h.h3(title, h.span(counts, class_="counts"))


def _events(delta: Delta) -> Markup | None:
    years: dict[str, dict[str, list[tuple[str, str, str, str]]]] = {}
    for what, sign, kind in _KINDS:
        for name in getattr(delta, what).names[:_MAX_NAMES]:
            year, _, rest = name.partition("/")
            studio, _, event = rest.partition("/")
            years.setdefault(year, {}).setdefault(studio, []).append((event, what, sign, kind))
    if not years:
        return None
    rows = [
        h.section(
            h.h4(year),
            h.dl(
                [
                    h.div(h.dt(studio), h.dd([_event(*event) for event in events]))
                    for studio, events in sorted(studios.items())
                ]
            ),
        )
        for year, studios in sorted(years.items(), reverse=True)
    ]
    return h.section(_heading("Events", delta), rows, _more(delta), class_="events")


def _event(event: str, what: str, sign: str, kind: str) -> Markup:
    return h.span(h.span(sign, aria_hidden="true"), h.span(f"{what} ", class_="unseen"), event, class_=kind)


def _moves(moved: NamedCount) -> Markup | None:
    if not moved.count:
        return None
    rows = []
    for name in moved.names[:_MAX_NAMES]:
        studio, _, regions = name.partition(": ")
        before, _, after = regions.partition(" to ")
        rows.append(
            h.div(
                h.dt(studio),
                h.dd(before, h.span(" → ", aria_hidden="true"), h.span(" to ", class_="unseen"), h.b(after)),
            )
        )
    count = h.span(h.span(plural(moved.count, "studio"), class_="mod"), class_="counts")
    more = moved.count - len(rows)
    return h.section(
        h.h3("Moved to another region", count),
        h.dl(rows),
        h.p(f"and {more:,} more") if more else None,
        class_="moves",
    )


def _plain(title: str, noun: str, delta: Delta) -> Markup | None:
    rows = [
        h.div(
            h.dt(h.span(sign, aria_hidden="true"), f" {plural(names.count, noun)} {what}", class_=kind),
            h.dd(
                h.ul([h.li(name) for name in names.names[:_MAX_NAMES]], class_="names"),
                f"and {more:,} more" if (more := names.count - len(names.names[:_MAX_NAMES])) else None,
            ),
        )
        for what, sign, kind in _KINDS
        if (names := getattr(delta, what)).count
    ]
    if not rows:
        return None
    return h.section(_heading(title, delta), h.dl(rows))


def _more(delta: Delta) -> Markup | None:
    found = [getattr(delta, what) for what, _, _ in _KINDS]
    hidden = sum(names.count - len(names.names[:_MAX_NAMES]) for names in found)
    return h.p(f"and {hidden:,} more, which the differences below show", class_="quiet") if hidden else None


def refused(outcome: Outcome, forced: Outcome | None, *, base: str) -> list[Content]:
    """The page about an update that would be refused; `forced` is what force would make of it, if it may."""
    found: list[Content] = [
        h.h1("Preview"),
        parts.trouble(outcome.error) if outcome.error is not None else None,
        h.p("An update would be refused; what is in place would stay.", class_="lead"),
    ]
    if forced is not None and forced.tag is not None:
        losses = h.ul([h.li(each) for each in consequences(forced.changes, forced.drift)])
        found += [
            h.div(h.h2("What it would take away"), losses, class_="box note"),
            h.div(
                h.a(
                    "Update all the same…",
                    href=f"{base}page/update?tag={forced.tag}&force=1",
                    class_="button plain",
                ),
                h.p("Only if just that is meant. There is one more question.", class_="quiet"),
                class_="action",
            ),
            h.h2("In short"),
            summary(forced.changes),
        ]
    return [*found, parts.warnings(outcome.warnings), parts.log(outcome.log, folded=True)]


def preview(outcome: Outcome, deployment: Sequence[str], *, pinned: bool, base: str) -> list[Content]:
    """The page about an update that was not made."""
    heading = h.h1("Preview")
    looked = h.p(
        "Index ",
        h.code(short(outcome.sha256 or "?")),
        f", read from the store and checked in {parts.took(outcome.seconds)}. Nothing was written.",
        class_="quiet",
    )
    if not outcome.written:
        return [
            heading,
            h.p("An update would change nothing. This machine has what the store holds.", class_="lead")
            if not deployment
            else _deployment(deployment),
            looked,
            parts.warnings(outcome.warnings),
        ]
    if deployment:
        action: Content = _deployment(deployment)
    else:
        action = h.div(
            h.a(
                "Update configuration…",
                href=f"{base}page/update?tag={outcome.tag}",
                class_="button",
            ),
            h.p(
                "Applies exactly what is shown here, without a redeployment. There is one question first.",
                class_="quiet",
            ),
            class_="action",
        )
    return [
        heading,
        looked,
        action,
        h.p("The generation restored by hand would be left for this one.", class_="box note")
        if pinned
        else None,
        h.h2("In short"),
        summary(outcome.changes),
        parts.diffs(outcome.drift, "Changed by somebody else", "An update puts the published content back."),
        parts.diffs(outcome.diffs, "File by file"),
        parts.warnings(outcome.warnings),
    ]


def _deployment(reasons: Sequence[str]) -> Markup:
    return h.div(
        h.h2("Full deployment required"),
        h.p("An update of the configuration alone would not be enough:"),
        h.ul([h.li(reason) for reason in reasons]),
        class_="box note deployment",
    )


def question(
    title: str,
    lead: Content,
    destructive: Sequence[Content],
    changes: Changes | None,
    *,
    action: str,
    button: str,
    fields: Iterable[tuple[str, str]],
    back: str,
    more: Content = None,
    unknown: Content = None,
    word: str = "",
) -> list[Content]:
    """The step before something is done: what is destructive by name, and one button.

    `unknown` says why it could not be compared with what is in place, `word` is what has to be typed.
    """
    if unknown is not None:
        verdict = h.div(h.h2("Not compared"), h.p(unknown), class_="box note")
    elif destructive:
        losses = h.ul([h.li(each) for each in destructive])
        verdict = h.div(h.h2("What this takes away or overwrites"), losses, class_="box note")
    else:
        verdict = h.p("Nothing is taken away and nothing moves.", class_="box good")
    return [
        h.h1(title),
        h.p(lead, class_="lead"),
        verdict,
        h.form(
            [h.input(type="hidden", name=name, value=value) for name, value in fields],
            h.p(h.label(f"Type “{word}” to confirm: ", h.input(name="word", required="", autocomplete="off")))
            if word
            else None,
            h.button(button, type="submit", class_="button"),
            h.a("Back", href=back, class_="button plain"),
            method="post",
            action=action,
            class_="action",
        ),
        h.h2("All of it") if changes is not None else None,
        summary(changes) if changes is not None else None,
        more,
    ]
