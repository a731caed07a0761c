"""The operators' page over HTTP: who gets what, what it refuses, and what it never does."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import pytest
import yaml
from aiohttp import web
from yarl import URL

from sidecar.config.parse import parse
from sidecar.daemon import Daemon
from sidecar.demo.sample import add_event, remove_user
from sidecar.errors import SettingsError
from sidecar.inputs.profiles import load_profile
from tests.support.machine import QUIET_START, Machine, until
from tests.support.navigator import free_port

PASSWORD = "correct horse"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
CURL = "*/*"
PAGES = ["/", "/preview", "/generations", "/generations/1", "/page/rollback/1"]
GETS = ["/preview", "/page/rollback/1", "/page/update", "/page/live", "/events"]
POSTS = ["/update", "/rollback", "/page/update", "/page/rollback/1"]
OTHERS = ["/openapi.json", "/nothing", "/page/assets/x/page.js"]
NAVIGATES = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def basic(password: str, name: str = "admin") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@dataclass
class Site:
    machine: Machine
    daemon: Daemon
    session: aiohttp.ClientSession

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        accept: str = BROWSER,
        signed_in: bool = True,
        headers: dict[str, str] | None = None,
        data: Any = None,
    ) -> tuple[aiohttp.ClientResponse, str]:
        sent = {"Accept": accept, **(basic(PASSWORD) if signed_in else {}), **(headers or {})}
        async with self.session.request(
            method, path, headers=sent, data=data, allow_redirects=False
        ) as answer:
            return answer, await answer.text()

    async def token(self, path: str) -> dict[str, str]:
        """The hidden fields of the form on a page."""
        _, text = await self.ask(path)
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text))


@asynccontextmanager
async def running(machine: Machine, **extra: Any) -> AsyncIterator[Site]:
    """A daemon with an administrator and one generation."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    quiet = {**QUIET_START, **machine.extra.get("update", {})}
    machine.extra |= {"administrators": {"admin": hashed, "other": hashed}, "update": quiet, **extra}
    machine.put_index()
    async with machine.daemon() as daemon, aiohttp.ClientSession(daemon.server.url) as session:
        async with session.post("/update", headers=basic(PASSWORD)) as answer:
            assert answer.status == 200, await answer.text()
        yield Site(machine, daemon, session)


@pytest.mark.parametrize("path", ["/", "/preview", "/generations", "/generations/1", "/status", "/nothing"])
async def test_everyone_gets_what_they_ask_for(machine: Machine, path: str) -> None:
    """At every address: a page for a browser, JSON for who wants JSON, JSON or text for curl."""
    async with running(machine) as site:
        status = 404 if path == "/nothing" else 200
        for accept, kinds in (
            (BROWSER, {"text/html"}),
            ("application/json", {"application/json"}),
            ("application/json, text/html;q=0.9", {"application/json"}),
            (CURL, {"application/json", "text/plain"}),
            ("text/plain", {"text/plain"}),
        ):
            answer, text = await site.ask(path, accept=accept)
            assert answer.status == status, (accept, text)
            assert answer.content_type in kinds, accept
            assert answer.headers["Vary"] == "Accept"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            if answer.content_type == "application/json":
                json.loads(text)
            assert text.startswith("<!DOCTYPE html>") == (answer.content_type == "text/html")


async def test_events_and_health_too_come_as_asked_for(machine: Machine) -> None:
    """A browser that goes to the events lands on the page, which shows them; everyone else gets the stream.
    Health is a word, or JSON where that is asked for."""
    async with running(machine) as site:
        answer, _ = await site.ask("/events")
        assert (answer.status, answer.headers["Location"]) == (303, "./")
        for accept in ("*/*", "text/event-stream", "text/plain"):
            headers = {"Accept": accept, **basic(PASSWORD)}
            async with site.session.get("/events", headers=headers) as stream:
                assert (stream.status, stream.content_type) == (200, "text/event-stream")
        for path, status in (("/healthz", 200), ("/readyz", 503)):
            for accept, kind in (("*/*", "text/plain"), ("application/json", "application/json")):
                answer, text = await site.ask(path, accept=accept, signed_in=False)
                assert (answer.status, answer.content_type) == (status, kind)
                assert accept == "*/*" or json.loads(text).keys() == ({"ok"} if status == 200 else {"error"})


async def test_every_page_is_locked_up(machine: Machine) -> None:
    """The policy allows own files only and no frame; no page has anything inline; no cache keeps one."""
    async with running(machine) as site:
        for path in (*PAGES, "/status", "/nothing"):
            answer, text = await site.ask(path)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert not re.search(r"<(style|iframe|object)\b|<[^>]+\s(on\w+|style)=|javascript:", text), path
            assert not re.search(r'(?:src|href|action)="(?:/|\w+:)', text), path


async def test_reading_needs_an_administrator(machine: Machine) -> None:
    """Without a name and password no page shows anything but the state, which is open as JSON too."""
    async with running(machine) as site:
        for path in (*PAGES, "/page/live", "/page/update?tag=x"):
            answer, text = await site.ask(path, signed_in=False)
            assert answer.status == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
            assert "test-machine" not in text
        answer, text = await site.ask("/status", signed_in=False)
        assert answer.status == 200
        assert "admin" not in text
        assert "Log" not in text


async def test_without_administrators_the_page_says_how_to_make_one(machine: Machine) -> None:
    """A fresh machine's page is no dead end."""
    async with (
        machine.daemon() as daemon,
        aiohttp.ClientSession(daemon.server.url) as session,
        session.get("/", headers={"Accept": BROWSER}) as answer,
    ):
        assert answer.status == 403
        assert "<code>sidecar hash-password</code>" in await answer.text()


async def test_sign_in_attempts_are_limited(machine: Machine) -> None:
    """After ten guesses the address has to wait, and is told how long; who is signed in already works on."""
    async with running(machine) as site:
        for number in range(10):
            answer, _ = await site.ask("/", headers=basic(f"guess {number}"))
            assert answer.status == 401
        answer, text = await site.ask("/", headers=basic("another"))
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        assert "too many wrong passwords" in text.lower()
        assert (await site.ask("/", headers=basic(PASSWORD, "other")))[0].status == 429
        assert (await site.ask("/"))[0].status == 200


async def test_repeating_one_wrong_password_locks_nobody_out(machine: Machine) -> None:
    """A script with an old password is refused each time, and guesses nothing."""
    async with running(machine) as site:
        for _ in range(30):
            assert (await site.ask("/", headers=basic("an old one")))[0].status == 401
        assert (await site.ask("/", headers=basic(PASSWORD, "other")))[0].status == 200


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
async def test_a_link_from_elsewhere_opens_what_only_shows(machine: Machine, origin: str) -> None:
    """Following a link to what is and what was is no attack. Loading a page into another one is, and so is
    anything that would work: a preview, a question, a stream, a form."""
    async with running(machine) as site:
        cross = {"Sec-Fetch-Site": origin}
        shown = ("/", "/generations", "/generations/1")
        for path in shown:
            assert (await site.ask(path, headers=cross | NAVIGATES))[0].status == 200
        for path in (*shown, *GETS):
            for bad in (
                cross,
                cross | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
                cross | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
                cross | {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
                *([cross | NAVIGATES] if path not in shown else []),
            ):
                assert (await site.ask(path, headers=bad))[0].status == 403, (path, bad)
        for path in POSTS:
            answer, _ = await site.ask(path, "POST", headers=cross | NAVIGATES, data={"token": "x"})
            assert answer.status == 403, path


async def test_what_another_origin_sends_changes_nothing(machine: Machine) -> None:
    """Without TLS browsers name the origin only, and send the password along: a POST from elsewhere is
    refused by that, whatever its form; one from the page itself, or from no browser, is not."""
    async with running(machine) as site:
        remove_user(site.machine.store_index, "user0003")
        host = str(site.daemon.server.url).removeprefix("http://")
        for origin in ("http://elsewhere.example", f"http://{host}.elsewhere.example", "null", ""):
            for path in POSTS:
                for data in (None, '{"generation": 1}', {"token": "x"}):
                    answer, text = await site.ask(
                        path, "POST", headers={"Origin": origin}, data=data, accept="application/json"
                    )
                    assert (answer.status, json.loads(text)["error"]["code"]) == (403, "cross_site"), path
        assert site.daemon.generations.current is not None
        assert site.daemon.generations.current.number == 1
        answer, _ = await site.ask("/update", "POST", headers={"Origin": f"http://{host}"})
        assert answer.status == 200
        assert (await site.ask("/update", "POST"))[0].status == 200


async def test_no_get_changes_anything(machine: Machine) -> None:
    """Whatever is read, by an administrator too: no file, no generation, no entry of the history."""
    machine.extra["fleet"] = {"machines": [{"id": "m1", "url": "http://127.0.0.1:9"}]}
    async with running(machine) as site:
        remove_user(site.machine.store_index, "user0003")
        await until(lambda: site.daemon.history.entries())  # which is written behind the answer
        before = site.machine.targets(), site.daemon.generations.current, site.daemon.history.entries()
        routes = {
            route.resource.canonical.format(number=1, digest="x", name="page.css")
            for route in site.daemon.server._runner.app.router.routes()
            if route.method == "GET" and route.resource is not None
        }
        assert routes > {"/", *GETS}
        for path in routes - {"/events"}:
            for accept in (BROWSER, "application/json"):
                # Of a store without a past nothing can be undone.
                fine = (404,) if path.endswith("/fleet/rollback") else (200, 303, 503)
                assert (await site.ask(path, accept=accept))[0].status in fine, path
        after = site.machine.targets(), site.daemon.generations.current, site.daemon.history.entries()
        assert after == before


async def test_strangers_get_what_is_open_and_nothing_else(machine: Machine) -> None:
    """Without a password every route answers 401, or 404, but for a short list that names no user."""
    open_to_all = {"/status", "/metrics", "/healthz", "/readyz", "/openapi.json", "/page/assets/x/page.css"}
    machine.extra["fleet"] = {"machines": [{"id": "m1", "url": "http://127.0.0.1:9"}]}
    async with running(machine) as site:
        await until(lambda: site.daemon.history.entries())  # which is written behind the answer
        before = site.machine.targets(), site.daemon.history.entries()
        for route in site.daemon.server._runner.app.router.routes():
            assert route.resource is not None
            path = route.resource.canonical.format(number=1, digest="x", name="page.css")
            if route.method == "HEAD" or path in open_to_all:
                continue
            answer, _ = await site.ask(path, route.method, signed_in=False, accept=BROWSER)
            assert answer.status in ((404,) if path in ("/public", "/webhook") else (401,)), path
        assert (site.machine.targets(), site.daemon.history.entries()) == before


async def test_nothing_can_be_embedded(machine: Machine) -> None:
    """No answer of any form may be guessed at, framed, or loaded by another site, or leave a cookie."""
    async with running(machine) as site:
        for path in (
            "/",
            "/status",
            "/preview",
            "/generations/1",
            "/page/live",
            "/metrics",
            "/healthz",
            *OTHERS,
        ):
            for accept in (BROWSER, "application/json", "text/plain"):
                answer, _ = await site.ask(path, accept=accept)
                assert "Set-Cookie" not in answer.headers, path
                assert answer.headers["X-Content-Type-Options"] == "nosniff", path
                assert answer.headers["X-Frame-Options"] == "DENY", path
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path


async def test_forms_are_the_pages_own(machine: Machine) -> None:
    """No token, another's, another action's, another origin or another type of body: nothing happens."""
    async with running(machine) as site:
        add_event(site.machine.store_index, await a_studio(site), 2026, "fresh", "Fresh")
        outcome = await site.daemon.worker.submit(preview())
        form = await site.token(f"/page/update?tag={outcome.tag}")
        assert form["tag"] == outcome.tag
        rollback = await site.token("/page/rollback/1")
        before = site.machine.targets()
        host = str(site.daemon.server.url).removeprefix("http://")
        for data, headers in (
            ({"tag": form["tag"]}, {}),
            (form | {"token": "made up"}, {}),
            (form | {"token": rollback["token"]}, {}),
            (form | {"tag": "another"}, {}),
            (form, basic(PASSWORD, "other")),
            (form, {"Origin": "http://elsewhere.example"}),
            (form, {"Origin": "null"}),
            (form, {"Origin": f"http://{host}.elsewhere.example"}),
            (form, {"Sec-Fetch-Site": "cross-site"}),
            (json.dumps(form), {"Content-Type": "application/json"}),
            (json.dumps(form), {"Content-Type": "text/plain"}),
        ):
            answer, text = await site.ask("/page/update", "POST", data=data, headers=headers)
            assert answer.status == 403, text
            assert answer.content_type == "text/html"
        assert site.machine.targets() == before
        answer, _ = await site.ask("/page/update", "POST", data=form, headers={"Origin": f"http://{host}"})
        assert (answer.status, answer.headers["Location"]) == (303, "../")
        await until(lambda: site.machine.targets() != before)
        await until(lambda: site.daemon.history.entries(1)[0].outcome.generation == 2)
        entries = site.daemon.history.entries(1)
        assert (entries[0].outcome.trigger, entries[0].outcome.who) == ("http", "admin")


def preview() -> Any:
    from sidecar.model.runs import Request

    return Request(trigger="preview", who="test", preview=True)


async def a_studio(site: Site) -> str:
    document = yaml.safe_load(site.machine.target("map.yml").read_text())
    return str(next(iter(document["studios"])))


async def test_only_what_was_shown_is_applied(machine: Machine) -> None:
    """When the store changed after the question, the answer applies nothing and the page says so."""
    async with running(machine) as site:
        studio = await a_studio(site)
        add_event(site.machine.store_index, studio, 2026, "fresh", "Fresh")
        shown = await site.daemon.worker.submit(preview())
        form = await site.token(f"/page/update?tag={shown.tag}")
        add_event(site.machine.store_index, studio, 2026, "later", "Later")
        # The question is not even asked again, but what would change now is shown first.
        answer, _ = await site.ask(f"/page/update?tag={shown.tag}")
        assert (answer.status, answer.headers["Location"]) == (303, "../preview")
        assert (await site.ask("/page/update", "POST", data=form))[0].status == 303
        await until(lambda: site.daemon.status.last is not None and site.daemon.status.last.error is not None)
        _, text = await site.ask("/")
        assert "changed since the preview" in text
        assert "Look at a new preview" in text
        assert site.daemon.generations.current is not None
        assert site.daemon.generations.current.number == 1


async def test_the_question_says_when_nothing_would_change(machine: Machine) -> None:
    """Before a rollback to the generation in place, no reasons are made up for files that do not differ."""
    async with running(machine) as site:
        _, text = await site.ask("/page/rollback/1")
        assert "It is the same as what is in place" in text
        assert "The files differ" not in text


async def test_a_large_loss_can_be_answered_on_the_page(machine: Machine) -> None:
    """The refusal shows what would go, and is overruled by a second question with a word to type."""
    async with running(machine) as site:
        for line in site.machine.target("htpasswd").read_text().splitlines():
            remove_user(site.machine.store_index, line.partition(":")[0])
        answer, text = await site.ask("/preview")
        assert "would drop" in text
        assert "will no longer be able to sign in" in text
        (path,) = re.findall(r'href="\./(page/update\?tag=[^"]+force=1)"', text)
        form = await site.token(f"/{path.replace('&amp;', '&')}")
        assert form["force"] == "1"
        before = site.machine.targets()
        answer, text = await site.ask("/page/update", "POST", data=form)
        assert answer.status == 400
        assert "was not typed" in text
        answer, _ = await site.ask("/page/update", "POST", data=form | {"force": "", "word": "lose"})
        assert answer.status == 403
        assert site.machine.targets() == before
        answer, _ = await site.ask("/page/update", "POST", data=form | {"word": "Lose"})
        assert answer.status == 303
        await until(lambda: site.machine.targets() != before)


async def test_the_question_names_what_goes(machine: Machine) -> None:
    """Users and events that go are named before the button; what only comes is not destructive."""
    async with running(machine) as site:
        remove_user(site.machine.store_index, "user0003")
        outcome = await site.daemon.worker.submit(preview())
        _, text = await site.ask(f"/page/update?tag={outcome.tag}")
        assert "will no longer be able to sign in: user0003." in text
        _, text = await site.ask("/preview")
        assert "{SHA}" not in text
        assert "$2" not in text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'code <b>changed</b>'; exit 1", "code &lt;b&gt;changed&lt;/b&gt;"),
        ("exit 3", "ended with status 3"),
        ("sleep 60", "could not be found out"),
    ],
)
async def test_the_deployment_check_decides(machine: Machine, script: str, said: str) -> None:
    """A command that says so, fails or does not end: a deployment is required, no update offered."""
    page = {"deployment_check": ["sh", "-c", script], "deployment_timeout": "500ms"}
    async with running(machine, page=page) as site:
        remove_user(site.machine.store_index, "user0003")
        outcome = await site.daemon.worker.submit(preview())
        _, text = await site.ask("/preview")
        assert "Full deployment required" in text
        assert said in text
        assert "page/update" not in text
        assert (await site.ask(f"/page/update?tag={outcome.tag}"))[0].status == 303


async def test_a_deployment_check_that_passes_changes_nothing(machine: Machine) -> None:
    """Exit status 0: the button is there. It runs in the application's folder."""
    page = {"deployment_check": ["sh", "-c", "test -d config"]}
    async with running(machine, page=page) as site:
        remove_user(site.machine.store_index, "user0003")
        _, text = await site.ask("/preview")
        assert "Full deployment required" not in text
        assert "Update configuration" in text


async def test_regions_of_the_deployment_are_changes_too(machine: Machine) -> None:
    """Regions that only deployed.json adds or removes are in the summary, with the studios that move, for an
    update, after a restart and for a rollback; the page says of the same that they take a deployment."""
    machine.extra["update"] = QUIET_START
    deployed = machine.application / "tmp" / "deployed.json"

    def deploy(*codes: str) -> None:
        deployed.write_text(json.dumps({"ProcessGroupRegions": [{"Name": "app", "Regions": codes}]}))

    deploy("iad", "fra")
    async with running(machine):
        pass
    deploy("iad", "syd")
    async with machine.daemon() as daemon, aiohttp.ClientSession(daemon.server.url) as session:
        site = Site(machine, daemon, session)
        _, text = await site.ask("/preview")
        assert "Full deployment required" in text
        assert "1 region added: syd." in text
        assert "1 region removed: fra." in text
        _, text = await site.ask("/preview", accept="application/json")
        found = json.loads(text)["changes"]
        assert (found["regions"]["added"]["names"], found["regions"]["removed"]["names"]) == (
            ["syd"],
            ["fra"],
        )
        moved = {name.partition(": ")[2] for name in found["studios"]["moved"]["names"]}
        assert moved
        assert {name.partition(" to ")[0] for name in moved} <= {"iad", "fra"}
        assert (await site.ask("/update", "POST"))[0].status == 200
        _, text = await site.ask("/preview")
        assert "Full deployment required" not in text
        _, text = await site.ask("/page/rollback/1")
        assert "<b>1 region</b> will serve nothing any more: syd." in text
        assert re.search(r"<b>\d+ studios?</b> will be served from another region: ", text)


async def test_pending_regions_require_a_deployment(machine: Machine) -> None:
    """Regions that deployed.json wants added or removed are a reason, by code."""
    async with running(machine) as site:
        deployed = machine.application / "tmp" / "deployed.json"
        group = {"Name": "app", "Regions": ["iad", "fra"]}
        pending = {"add": ["ams"], "delete": ["fra"]}
        deployed.write_text(json.dumps({"ProcessGroupRegions": [group], "pending": pending}))
        _, text = await site.ask("/preview")
        assert "Full deployment required" in text
        assert "region ams is to be added." in text
        assert "region fra is to be removed." in text


async def test_every_run_has_a_page(machine: Machine) -> None:
    """One that was refused too, with its error and log; the list leads there, and can be searched."""
    async with running(machine) as site:
        machine.store_index.write_bytes(b"no database")
        assert (await site.ask("/update", "POST"))[0].status == 422
        await until(lambda: site.daemon.history.entries()[0].state == "rejected")
        number = site.daemon.history.entries()[0].run
        _, text = await site.ask("/generations?state=rejected&who=adm")
        assert f'href="./runs/{number}"' in text
        assert 'href="./generations/1"' not in text
        assert '<option value="rejected" selected>' in text
        _, text = await site.ask("/generations?who=nobody+%3Cb%3E")
        assert "No run is like that." in text
        assert 'value="nobody &lt;b&gt;"' in text
        answer, text = await site.ask(f"/runs/{number}")
        assert answer.status == 200
        assert f"Run {number}" in text
        assert "is not an SQLite database" in text
        assert "sidecar doctor" in text
        published = site.daemon.history.generation(1)
        assert published is not None
        answer, _ = await site.ask(f"/runs/{published.run}")
        assert (answer.status, answer.headers["Location"]) == (303, "../generations/1")
        assert (await site.ask("/runs/99"))[0].status == 404
        _, text = await site.ask(f"/runs/{number}", accept="application/json")
        assert json.loads(text)["run"] == number


async def test_a_stream_ends_with_what_it_follows(machine: Machine) -> None:
    """When nothing is under way the stream tells the last state and ends: it keeps no machine awake."""
    async with running(machine) as site:
        answer, text = await site.ask("/page/live", accept="text/event-stream")
        assert answer.content_type == "text/event-stream"
        (kind,) = re.findall(r"^event: (\w+)$", text, re.MULTILINE)
        assert kind == "end"
        assert "data-live" not in (await site.ask("/"))[1]


async def test_files_are_kept_by_browsers(machine: Machine) -> None:
    """Style and script are open, typed, and may be kept for ever under the address that pages name."""
    async with running(machine) as site:
        _, text = await site.ask("/")
        found = set(re.findall(r'(?:src|href)="\./(page/assets/[^"]+)"', text))
        assert len(found) == 3
        for path in found:
            answer, _ = await site.ask(f"/{path}", signed_in=False)
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.content_type in ("text/css", "text/javascript", "image/svg+xml")
        name = next(iter(found)).rpartition("/")[2]
        answer, _ = await site.ask(f"/page/assets/outdated/{name}")
        assert answer.headers["Cache-Control"] == "no-cache"
        assert (await site.ask("/page/assets/x/page.py"))[0].status == 404


def test_navigator_carries_the_page_when_switched_on(tmp_path: Path) -> None:
    """navigator.yml passes <root>/sidecar/ on, in every profile, when asked to; it takes TCP."""
    from sidecar.generate import generate
    from sidecar.generate.cache import ResultCache
    from sidecar.inputs.index import read_index
    from sidecar.inputs.machine import Machine as Inputs

    machine = Machine(tmp_path)
    index = read_index(machine.put_index())
    for profile, root in (("fly", "/showcase"), ("kamal", ""), ("local", "/showcase")):
        for on in (False, True):
            document = machine.document() | {
                "profile": profile,
                "machine": {"app": "smooth", "region": "iad"},
                "listen": {"port": 9292},
                "page": {"through_navigator": on},
            }
            inputs = Inputs(parse(document, {}), tmp_path).inputs()
            routes = yaml.safe_load(generate(index, inputs.deployment, ResultCache())["navigator.yml"])[
                "routes"
            ]
            proxies = [one for one in routes["reverse_proxies"] if "9292" in one["target"]]
            redirects = [one for one in routes["redirects"] if one["to"] == f"{root}/sidecar/"]
            assert (len(proxies), len(redirects)) == (on, on)
            if on:
                assert re.fullmatch(proxies[0]["path"], f"{root}/sidecar/generations/3")
                assert not re.match(proxies[0]["path"], f"{root}/sidecars/")
    with pytest.raises(SettingsError, match="through_navigator"):
        parse(machine.document() | {"page": {"through_navigator": True}}, {})


@asynccontextmanager
async def navigator_like(entry: dict[str, Any]) -> AsyncIterator[str]:
    """A reverse proxy that does what Navigator does with an entry of its list, strip_path and headers."""

    async def handle(request: web.Request) -> web.StreamResponse:
        match = re.search(entry["path"], request.path)
        if match is None:
            raise web.HTTPNotFound
        headers = dict(request.headers.items()) | entry["headers"]
        headers["X-Forwarded-For"] = ", ".join(
            filter(None, [request.headers.get("X-Forwarded-For"), str(request.remote)])
        )
        async with aiohttp.ClientSession() as session:
            url = f"{entry['target']}/{match[1]}"
            async with session.request(
                request.method,
                url,
                params=request.query,
                headers=headers,
                data=await request.read() or None,
                allow_redirects=False,
            ) as answer:
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name
                    not in ("Content-Encoding", "Content-Length", "Transfer-Encoding", "Date", "Server")
                }
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_it_works_under_a_prefix(machine: Machine) -> None:
    """Behind the reverse proxy that navigator.yml carries, every address on every page leads somewhere."""
    listen = {"port": free_port()}
    async with running(machine, page={"through_navigator": True}, listen=listen) as site:
        routes = yaml.safe_load(site.machine.target("navigator.yml").read_text())["routes"]
        (entry,) = (one for one in routes["reverse_proxies"] if "sidecar" in one["path"])
        remove_user(site.machine.store_index, "user0003")
        async with navigator_like(entry) as url:
            start = f"{url}/showcase/sidecar/"
            seen, waiting = set(), [start]
            while waiting:
                page = waiting.pop()
                if page in seen:
                    continue
                seen.add(page)
                async with site.session.get(page, headers={"Accept": BROWSER, **basic(PASSWORD)}) as answer:
                    assert answer.status == 200, page
                    text = await answer.text()
                if answer.content_type == "text/html":
                    found = re.findall(r'(?:src|href)="([^"#]+)"', text)
                    waiting += [str(answer.url.join(URL(one))) for one in found]
            assert all(page.startswith(start) for page in seen)
            paths = {page.removeprefix(start).partition("?")[0] for page in seen}
            assert {"", "preview", "generations", "generations/1", "page/update"} <= paths
            # A form, and the way back to the start.
            _, text = await site.ask("/preview")
            tag = re.search(r"tag=([\w-]+)", text)
            assert tag is not None
            form = await site.token(f"/page/update?tag={tag[1]}")
            headers = {"Accept": BROWSER, "Origin": url, **basic(PASSWORD)}
            async with site.session.post(f"{start}page/update", data=form, headers=headers) as answer:
                assert (answer.status, str(answer.url)) == (200, start)


async def test_behind_navigator_its_clients_are_told_apart(machine: Machine) -> None:
    """Guesses through Navigator count against the address that it tells, not what its client claims."""
    async with running(machine, page={"through_navigator": True}, listen={"port": free_port()}) as site:
        for number in range(10):
            spoofed = basic(f"guess {number}") | {"X-Forwarded-For": f"10.0.0.{number}, 192.0.2.1"}
            assert (await site.ask("/", headers=spoofed))[0].status == 401
        guess = basic("once more")
        assert (await site.ask("/", headers=guess | {"X-Forwarded-For": "192.0.2.1"}))[0].status == 429
        answer, text = await site.ask(
            "/", headers=guess | {"X-Forwarded-For": "192.0.2.2", "X-Forwarded-Prefix": "/showcase/sidecar"}
        )
        assert answer.status == 401
        assert "the same ones in both" in text


async def test_a_name_is_not_guessed_at_from_many_addresses(machine: Machine) -> None:
    """Whoever claims another address for each guess is limited by the name; other names are not."""
    async with running(machine, page={"through_navigator": True}, listen={"port": free_port()}) as site:

        async def guess(number: int, name: str = "nobody") -> int:
            headers = {"X-Forwarded-For": f"198.51.{number // 256}.{number % 256}"}
            return (await site.ask("/", headers=headers | basic(f"guess {number}", name)))[0].status

        assert [await guess(number) for number in range(100)] == [401] * 100
        assert await guess(100) == 429
        assert await guess(101, "another") == 401
        assert (await site.ask("/"))[0].status == 200


async def test_a_network_of_version_6_is_one_address(machine: Machine) -> None:
    """Who has one address of a /64 has all of them."""
    async with running(machine, page={"through_navigator": True}, listen={"port": free_port()}) as site:
        for number in range(11):
            headers = basic(f"guess {number}") | {"X-Forwarded-For": f"2001:db8:1:2::{number:x}"}
            assert (await site.ask("/", headers=headers))[0].status == (401 if number < 10 else 429)
        headers = basic("guess") | {"X-Forwarded-For": "2001:db8:1:3::1"}
        assert (await site.ask("/", headers=headers))[0].status == 401


@pytest.mark.parametrize(
    "path", ["/generations/x.css", "/generations/1.css", "/page/rollback/x.js", "/generations/²"]
)
async def test_a_number_that_is_none_is_nowhere(machine: Machine, path: str) -> None:
    """Navigator's login lets some endings through: such a path is 404 before any password is asked for."""
    async with running(machine) as site:
        for method in ("GET", "POST"):
            for headers in ({}, basic("wrong")):
                answer, _ = await site.ask(path, method, headers=headers, signed_in=False)
                assert answer.status == 404
                assert "WWW-Authenticate" not in answer.headers


async def test_what_only_ends_like_an_open_file_is_nowhere(machine: Machine) -> None:
    """Navigator's login lets endings through, and passes what is before them on: no password is asked for."""
    endings = [
        one[1:] for one in load_profile("base").data["navigator"]["auth"]["public_paths"] if one[0] == "*"
    ]
    assert ".css" in endings
    async with running(machine) as site:
        routes = {
            (route.method, route.resource.canonical.format(number=1, digest="x", name="y"))
            for route in site.daemon.server._runner.app.router.routes()
            if route.resource is not None
        }
        assert {("GET", "/status"), ("POST", "/page/update")} <= routes
        for method, path in routes:
            for between in (
                "",
                "%3f",
                "%3ftag=",
                "%23",
                "/",
                ";",
                "%00",
                "%2f",
                "%253f",
                "/..%2fstatus",
                "/../x",
            ):
                for ending in endings[:1] if between else endings:
                    url = URL(f"{site.daemon.server.url}{path}{between}{ending}", encoded=True)
                    async with site.session.request(method, url, headers=basic("wrong")) as answer:
                        assert answer.status == 404, (method, url)
                        assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9292", "127.0.0.1.evil.example", "a.b."])
async def test_a_name_of_somebody_elses_gets_nothing(machine: Machine, host: str) -> None:
    """A site whose name leads here reads nothing with its visitors' browsers, and tries no password."""
    async with running(machine) as site:
        for path in ("/", "/status", "/metrics", "/healthz", "/nowhere"):
            for accept in (BROWSER, "application/json", "text/plain"):
                answer, text = await site.ask(path, headers={"Host": host}, accept=accept)
                assert answer.status == 421, text
                assert "listen.names" in text
        answer, _ = await site.ask("/update", "POST", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status == 421


async def test_own_names_are_known(machine: Machine) -> None:
    """Addresses, names without a dot or below .internal, and those that are listed lead to the sidecar."""
    async with running(machine, listen={"port": 0, "names": ["Sidecar.example.com"]}) as site:
        for host in (
            *("localhost", "localhost:9292", "LOCALHOST", "x.localhost", "127.0.0.1:1", "[::1]:9292"),
            *(
                "[::1]",
                "192.0.2.1",
                "sidecar:9292",
                "148e.vm.app.internal:9292",
                "sidecar.example.com.:80",
                "",
            ),
        ):
            answer, text = await site.ask("/status", headers={"Host": host}, accept="application/json")
            assert answer.status == 200, (host, text)


async def test_an_origin_that_is_none_is_foreign(machine: Machine) -> None:
    """A POST with an Origin that no browser sends is refused as another site's."""
    async with running(machine) as site:
        for origin in ("http://[", "http://a]b", "http://℀.com", "http://"):
            answer, text = await site.ask(
                "/update", "POST", headers={"Origin": origin}, accept="application/json"
            )
            assert (answer.status, json.loads(text)["error"]["code"]) == (403, "cross_site"), origin


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded; charset=utf-16", b"token=x&tag=y", 400),
        ("application/x-www-form-urlencoded; charset=zlib", b"token=x", 400),
        ("application/x-www-form-urlencoded; charset=nothing", b"token=x", 400),
        ("application/x-www-form-urlencoded", b"token=\xff", 400),
        ("application/x-www-form-urlencoded; charset=utf-7", b"tag=+2AA-&token=+2AA-", 403),
        ("multipart/form-data; boundary=", b"--", 403),
        ("multipart/form-data", b"", 403),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(
    machine: Machine, kind: str, body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever encoding an administrator's form claims, it gets a refusal, and no failure is logged."""
    async with running(machine) as site:
        for path in ("/page/update", "/page/rollback/1"):
            answer, text = await site.ask(path, "POST", data=body, headers={"Content-Type": kind})
            assert answer.status == status, text
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_history_with_hostile_words_stays_text(machine: Machine) -> None:
    """Whatever a log line, a name or an error holds, no page makes an element of it."""
    from sidecar.model.record import Problem
    from sidecar.model.runs import Outcome

    hostile = "<script>alert('x')</script>\" onload=\"y"
    async with running(machine) as site:
        outcome = Outcome(
            state="published",
            trigger=hostile,
            who=hostile,
            started=time.time(),
            seconds=1.0,
            generation=1,
            log=(hostile, f"[12:00:00.000] {hostile}"),
            warnings=(hostile,),
            drift={hostile: f"+{hostile}"},
            error=Problem("x", hostile, hostile, 500),
        )
        site.daemon.history.add(outcome)
        site.daemon.history.settle(1, "rolled_back", None, hostile)
        site.daemon.status.note(outcome)
        site.daemon.status.problems.append(lambda: hostile)
        for path in ("/", "/generations", "/generations/1", "/status", f"/{hostile}"):
            _, text = await site.ask(path)
            assert "<script>alert" not in text, path
            assert '" onload="' not in text, path
