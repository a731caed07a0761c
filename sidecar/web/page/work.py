"""The ready work: its steps with their progress, and what they said."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.model.work import Step
from sidecar.web.page import parts
from sidecar.web.page.layout import capital
from sidecar.web.page.markup import Content, Markup, h

_TITLES = {
    "databases": "Event databases",
    "migrate": "Migrations",
    "orphans": "Databases of events that left",
    "extra": "Extra files",
    "prerender": "Public pages",
}


def section(state: str, generation: int | None, steps: Sequence[Step], note: str = "") -> Markup | None:
    """The work under way, or as it ended; None when there was none yet."""
    if not steps and not note:
        return None
    return h.section(
        h.h2("Ready work ", parts.pill(state)),
        h.p(f"For generation {generation}.", class_="quiet") if generation else None,
        h.p(note, class_="quiet") if note else None,
        h.ul([_step(step) for step in steps], class_="ready") if steps else None,
        class_="background",
    )


def outputs(steps: Sequence[Step]) -> list[Content]:
    """What the steps' commands printed, folded."""
    return [
        parts.log(step.output.splitlines(), folded=True, name=f"Output: {_title(step).lower()}")
        for step in steps
        if step.output
    ]


def _step(step: Step) -> Markup:
    counted = step.total > 0 and step.state == "running"
    return h.li(
        h.b(_title(step)),
        parts.pill(step.state),
        h.progress(
            value=str(step.done),
            max=str(step.total),
            aria_label=f"{_title(step)}: {step.done} of {step.total}",
        )
        if counted
        else None,
        h.span(f"{step.done:,} of {step.total:,}", class_="quiet") if counted else None,
        h.span(parts.took(step.seconds), class_="quiet") if step.state in ("done", "failed") else None,
        h.span(_said(step), class_="quiet")
        if _said(step).lower() != parts.words(step.state).lower()
        else None,
    )


def _said(step: Step) -> str:
    if step.error is not None:
        return f"{step.error.message}. {capital(step.error.hint)}".strip()
    said = step.current if step.state == "running" else step.said
    return "" if said.lower() == parts.words(step.state).lower() else said


def _title(step: Step) -> str:
    return _TITLES.get(step.name, capital(step.name))
