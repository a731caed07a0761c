"""The operators' page in a real browser, beside a Navigator, doing what a person does.

Screenshots are left in artifacts/. Without Chromium or its driver these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bcrypt
import pytest
import pytest_asyncio

from sidecar.daemon import Daemon
from sidecar.demo.sample import REAL, Size, add_event, add_user, remove_user, rename_studio
from sidecar.model.runs import Outcome
from tests.conftest import ROOT
from tests.support.machine import SMALL, Machine, started, until
from tests.support.navigator import NavigatorProcess, free_port

playwright = pytest.importorskip(
    "playwright.async_api", reason="the Python package playwright is not installed"
)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed (Debian's package chromium)"),
    pytest.mark.asyncio(loop_scope="module"),  # one browser for all, which belongs to its loop
]

ARTIFACTS = ROOT / "artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAME, PASSWORD = "admin", "correct horse"
HOSTILE = "<script>document.title='owned'</script>\"'&lt;"
MOST_BYTES = 100_000
PATHS = (
    "",
    "preview",
    "generations",
    "fleet",
    "runs/1",
    "page/help",
    "generations/1",
    "page/rollback/1",
    "status",
    "nothing",
)


@dataclass
class Site:
    """A machine with a daemon, a Navigator and a browser."""

    machine: Machine
    daemon: Daemon
    navigator: NavigatorProcess
    browser: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    received: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.daemon.server.url}/"

    @asynccontextmanager
    async def page(self, *, signed_in: bool = True, width: int = 1100, **options: Any) -> AsyncIterator[Any]:
        """A page of a fresh profile, signed in. What it asks for and complains about is noted."""
        login = {"http_credentials": {"username": NAME, "password": PASSWORD}} if signed_in else {}
        context = await self.browser.new_context(viewport={"width": width, "height": 800}, **login, **options)
        context.set_default_timeout(20_000)
        page = await context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}"))
        page.on("console", self._note)
        try:
            yield page
        finally:
            await context.close()

    def _note(self, message: Any) -> None:
        # That an address answers with an error is not the page's fault.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Hold Navigator up: what is published inside stays unloaded until the end."""
        os.kill(self.navigator.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.navigator.pid, signal.SIGCONT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    """One Chromium; each page has a profile of its own."""
    async with playwright.async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        await started.close()


@asynccontextmanager
async def site(folder: Path, browser: Any, size: Size = SMALL) -> AsyncIterator[Site]:
    port = free_port()
    navigator = NavigatorProcess()
    pid_file = "/tmp/navigator.pid" if navigator.program else str(folder / "app" / f"navigator-{port}.pid")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    machine = Machine(
        folder,
        {
            "administrators": {NAME: hashed},
            "navigator": {"port": port, "pid_file": pid_file},
            "machine": {"id": "148e21", "region": "iad", "pool_size": 8},
        },
    )
    machine.put_index(size)
    async with machine.daemon() as daemon:
        await started(daemon)
        await navigator.start_async("config/navigator.yml", machine.application)
        try:
            await until(lambda: daemon.reconciler.served == 1)
            found = Site(machine, daemon, navigator, browser)
            yield found
            assert found.errors == []
            # Nothing on any page asks another host for anything.
            origin = urlsplit(found.url).netloc
            assert {urlsplit(url).netloc for url in found.requests} <= {origin}
        finally:
            await navigator.stop_async()


async def shot(page: Any, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=str(ARTIFACTS / f"{name}.png"), full_page=True)


def changed(machine: Machine) -> str:
    """Change the store's index in every way; returns the studio that got an event."""
    import yaml

    studios = yaml.safe_load(machine.target("map.yml").read_text())["studios"]
    studio = str(next(iter(studios)))
    add_event(machine.store_index, studio, 2026, "autumn", "Autumn Ball")
    add_user(machine.store_index, "newcomer", "newcomer:{SHA}" + "A" * 27 + "=")
    remove_user(machine.store_index, "user0003")
    return studio


async def test_a_person_updates_watches_and_rolls_back(tmp_path: Path, browser: Any) -> None:
    """Sign in, read what would change, agree, watch it live to loaded, look back, and go back."""
    expect = playwright.expect
    async with site(tmp_path, browser) as running, running.page() as page:
        await page.goto(running.url)
        await expect(page.locator("h1")).to_have_text("Synced Healthy")
        studio = changed(running.machine)

        await page.get_by_role("link", name="Preview").click()
        await expect(page.locator(".events")).to_contain_text(studio)
        await expect(page.locator(".events")).to_contain_text("autumn")
        await expect(page.locator(".changes")).to_contain_text("newcomer")
        await page.locator("summary", has_text="htpasswd").click()
        await expect(page.locator(".diff:visible")).to_contain_text("newcomer:••••")
        await shot(page, "preview")

        await page.get_by_role("link", name="Update configuration…").click()
        await expect(page.locator(".box")).to_contain_text("will no longer be able to sign in: user0003.")
        await shot(page, "question")
        async with running.standing_still():
            await page.get_by_role("button", name="Update configuration").click()
            await expect(page.locator("h1")).to_contain_text("Progressing")
            await expect(page.locator("[aria-current=step]")).to_contain_text("Loaded")
            await expect(page.locator(".log")).to_contain_text("published generation 2")
            await shot(page, "live")
            # It survives a reload of the page and a broken connection.
            await page.reload()
            await expect(page.locator(".log")).to_contain_text("published generation 2")
            break_connections(running.daemon)
            await expect(page.locator("#said")).to_have_text("The connection broke; trying again.")
            await expect(page.locator("#said")).to_contain_text("Navigator is loading generation 2")
        await expect(page.locator("h1")).to_have_text("Synced Healthy")
        await expect(page.locator("#said")).to_have_text(
            "Navigator serves generation 2, made of the store's index."
        )
        await expect(page.locator("[data-live]")).to_have_count(0)

        history = running.daemon.history
        await until(lambda: all((one := history.generation(n)) and one.ready for n in (1, 2)))
        await page.get_by_role("link", name="History").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        for chart in ("Stages of the update", "Published to loaded", "Ready work"):
            await expect(page.locator("figure", has_text=chart)).to_have_count(1)
        await page.get_by_role("link", name="Generation 1").click()
        await expect(page.locator(".background")).to_contain_text("Event databases")
        await page.get_by_role("link", name="Roll back to this…").click()
        await expect(page.locator(".box")).to_contain_text("newcomer")
        await page.get_by_role("button", name="Roll back to generation 1").click()
        await expect(page.locator("h1")).to_have_text("Pinned Healthy")
        await expect(page.locator(".facts")).to_contain_text("a copy of 1")
        assert running.daemon.generations.current is not None
        assert running.daemon.generations.current.pinned

        await page.goto(f"{running.url}generations/2")
        await expect(page.locator("main")).to_contain_text("Asked for by admin")
        await shot(page, "generation")


def break_connections(daemon: Daemon) -> None:
    """Cut every connection on TCP, as a network would."""
    server = daemon.server._runner.server
    assert server is not None
    for connection in list(server.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def test_it_works_without_scripts(tmp_path: Path, browser: Any) -> None:
    """With JavaScript off everything can be read and done; the page loads itself anew while a run goes on."""
    expect = playwright.expect
    async with site(tmp_path, browser) as running, running.page(java_script_enabled=False) as page:
        changed(running.machine)
        await page.goto(f"{running.url}preview")
        await page.get_by_role("link", name="Update configuration…").click()
        async with running.standing_still():
            await page.get_by_role("button", name="Update configuration").click()
            await expect(page.locator("h1")).to_contain_text("Progressing")
        await expect(page.locator("h1")).to_have_text("Synced Healthy")
        await page.goto(f"{running.url}page/rollback/1")
        await page.get_by_role("button").click()
        await expect(page.locator("h1")).to_contain_text("Pinned")
        await until(lambda: running.daemon.reconciler.served == 3)


async def test_hostile_words_stay_words(tmp_path: Path, browser: Any) -> None:
    """A studio's name, a user's and a log line that are markup show as they are, and run nowhere."""
    expect = playwright.expect
    async with site(tmp_path, browser) as running, running.page() as page:
        import yaml

        studios = yaml.safe_load(running.machine.target("map.yml").read_text())["studios"]
        studio = next(key for key, one in studios.items() if "x" in one)
        rename_studio(running.machine.store_index, studio, HOSTILE)
        add_user(running.machine.store_index, "<img/src=x>", "<img/src=x>:{SHA}" + "A" * 27 + "=")
        await page.goto(f"{running.url}preview")
        await expect(page.locator(".changes")).to_contain_text(studio)
        await page.locator("summary", has_text="map.yml").click()
        await expect(page.locator(".diff:visible")).to_contain_text("document.title=")
        async with running.machine.client() as client, client.post("update?wait=loaded") as answer:
            assert answer.status == 200
        running.daemon.history.add(
            Outcome(
                state="published",
                trigger="http",
                who=HOSTILE,
                started=time.time(),
                seconds=0.1,
                generation=77,
                log=(f"[12:00:00.000] {HOSTILE}",),
            )
        )
        for path in ("", "preview", "generations", "generations/2", "generations/77"):
            await page.goto(running.url + path)
            assert "owned" not in await page.title()
            assert await page.locator("main img, main script, main iframe").count() == 0
        await expect(page.locator(".log")).to_contain_text(HOSTILE)
        await page.goto(f"{running.url}fleet")
        assert HOSTILE in await page.locator(".maps title").all_text_contents()


async def test_accessible_narrow_and_light(tmp_path: Path, browser: Any) -> None:
    """Every page, in both colour schemes: axe has no serious finding, 375 px suffice, 100 KB too."""
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    async with site(tmp_path, browser, REAL) as running:
        changed(running.machine)
        preview = running.daemon.worker.submit
        from sidecar.model.runs import Request

        tag = (await preview(Request(trigger="preview", preview=True))).tag
        paths = (*PATHS, f"page/update?tag={tag}")
        async with running.page(width=375, reduced_motion="reduce") as page:
            for path in paths:
                total = 0
                seen: list[Any] = []

                def note(response: Any, into: list[Any] = seen) -> None:
                    into.append(response)

                page.on("response", note)
                await page.goto(running.url + path, wait_until="networkidle")
                page.remove_listener("response", note)
                for response in seen:
                    total += len(await response.body()) if response.status < 300 else 0
                assert total < MOST_BYTES, path
                await page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
                name = path.partition("?")[0].replace("/", "-") or "now"
                await page.evaluate(axe)
                for scheme in ("light", "dark"):
                    await page.emulate_media(color_scheme=scheme)
                    width = await page.evaluate("document.documentElement.scrollWidth")
                    assert width <= 375, path
                    await shot(page, f"{name}-{scheme}-375")
                    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
                    serious = [
                        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
                        for one in found["violations"]
                        if one["impact"] in ("serious", "critical")
                    ]
                    assert serious == [], (path, scheme)
            await page.set_viewport_size({"width": 1100, "height": 800})
            await page.goto(running.url)
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme)
                await shot(page, f"now-{scheme}")


async def test_the_keyboard_suffices(tmp_path: Path, browser: Any) -> None:
    """The first stop leads to the content, every stop is visible, and Enter asks for the preview."""
    expect = playwright.expect
    async with site(tmp_path, browser) as running, running.page() as page:
        await page.goto(running.url)
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()
        await page.get_by_role("link", name="What would an update change?").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Preview")


async def test_without_a_password_there_is_nothing_to_see(tmp_path: Path, browser: Any) -> None:
    """The browser asks for a password everywhere but for the state, which is open."""
    async with site(tmp_path, browser) as running:
        # So says the browser when there is nobody to ask for a password.
        async with running.page(signed_in=False) as page:
            with pytest.raises(playwright.Error, match="INVALID_AUTH_CREDENTIALS"):
                await page.goto(running.url)
        async with running.page(signed_in=False) as page:
            answer = await page.goto(f"{running.url}status")
            assert answer.status == 200
            assert await page.locator("h1").inner_text() == "Synced\nHealthy"


async def test_an_idle_page_asks_for_nothing(tmp_path: Path, browser: Any) -> None:
    """No stream and no poll while nothing is under way: requests keep an idle machine awake."""
    async with site(tmp_path, browser) as running, running.page() as page:
        await page.clock.install()
        await page.goto(running.url, wait_until="networkidle")
        before = len(running.requests)
        await page.clock.run_for(30 * 60 * 1000)
        assert len(running.requests) == before
        assert running.daemon.broker._listeners == set()
        # Coming back to it is a wish to know: one question, and the page stays while the answer is the same.
        for asked in (1, 2):
            await page.clock.run_for(60 * 1000)
            async with page.expect_response("**/status"):
                await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            await page.evaluate("Promise.resolve()")
            assert len(running.requests) == before + asked
