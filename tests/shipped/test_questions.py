"""Ten questions of newcomers: each has a command and a page that answer it, and both speak to people."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import aiohttp

from sidecar.cli.client import Client
from sidecar.observe.alerts import meanings
from sidecar.web.page.help import QUESTIONS
from sidecar.web.routes import PAGE_ROUTES, ROUTES
from tests.shipped.test_docs import DOCS, PASSWORD, shown_machine
from tests.shipped.test_monitoring import ALERTS
from tests.support.cgi import SIDECAR, run
from tests.support.machine import SECRET
from tests.support.prose import raw

# What the answers have to say, on the machine of the manual: two generations loaded, then a refusal.
SAID = {
    "Is it in sync?": (r"Out of sync, healthy", r"Out of sync Healthy"),
    "What changed last?": (r"rejected +asked for by", r"Loaded .*\d+ events?"),
    "Who did it?": (r"asked for by \w+", r"Asked for by \w+ \(process \d+\)"),
    "Why is it refused?": (r"is not an SQLite database", r"Rejected .*is not an SQLite database"),
    "What would happen now?": (r"is not an SQLite database", r"An update would be refused"),
    # Whether Navigator came to load the first one before the second is a matter of milliseconds.
    "How do I go back?": (r"restored generation 1|name one: `sidecar history` lists them", r"Generation"),
    "Which machine is behind?": (r"0 of 1 machine serve it, 1 do not", r"Look now"),
    "Where are the logs?": (r"log: The log", r"The log "),
    "What does this alert mean?": (r"Users who were added since cannot log in", r"SidecarNotInSync"),
    "How do I add an administrator?": (r"\$2b\$", r"Under administrators in sidecar.yml"),
}

# Every address that shows a page, with the generation or run 1, and one that there is not.
SHOWN = sorted(
    {
        route.path.replace("{number}", number)
        for route in (*(one for one in ROUTES if one.page), *PAGE_ROUTES)
        for number in ("1", "99")
        if route.method == "GET"
    }
    - {"/page/live", "/page/assets/{digest}/{name}"}  # a stream, a style
)


def spoken(html: str) -> str:
    """The words of a page."""
    body = html.partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_manual_has_the_same_questions() -> None:
    """The table in operations.md is the page's."""
    text = (DOCS / "operations.md").read_text()
    rows = re.findall(r"^\| (.*\?) \| (\w+) \| `(.*)` \|$", text, re.MULTILINE)
    assert rows == [(question, page, command) for question, _, page, command in QUESTIONS]
    assert SAID.keys() == {question for question, *_ in QUESTIONS}


def test_every_alert_has_a_meaning() -> None:
    """`sidecar alert` and the page know them all, without the addresses of links."""
    assert meanings().keys() == {rule["alert"] for rule in ALERTS}
    for text in meanings().values():
        assert "](" not in text
        assert re.search(r"^\d\. |sidecar ", text, re.MULTILINE)


async def test_each_question_is_answered(tmp_path: Path) -> None:
    """By one command and by one page, in words: no page has a raw moment, a name of the code's, a stack."""
    async with shown_machine(tmp_path) as (machine, _, _):
        config = machine.write_settings()
        good = machine.store_index.read_bytes()
        machine.store_index.write_bytes(b"no database")
        assert Client(str(machine.socket)).request("POST", "/update")[0] == 422
        answers: list[tuple[str, str, str]] = []
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{machine.extra['listen']['port']}",
            headers={
                "Accept": "text/html",
                "Authorization": aiohttp.encode_basic_auth("admin", PASSWORD),
            },
        ) as client:
            for question, path, _, _ in QUESTIONS:
                async with client.get(f"/{path.partition('#')[0]}") as answer:
                    assert answer.status == 200, question
                    html = await answer.text()
                if "#" in path:
                    assert f'id="{path.partition("#")[2]}"' in html
                answers.append((question, SAID[question][1], spoken(html)))
            for path in SHOWN:
                async with client.get(path) as answer:
                    html = await answer.text()
                assert answer.content_type == "text/html", path
                answers.append((path, "", spoken(html)))
            for question, _, _, command in QUESTIONS:
                done = await run(
                    *(str(SIDECAR), *command.split()[1:]),
                    stdin=f"{PASSWORD}\n".encode(),
                    SIDECAR_CONFIG=str(config),
                    SIDECAR_TRIGGER_SECRET=SECRET,
                )
                answers.append((question, SAID[question][0], done.out + done.err))
        machine.store_index.write_bytes(good)
    failures = [
        f"{question}: {pattern} not in {text[:600]}"
        for question, pattern, text in answers
        if not re.search(pattern, text)
    ]
    assert not failures, "\n".join(failures)
    assert [(question, found) for question, _, text in answers if (found := raw(text))] == []


def test_what_is_raw_is_found() -> None:
    """The check itself: moments, representations and stacks are found, plain sentences are not."""
    for text in ("at 1795510761.73", "it is None", "KeyError: 'x'", "Traceback (most", "Run(state='x'"):
        assert raw(text), text
    assert raw("Synced, healthy: Navigator serves generation 2, since 2026-11-24 09:00:00 UTC.") == []
