"""What every page has: head, navigation and footer. Error pages too."""

from __future__ import annotations

from sidecar import __version__
from sidecar.model.record import Record
from sidecar.web.page.markup import Content, Markup, h, render

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    # Not no-referrer: with that, browsers do not say where a form comes from.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every page: nothing from elsewhere, nothing inline, in nobody's frame, kept by no cache."""

_SECTIONS = (("", "Status"), ("preview", "Preview"), ("generations", "History"), ("fleet", "Fleet"))


class PageFrame(Record, frozen=True):
    """What surrounds a page's content.

    `base` leads from the page to the sidecar's root (`./`, `../`, ...). `assets` are file name -> its
    address below that. `refresh` lets browsers without scripts load the page again soon.
    """

    base: str
    assets: dict[str, str]
    machine: str = ""
    region: str = ""
    section: str | None = None
    who: str = ""
    refresh: bool = False


def page(frame: PageFrame, title: str, *content: Content) -> str:
    """A whole document."""
    base = frame.base
    head = h.head(
        h.meta(charset="utf-8"),
        h.meta(name="viewport", content="width=device-width, initial-scale=1"),
        h.meta(name="color-scheme", content="light dark"),
        h.meta(name="robots", content="noindex"),
        h.noscript(h.meta(http_equiv="refresh", content="2")) if frame.refresh else None,
        h.title(f"{title} · {frame.machine or 'sidecar'}"),
        h.link(rel="icon", type="image/svg+xml", href=base + frame.assets["icon.svg"]),
        h.link(rel="stylesheet", href=base + frame.assets["page.css"]),
        h.script(type="module", src=base + frame.assets["page.js"]),
    )
    links = [
        h.a(
            label,
            href=base + path,
            aria_current=("page" if path == frame.section else None),
        )
        for path, label in _SECTIONS
    ]
    brand = h.a(
        h.b(frame.machine or "sidecar"),
        h.span(frame.region, class_="region") if frame.region else None,
        href=base,
        class_="brand",
    )
    body = h.body(
        h.a("Skip to the content", href="#main", class_="skip"),
        h.header(h.div(brand, h.nav(links, aria_label="Sections"), class_="wide")),
        h.main(content, id="main", tabindex="-1"),
        h.p("", role="status", id="said", class_="said"),
        h.footer(
            h.div(
                h.span(f"sidecar {__version__}"),
                h.span(f"signed in as {frame.who}") if frame.who else None,
                h.a("Help", href=f"{base}page/help"),
                h.a("Metrics", href=f"{base}metrics"),
                class_="wide",
            )
        ),
    )
    return "<!DOCTYPE html>\n" + render(h.html(head, body, lang="en"))


def message(frame: PageFrame, title: str, *content: Content) -> str:
    """A page with a single message."""
    return page(frame, title, h.h1(title), h.section(content, class_="message"))


def problem(frame: PageFrame, status: int, sentence: str, hint: str, *more: Content) -> str:
    """An error: what happened, and what to do about it."""
    titles = {401: "Sign in", 403: "Not allowed", 404: "Not found", 412: "Changed meanwhile"}
    return message(
        frame,
        titles.get(status, "That did not work"),
        h.p(capital(sentence) + ".", class_="lead"),
        h.p(h.b("What to do: "), as_code(hint), ".") if hint else None,
        more,
        h.p(h.a("Back to the start", href=frame.base)) if status not in (401, 403) else None,
    )


def capital(sentence: str) -> str:
    """With a capital letter in front."""
    return sentence[:1].upper() + sentence[1:]


def as_code(sentence: str) -> Markup:
    """Text in which `code` stands between backticks."""
    return render(h.code(part) if number % 2 else part for number, part in enumerate(sentence.split("`")))
