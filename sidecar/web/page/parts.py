"""Small parts of several pages: states, moments, durations, lists, logs, diffs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from sidecar.model import words as wording
from sidecar.model.artifacts import HTPASSWD
from sidecar.model.record import Problem
from sidecar.model.states import STATES
from sidecar.model.words import ago, hide_hash, plural
from sidecar.web.page.layout import as_code, capital
from sidecar.web.page.markup import MINUS, NONE, Content, Markup, h, render

_MAX_LINES = 300
_MAX_LINE_CHARACTERS = 300
_SPAN = 26
# Of all differences on a page, as HTML: so much that the whole stays below 100 KB whatever changes.
_MAX_DIFF_CHARACTERS = 32_000


def tone(state: str) -> str:
    """The colour of a state."""
    return STATES.get(state, ("quiet", ""))[0]


def words(state: str) -> str:
    """A state in words."""
    return STATES.get(state, ("", capital(state.replace("_", " ")) or "Unknown"))[1]


def pill(state: str, text: str | None = None) -> Markup:
    """A state as colour and word."""
    return h.span(text or words(state), class_=f"state {tone(state)}")


def moment(when: float | None, now: float, *, brief: bool = False) -> Markup:
    """A time in UTC, and how long ago that is; `now` is the time of the answer, both since 1970."""
    if when is None:
        return render("never")
    try:
        exact = datetime.fromtimestamp(when, UTC)
    except (ValueError, OverflowError, OSError):
        return render("at no known time")
    form = "%H:%M:%S" if datetime.fromtimestamp(now, UTC).date() == exact.date() else "%-d %b %Y, %H:%M"
    shown = exact.strftime(form) + " UTC"
    if brief:
        text: Content = _age(now - when)
    else:
        text = (shown, h.span(_age(now - when), class_="ago"))
    return h.time(text, datetime=exact.isoformat(timespec="seconds"), title=exact.strftime("%c UTC"))


def clock(when: float) -> Markup:
    """A time of today in UTC."""
    exact = datetime.fromtimestamp(when, UTC)
    return h.time(f"{exact:%H:%M:%S} UTC", datetime=exact.isoformat(timespec="seconds"))


def _age(seconds: float) -> Markup:
    return h.span(ago(seconds), data_age=int(max(0.0, seconds)))


def asked(trigger: str, who: str) -> str:
    """Who or what asked for a run, at the beginning of a sentence."""
    return capital(wording.asked(trigger, who))


def took(seconds: float | None) -> str:
    """A duration."""
    return NONE if seconds is None else wording.took(seconds)


def facts(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Names and values."""
    return h.dl(
        [h.div(h.dt(name), h.dd(value)) for name, value in pairs if value not in (None, "")], class_="facts"
    )


def trouble(problem: Problem, *more: Content) -> Markup:
    """What went wrong, and what to do."""
    return h.div(
        h.p(h.b(capital(problem.message) + ".")),
        h.p("What to do: ", as_code(problem.hint), ".") if problem.hint else None,
        more,
        class_="box bad",
    )


def log(lines: Sequence[str], *, folded: bool, name: str = "Log") -> Markup | None:
    """The log of a run."""
    if not lines:
        return None
    listing = h.ol([_log_line(line) for line in lines], class_="log", tabindex="0", aria_label=name)
    if not folded:
        return listing
    return h.details(h.summary(name, h.span(plural(len(lines), "line"))), listing, id=_id(name))


def _log_line(line: str) -> Markup:
    if line.startswith("[") and "] " in line:
        stamp, _, text = line[1:].partition("] ")
        return h.li(h.time(stamp), " ", text)
    return h.li(line)


def warnings(sentences: Sequence[str]) -> Markup | None:
    """What administrators were warned of."""
    if not sentences:
        return None
    shown = [h.li(sentence) for sentence in sentences[:_MAX_LINES]]
    count = plural(len(sentences), "line")
    return h.details(h.summary("Warnings", h.span(count)), h.ul(shown), id="warnings")


def diffs(found: Mapping[str, str], title: str, hint: str = "") -> Markup | None:
    """Unified diffs, folded."""
    if not found:
        return None
    share = _MAX_DIFF_CHARACTERS // len(found)
    shown = [diff(name, text, share) for name, text in found.items()]
    return h.section(h.h2(title), h.p(hint, class_="quiet") if hint else None, shown)


def diff(name: str, text: str, most: int = _MAX_DIFF_CHARACTERS) -> Markup:
    """One artifact's unified diff, folded, up to so many characters. Of htpasswd only the names show."""
    lines = [line for line in text.splitlines() if not line.startswith(("--- ", "+++ "))]
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    numbers = (h.span(f"+{added}", class_="add"), " ", h.span(f"{MINUS}{removed}", class_="del"))
    body: list[Content] = []
    group: list[str] = []
    kind = ""
    fitting, size = 0, 0
    for line in lines[:_MAX_LINES]:
        size += len(escape(line[:_MAX_LINE_CHARACTERS])) + _SPAN
        if size > most:
            break
        fitting += 1
        sign = line[:1]
        now = {"+": "add", "-": "del", "@": "at"}.get(sign, "")
        if now != kind:
            body.append(_lines(kind, group))
            kind, group = now, []
        group.append(_shown(name, line))
    body.append(_lines(kind, group))
    rest = len(lines) - fitting
    return h.details(
        h.summary(h.code(name), h.span(numbers)),
        h.pre(body, class_="diff", tabindex="0", role="region", aria_label=f"Changes of {name}")
        if lines
        else h.p("The content is the same; mode or encoding differs."),
        h.p(f"{rest:,} more lines: ", h.code("sidecar preview --diff"), " shows all.", class_="quiet")
        if rest > 0
        else None,
        id=_id(f"diff {name}"),
    )


def _lines(kind: str, group: Sequence[str]) -> Content:
    text = "\n".join(group) + "\n" if group else ""
    return h.span(text, class_=kind or None) if group else None


def _shown(name: str, line: str) -> str:
    if name == HTPASSWD and line[:1] in "+- ":
        return hide_hash(line)
    return line if len(line) <= _MAX_LINE_CHARACTERS else f"{line[:_MAX_LINE_CHARACTERS]}…"


def _id(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name.lower())
