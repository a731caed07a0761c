"""Questions that newcomers have, each with the page and the command that answer it."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.web.page.layout import as_code
from sidecar.web.page.markup import Content, Markup, h

# Question, page (its path, and what it is called), command.
QUESTIONS = (
    ("Is it in sync?", "", "Status", "sidecar status"),
    ("What changed last?", "generations", "History", "sidecar history --limit 1"),
    ("Who did it?", "generations", "History", "sidecar history"),
    ("Why is it refused?", "generations?state=rejected", "History", "sidecar history --state rejected"),
    ("What would happen now?", "preview", "Preview", "sidecar preview"),
    ("How do I go back?", "generations", "History", "sidecar rollback"),
    ("Which machine is behind?", "fleet", "Fleet", "sidecar fleet status"),
    ("Where are the logs?", "page/help#logs", "Help", "sidecar doctor"),
    ("What does this alert mean?", "page/help#alerts", "Help", "sidecar alert SidecarNotInSync"),
    ("How do I add an administrator?", "page/help#administrators", "Help", "sidecar hash-password"),
)


def main(logs: str, alerts: Mapping[str, str], *, base: str) -> list[Content]:
    """The page's content; `logs` says where they are, `alerts` what each means."""
    rows = [
        h.tr(h.th(question, scope="row"), h.td(h.a(page, href=base + path)), h.td(h.code(command)))
        for question, path, page, command in QUESTIONS
    ]
    heads = h.tr([h.th(name, scope="col") for name in ("Question", "Page", "Command")])
    administrators = [h.p(as_code(line)) for line in _ADMINISTRATORS]
    return [
        h.h1("Help"),
        h.table(h.caption("Questions", class_="unseen"), h.thead(heads), h.tbody(rows), class_="machines"),
        h.section(h.h2("Going back", id="back"), h.p(as_code(_BACK))),
        h.section(h.h2("The logs", id="logs"), h.p(as_code(logs))),
        h.section(h.h2("Administrators", id="administrators"), administrators),
        h.section(h.h2("Alerts", id="alerts"), [_alert(name, text) for name, text in alerts.items()]),
    ]


_BACK = (
    "History, a generation, “Roll back to this…”, or `sidecar rollback N`. What is restored stays until "
    "somebody asks for an update."
)
_ADMINISTRATORS = (
    "`sidecar hash-password` asks for a password and prints its hash.",
    "Under `administrators` in sidecar.yml each line is a name and such a hash; a restart takes it in.",
    "Removing the line, and a restart, end the access.",
    "Where SIDECAR_ADMINISTRATORS is set it holds all of them, as JSON, and the file's do not count.",
)


def _alert(name: str, text: str) -> Markup:
    lines = [h.p(as_code(line)) for line in text.splitlines() if line]
    return h.details(h.summary(name), lines, id=name.lower())
